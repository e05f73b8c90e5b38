"""Result pages, one a data set, made from the folders of ``benchmarks/results``."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

PAGES: dict[str, tuple[str, str]] = {
    "office": ("Amazon-Office", "4,905 users, 2,420 items and 53,258 interactions, in the split of the papers."),
    "taobao": ("Taobao", "12,539 users, 8,735 items and 83,648 interactions, in the split of the papers."),
    "tiktok": (
        "TikTok",
        "9,308 users, 6,710 items and 68,722 interactions, with image and audio features of the items.",
    ),
    "lastfm": ("LastFM", "1,880 users, 4,489 items and 52,668 interactions, with the users' real friendships."),
    "movielens": ("MovieLens", "MovieLens-1M, the dense case, and MovieLens-100K with a knowledge graph."),
    "electronics": (
        "Amazon-Electronics",
        "20,247 users, 11,589 items and 347,393 interactions: the speed of training.",
    ),
    "generated": ("Generated graphs", "Power-law graphs of any size: how cost grows."),
    "kernels": ("Fused operations", "InfoNCE, PSNet and the batched SVD on a CPU."),
}
"""Title and one line of each page, by the name that ``data`` of a study has."""

REQUIRED = ("title", "data", "question", "answer", "commands", "machine", "versions", "date", "notes")
"""What every ``study.yaml`` has."""


def read_studies(results: Path) -> dict[str, dict[str, Any]]:
    """The studies by the name of their folder, in the order of the pages."""
    found = {path.parent.name: yaml.safe_load(path.read_text("utf-8")) for path in results.glob("*/study.yaml")}
    return dict(sorted(found.items(), key=lambda entry: (entry[1].get("order", 50), entry[0])))


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def table_rows(folder: Path, table: Mapping[str, Any]) -> list[list[str]]:
    """Cells of a table that a study declares: a row for each group of runs, mean ± standard deviation in it."""
    by = [table["by"]] if isinstance(table["by"], str) else list(table["by"])
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    rows = read_rows(folder / table["file"])
    for number, row in enumerate(rows):
        key = tuple(row[name] for name in by)
        if "every" in table:
            key = (*key, str(number // table["every"]))
        groups.setdefault(key, []).append(row)
    if "rows" in table:
        labels = {(str(key),): label for key, label in table["rows"].items()}
        missing = [key for key in labels if key not in groups]
        if missing:
            raise ValueError(f"{folder.name}: {table['file']} has no rows of {missing}")
    elif "rows_by_order" in table:
        labels = dict(zip(groups, table["rows_by_order"], strict=True))
    else:
        labels = {key: ", ".join(part for part in key if part) for key in groups}
    return [
        [label, *(cell(groups[key], spec, rows, by[0]) for spec in table["columns"].values())]
        for key, label in labels.items()
    ]


def cell(group: Sequence[Mapping[str, str]], spec: Any, rows: Sequence[Mapping[str, str]], by: str) -> str:
    """One cell: a mean of a column over the runs of a group, with the standard deviation where there are several."""
    spec = {"column": spec} if isinstance(spec, str) else spec
    if spec.get("format") == "raw":
        names = spec.get("columns", [spec.get("column")])
        return " to ".join(value for value in (group[0][name] for name in names) if value)
    if "against" in spec:
        return _against(group, spec["column"], [row for row in rows if row[by] == spec["against"]])
    numbers = []
    for row in group:
        parts = [row[name] for name in spec.get("sum", [spec.get("column")])]
        if not any(parts):
            continue
        number = sum(float(part) for part in parts if part)
        for over in spec.get("over", ()):
            number /= float(row[over]) if isinstance(over, str) else over
        numbers.append(number)
    if not numbers:
        return ""
    shown = spec.get("format", ".4f")
    text = format(statistics.fmean(numbers), shown)
    return f"{text} ± {format(statistics.stdev(numbers), shown)}" if len(numbers) > 1 else text


def _against(group: Sequence[Mapping[str, str]], column: str, others: Sequence[Mapping[str, str]]) -> str:
    """Percent above other runs, seed by seed."""
    if group[0] is others[0]:
        return ""
    before = {row["seed"]: float(row[column]) for row in others}
    gains = [100 * (float(row[column]) / before[row["seed"]] - 1) for row in group]
    return f"{statistics.fmean(gains):+.1f} ± {statistics.stdev(gains):.1f} %"


def paper_rows(study: Mapping[str, Any], table: Mapping[str, Any]) -> list[list[str]]:
    """Rows that were copied from papers, marked as such."""
    found = []
    for row in study.get("papers", ()):
        cells = ["" if column not in row else f"{row[column]:.4f}" for column in table["columns"]]
        found.append([f"*{row['row']} (paper: {row['paper']})*", *cells])
    return found


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def study_tables(folder: Path, study: Mapping[str, Any]) -> list[str]:
    """The tables of a study as Markdown."""
    found: list[tuple[list[str], list[list[str]]]] = []
    for table in study.get("tables", ()):
        rows = table_rows(folder, table)
        if table.get("papers"):
            rows += paper_rows(study, table)
        if table.get("append"):
            found[-1][1].extend(rows)
        else:
            what = table["by"] if isinstance(table["by"], str) else ", ".join(table["by"])
            found.append((["variant" if "every" in table else what, *map(str.strip, table["columns"])], rows))
    return [markdown_table(header, rows) for header, rows in found]


# ---------------------------------------------------------------------------------------------------------------------
# Pages


def section(folder: Path, study: Mapping[str, Any], repository: str) -> str:
    """A study told for a reader: question, answer, table, command, how it was made."""
    name = folder.name
    parts = [f"({name})=", f"## {study['title']}", f"**{study['question'].strip()}**", study["answer"].strip()]
    parts += [f":::{{div}} wide numbers\n{table}\n:::" for table in study_tables(folder, study)]
    if "figure" in study:
        parts.append(f"![{study['title']}]({repository}/{name}/{study['figure']})")
    if study.get("findings"):
        parts.append("\n".join(f"- {finding.strip()}" for finding in study["findings"]))
    commands = "\n".join(study["commands"])
    files = ", ".join(f"`{path.name}`" for path in sorted(folder.iterdir()) if path.is_file())
    versions = ", ".join(f"{package} {version}" for package, version in study["versions"].items())
    parts.append(
        f":::{{dropdown}} How it was made\n```bash\n{commands}\n```\n"
        f"{study['notes'].strip()}\n\n"
        f"Machine: {study['machine'].strip()}. Versions: {versions}. Date: {study['date']}. "
        f"Files in `benchmarks/results/{name}`: {files}.\n:::"
    )
    return "\n\n".join(parts) + "\n"


def pages(results: Path, repository: str = "../../benchmarks/results") -> dict[str, str]:
    """Markdown of every page by its name, the first one, ``index``, included.

    Args:
        results: folder of the studies.
        repository: the same as seen from the pages, for pictures.
    """
    studies = read_studies(results)
    found = {}
    for key, (title, line) in PAGES.items():
        parts = [
            section(results / name, study, repository) for name, study in studies.items() if key in study["data"][:1]
        ]
        also = [name for name, study in studies.items() if key in study["data"][1:]]
        if also:
            parts.append(
                "## See also\n\n" + "\n".join(f"- {{ref}}`{studies[name]['title']} <{name}>`" for name in also) + "\n"
            )
        found[key] = f"# {title}\n\n{line}\n\n" + "\n".join(parts)
    return found | {"index": _index(studies)}


_INTRODUCTION = """# Results

Each study asks one question of one data set. Quality is the mean ± standard deviation over three seeds of test
Recall@20 and NDCG@20: the epoch is chosen on validation, training items are left out of the ranking, and the test split
is scored once a run. Rows in italics are copied from papers. `DATA` in the commands is a folder with the data sets of
the papers.

Nothing on these pages is written by hand: they are made from `benchmarks/results`, where each study has a folder with
its numbers, its command and its settings. Its `README.md` says how to add one.
"""


def _index(studies: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [PAGES[study["data"][0]][0], f"{{ref}}`{study['title']} <{name}>`", study["question"].strip()]
        for name, study in sorted(studies.items(), key=lambda e: (list(PAGES).index(e[1]["data"][0]), e[1]["order"]))
    ]
    toctree = "```{toctree}\n:maxdepth: 1\n\n" + "\n".join(PAGES) + "\n```\n"
    return f"{_INTRODUCTION}\n{toctree}\n{markdown_table(['data', 'study', 'question'], rows)}\n"


def write(app: Any) -> None:
    """Write the pages before Sphinx looks for them."""
    source = Path(app.srcdir)
    folder = source / "results"
    folder.mkdir(exist_ok=True)
    for name, text in pages(source.parent / "benchmarks" / "results").items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
