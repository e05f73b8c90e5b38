"""Closed-form pretraining of interactions that lie on several ranks: a randomized singular value decomposition."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graph.spectral import DEFAULT_SMOOTHING, SVDOptions
from .exchange import drawn_rows
from .graph import ShardedGraph
from .group import Group
from .partition import Partition


@torch.no_grad()
def sharded_spectral_embeddings(
    pairs: Tensor,
    part: Partition,
    group: Group,
    dim: int,
    options: SVDOptions = SVDOptions(),  # noqa: B008 - frozen
    *,
    oversampling: int = 10,
    iterations: int = 6,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""This rank's rows of :func:`~infodcl_geo.graph.spectral.spectral_embeddings`, by its randomized method.

    Only products of the graph with tall, thin matrices and factorisations of their small Gram matrices, which the ranks
    add up: a rank holds its rows of ``dim + oversampling`` columns, twice.

    Args:
        pairs: training interactions ``[2, E]`` of this rank's users.
        part, group: the rows, and the ranks.
        dim, options: as there.
        oversampling, iterations, seed: as in :func:`~infodcl_geo.graph.spectral.truncated_svd`.

    Returns:
        Vectors of this rank's users ``[m, dim]`` and items ``[n, dim]``, float32.
    """
    smoothing = DEFAULT_SMOOTHING if options.smoothing is None else options.smoothing
    graph = ShardedGraph(pairs, part, group, smoothing=smoothing)
    smaller = min(part.users.total, part.items.total)
    rank = min(dim, smaller - 1)
    if rank < 1:
        raise ValueError(f"a {part.users.total} x {part.items.total} interaction matrix has no truncated SVD")
    columns = min(rank + oversampling, smaller)
    generator = torch.Generator().manual_seed(seed)
    start = drawn_rows(lambda count: torch.randn(count, columns, generator=generator), part.items).to(group.device)
    basis = _orthonormal(graph.to_users(start), group)
    for _ in range(iterations):
        basis = _orthonormal(graph.to_items(basis), group)
        basis = _orthonormal(graph.to_users(basis), group)
    basis = _orthonormal(basis, group)
    projected = graph.to_items(basis)
    square, vectors = torch.linalg.eigh(_gram(projected, group))
    square, vectors = square.flip(0)[:rank].clamp(min=0), vectors.flip(1)[:, :rank]
    values = torch.where(square > square[0] * 1e-10, square.sqrt(), 0)
    users = basis @ torch.where(values > 0, vectors, 0).float()
    items = projected @ torch.where(values > 0, vectors / values, 0).float()
    # The entry of largest magnitude of each item component is positive.
    low = torch.tensor(-torch.inf)
    ends = torch.stack([x.amax(0) if x.size(0) else low.expand(rank).to(x) for x in (items, -items)])
    highest, lowest = group.max_(ends, "pretraining")
    sign = torch.where(highest >= lowest, 1.0, -1.0)
    scale = (sign * values.float() ** options.power).to(users)
    return tuple(F.pad(x * scale, (0, dim - rank)) for x in (users, items))  # type: ignore[return-value]


def _gram(x: Tensor, group: Group) -> Tensor:
    wide = x.double()
    return group.sum_(wide.T @ wide, "pretraining")


def _orthonormal(x: Tensor, group: Group) -> Tensor:
    """The columns rotated and scaled until they are orthonormal; directions that are not there become zero."""
    square, vectors = torch.linalg.eigh(_gram(x, group))
    scaled = torch.where(square > square[-1] * 1e-9, vectors * square.clamp(min=1e-300).rsqrt(), 0).float()
    return x @ scaled
