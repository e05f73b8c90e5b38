"""EASE: a linear autoencoder over items, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..graph import item_item


@dataclass(frozen=True)
class EASEOptions:
    """Hyper-parameters of EASE; those of other models, and the seed, do not concern it.

    Args:
        l2: weight lambda of the squared norm of the item-item weights.
    """

    l2: float = item_item.DEFAULT_L2

    def __post_init__(self) -> None:
        if not self.l2 > 0:
            raise ValueError(f"l2 must be positive, not {self.l2}")


def ease_weights(interactions: Tensor, num_users: int, num_items: int, options: EASEOptions = EASEOptions()) -> Tensor:
    """:func:`infodcl_geo.graph.item_item.ease_weights` with the weight of ``options``."""
    return item_item.ease_weights(interactions, num_users, num_items, options.l2)
