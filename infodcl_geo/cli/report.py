"""``infodcl-geo report``: one HTML page of tables and figures of runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from ..errors import FileError, OptionError
from . import parsing
from .parsing import Parser

DESCRIPTION = (
    "Make one HTML page, which needs no other file and no network, of the runs in a folder: what train --out and "
    "compare --out wrote. With --quick a few models are trained on --data first, within --minutes; what the folder has "
    "already is not trained again. With --data the page also marks what users took in the test split."
)


def make_parser() -> Parser:
    parser = Parser("report", DESCRIPTION)
    parser.add("runs", str | None, None, "folder of runs; with --quick where they are kept, beside the page by default")
    parser.add("out", str, "report.html", "file of the page; an existing one is not overwritten")
    parser.add("overwrite", bool, False, "overwrite the page")
    parser.add("quick", bool, False, "train a few models on --data first")
    parser.add("minutes", float, 10.0, "budget of --quick")
    parser.add("epochs", int, 30, "epochs of --quick at most")
    parser.add("threads", int | None, None, "CPU threads")
    parsing.add_data(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    from ..files import make_folder, write_atomically
    from ..report import report
    from ..report.figures import require_matplotlib

    parser = make_parser()
    words = parsing.words_of(argv)
    options = parser.parse_args(parsing.with_flags(words, parser))
    if options.runs is None and not options.quick:
        raise OptionError("report needs runs: give --runs FOLDER, or --quick to train a few models on --data")
    if not options.minutes > 0:
        raise OptionError(f"--minutes must be positive, not {options.minutes}")
    if options.epochs < 1:
        raise OptionError(f"--epochs must be at least 1, not {options.epochs}")
    require_matplotlib()  # before anything that takes minutes
    out = Path(options.out)
    if out.exists() and not options.overwrite:
        raise FileError(f"{out} is there already: give another --out, or --overwrite true")
    make_folder(out.parent)
    data_options = parsing.data_of(options)
    given = options.quick or parsing.peek(words, "data") is not None
    idle = [field.name for field in fields(data_options) if parsing.peek(words, field.name) is not None]
    if idle and not given:
        raise OptionError(f"--{idle[0]} says how --data is read, and there is none: give --data, or leave it out")
    data = data_options.load() if given else None
    folder = Path(options.runs) if options.runs is not None else out.with_name(f"{out.stem}_runs")
    notes: list[str] = []
    failed = False

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    if options.quick and data is not None:
        from ..report.quick import train_quickly

        failures = train_quickly(data, data_options, folder, minutes=options.minutes, epochs=options.epochs, say=say)
        failed = bool(failures)
        notes.append(
            f"Trained quickly: at most {options.epochs} epochs and {options.minutes:g} minutes, default options, one "
            "seed. A first look, and no fair comparison."
        )
        notes += [f"{failure.label} failed: {failure.error}" for failure in failures]
    write_atomically(out, report(folder, data, notes=notes, say=say).encode("utf-8", "replace"))
    print(f"report in {out}")
    return 1 if failed else 0
