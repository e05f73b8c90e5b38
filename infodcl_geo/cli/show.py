"""How numbers and tables are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from ..text import markdown_cell

if TYPE_CHECKING:
    from ..data.interactions import Interactions

GENERATED_NOTE = "The data are generated, with planted tastes: the numbers say that the program works, nothing more."


def shown(metrics: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """Metrics as cells; a dash where nothing was measured."""
    return [f"{metrics[name]:.4f}" if isfinite(metrics.get(name, nan)) else "-" for name in names]


def headline(ks: Sequence[int]) -> list[str]:
    """The two metrics that tables show."""
    k = 20 if 20 in ks else max(ks)
    return [f"recall@{k}", f"ndcg@{k}"]


def print_without_training(data: Interactions) -> None:
    """A line for each held-out split that has users or items without a training interaction."""
    from ..evaluation.groups import without_training

    for name, pairs in (("validation", data.valid), ("test", data.test)):
        if found := without_training(data.train, pairs):
            print(f"{name}: {found}")


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """A table in Markdown."""
    cells = [[markdown_cell(cell) for cell in row] for row in rows]
    return tabulate(cells, headers=headers, tablefmt="github", disable_numparse=True)
