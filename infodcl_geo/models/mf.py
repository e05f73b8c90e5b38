"""Matrix factorisation with BPR or another objective, and propagation at inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph.graph import Graph, csr_parts, propagate
from ..nn.losses import embedding_penalty
from .base import Batch, BprRows, EmbeddingModel
from .objective import RankingObjective, RankingOptions
from .ranks import Traffic
from .recipe import Recipe, search_embeddings


@dataclass(frozen=True)
class MatrixFactorizationOptions(RankingOptions):
    """Options of :class:`MatrixFactorization`, which has none of its own."""

    l2: float = 0.011
    init_std: float = 0.006


class MatrixFactorization(EmbeddingModel):
    r"""Matrix factorisation, :math:`\mathcal L = \mathcal L_{bpr} + \lambda\,\mathcal L_{reg}` (InfoDCL eq. 12 and 15).

    The embeddings are trained as they are, with propagation at inference alone, as InfoDCL does (section 3.4);
    ``num_layers=0`` is plain matrix factorisation. ``ranking_loss`` puts another objective in BPR's place; where that
    is one of cosines, rows of length one are propagated, and items are ranked by the cosine (the length of a user's
    row has no say). Arguments as in :class:`~infodcl_geo.models.base.EmbeddingModel`.
    """

    Options: ClassVar[type[RankingOptions]] = MatrixFactorizationOptions

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, *, options: RankingOptions | None = None, **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)
        self.objective = RankingObjective(self.options, user_degree(graph, num_users), num_items)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        if self.options.ranking_loss == "bpr":
            return self.row_terms(batch)
        users, items = self.user_embedding, self.item_embedding
        ranking = self.objective(
            batch,
            lambda rows: users.weight if rows is None else users(rows),
            lambda rows: items.weight if rows is None else items(rows),
            generator,
        )
        penalty = embedding_penalty(users(batch.users), items(batch.positives))
        return {self.options.ranking_loss: ranking, "reg": self.l2 * penalty}

    def bpr_rows(self) -> BprRows | None:
        if self.options.ranking_loss != "bpr":
            return None
        return BprRows(self.user_embedding, self.item_embedding, self.bpr_weight, self.l2, always=True)

    def is_plain(self, batch: Batch) -> bool:
        return True

    def row_tables(self, anchors: int) -> list[nn.Embedding]:
        return [self.user_embedding, self.item_embedding] if self.objective.reads_rows else []

    def keep_rows(self, users: slice, items: slice) -> None:
        super().keep_rows(users, items)
        self.objective.degree = self.objective.degree[users].clone()

    def propagated(self) -> tuple[Tensor, Tensor]:
        nodes = F.normalize(self.nodes()) if self.objective.cosine else self.nodes()
        return self.split(propagate(self.graph, nodes, self.num_layers))


def user_degree(graph: Graph, num_users: int) -> Tensor:
    """Training interactions of each user ``[M]``, from the graph over users and items."""
    return csr_parts(graph.matrix)[0].diff()[:num_users]


def splits(options: RankingOptions) -> str:
    """What keeps the loss from being shared by processes with parts of the tables: objectives of whole batches do."""
    return "" if options.ranking_loss == "bpr" else f"ranking_loss={options.ranking_loss} is one of whole batches"


recipe = Recipe(
    name="mf",
    summary="matrix factorisation by BPR, propagated at inference",
    paper="Rendle et al., BPR, UAI 2009",
    options=MatrixFactorizationOptions,
    build=lambda inputs, options: MatrixFactorization(inputs.graph, *inputs.sizes, options=options),
    search=search_embeddings,
    propagates_afterwards=True,
    splits=splits,
    traffic=lambda options: Traffic(item_rows=2),
)
