"""The page of all tables and figures: ``python benchmarks/papers_page.py docs/papers`` writes ``tables.md`` there."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

_INTRODUCTION = """# Tables and figures, measured again

Made by `python benchmarks/papers_page.py docs/papers` from the files beside it.

- *measured* is the test value of the epoch that validation chose, the mean over seeds; *ratio* is it over published.
- *best on test* is what programs report that look at test after each epoch: **no fair estimate**.
- Intervals are 95%: over the test users where a command here trained the models (they say nothing of other seeds), over
  seeds where a committed study did, whose note says so.
- *start* is what the embeddings began from: random as in the papers, or the library's pretrained vectors.
- DATA is the folder of the data sets. The limit of a training is CPU time. The machine has two cores, which several
  programs shared: a row without a number says why, and the same command with more `--minutes` fills it and reuses
  what is there.
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


def _one(folder: Path, row: dict[str, str], rows: Sequence[dict[str, str]]) -> list[str]:
    """A data set's part of a table or figure."""
    name, data = row["name"], row["data"]
    parts = [f"### {data}: {row['sample']}\n"]
    if "metric" in rows[0] and "at most" not in rows[0]:
        parts.append(f":::{{div}} wide numbers\n{table(rows)}\n:::\n")
    if "pictures/" in row["files"]:
        parts.append(f"![{row['title']}, {data}](pictures/{name}-{data}.png)\n")
    parts.append(f"{{download}}`All its numbers <data/{name}-{data}.csv>`; made by\n")
    parts.append(f"```bash\n{row['command']}\n```\n")
    return [
        *parts,
        f"Budget {row['minutes']} minutes, {row['CPU minutes a run']} CPU minutes a training, at most "
        f"{row['epochs']} epochs, patience {row['patience']}, seeds {row['seeds']}, {row['threads']} thread; "
        f"{row['date']}, version {row['version']}.\n",
    ]


def page(folder: Path) -> str:
    """The page of what ``commands.csv`` lists."""
    made = read(folder / "commands.csv")
    parts = [_INTRODUCTION]
    for title in dict.fromkeys(row["title"] for row in made):
        parts.append(f"## {title}\n")
        empty = []
        for row in (row for row in made if row["title"] == title):
            rows = read(folder / "data" / f"{row['name']}-{row['data']}.csv")
            if any(cells.get("measured") or cells.get("y") for cells in rows):
                parts += _one(folder, row, rows)
            else:
                empty.append(f"{row['data']} ({rows[0].get('note') or 'not run'})")
        if empty:
            parts.append(f"Nothing is measured yet, the published numbers are kept, for: {'; '.join(empty)}.\n")
    return "\n".join(parts)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / "tables.md").write_text(page(target), encoding="utf-8")
