"""Fuzz everything that reads, led by the lines that an input reaches: Atheris chooses the mutations.

    pip install atheris
    python benchmarks/studies/faults/guided.py --inputs 50000 --targets models training settings

The readers, the bounds and what counts as fallen are those of fuzz.py. It prints each new kind of fall once with a file
of its input, and the counts at the end.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=50_000)
    parser.add_argument("--targets", nargs="+", help="only these readers")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        import atheris  # type: ignore[import-not-found]
    except ImportError:
        raise SystemExit("fuzzing that coverage leads needs Atheris: pip install atheris") from None
    # The library's own lines are what counts: those of torch and polars would drown them.
    with atheris.instrument_imports(include=["infodcl_geo"]):
        import fuzz
    import torch

    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp())
    every = [target for target in fuzz.targets(work) if options.targets is None or target.name in options.targets]
    fallen: Counter[str] = Counter()
    done = 0

    def one(content: bytes) -> None:
        nonlocal done
        target = every[content[0] % len(every)] if content else every[0]
        names = sorted(target.seeds)
        name = names[content[1] % len(names)] if len(content) > 1 else names[0]
        body = content[2:]
        # Below the checksums, as in fuzz.py: what the bytes say is where to damage.
        if target.mend is not None and body[:1] and body[0] % 2:
            body = target.mend(name, target.seeds[name], random.Random(body[1:]))
        done += 1
        try:
            fuzz.attempt(target, name, body, work)
        except fuzz.Fell as error:
            target.counts["fell"] += 1
            kind = f"{target.name} ({name}): {str(error)[:120]}"
            fallen[kind] += 1
            if fallen[kind] == 1:
                place = work / f"fell-{len(fallen)}"
                place.write_bytes(content)
                print(f"{kind}, {place}", flush=True)
        if done >= options.inputs:
            for target in every:
                counts: Any = target.counts
                print(f"{target.name}: {counts['inputs']} inputs, {counts['read']} read, {counts['fell']} fell")
            print(f"{done} inputs, {sum(fallen.values())} fell", flush=True)
            os._exit(1 if fallen else 0)  # the fuzzer itself would end without a word

    corpus = work / "corpus"
    corpus.mkdir()
    for place, target in enumerate(every):
        for at, name in enumerate(sorted(target.seeds)):
            (corpus / f"{place}-{at}").write_bytes(bytes([place, at]) + target.seeds[name])
            if target.mend is not None:
                (corpus / f"{place}-{at}-mended").write_bytes(bytes([place, at, 1, at]))
    flags = ["-max_len=16384", f"-seed={options.seed}", "-timeout=600", "-rss_limit_mb=0", f"-artifact_prefix={work}/"]
    atheris.Setup([sys.argv[0], str(corpus), *flags, "-verbosity=0"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
