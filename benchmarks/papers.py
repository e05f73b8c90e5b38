"""The tables and figures of the InfoDCL, SimDiff and DiffCL papers, measured again: published beside measured.

    python benchmarks/papers.py table2 figure2 --data office --root DATA --minutes 20 --out docs/papers

Names are ``infodcl-table2``, ``infodcl-table3``, ``infodcl-figure2`` ... ``infodcl-figure9`` (without ``infodcl-`` for
short), ``simdiff-table3`` ... ``simdiff-table7``, ``simdiff-cold``, ``simdiff-figure3``, ``simdiff-figure5``,
``simdiff-figure6``, ``simdiff-figure9``, ``diffcl-table2``, ``diffcl-table3``, ``diffcl-figures``; ``--list`` shows
them. Each writes ``data/NAME-DATA.csv`` and ``pictures/NAME-DATA.png`` below ``--out`` and a line of ``commands.csv``
with its command and budget.

Both protocols come from one training: the epoch that validation chooses, whose test metrics are "measured", and the
best epoch on test, as some programs report it, which is no fair estimate of anything. Finished runs are kept in
``--runs``, so a command that was interrupted, or whose budget was too small, goes on where it was. What the budget did
not allow has a row that says so.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from papers_analyses import FIGURES, Trainings
from papers_drawing import draw
from papers_plan import SAMPLES, TABLES, Side, with_studies
from papers_runs import Budget, cold_rows, run_all, table_rows, write_rows

from infodcl_geo import InfodclGeoError, __version__
from infodcl_geo.comparison import TableFile
from infodcl_geo.data.options import DataOptions

NAMES = [*TABLES, *FIGURES]


def _say(line: str) -> None:
    print(line, flush=True)


def full_name(name: str) -> str:
    """The whole name of a table or figure; those of InfoDCL may leave the paper out.

    Raises:
        InfodclGeoError: if there is none.
    """
    for known in (name, f"infodcl-{name}"):
        if known in NAMES:
            return known
    raise InfodclGeoError(f"no table or figure {name!r}; there are {', '.join(NAMES)}")


def note(
    out: Path, name: str, data: str, title: str, command: str, options: argparse.Namespace, files: Sequence[Path]
) -> None:
    """Keep how a table or figure was made, in place of an older line of it."""
    path = out / "commands.csv"
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if (row["name"], row["data"]) != (name, data)]
    rows.append({
        "name": name, "data": data, "title": title, "sample": SAMPLES.get(data, ""),
        "command": command, "minutes": f"{options.minutes:g}",
        "CPU minutes a run": f"{options.run_minutes:g}", "epochs": options.epochs, "patience": options.patience,
        "seeds": " ".join(map(str, options.seeds)), "threads": torch.get_num_threads(), "version": __version__,
        "date": datetime.now(UTC).date().isoformat(), "files": " ".join(str(path.relative_to(out)) for path in files),
    })  # fmt: skip
    write_rows(path, sorted(rows, key=lambda row: (NAMES.index(row["name"]), row["data"])))


def main(argv: Sequence[str] | None = None, say: Callable[[str], None] = _say) -> int | str:
    """0, or what went wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", help="tables and figures, see above")
    parser.add_argument("--list", action="store_true", help="list the names and end")
    parser.add_argument("--data", default="office", help=f"one of {', '.join(SAMPLES)}, or another folder below --root")
    parser.add_argument("--root", default="../shared/data", help="folder of the data sets")
    parser.add_argument("--features", default="", help="files of item features below the data's folder, with commas")
    parser.add_argument("--out", default="docs/papers", help="folder of tables and pictures")
    parser.add_argument("--runs", default="papers_runs", help="folder that keeps finished runs")
    parser.add_argument("--minutes", type=float, default=30.0, help="budget of the command")
    parser.add_argument("--run_minutes", type=float, default=1.0, help="budget of one training, in CPU time")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--patience", type=int, default=30)
    parser.add_argument("--eval_every", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    words = sys.argv[1:] if argv is None else list(argv)
    options = parser.parse_args(words)
    if options.list:
        for name, artefact in {**TABLES, **FIGURES}.items():
            say(f"{name}: {artefact.title}")
        return 0
    if not options.names:
        parser.error("name a table or figure, or --list")
    try:
        names = [full_name(name) for name in options.names]
        torch.set_num_threads(options.threads)
        folder, out = Path(options.root) / options.data, Path(options.out)
        data = DataOptions(data=str(folder)).load()
        side = Side(",".join(str(folder / name) for name in options.features.split(",") if name))
        changes = {name: getattr(options, name) for name in ("epochs", "patience", "eval_every")}
        budget, store = (
            Budget(options.minutes, options.run_minutes),
            TableFile(Path(options.runs) / f"{options.data}.csv"),
        )
        trainings = Trainings(data, side, {**changes, "seed": options.seeds[0]}, budget)
        shown = shlex.join(["python", "benchmarks/papers.py", *words])
        for name in names:
            say(f"{name}, {options.data}: {budget.left:.0f} minutes left")
            if name in FIGURES:
                rows = FIGURES[name].make(trainings)
                kind, title = FIGURES[name].kind, FIGURES[name].title
            else:
                artefact = TABLES[name]
                variants = artefact.rows(side)
                if artefact.kind in ("bars", "time"):
                    variants = with_studies(variants, name, options.data)
                runs, why = run_all(data, variants, options.seeds, store, budget, changes, say)
                kind, title = artefact.kind, artefact.title
                if kind == "cold":
                    rows = cold_rows(data, variants, runs, why)
                else:
                    rows = table_rows(artefact, variants, options.data, runs, why)
            target = out / "data" / f"{name}-{options.data}.csv"
            write_rows(target, rows)
            picture = out / "pictures" / f"{name}-{options.data}.png"
            files = [target, *([picture] if draw(kind, rows, f"{title} ({options.data})", picture) else [])]
            note(out, name, options.data, title, shown.replace(options.root, "DATA"), options, files)
    except InfodclGeoError as error:
        return str(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
