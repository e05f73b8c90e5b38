"""LightGCN: propagation in training and at inference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..nn.losses import bpr_loss, embedding_penalty
from .base import Batch, EmbeddingModel


class LightGCN(EmbeddingModel):
    r"""LightGCN (He et al., SIGIR 2020): BPR on embeddings averaged over K propagation layers, eq. 7, 8 and 15.

    The penalty is on the layer-0 embeddings of the batch, as in the authors' program. Arguments as in
    :class:`~infodcl_geo.models.base.EmbeddingModel`.
    """

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
        return {"bpr": self.bpr_weight * ranking, "reg": self.penalty * penalty}
