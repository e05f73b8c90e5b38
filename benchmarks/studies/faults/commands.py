"""Whole commands given damaged files: settings, folders to resume, folders of runs, journals, tables, lists, data.

    python benchmarks/studies/faults/commands.py --trials 1000
    python benchmarks/studies/faults/commands.py --trials 200 --attacks resume journal --seed 3

A trial damages one file of what an earlier command wrote (as fuzz.py does, in half of the trials below the syntax) or
exchanges it for something that is no file, and runs the command that reads it. It must end with a result or with one
line of the library's own, in bounded time and memory. The environment in which several processes find each other is
damaged the same way.
"""

from __future__ import annotations

import functools
import json
import math
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parent))

import fuzz
from kills import write_data
from options import MEMORY, SECONDS, VALUES, fault
from process import Runner, conclude, scratch, trial_options


@dataclass(frozen=True)
class Attack:
    """A command and the files that it reads.

    Args:
        words: of the command, in a folder that stands for ``{}``.
        files: patterns of those that are damaged, below that folder.
        environment: of which variables values are damaged, instead of files.
    """

    words: Sequence[str]
    files: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)


SMALL = ["--epochs=2", "--eval_every=1", "--dim=4", "--progress=false"]
RANKS = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29711"}


def prepared(folder: Path, runner: Runner) -> dict[str, Attack]:
    """Files that are as they should be, and what reads them."""
    data = write_data(folder / "data")
    model = folder / "runs" / "mf"
    train = ["train", f"--data={data}", "--model=mf", *SMALL]
    lists = "user,item,rank\n" + "".join(f"u{user},i{item},{1 + item}\n" for user in range(25) for item in range(9))
    (folder / "lists.csv").write_text(lists)
    (folder / "variants.yaml").write_text("one: {model: mf, lr: 0.1}\ntwo: {model: ease, l2: 9}\n")
    (folder / "begin.yaml").write_text("mf: {lr: 0.01, l2: 0.001}\n")
    compare = ["compare", f"--data={data}", *SMALL]
    tune = ["tune", f"--data={data}", "--models", "svd", "--trials=2"]
    # Of a training that is not ended yet: it is gone on with.
    begun = [*train, "--checkpoint_epochs=1", f"--out={folder / 'begun'}"]
    for words in (
        [*train, f"--out={model}"],
        [*compare, "--models", "popularity", "mf", f"--out={folder / 'table.csv'}"],
        [*tune, f"--out={folder / 'found.yaml'}", f"--journal={folder / 'journal'}"],
    ):
        made = runner.run(words)
        if made.code:
            raise SystemExit(made.err)
    stopped = runner.run(begun, kill_at=45)
    if stopped.code != -9 or not list((folder / "begun").rglob("*.safetensors")):
        raise SystemExit(f"the training that is to be gone on with ended with {stopped.code}: {stopped.err}")
    given = f"--data={data}"
    begin = ["tune", given, "--models=mf", "--trials=1", *SMALL[:-1]]
    return {
        "resume": Attack([*train, "--checkpoint_epochs=1", "--out={}/begun", "--resume"], ["begun/**/*"]),
        "result": Attack([*train, "--out={}/runs/mf", "--overwrite"], ["runs/mf/*"]),
        "settings": Attack([*train, "--settings={}/found.yaml", "--epochs=1"], ["found.yaml"]),
        "settings of compare": Attack(["compare", given, "--models=svd", "--settings={}/found.yaml"], ["found.yaml"]),
        "variants": Attack([*compare, "--variants={}/variants.yaml"], ["variants.yaml"]),
        "table": Attack(["compare", given, "--models", "popularity", "ease", "--out={}/table.csv"], ["table.*"]),
        "journal": Attack([*tune, "--out={}/found.yaml", "--journal={}/journal"], ["journal", "found.*"]),
        "begin": Attack([*begin, "--begin={}/begin.yaml", "--out={}/x.yaml"], ["begin.yaml"]),
        "report": Attack(["report", "--runs={}", "--out={}/page.html"], ["runs/mf/*", "table.*", "found.*"]),
        "evaluate": Attack(["evaluate", "--checkpoint={}/runs/mf", given], ["runs/mf/*"]),
        "lists": Attack(["evaluate", "--recommendations={}/lists.csv", given], ["lists.csv"]),
        "data of a model": Attack(["evaluate", "--checkpoint={}/runs/mf", "--data={}/data"], ["data/*"]),
        "config": Attack(["train", given, "--config={}/runs/mf/metrics.json"], ["runs/mf/metrics.json"]),
        "export": Attack(["export", "--checkpoint={}/runs/mf", "--out={}/exported", "--format=npz"], ["runs/mf/*"]),
        "ranks": Attack([*train, "--out={}/ranks"], environment=RANKS),
    }  # fmt: skip


def _strange(path: Path, rng: random.Random) -> str:
    """Something else where a file was."""
    path.unlink()
    kind = rng.choice(("gone", "folder", "pipe", "link to itself", "link to nothing", "device", "empty", "unreadable"))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind.startswith("link"):
        path.symlink_to(path.name if "itself" in kind else "nothing")
    elif kind == "device":
        path.symlink_to(rng.choice(("/dev/zero", "/dev/full", "/dev/null")))
    elif kind != "gone":
        path.write_bytes(b"")
        path.chmod(0o644 if kind == "empty" else 0)
    return kind


def damage(path: Path, rng: random.Random) -> str:
    """Damage a file, and say how."""
    kind = rng.random()
    if kind < 0.15:
        return _strange(path, rng)
    content = path.read_bytes()
    if kind < 0.6 and path.suffix in (".json", ".yaml"):
        value = yaml.safe_load(content)
        fuzz._damage_json(value, rng)
        with suppress(ValueError, yaml.YAMLError):
            text = json.dumps(value) if path.suffix == ".json" else yaml.safe_dump(value, allow_unicode=True)
            path.write_bytes(text.encode(errors="surrogatepass"))
            return "another value"
    if (kind < 0.6 and path.suffix == ".csv") or path.name == "journal":
        lines = content.split(b"\n")
        at = rng.randrange(len(lines))
        cells = lines[at].split(b",")
        cells[rng.randrange(len(cells))] = rng.choice(VALUES).encode(errors="surrogatepass")
        lines[at] = b",".join(cells)
        path.write_bytes(b"\n".join(lines))
        return "another cell"
    path.write_bytes(fuzz.mutated(content, rng, [content, b"a,b\n1,2\n"]))
    return "other bytes"


def run(
    trials: int,
    names: Sequence[str] | None = None,
    seed: int = 0,
    say: Callable[[str], None] = print,
    runner: Runner | None = None,
    minutes: float = math.inf,
) -> tuple[int, list[str]]:
    """The number of trials, run by ``runner`` or one of its own, and what fell."""
    fallen: list[str] = []
    counts: dict[str, Counter[str]] = {}
    with scratch() as name:
        start, place = Path(name) / "start", Path(name) / "trial"
        start.mkdir()
        with Runner(Path(name) / "runner") if runner is None else nullcontext(runner) as runner:
            attacks = prepared(start, runner)
            for what, attack in attacks.items():
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(start, place)
                ended = runner.run([word.replace("{}", str(place)) for word in attack.words])
                if ended.code:
                    raise SystemExit(f"{what}, undamaged: {ended.err}")
            end = time.monotonic() + 60 * minutes
            chosen = list(attacks) if names is None else list(names)
            for number in range(trials):
                if time.monotonic() > end:
                    break
                what = chosen[number % len(chosen)]
                attack, rng = attacks[what], random.Random(f"{what} {seed} {number}")
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(start, place)
                files = sorted(path for pattern in attack.files for path in place.glob(pattern) if path.is_file())
                environment = dict(attack.environment)
                if files:
                    path = rng.choice(files)
                    how = f"{path.relative_to(place)} with {damage(path, rng)}"
                else:
                    # As one of two, of which the other does not come, unless their number itself is damaged.
                    variable = rng.choice(sorted(environment))
                    environment |= {"WORLD_SIZE": "2", "INFODCL_GEO_TIMEOUT": "3"}
                    environment[variable] = rng.choice([v for v in VALUES if "\0" not in v and "/" not in v])
                    how = f"{variable}={environment[variable][:40]!r}"
                ended = runner.run(
                    [word.replace("{}", str(place)) for word in attack.words],
                    limit=30 * SECONDS, cpu=SECONDS, memory=MEMORY, environment=environment,
                )  # fmt: skip
                count = counts.setdefault(what, Counter())
                count["refused" if ended.code in (1, 2) else "ran"] += 1
                found = fault("", ended)
                if found is not None:
                    count["fell"] += 1
                    fallen.append(f"{what} {number}, {how}: {found}")
                    say(fallen[-1])
    for what, count in counts.items():
        total = count["refused"] + count["ran"]
        say(f"{what}: {total} trials, {count['refused']} refused, {count['ran']} ran, {count['fell']} fell")
    return sum(count["refused"] + count["ran"] for count in counts.values()), fallen


def main() -> int:
    parser = trial_options(__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--attacks", nargs="+")
    options = parser.parse_args()
    say = functools.partial(print, flush=True)
    total, fallen = run(options.trials, options.attacks, options.seed, say, minutes=options.minutes)
    return conclude(total, len(fallen))


if __name__ == "__main__":
    sys.exit(main())
