"""The differences that ``docs/papers/held.md`` speaks of, from the committed studies alone.

    python benchmarks/papers_differences.py docs/papers

writes ``data/differences.csv`` there: mean difference of two variants seed by seed, and its 95% interval over the
seeds (Student's t).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from papers_runs import kept, seeds_interval, write_rows

Where = tuple[str, Mapping[str, str]]
"""A CSV below ``benchmarks``, and the columns that name its rows."""


def _study(folder: str, file: str = "runs") -> str:
    return f"results/{folder}/{file}.csv"


def _model(folder: str, model: str, file: str = "runs") -> Where:
    return _study(folder, file), {"model": model}


def _office(model: str) -> Where:
    """A model from the vectors; InfoDCL's defaults are these."""
    return _model("compare_office", model, "runs" if model == "infodcl" else "runs_from_vectors")


def _choice(choice: str) -> Where:
    return _study("choices_office"), {"choice": choice}


def _ablation(label: str) -> Where:
    return "studies/item_term/results/ablations-office.csv", {"label": label}


def _channel(folder: str, variant: str) -> Where:
    return _study(folder), {"variant": variant}


@dataclass(frozen=True)
class Difference:
    """Two variants of a data set, seed by seed.

    Args:
        paper: whose claim it is about.
        data: name of the data set.
        about: what the two are.
        one, other: where they are kept; the difference is one minus other.
        metric: of the test split, or the whole name of its column.
    """

    paper: str
    data: str
    about: str
    one: Where
    other: Where
    metric: str = "recall@20"

    def row(self) -> dict[str, Any]:
        """Its mean over the seeds that both have, and the interval."""
        values, against = (kept(file, where, self.metric) for file, where in (self.one, self.other))
        gaps = [value - against[seed] for seed, value in values.items() if seed in against]
        low, high = seeds_interval(gaps)
        return {
            "paper": self.paper, "data": self.data, "about": self.about, "metric": self.metric,
            "seeds": len(gaps), "mean": float(np.mean(gaps)), "low": low, "high": high,
            "one": self.one[0], "other": self.other[0],
        }  # fmt: skip


def _models(paper: str, folder: str, data: str, one: str, other: str, about: str) -> Difference:
    return Difference(paper, data, about, _model(folder, one), _model(folder, other))


DIFFERENCES = [
    Difference("infodcl", "office", "InfoDCL - MF, from the vectors", _office("infodcl"), _office("mf")),
    _models("infodcl", "compare_taobao", "taobao", "infodcl", "mf", "InfoDCL - MF, from the vectors"),
    Difference("infodcl", "office", "InfoDCL - LightGCN, from the vectors", _office("infodcl"), _office("lightgcn")),
    _models("infodcl", "compare_taobao", "taobao", "infodcl", "lightgcn", "InfoDCL - LightGCN, from the vectors"),
    Difference(
        "infodcl", "office", "InfoDCL - LightGCN, from random",
        _choice("start: random"), _model("compare_office", "lightgcn"),
    ),
    *(
        Difference("infodcl", "office", f"{choice}, from the vectors", _choice(choice), _choice("default"), metric)
        for choice, metric in (
            ("without spectral rectification", "recall@20"), ("without contextual re-encoding", "recall@20"),
            ("without PSNet", "recall@20"), ("without PSNet", "ndcg@20"), ("without balance loss", "recall@20"),
            ("channels: both", "recall@20"),
        )
    ),
    *(
        Difference("infodcl", "office", f"{part}, EASE channel", _ablation(part), _ablation("EASE channel"))
        for part in (
            "w/o spectral rectification", "w/o contextual re-encoding", "w/o PSNet (Gaussian noise)", "w/o balance",
        )
    ),
    Difference(
        "infodcl", "lastfm", "real social network - its shuffle",
        _channel("channels_lastfm", "real graph"), _channel("channels_lastfm", "real graph shuffled"),
    ),
    Difference(
        "infodcl", "lastfm", "real social network - no channel",
        _channel("channels_lastfm", "real graph"), _channel("channels_lastfm", "no channel"),
    ),
    Difference(
        "infodcl", "tiktok", "image features - no channel",
        _channel("channels_tiktok", "real graph"), _channel("channels_tiktok", "no channel"),
    ),
    Difference("simdiff", "office", "SimDiff - MF, from the vectors", _office("simdiff"), _office("mf")),
    _models("simdiff", "compare_taobao", "taobao", "simdiff", "mf", "SimDiff - MF, from the vectors"),
    _models("simdiff", "compare_tiktok", "tiktok", "simdiff", "mf", "SimDiff - MF, either start by validation"),
    Difference(
        "simdiff", "tiktok", "SimDiff, image features - none, from random",
        (_study("selection"), {"data": "tiktok", "model": "simdiff", "features": "image"}),
        (_study("selection"), {"data": "tiktok", "model": "simdiff", "features": ""}),
        "epoch by validation, recall@20",
    ),
    Difference("diffcl", "office", "DiffCL - LightGCN, from the vectors", _office("diffcl"), _office("lightgcn")),
    _models("diffcl", "compare_taobao", "taobao", "diffcl", "lightgcn", "DiffCL - LightGCN, from the vectors"),
    _models("diffcl", "compare_tiktok", "tiktok", "diffcl", "lightgcn", "DiffCL - LightGCN, either start"),
]  # fmt: skip


def main(folder: Path) -> None:
    rows = [difference.row() for difference in DIFFERENCES]
    write_rows(folder / "data" / "differences.csv", rows)
    for row in rows:
        print(
            f"{row['data']}, {row['about']}: {row['metric']} {row['mean']:+.4f} "
            f"[{row['low']:+.4f}, {row['high']:+.4f}], {row['seeds']} seeds"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
