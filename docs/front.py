"""The README's tables and picture and the page of systems, from code and results: run ``python docs/front.py``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

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


def quality_table() -> str:
    """Recall@20 / NDCG@20 on the three data sets of the papers."""
    rows = []
    for label, model, file in SHOWN:
        cells = []
        for data in ("office", "taobao", "tiktok"):
            runs = runs_of(data, model, file)
            means = [
                cell(runs, f"test {metric}", runs, "model").partition(" ")[0] for metric in ("recall@20", "ndcg@20")
            ]
            cells.append(" / ".join(means))
        rows.append([label, *cells])
    links = [
        f"[{name}](benchmarks/results/compare_{key})"
        for key, name in (("office", "Amazon-Office"), ("taobao", "Taobao"), ("tiktok", "TikTok"))
    ]
    return markdown_table(["", *links], rows)


def speed_table() -> str:
    """Seconds of an epoch, beside PyG's LightGCN, with what happens once and the memory."""
    rows = {row["model"]: row for row in read_rows(RESULTS / "epoch_time_electronics" / "epochs.csv")}
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


def picture(path: Path) -> None:
    """Recall@20 on Amazon-Office by start, and the time of an epoch."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = {"mf": "MF", "lightgcn": "LightGCN", "sgl": "SGL", "simgcl": "SimGCL", "xsimgcl": "XSimGCL"}
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3), width_ratios=[1.7, 1])
    random, start = "#9aa5b1", "#1f6f8b"
    for place, model in enumerate(names):
        for shift, file, color in ((-0.2, "runs.csv", random), (0.2, "runs_from_vectors.csv", start)):
            runs = runs_of("office", model, file)
            mean = sum(float(run["test recall@20"]) for run in runs) / len(runs)
            left.bar(place + shift, mean, 0.38, color=color)
    runs = runs_of("office", "infodcl", "runs.csv")
    left.bar(len(names), sum(float(run["test recall@20"]) for run in runs) / len(runs), 0.38, color=start)
    vectors = float(runs_of("office", "svd", "runs.csv")[0]["test recall@20"])
    left.axhline(vectors, color="#c0392b", lw=1.2, ls="--")
    left.set_xticks(range(len(names) + 1), [*names.values(), "InfoDCL"])
    left.set(ylim=(0.12, 0.146), title="Amazon-Office, test Recall@20 (axis from 0.12)")
    handles = [
        plt.Rectangle((0, 0), 1, 1, color=random),
        plt.Rectangle((0, 0), 1, 1, color=start),
        plt.Line2D([], [], color="#c0392b", ls="--"),
    ]
    left.legend(
        handles,
        ["from random embeddings", "from pretrained vectors", "the vectors alone"],
        frameon=False,
        ncols=3,
        fontsize=8,
        loc="upper left",
        columnspacing=1,
    )
    timed = {
        row["model"]: float(row["ratio_to_pyg_lightgcn"])
        for row in read_rows(RESULTS / "epoch_time_electronics" / "epochs.csv")
    }
    for place, model in enumerate(reversed(TIMED)):
        right.barh(place, timed[model], color=start if model == "infodcl" else random)
        right.text(timed[model] + 0.02, place, f"{timed[model]:.2f}", va="center", fontsize=9)
    right.set_yticks(
        range(len(TIMED)),
        [
            label.replace("PyTorch Geometric", "PyG").replace("matrix factorisation (MF)", "MF")
            for label in reversed(TIMED.values())
        ],
    )
    right.set(xlim=(0, 1.8), title="Time of an epoch, PyG's LightGCN = 1")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.title.set_fontsize(10)
    left.tick_params(labelsize=9)
    right.tick_params(labelsize=9)
    figure.subplots_adjust(left=0.05, right=0.985, bottom=0.1, top=0.9, wspace=0.42)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(readme(path.read_text("utf-8")), encoding="utf-8")
    page = ROOT / "docs" / "systems.md"
    page.write_text(systems_page(page.read_text("utf-8")), encoding="utf-8")
    picture(ROOT / "docs" / "images" / "front.png")
