"""The ranking term of all models that have one: BPR, or the objective that an option puts in its place."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph.graph import Graph, csr_parts, propagate
from ..nn.losses import bpr_loss, embedding_penalty
from ..nn.ranks import ONE, OneRank, Side
from .base import Batch, EmbeddingModel
from .objective import Lookup, RankingObjective, RankingOptions
from .options import EmbeddingOptions


class Rows:
    """A :data:`Lookup` in a tensor ``[n, d]``, a table or what another one finds, that makes the same rows once.

    Args:
        of: what the rows are of.
        side: of a tensor, whether its rows are users or items.
        ranks: of a tensor, the processes that have the other rows.
    """

    def __init__(self, of: Tensor | nn.Embedding | Lookup, side: Side = "items", ranks: OneRank = ONE) -> None:
        self.of, self.side, self.ranks = of, side, ranks
        # The rows are kept beside what they gave, so that no other tensor can come to have the same identity.
        self._made: dict[int, tuple[Tensor | None, Tensor]] = {}

    def __call__(self, rows: Tensor | None) -> Tensor:
        if id(rows) in self._made:
            return self._made[id(rows)][1]
        made = self._make(rows)
        if torch.is_grad_enabled():  # what is made without a gradient must not stand for what needs one
            self._made[id(rows)] = rows, made
        return made

    def _make(self, rows: Tensor | None) -> Tensor:
        if isinstance(self.of, nn.Embedding):
            return self.of.weight if rows is None else self.of(rows)
        if isinstance(self.of, Tensor):
            return self.of if rows is None else self.ranks.rows(self.side, self.of, rows)
        return self.of(rows)


class RankingModel(EmbeddingModel):
    """Embeddings with a term that ranks: BPR, or what ``ranking_loss`` puts in its place. All models with such a term.

    Arguments as in :class:`~infodcl_geo.models.base.EmbeddingModel`. Where the loss is one of cosines items are ranked
    by the cosine, so that the length of a user's row has no say.
    """

    Options: ClassVar[type[EmbeddingOptions]] = RankingOptions
    propagates_afterwards: ClassVar[bool] = False
    """trained without propagation: then the cosines are of the rows before it, and rows of length one are propagated"""

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, *, options: EmbeddingOptions | None = None, **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)
        self.objective: RankingObjective | None = None
        # A model of one's own may have options without objectives.
        self.ranking_loss = getattr(self.options, "ranking_loss", "bpr")
        if self.ranking_loss != "bpr":
            degree = csr_parts(graph.matrix)[0].diff()[:num_users]
            self.objective = RankingObjective(self.options, degree, num_items)

    @property
    def cosine(self) -> bool:
        """Whether scores are cosines."""
        return self.objective is not None and self.objective.cosine

    @property
    def ranks_by_rows(self) -> bool:
        """Whether the ranking term reads nothing but rows of what it is given."""
        return self.objective is None or self.objective.reads_rows

    def ranked(
        self, batch: Batch, users: Lookup, items: Lookup, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The ranking term by the name of its loss, weighted.

        Args:
            users, items: embeddings that are scored, by row.
            generator: of the sample of items, where the loss has one.
        """
        if self.objective is None:
            loss = bpr_loss(users(batch.users), items(batch.positives), items(batch.negatives))
        else:
            loss = self.objective(batch, users, items, generator)
        return {self.ranking_loss: batch.share * self.bpr_weight * loss}

    def penalty(self, batch: Batch, users: Lookup, items: Lookup) -> Tensor:
        """Mean squared norm of the batch's rows: users and positives, of BPR the negatives too."""
        rows = [users(batch.users), items(batch.positives)]
        if self.objective is None:
            rows.append(items(batch.negatives))
        return embedding_penalty(*rows)

    def row_terms(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The ranking term and the penalty on the embeddings as they are."""
        users, items = Rows(self.user_embedding), Rows(self.item_embedding)
        terms = self.ranked(batch, users, items, generator)
        return {**terms, "reg": batch.share * self.l2 * self.penalty(batch, users, items)}

    def ranking(
        self, batch: Batch, users: Tensor, items: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The ranking term on propagated embeddings ``[M, d]`` and ``[N, d]``, and the penalty on those of layer 0."""
        terms = self.ranked(batch, *self._rows(users, items), generator)
        first = self._rows(self.user_embedding.weight, self.item_embedding.weight)
        return {**terms, "reg": batch.share * self.l2 * self.penalty(batch, *first)}

    def _rows(self, users: Tensor, items: Tensor) -> tuple[Rows, Rows]:
        return Rows(users, "users", self.ranks), Rows(items, "items", self.ranks)

    def keep_rows(self, users: slice, items: slice) -> None:
        super().keep_rows(users, items)
        if self.objective is not None:
            self.objective.degree = self.objective.degree[users].clone()

    def propagated(self) -> tuple[Tensor, Tensor]:
        nodes = F.normalize(self.nodes()) if self.propagates_afterwards and self.cosine else self.nodes()
        return self.split(propagate(self.graph, nodes, self.num_layers))

    @torch.no_grad()
    def embeddings(self) -> tuple[Tensor, Tensor]:
        users, items = self.propagated()
        if self.cosine and not self.propagates_afterwards:
            return F.normalize(users), F.normalize(items)
        return users, items


def splits(options: RankingOptions) -> str:
    """What keeps the loss from being shared by processes with parts of the tables: objectives of whole batches do."""
    return "" if options.ranking_loss == "bpr" else f"ranking_loss={options.ranking_loss} is one of whole batches"
