"""Matrix factorisation with BPR or another objective, and propagation at inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..nn.ranks import Traffic
from .base import Batch, BprRows
from .objective import RankingOptions
from .ranked import RankingModel, splits
from .recipe import Recipe, search_embeddings


@dataclass(frozen=True)
class MatrixFactorizationOptions(RankingOptions):
    """Options of :class:`MatrixFactorization`, which has none of its own."""

    l2: float = 0.011
    init_std: float = 0.006


class MatrixFactorization(RankingModel):
    r"""Matrix factorisation, :math:`\mathcal L = \mathcal L_{bpr} + \lambda\,\mathcal L_{reg}` (InfoDCL eq. 12 and 15).

    The embeddings are trained as they are, with propagation at inference alone, as InfoDCL does (section 3.4);
    ``num_layers=0`` is plain matrix factorisation. ``ranking_loss`` puts another objective in BPR's place; where that
    is one of cosines, rows of length one are propagated, and items are ranked by the cosine (the length of a user's
    row has no say). Arguments as in :class:`~infodcl_geo.models.base.EmbeddingModel`.
    """

    Options: ClassVar[type[RankingOptions]] = MatrixFactorizationOptions

    propagates_afterwards = True

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return self.row_terms(batch, generator)

    def bpr_rows(self) -> BprRows | None:
        if self.objective is not None:
            return None
        return BprRows(self.user_embedding, self.item_embedding, self.bpr_weight, self.l2, always=True)

    def is_plain(self, batch: Batch) -> bool:
        return True

    def row_tables(self, anchors: int) -> list[nn.Embedding]:
        return [self.user_embedding, self.item_embedding] if self.ranks_by_rows else []


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
