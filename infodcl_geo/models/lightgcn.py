"""LightGCN: propagation in training and at inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..nn.ranks import Traffic
from .base import Batch
from .objective import RankingOptions
from .options import EmbeddingOptions
from .ranked import RankingModel, splits
from .recipe import Recipe, search_embeddings


@dataclass(frozen=True)
class LightGCNOptions(RankingOptions):
    """Options of :class:`LightGCN`, which has none of its own."""

    num_layers: int | None = 2
    l2: float = 0.004
    init_std: float = 0.03


class LightGCN(RankingModel):
    r"""LightGCN (He et al., SIGIR 2020): BPR on embeddings averaged over K propagation layers, eq. 7, 8 and 15.

    The penalty is on the layer-0 embeddings of the batch, as in the authors' program. ``ranking_loss`` puts another
    objective in BPR's place; where that is one of cosines, items are ranked by the cosine. Arguments as in
    :class:`~infodcl_geo.models.base.EmbeddingModel`.
    """

    Options: ClassVar[type[EmbeddingOptions]] = LightGCNOptions

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return self.ranking(batch, *self.propagated(), generator)


recipe = Recipe(
    name="lightgcn",
    summary="BPR on embeddings propagated over the graph",
    paper="He et al., LightGCN, SIGIR 2020",
    options=LightGCNOptions,
    build=lambda inputs, options: LightGCN(inputs.graph, *inputs.sizes, options=options),
    search=search_embeddings,
    splits=splits,
    traffic=lambda options: Traffic(item_rows=4, products=options.num_layers or 1),
)
