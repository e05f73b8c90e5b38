"""DirectAU: matrix factorisation by alignment and uniformity on the unit sphere."""

from __future__ import annotations

from dataclasses import dataclass

from .mf import MatrixFactorization, MatrixFactorizationOptions
from .objective import RankingLoss, search_objective
from .recipe import Recipe, Space, search_embeddings


@dataclass(frozen=True)
class DirectAUOptions(MatrixFactorizationOptions):
    """Options of matrix factorisation, with the loss of DirectAU; the authors take a uniformity of 0.2 to 10."""

    ranking_loss: RankingLoss = "directau"
    l2: float = 0.0
    init_std: float = 0.1


def _search(space: Space) -> None:
    search_embeddings(space, held=False)
    search_objective(space, "uniformity")


recipe = Recipe(
    name="directau",
    summary="matrix factorisation by alignment and uniformity",
    paper="Wang et al., DirectAU, KDD 2022",
    options=DirectAUOptions,
    build=lambda inputs, options: MatrixFactorization(inputs.graph, *inputs.sizes, options=options),
    search=_search,
    propagates_afterwards=True,
)
