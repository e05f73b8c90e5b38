"""Every option of every command with values that cannot be: one line each, no traceback, no hang, no flood of memory.

    python benchmarks/studies/faults/options.py
    python benchmarks/studies/faults/options.py --every 10 --commands train

Each option is taken from the parsers themselves, so a new one is tried as soon as it is there. A value may be fine for
an option: then the command runs, on a small data set. It prints one row a command, and what fell.
"""

from __future__ import annotations

import functools
import math
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from kills import write_data
from process import Ended, Runner, conclude, scratch, trial_options

from infodcl_geo.cli import compare, evaluate, export, inspect, recommend, report, train, tune
from infodcl_geo.models import find_recipe

VALUES = (
    "", " ", "0", "-1", "-0.0", "1000000000", str(2**31), str(2**63), str(2**70), str(-(2**70)), "1" * 400, "1e9",
    "1e400", "1e-400", "nan", "NaN", "inf", "-inf", "true", "null", "[]", "{}", "[[1]]", "{a: 1}", "nonsense", "a,b",
    ",", "0x10", "1_000", "\u0665", "\x1b[2J", "a\nb", "a\0b", "\udcff", "\u202eabc", "x" * 5000,
    "/".join(["y" * 100] * 60), "-", "--", "~", "..", "/dev/null", "/dev/zero", "/proc/self/mem", "/",
    "/nowhere/at/all", "file.py:recipe", "%s%n", "*", "?", "!!python/object:os.system x", "&a [*a, *a]", "0,1,-1",
    "1 2", "cuda:99", "cpu:0", "meta",
)  # fmt: skip
LONG = frozenset({"epochs", "trials", "minutes", "patience", "refine_steps", "num_layers", "steps"})
"""Options of which a large value is no mistake, but much work."""
MEMORY = 3 << 30
SECONDS = 20
"""Of the processor."""


def cases(data: Path, model: Path, place: Path) -> dict[str, tuple[list[str], list[object]]]:
    """Names of the options of each command, and the words that go before one."""
    small: list[object] = ["--epochs", 1, "--eval_every", 1, "--dim", 4, "--progress=false"]
    infodcl, lightgcn = find_recipe("infodcl"), find_recipe("mf")

    def of_model(command: object, recipe: object) -> list[str]:
        make = command.make_parser  # type: ignore[attr-defined]
        return list(make(recipe, recipe.defaults()).names)  # type: ignore[attr-defined]

    seen = {"--checkpoint": model}
    flat = [word for pair in seen.items() for word in pair]
    return {
        "train": (of_model(train, infodcl), ["--data", data, "--model", "infodcl", *small, "--out", place / "run"]),
        "compare": (
            of_model(compare, lightgcn),
            ["--data", data, "--models", "popularity", "mf", *small, "--out", place / "t.csv"],
        ),
        "tune": (
            of_model(tune, lightgcn),
            ["--data", data, "--models", "mf", *small[:-1], "--trials", 1, "--out", place / "t.yaml"],
        ),
        "evaluate": (evaluate.make_parser().names, [*flat, "--data", data]),
        "recommend": (recommend.make_parser().names, [*flat, "--users", "u1"]),
        "export": (export.make_parser().names, [*flat, "--out", place / "exported"]),
        "report": (report.make_parser().names, ["--runs", model.parent, "--out", place / "page.html"]),
        "inspect": (inspect.make_parser().names, ["--data", data]),
    }  # fmt: skip


TOLD = ("warning: ", "page: ")
"""Beginnings of lines that are no errors: warnings and progress."""


def fault(option: str, ended: Ended) -> str | None:
    """What is wrong with how a command ended, if anything."""
    if ended.code == -1000:
        return None if option in LONG else f"goes on for more than {SECONDS} s"
    lines = [line for line in ended.err.splitlines() if line.strip() and not line.startswith(TOLD)]
    if "Traceback" in ended.err or ended.code not in (0, 1, 2):
        return f"ends with {ended.code}: {' | '.join(lines[-3:])[-400:]}"
    said = [line for line in lines if line.startswith("infodcl-geo: ")]
    if not lines and ended.code == 1 and "failed: " in ended.out:
        return None  # compare and tune name the models that fail where they stand in the table
    if len(said) != (ended.code != 0) or len(lines) != len(said):
        return f"ends with {ended.code} and says {len(lines)} lines: {ended.err[-400:]!r}"
    if any(sign in ended.err for sign in ("\x1b", "\0", "\u202e")):
        return "lets the terminal obey"
    if any(len(line) > 2000 for line in lines):
        return f"says {max(map(len, lines))} signs"
    return None


def attempts(names: Sequence[str], every: int, seed: str) -> Iterator[tuple[str, str]]:
    """Each option with each value, or one pair of so many, in an order drawn by ``seed``."""
    pairs = [(name, value) for name in sorted(set(names) - {"help"}) for value in VALUES]
    yield from random.Random(seed).sample(pairs, max(1, len(pairs) // every))


def run(
    commands: Sequence[str] | None = None,
    every: int = 1,
    seed: int = 0,
    say: Callable[[str], None] = print,
    runner: Runner | None = None,
    minutes: float = math.inf,
) -> tuple[int, list[str]]:
    """The number of trials, run by ``runner`` or one of its own, and what fell."""
    fallen: list[str] = []
    total = 0
    with scratch() as name:
        folder = Path(name)
        data = write_data(folder / "data")
        with Runner(folder / "runner") if runner is None else nullcontext(runner) as runner:
            model = folder / "runs" / "model"
            made = runner.run(["train", "--data", data, "--model", "mf", "--epochs", 1, "--dim", 4, "--out", model])
            if made.code:
                raise SystemExit(made.err)
            place = folder / "place"
            every_case = cases(data, model, place)
            for command in every_case if commands is None else commands:
                names, words = every_case[command]
                end = time.monotonic() + 60 * minutes / len(every_case if commands is None else commands)
                counts: Counter[str] = Counter()
                for option, value in attempts(names, every, f"{command} {seed}"):
                    if time.monotonic() > end:
                        break
                    shutil.rmtree(place, ignore_errors=True)
                    place.mkdir()
                    ended = runner.run(
                        [command, *words, f"--{option}={value}"], limit=30 * SECONDS, cpu=SECONDS, memory=MEMORY
                    )
                    counts["trials"] += 1
                    counts["refused" if ended.code in (1, 2) else "ran"] += 1
                    found = fault(option, ended)
                    if found is not None:
                        counts["fell"] += 1
                        fallen.append(f"{command} --{option}={value[:40]!r}: {found}")
                        say(fallen[-1])
                total += counts["trials"]
                say(
                    f"{command}: {counts['trials']} values of {len(set(names))} options, {counts['refused']} refused, "
                    f"{counts['ran']} ran, {counts['fell']} fell"
                )
    return total, fallen


def main() -> int:
    parser = trial_options(__doc__)
    parser.add_argument("--commands", nargs="+")
    parser.add_argument("--every", type=int, default=1, help="one of so many pairs of an option and a value")
    options = parser.parse_args()
    say = functools.partial(print, flush=True)
    total, fallen = run(options.commands, options.every, options.seed, say, minutes=options.minutes)
    return conclude(total, len(fallen))


if __name__ == "__main__":
    sys.exit(main())
