"""The README's tables and picture and the page of systems, from code and results: run ``python docs/front.py``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(Path(__file__).parent / "_ext"))
sys.path.insert(0, str(ROOT / "benchmarks" / "studies" / "item_term"))

from reference import models_in_short  # noqa: E402
from results import cell, markdown_table, read_rows  # noqa: E402
from systems import published_table, systems_table  # noqa: E402

SHOWN = (
    ("popularity", "popularity", "runs.csv"),
    ("LightGCN, from random embeddings", "lightgcn", "runs.csv"),
    ("pretrained vectors alone (`svd`)", "svd", "runs.csv"),
    ("matrix factorisation, from the vectors", "mf", "runs_from_vectors.csv"),
    ("InfoDCL, from the vectors", "infodcl", "runs.csv"),
)
"""Rows of the table of quality: label, model, file of Amazon-Office's study."""

TERMED = (
    ("matrix factorisation, with an item-item term", "MF + term"),
    ("InfoDCL, with an item-item term", "InfoDCL + term"),
)
"""Rows of the study of the item term: label here, label there."""

RANDOM = {"taobao": "compare_taobao_random", "tiktok": "compare_tiktok_random"}
"""Where the runs from random embeddings are."""

TIMED = {
    "mf": "matrix factorisation (MF)",
    "infodcl": "InfoDCL",
    "lightgcn": "LightGCN",
    "pyg-lightgcn": "PyTorch Geometric's LightGCN",
    "simgcl": "SimGCL",
}


def runs_of(data: str, model: str, office_file: str) -> list[dict[str, str]]:
    """The runs of a model on a data set, from the start that the row is about."""
    study, file = f"compare_{data}", "runs.csv"
    if data == "office":
        file = office_file
    elif model == "lightgcn":
        study = RANDOM[data]
    return [row for row in read_rows(RESULTS / study / file) if row["model"] == model]


def means_of(runs: list[dict[str, str]], key: str) -> str:
    """Means of Recall@20 / NDCG@20 over the seeds."""
    metrics = ("recall@20", "ndcg@20")
    return " / ".join(cell(runs, f"test {metric}", runs, key).partition(" ")[0] for metric in metrics)


def termed(data: str, label: str) -> str:
    """The cell of the study of the item term, with its seeds where they are not three."""
    from summary import RESULTS as TABLES
    from summary import rows_of

    runs = [row for (name, _), row in rows_of(TABLES / f"table-{data}.csv").items() if name == label]
    seeds = "" if len(runs) == 3 else f" ({len(runs)} seed{'s' if len(runs) > 1 else ''})"
    return means_of(runs, "label") + seeds


def quality_table() -> str:
    """Recall@20 / NDCG@20 on the three data sets of the papers."""
    rows = []
    for label, model, file in SHOWN:
        cells = []
        for data in ("office", "taobao", "tiktok"):
            runs = runs_of(data, model, file)
            cells.append(means_of(runs, "model"))
        rows.append([label, *cells])
    rows += [[name, *(termed(data, label) for data in ("office", "taobao", "tiktok"))] for name, label in TERMED]
    links = [
        f"[{name}](benchmarks/results/compare_{key})"
        for key, name in (("office", "Amazon-Office"), ("taobao", "Taobao"), ("tiktok", "TikTok"))
    ]
    return markdown_table(["", *links], rows)


def speed_table() -> str:
    """Seconds of an epoch, beside PyG's LightGCN, with what happens once and the memory."""
    rows = {row["model"]: row for row in read_rows(RESULTS / "epoch_time_electronics" / "epochs_0.2.csv")}
    cells = []
    for model, label in TIMED.items():
        row = rows[model]
        once = sum(float(value) for name, value in row.items() if name.startswith("once_") and value)
        cells.append(
            [
                label,
                f"{float(row['seconds_per_epoch']):.2f} s",
                f"{float(row['ratio_to_pyg_lightgcn']):.3f}",
                f"{once:.1f} s",
                f"{float(row['extra_peak_mib']):.0f} MiB",
            ]
        )
    return markdown_table(["", "epoch", "of PyG's LightGCN", "once before", "extra peak memory"], cells)


def readme(text: str) -> str:
    """The README with its tables as the code and the results have them."""
    return with_tables(text, {"models": models_in_short(), "quality": quality_table(), "speed": speed_table()})


def systems_page(text: str) -> str:
    """The page of the papers' systems with its tables as the code and the results have them."""
    published = {f"published-{data}": published_table(data) for data in ("office", "tiktok")}
    return with_tables(text, {"systems": systems_table(), **published})


def with_tables(text: str, tables: dict[str, str]) -> str:
    """A text with tables between the comments that name them."""
    for name, table in tables.items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", flags=re.DOTALL)
        text = marked.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text)
    return text


RANDOM_COLOR, START_COLOR, LINE_COLOR = "#9aa5b1", "#1f6f8b", "#c0392b"
MODELS = {"mf": "MF", "lightgcn": "LightGCN", "sgl": "SGL", "simgcl": "SimGCL", "xsimgcl": "XSimGCL"}


def draw_quality(axes: Any) -> None:
    """Recall@20 on Amazon-Office by start."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    for place, model in enumerate(MODELS):
        for shift, file, color in ((-0.2, "runs.csv", RANDOM_COLOR), (0.2, "runs_from_vectors.csv", START_COLOR)):
            runs = runs_of("office", model, file)
            axes.bar(place + shift, sum(float(run["test recall@20"]) for run in runs) / len(runs), 0.38, color=color)
    runs = runs_of("office", "infodcl", "runs.csv")
    mean = sum(float(run["test recall@20"]) for run in runs) / len(runs)
    axes.bar(len(MODELS), mean, 0.38, color=START_COLOR)
    vectors = float(runs_of("office", "svd", "runs.csv")[0]["test recall@20"])
    axes.axhline(vectors, color=LINE_COLOR, lw=1.2, ls="--")
    axes.set_xticks(range(len(MODELS) + 1), [*MODELS.values(), "InfoDCL"])
    axes.set(ylim=(0.12, 0.146), title="Amazon-Office, test Recall@20 (axis from 0.12)")
    handles = [
        Rectangle((0, 0), 1, 1, color=RANDOM_COLOR),
        Rectangle((0, 0), 1, 1, color=START_COLOR),
        Line2D([], [], color=LINE_COLOR, ls="--"),
    ]
    labels = ["from random embeddings", "from pretrained vectors", "the vectors alone"]
    axes.legend(handles, labels, frameon=False, ncols=3, fontsize=8, loc="upper left", columnspacing=1)


def draw_speed(axes: Any) -> None:
    """The time of an epoch beside that of PyG's LightGCN."""
    timed = {
        row["model"]: float(row["ratio_to_pyg_lightgcn"])
        for row in read_rows(RESULTS / "epoch_time_electronics" / "epochs_0.2.csv")
    }
    for place, model in enumerate(reversed(TIMED)):
        axes.barh(place, timed[model], color=START_COLOR if model == "infodcl" else RANDOM_COLOR)
        axes.text(timed[model] + 0.02, place, f"{timed[model]:.2f}", va="center", fontsize=9)
    short = {"PyTorch Geometric's LightGCN": "PyG's LightGCN", "matrix factorisation (MF)": "MF"}
    axes.set_yticks(range(len(TIMED)), [short.get(label, label) for label in reversed(TIMED.values())])
    axes.set(xlim=(0, 1.2 * max(timed[model] for model in TIMED)), title="Time of an epoch, PyG's LightGCN = 1")


def pictures(folder: Path) -> None:
    """Both side by side for the README, and each alone for the site, where a phone shows one below the other."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    both, (left, right) = plt.subplots(1, 2, figsize=(10, 3), width_ratios=[1.7, 1])
    quality, first = plt.subplots(figsize=(6, 3.2), layout="constrained")
    speed, second = plt.subplots(figsize=(4.5, 2.4), layout="constrained")
    for axes, draw in ((left, draw_quality), (right, draw_speed), (first, draw_quality), (second, draw_speed)):
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
        axes.tick_params(labelsize=9)
    both.subplots_adjust(left=0.05, right=0.985, bottom=0.1, top=0.9, wspace=0.42)
    for name, figure in (("front", both), ("quality", quality), ("speed", speed)):
        figure.savefig(folder / f"{name}.png", dpi=110)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(readme(path.read_text("utf-8")), encoding="utf-8")
    page = ROOT / "docs" / "systems.md"
    page.write_text(systems_page(page.read_text("utf-8")), encoding="utf-8")
    pictures(ROOT / "docs" / "images")
