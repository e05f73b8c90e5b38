"""The tables of the README from the kept runs: means and spread over the seeds, and what is significant.

    python benchmarks/studies/item_term/summary.py office taobao tiktok electronics ml-1m lastfm

trains nothing. Where the metrics of each user are kept beside a table (``.npz``, which ``table.py`` makes and which is
not committed), it also renews ``results/differences-DATA.csv``: the variant of InfoDCL that is best on validation, with
the term, minus each rival in test NDCG@20, paired t over the users, adjusted for all rivals by Holm's method.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from infodcl_geo.evaluation.significance import differences

RESULTS = Path(__file__).parent / "results"
METRIC = "ndcg@20"
SHOWN = ("valid ndcg@20", "test recall@20", "test ndcg@20")
TERM = " + term"
MODELS = (
    "vectors", "EASE", "MF", "LightGCN", "XSimGCL", "InfoDCL", "InfoDCL, EASE channel", "InfoDCL, both channels",
)  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """A run of a table, with the metric of each user, ``[n]``."""

    label: str
    studied: bool
    row: dict[str, Any]
    per_user: dict[str, npt.NDArray[np.float64]]


def rows_of(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The newest row of each label and seed."""
    with path.open(newline="", encoding="utf-8") as file:
        return {(row["label"], row["seed"]): row for row in csv.DictReader(file)}


def number(values: list[float]) -> str:
    """Mean and standard deviation over the seeds, without the zero before the point."""
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}".replace("0.", ".")


def table(rows: dict[tuple[str, str], dict[str, str]]) -> list[str]:
    """Markdown: a line for each model, without and with the term."""
    cells: dict[str, dict[str, list[float]]] = {}
    for (label, _), row in rows.items():
        for name in SHOWN:
            cells.setdefault(label, {}).setdefault(name, []).append(float(row[name]))
    names = ["validation", "Recall@20", "NDCG@20"]
    head = ["", "seeds", *names, *(f"{name}, term" for name in names)]
    lines = [head, ["---"] * len(head)]
    for label in (model for model in MODELS if model in cells):
        line = [label, str(len(cells[label][SHOWN[0]]))]
        for name in (label, label + TERM):
            line += [number(cells[name][shown]) if name in cells else "" for shown in SHOWN]
        lines.append(line)
    return [f"| {' | '.join(line)} |" for line in lines]


def with_users(rows: dict[tuple[str, str], dict[str, str]], arrays: Path) -> list[Kept]:
    """Runs whose users' metrics are kept."""
    if not arrays.exists():
        return []
    with np.load(arrays) as kept:
        return [
            Kept(label, label.startswith("InfoDCL"), {f"valid {METRIC}": float(row[f"valid {METRIC}"])},
                 {METRIC: kept[f"{row['key']} {METRIC}"]})
            for (label, _), row in rows.items() if f"{row['key']} {METRIC}" in kept
        ]  # fmt: skip


def compared(entries: list[Kept]) -> list[dict[str, Any]]:
    """The best variant with the term minus each rival; the rivals are what is no InfoDCL."""
    by_label: dict[str, list[Kept]] = {}
    for entry in entries:
        by_label.setdefault(entry.label, []).append(entry)
    valid = {
        label: float(np.mean([entry.row[f"valid {METRIC}"] for entry in group]))
        for label, group in by_label.items()
        if group[0].studied and label.endswith(TERM)
    }
    if not valid:
        return []
    best = max(valid, key=lambda label: valid[label])
    rivals = [entry for entry in entries if not entry.studied or entry.label == best]
    return [
        {
            "model": best, "seeds": len(by_label[best]), "rival": label, "seeds of rival": len(by_label[label]),
            "difference of test ndcg@20": f"{-gap.mean:+.5f}", "p (Holm)": f"{gap.p_value:.2g}",
        }
        for label, gap in differences(rivals, METRIC, best).items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="names of data sets that have a table")
    for name in parser.parse_args().data:
        path = RESULTS / f"table-{name}.csv"
        rows = rows_of(path)
        print(f"\n{name}\n", *table(rows), sep="\n")
        target = RESULTS / f"differences-{name}.csv"
        found = compared(with_users(rows, path.with_suffix(".npz")))
        if found:
            with target.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(found)
        elif target.exists():
            with target.open(newline="", encoding="utf-8") as file:
                found = list(csv.DictReader(file))
        for row in found:
            gap, p = row["difference of test ndcg@20"], row["p (Holm)"]
            print(f"{row['model']} ({row['seeds']} seeds) minus {row['rival']}: {gap}, p {p}")


if __name__ == "__main__":
    main()
