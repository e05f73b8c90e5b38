"""The page of all tables and figures: ``python benchmarks/papers_page.py docs/papers`` writes ``tables.md`` there."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from papers_analyses import FIGURES
from papers_plan import SAMPLES, TABLES

_INTRODUCTION = """# Tables and figures of the papers, measured again

Made by `python benchmarks/papers_page.py docs/papers` from the files beside it. *measured* is the mean test value of the epoch
that validation chose; *best on test* is what programs report that look at test after each epoch, **which is no fair estimate**. A ratio is
measured over published. Intervals are 95%: over the test users where a command here trained the models, over seeds where a
committed study did (its note says so); one seed has no interval over seeds. DATA is the folder of the data sets. Time limits of a training
are CPU time; the machine has two cores that several programs shared, so what one command could afford is little:
a row without a number says why, and the same command with more `--minutes` fills it, reusing what is there.

"""


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _cells(row: dict[str, str]) -> list[str]:
    def number(name: str, shown: str = ".4f") -> str:
        return format(float(row[name]), shown) if row.get(name) else ""

    def between(low: str, high: str) -> str:
        return f" [{number(low, '+.4f')}, {number(high, '+.4f')}]" if row.get(low) and row[low] != "nan" else ""

    gap = number("minus reference", "+.4f") + between("difference low", "difference high")
    best = number("best on test (no fair estimate)")
    return [row["row"], number("published"), number("measured"), number("ratio", ".2f"), best, gap, row.get("note", "")]


def table(rows: Sequence[dict[str, str]]) -> str:
    """Recall@20 of the rows as Markdown."""
    head = ["Recall@20", "published", "measured", "ratio", "best on test", "minus the first", "note"]
    lines = [_cells(row) for row in rows if row["metric"] == "recall@20"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *lines])


def page(folder: Path) -> str:
    """The page of what ``commands.csv`` lists."""
    made = read(folder / "commands.csv")
    parts = [_INTRODUCTION]
    for name in dict.fromkeys(row["name"] for row in made):
        about = TABLES.get(name) or FIGURES[name]
        parts.append(f"## {about.title}\n")
        empty = []
        for row in (row for row in made if row["name"] == name):
            file = folder / "data" / f"{name}-{row['data']}.csv"
            rows = read(file)
            if not any(cells.get("measured") or cells.get("y") for cells in rows):
                empty.append(f"{row['data']} ({rows[0].get('note') or 'not run'})")
                continue
            parts.append(f"### {row['data']}: {SAMPLES.get(row['data'], '')}\n")
            if "metric" in rows[0] and "at most" not in rows[0]:
                parts.append(f":::{{div}} wide numbers\n{table(rows)}\n:::\n")
            if "pictures/" in row["files"]:
                parts.append(f"![{about.title}, {row['data']}](pictures/{name}-{row['data']}.png)\n")
            parts.append(f"{{download}}`all its numbers <data/{name}-{row['data']}.csv>`; made by\n")
            parts.append(f"```bash\n{row['command']}\n```\n")
            parts.append(
                f"Budget {row['minutes']} minutes, {row['CPU minutes a run']} CPU minutes a training, at most {row['epochs']} epochs, "
                f"patience {row['patience']}, seeds {row['seeds']}, {row['threads']} thread; {row['date']}, version {row['version']}.\n"
            )
        if empty:
            parts.append(f"Only the published numbers are kept so far for: {'; '.join(empty)}.\n")
    return "\n".join(parts)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / "tables.md").write_text(page(target), encoding="utf-8")
