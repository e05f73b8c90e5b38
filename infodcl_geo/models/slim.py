"""SLIM: sparse item-item weights by an elastic net over each item's neighbourhood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..graph.item_item import slim_graph
from .base import Fitted
from .item_term import ItemTerm
from .options import ModelOptions, check
from .recipe import Inputs, Recipe, Sizes, Space
from .scoring import Scorer, UserRows


@dataclass(frozen=True)
class SLIMOptions(ModelOptions):
    """Options of SLIM, see :func:`~infodcl_geo.graph.item_item.slim_graph`.

    Args:
        l1: weight of the absolute weights, which leaves out the useless.
        l2: weight of the squared weights.
        neighbours: items that may explain an item, those of the nearest user sets by the cosine.
        sweeps: of coordinate descent, at most.
    """

    l1: float = 0.5
    l2: float = 10.0
    neighbours: int = 100
    sweeps: int = 30

    def __post_init__(self) -> None:
        check(self, at_least_1=["neighbours", "sweeps"], positive=["l2"])


def _build(inputs: Inputs, options: SLIMOptions) -> Fitted:
    found = slim_graph(
        inputs.train,
        *inputs.sizes,
        l1=options.l1,
        l2=options.l2,
        neighbours=options.neighbours,
        sweeps=options.sweeps,
    )
    weights = found.to(inputs.train.device)
    term = ItemTerm(UserRows(inputs.train, *inputs.sizes), weights)
    return Fitted(term.tensors(), term.scores)


def _restore(state: Mapping[str, Tensor], options: SLIMOptions, train: Tensor, sizes: Sizes) -> Scorer:
    return ItemTerm.from_tensors(UserRows(train, *sizes), state).scores


def _fold_in(
    state: Mapping[str, Tensor], options: SLIMOptions, train: Tensor, sizes: Sizes, histories: UserRows
) -> Scorer:
    return ItemTerm.from_tensors(histories, state).scores


def _search(space: Space) -> None:
    space.number("l1", 0.01, 10)
    space.number("l2", 1, 1000)


recipe = Recipe(
    name="slim",
    summary="sparse item-item weights by an elastic net",
    paper="Ning and Karypis, SLIM, ICDM 2011",
    options=SLIMOptions,
    build=_build,
    search=_search,
    closed_form=True,
    restore=_restore,
    fold_in=_fold_in,
)
