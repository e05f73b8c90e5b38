"""EASE: a linear autoencoder over items, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

from ..graph.item_item import DEFAULT_L2, ease_weights
from .base import Fitted
from .options import ModelOptions, check
from .recipe import Inputs, Recipe, Space
from .scoring import UserRows, item_scorer


@dataclass(frozen=True)
class EASEOptions(ModelOptions):
    """Options of EASE.

    Args:
        l2: weight lambda of the squared norm of the item-item weights.
    """

    l2: float = DEFAULT_L2

    def __post_init__(self) -> None:
        check(self, positive=["l2"])


def _build(inputs: Inputs, options: EASEOptions) -> Fitted:
    weights = ease_weights(inputs.train, *inputs.sizes, options.l2)
    return Fitted({"item_weights": weights}, item_scorer(UserRows(inputs.train, *inputs.sizes), weights))


def _search(space: Space) -> None:
    space.number("l2", 1, 5000)


recipe = Recipe(
    name="ease",
    summary="a linear autoencoder over items",
    paper="Steck, EASE, WWW 2019",
    options=EASEOptions,
    build=_build,
    search=_search,
    closed_form=True,
)
