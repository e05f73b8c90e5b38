"""The closed-form pretraining as a model of its own: a truncated SVD, propagated."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..graph.graph import propagate
from .base import Fitted
from .options import ModelOptions, check
from .recipe import Inputs, Recipe, Space
from .scoring import dot_scorer


@dataclass(frozen=True)
class SVDOptions(ModelOptions):
    """Options of the propagated SVD.

    Args:
        dim: singular vectors, d.
        num_layers: propagation layers; chosen on validation where it is missing.
        smoothing: share of the mean degree that is added to every degree before the matrix is normalised; chosen on
            validation where it is missing.
        power: exponent of the singular values in the vectors of either side.
    """

    dim: int = 64
    num_layers: int | None = None
    smoothing: float | None = None
    power: float = 1.0

    def __post_init__(self) -> None:
        check(self, at_least_1=["dim"])


def _build(inputs: Inputs, options: SVDOptions) -> Fitted:
    vectors = inputs.of_size(options.dim)
    nodes = torch.cat([vectors.users, vectors.items]).to(inputs.train.device)
    users, items = propagate(inputs.graph, nodes, options.num_layers or 0).split(inputs.sizes)
    return Fitted({"users": users, "items": items}, dot_scorer(users, items))


def _search(space: Space) -> None:
    space.number("smoothing", 0.01, 3)
    space.number("power", 0.25, 3, log=False)
    space.whole("num_layers", 0, 3)


recipe = Recipe(
    name="svd",
    summary="the truncated SVD of the smoothed interaction matrix, propagated: the pretrained vectors by themselves",
    paper="Peng et al., SVD-GCN, CIKM 2022",
    options=SVDOptions,
    build=_build,
    search=_search,
    closed_form=True,
    needs_vectors=True,
    propagates_afterwards=True,
)
