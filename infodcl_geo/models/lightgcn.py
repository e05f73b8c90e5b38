"""LightGCN: propagation in training and at inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graph.graph import Graph
from ..nn.losses import bpr_loss, embedding_penalty
from .base import Batch, EmbeddingModel
from .mf import splits, user_degree
from .objective import RankingObjective, RankingOptions
from .options import EmbeddingOptions
from .ranks import Traffic
from .recipe import Recipe, search_embeddings


@dataclass(frozen=True)
class LightGCNOptions(RankingOptions):
    """Options of :class:`LightGCN`, which has none of its own."""

    num_layers: int | None = 2
    l2: float = 0.004
    init_std: float = 0.03


class LightGCN(EmbeddingModel):
    r"""LightGCN (He et al., SIGIR 2020): BPR on embeddings averaged over K propagation layers, eq. 7, 8 and 15.

    The penalty is on the layer-0 embeddings of the batch, as in the authors' program. ``ranking_loss`` puts another
    objective in BPR's place; where that is one of cosines, items are ranked by the cosine. Arguments as in
    :class:`~infodcl_geo.models.base.EmbeddingModel`.
    """

    Options: ClassVar[type[EmbeddingOptions]] = LightGCNOptions

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, *, options: EmbeddingOptions | None = None, **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)
        self.objective: RankingObjective | None = None
        if isinstance(self.options, RankingOptions) and self.options.ranking_loss != "bpr":
            self.objective = RankingObjective(self.options, user_degree(graph, num_users), num_items)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        if self.objective is None:
            return self.ranking(batch, *self.propagated())
        users, items = self.propagated()
        ranking = self.objective(
            batch,
            lambda rows: users if rows is None else F.embedding(rows, users),
            lambda rows: items if rows is None else F.embedding(rows, items),
            generator,
        )
        penalty = embedding_penalty(
            F.embedding(batch.users, self.user_embedding.weight),
            F.embedding(batch.positives, self.item_embedding.weight),
        )
        return {self.options.ranking_loss: ranking, "reg": self.l2 * penalty}

    def ranking(self, batch: Batch, users: Tensor, items: Tensor) -> dict[str, Tensor]:
        """BPR on propagated embeddings ``[M, d]`` and ``[N, d]``, and the penalty: the terms ``bpr`` and ``reg``."""
        rows = self.ranks.rows
        chosen, positives = rows("users", users, batch.users), rows("items", items, batch.positives)
        ranking = bpr_loss(chosen, positives, rows("items", items, batch.negatives))
        user_table, item_table = self.user_embedding.weight, self.item_embedding.weight
        penalty = embedding_penalty(
            rows("users", user_table, batch.users),
            rows("items", item_table, batch.positives),
            rows("items", item_table, batch.negatives),
        )
        return {"bpr": batch.share * self.bpr_weight * ranking, "reg": batch.share * self.l2 * penalty}

    @torch.no_grad()
    def embeddings(self) -> tuple[Tensor, Tensor]:
        users, items = self.propagated()
        if self.objective is not None and self.objective.cosine:
            return F.normalize(users), F.normalize(items)
        return users, items


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
