"""ENMF: matrix factorisation by the squared loss over all pairs, without negatives."""

from __future__ import annotations

from dataclasses import dataclass

from .mf import MatrixFactorization, MatrixFactorizationOptions
from .objective import RankingLoss, search_objective
from .recipe import Recipe, Space, search_embeddings


@dataclass(frozen=True)
class ENMFOptions(MatrixFactorizationOptions):
    """Options of matrix factorisation, with the loss of ENMF.

    The authors drop 30% of the entries of the user embeddings, here the penalty ``l2`` holds them; they give the
    missing pairs a weight of 0.5 on ML-1M and smaller ones on sparser data.
    """

    ranking_loss: RankingLoss = "enmf"
    l2: float = 0.01
    init_std: float = 0.03
    missing_weight: float = 0.05


def _search(space: Space) -> None:
    search_embeddings(space)
    search_objective(space, "missing_weight")


recipe = Recipe(
    name="enmf",
    summary="matrix factorisation by the squared loss over all pairs, without negatives",
    paper="Chen et al., ENMF, TOIS 2020",
    options=ENMFOptions,
    build=lambda inputs, options: MatrixFactorization(inputs.graph, *inputs.sizes, options=options),
    search=_search,
    propagates_afterwards=True,
)
