"""The EASE channel: what items with strong item-item weights say of an item."""

from __future__ import annotations

from dataclasses import dataclass

from ..data.interactions import Interactions
from ..errors import OptionError
from ..graph.item_item import DEFAULT_L2, ItemWeights, item_weights, strongest_into
from ..graph.similarity import weighted_mean
from .base import Channel, PretrainedVectors, has_edges


@dataclass(frozen=True, eq=False)
class EaseChannel:
    r"""The mean pretrained vector of the items with the strongest item-item weights into an item, by these weights.

    .. math:: m_i = \frac{\sum_{j \in T_i} B_{ji}\, q_j}{\sum_{j \in T_i} B_{ji}}

    with :math:`T_i` the ``top_k`` items of largest positive weight :math:`B_{ji}` of EASE
    (:func:`~infodcl_geo.graph.item_item.item_weights`). Where similar items share users with an item, those of EASE
    explain it beside all others: that is more than the vectors, which are smooth over the same graph, already say. An
    item without a positive weight keeps its own vector and is not covered.

    Args:
        top_k: size of the neighbourhood.
        l2: penalty of the weights. :func:`~infodcl_geo.selection.choose_l2` chooses it on validation, which a builder
            must not read.
        weights: of the training interactions, if they are there already; ``l2`` then only says how they were made.
    """

    top_k: int = 20
    l2: float = DEFAULT_L2
    weights: ItemWeights | None = None

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise OptionError(f"top_k of the EASE channel must be at least 1, not {self.top_k}")
        if not self.l2 > 0:
            raise OptionError(f"l2 of the EASE channel must be positive, not {self.l2}")

    def __call__(self, data: Interactions, vectors: PretrainedVectors) -> Channel:
        weights = self.weights
        if weights is None:
            weights = item_weights(data.train, data.num_users, data.num_items, self.l2)
        strongest = strongest_into(weights, self.top_k)
        metadata = weighted_mean(strongest, vectors.items, vectors.items)
        source = f"the {self.top_k} strongest EASE weights into an item, l2 {self.l2:g}, {strongest.num_edges} edges"
        return Channel("ease", metadata, source, has_edges(strongest), strongest, "items", from_interactions=True)
