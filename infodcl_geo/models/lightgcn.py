"""LightGCN: propagation in training and at inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..nn.losses import bpr_loss, embedding_penalty
from .base import Batch, EmbeddingModel
from .options import EmbeddingOptions
from .recipe import Recipe, search_embeddings


@dataclass(frozen=True)
class LightGCNOptions(EmbeddingOptions):
    """Options of :class:`LightGCN`, which has none of its own."""

    num_layers: int | None = 2
    l2: float = 0.004
    init_std: float = 0.03


class LightGCN(EmbeddingModel):
    r"""LightGCN (He et al., SIGIR 2020): BPR on embeddings averaged over K propagation layers, eq. 7, 8 and 15.

    The penalty is on the layer-0 embeddings of the batch, as in the authors' program. Arguments as in
    :class:`~infodcl_geo.models.base.EmbeddingModel`.
    """

    Options: ClassVar[type[EmbeddingOptions]] = LightGCNOptions

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return self.ranking(batch, *self.propagated())

    def ranking(self, batch: Batch, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """BPR on propagated embeddings ``[M, d]`` and ``[N, d]``, and the penalty: the terms ``bpr`` and ``reg``."""
        ranking = bpr_loss(
            F.embedding(batch.users, users), F.embedding(batch.positives, items), F.embedding(batch.negatives, items)
        )
        penalty = embedding_penalty(
            F.embedding(batch.users, self.user_embedding.weight),
            F.embedding(batch.positives, self.item_embedding.weight),
            F.embedding(batch.negatives, self.item_embedding.weight),
        )
        return {"bpr": self.bpr_weight * ranking, "reg": self.l2 * penalty}


recipe = Recipe(
    name="lightgcn",
    summary="BPR on embeddings propagated over the graph",
    paper="He et al., LightGCN, SIGIR 2020",
    options=LightGCNOptions,
    build=lambda inputs, options: LightGCN(inputs.graph, *inputs.sizes, options=options),
    search=search_embeddings,
)
