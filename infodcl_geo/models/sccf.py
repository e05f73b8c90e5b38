"""SCCF: matrix factorisation by a contrast over the users and items of the batch, which stands for graph layers."""

from __future__ import annotations

from dataclasses import dataclass

from .mf import MatrixFactorization, MatrixFactorizationOptions
from .objective import RankingLoss, search_objective
from .recipe import Recipe, Space, search_embeddings


@dataclass(frozen=True)
class SCCFOptions(MatrixFactorizationOptions):
    """Options of matrix factorisation, with the loss of SCCF.

    The authors train by SGD with a learning rate of 10 and batches of 10,000 to 100,000, here it is Adam; they take
    temperatures of 0.1 to 0.25.
    """

    ranking_loss: RankingLoss = "sccf"
    l2: float = 0.0
    init_std: float = 0.1


def _search(space: Space) -> None:
    search_embeddings(space, held=False)
    search_objective(space, "ranking_temperature")


recipe = Recipe(
    name="sccf",
    summary="matrix factorisation by a contrast over the batch's users and items",
    paper="Wu et al., SCCF, KDD 2024",
    options=SCCFOptions,
    build=lambda inputs, options: MatrixFactorization(inputs.graph, *inputs.sizes, options=options),
    search=_search,
    propagates_afterwards=True,
)
