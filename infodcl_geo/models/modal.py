"""What models have in common whose items are described by features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..graph.graph import Graph
from ..nn.modal import ModalProjection, checked_features
from .base import EmbeddingModel


class ModalModel(EmbeddingModel):
    """Embeddings beside features of the items, of any number of modalities, each projected to the embeddings' size.

    Features are not trained. Where the items have none of their own, the similarity channels describe them. A model
    that ranks inherits its backbone behind this: ``class Mine(ModalModel, LightGCN)``.

    Args:
        graph, num_users, num_items, options, changes: as in :class:`~infodcl_geo.models.base.EmbeddingModel`.
        features: ``[num_items, f]`` by the modality's name, of any widths.

    Raises:
        OptionError: without features, or if their rows are not the items.
    """

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, features: Mapping[str, Tensor], **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, **changes)
        given = checked_features(features, num_items)
        self.projections = nn.ModuleList(ModalProjection(f, self.dim) for f in given)
        self.set_up(given)

    def set_up(self, features: list[Tensor]) -> None:
        """Make what else the model has; features ``[num_items, f]`` of the modalities, as they were given."""
