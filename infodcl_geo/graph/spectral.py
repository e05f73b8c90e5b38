"""Truncated singular value decomposition of sparse graphs, exact for small ones and randomized for large ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from .graph import Graph, normalized_interactions, to_scipy

DEFAULT_SMOOTHING = 0.75
"""Where none is given and none chosen."""


@dataclass(frozen=True)
class SVDOptions:
    """Settings of :func:`spectral_embeddings`.

    Args:
        smoothing: share of the mean degree that is added to every degree before the matrix is normalised. If missing,
            a training run chooses it on validation (:func:`~infodcl_geo.experiment.spectral_vectors`); where nothing
            is chosen it is 0.75.
        power: exponent of the singular values in the vectors of either side.
    """

    smoothing: float | None = None
    power: float = 1.0

    def __post_init__(self) -> None:
        for name in ("smoothing", "power"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise OptionError(f"{name} cannot be negative: {value}")


def spectral_embeddings(
    interactions: Tensor,
    num_users: int,
    num_items: int,
    dim: int,
    options: SVDOptions = SVDOptions(),
    *,
    method: SVDMethod = "auto",
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Closed-form pretraining: the rank-``dim`` truncated SVD of the normalised interaction matrix.

    .. math:: \tilde A \approx P \Sigma Q^\top, \qquad p_u = P_u \Sigma^{\beta}, \quad q_i = Q_i \Sigma^{\beta}

    A stand-in for LightGCN pretraining that takes seconds. With :math:`\beta = 1/2`, :math:`p_u^\top q_i` is the best
    rank-``dim`` approximation of :math:`\tilde A_{ui}`; larger powers favour components of large singular values, as
    propagation does. Degrees are smoothed (:func:`~infodcl_geo.graph.graph.normalized_interactions`), as in SVD-GCN
    (Peng et al., CIKM 2022) and in regularised spectral clustering (Amini et al., Annals of Statistics 41, 2013):
    without it the leading components describe small parts of the graph and nodes of few interactions. The sign of
    each component is fixed: the entry of largest magnitude of each item component is positive.

    Args:
        interactions: training pairs, int64 ``[2, E]``.
        dim: number of components; at most ``min(num_users, num_items) - 1``, missing ones are filled with zeros.
        options: smoothing and power :math:`\beta`.
        method: of :func:`~infodcl_geo.graph.spectral.truncated_svd`: exact up to 200,000 users and items together, a
            randomized subspace beyond.
        seed: of the solver's start vectors.

    Returns:
        User vectors ``[num_users, dim]`` and item vectors ``[num_items, dim]``, float32.

    Raises:
        OptionError: if there are fewer than two users or items.
    """
    smoothing = DEFAULT_SMOOTHING if options.smoothing is None else options.smoothing
    graph = normalized_interactions(interactions, num_users, num_items, smoothing=smoothing)
    rank = min(dim, min(graph.shape) - 1)
    if rank < 1:
        raise OptionError(f"a {num_users} x {num_items} interaction matrix has no truncated SVD")
    users, values, items = truncated_svd(graph, rank, method=method, seed=seed)
    sign = torch.where(items.amax(0) >= -items.amin(0), 1.0, -1.0)
    users *= sign * values**options.power
    items *= sign * values**options.power
    if rank < dim:
        users, items = F.pad(users, (0, dim - rank)), F.pad(items, (0, dim - rank))
    return users, items


SVDMethod = Literal["auto", "exact", "randomized"]

EXACT_NODES = 200_000
"""Rows and columns together up to which ``auto`` is exact: 64 components take a few seconds there, a minute beyond."""

_BLOCK = 65_536


@torch.no_grad()
def truncated_svd(
    graph: Graph,
    rank: int,
    *,
    method: SVDMethod = "auto",
    oversampling: int = 10,
    iterations: int = 6,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""The ``rank`` largest singular values and their vectors, :math:`A \approx L \Sigma R^\top`.

    ``exact``: Lanczos in float64 (ARPACK through scipy), which works until it has converged. ``randomized``: the
    subspace iteration of Halko, Martinsson and Tropp (SIAM Review 53, 2011, algorithms 4.4 and 5.1) in float32,

    .. math:: Q_0 = \text{orth}(A \Omega), \qquad Q_j = \text{orth}(A \, \text{orth}(A^\top Q_{j-1})), \qquad
        Q_q^\top A = W \Sigma R^\top, \quad L = Q_q W,

    with :math:`\Omega` Gaussian of ``rank + oversampling`` columns and ``2 * iterations + 2`` products with the graph
    in all. The range found misses a share of about :math:`(\sigma_{l+1} / \sigma_k)^{4q+2}` of component k, where l
    counts the columns: all but exact where the spectrum decays, a slightly rotated subspace where it is flat. Its
    memory is that of the columns for rows and for columns of the graph, and one block.

    Args:
        graph: matrix A ``[M, N]`` on the CPU.
        rank: number of components k, at most ``min(M, N) - 1``.
        method: ``auto`` is exact up to 200,000 rows and columns together and randomized beyond.
        oversampling: further columns of the subspace.
        iterations: of the subspace, q.
        seed: of the start vectors.

    Returns:
        L ``[M, k]``, the singular values ``[k]``, falling, and R ``[N, k]``; float32. Where the graph has fewer
        components than asked for, the rest is zeros in the randomized method.

    Raises:
        OptionError: if ``rank`` or ``method`` is out of its range.
    """
    if method not in get_args(SVDMethod):
        raise OptionError(f"method must be one of {', '.join(get_args(SVDMethod))}, not {method!r}")
    smaller = min(graph.shape)
    if not 1 <= rank < smaller:
        raise OptionError(f"a {graph.shape[0]} x {graph.shape[1]} matrix has no truncated SVD of rank {rank}")
    if method == "exact" or (method == "auto" and sum(graph.shape) <= EXACT_NODES):
        left, values, right = _lanczos(to_scipy(graph.matrix).astype(np.float64), rank, seed)
        order = np.argsort(-values)
        parts = left[:, order], np.maximum(values[order], 0), right[order].T
        return tuple(torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32)) for part in parts)  # type: ignore[return-value]

    columns = min(rank + oversampling, smaller)
    generator = torch.Generator().manual_seed(seed)
    basis = _orthonormalize_(graph @ torch.randn(graph.shape[1], columns, generator=generator))
    for _ in range(iterations):
        basis = _orthonormalize_(graph.t() @ basis)
        basis = _orthonormalize_(graph @ basis)
    # The small rotation below takes the columns to be orthonormal to rounding, which one pass may miss.
    basis = _orthonormalize_(basis)
    projected = graph.t() @ basis
    square, vectors = torch.linalg.eigh(_gram(projected))
    square, vectors = square.flip(0)[:rank].clamp(min=0), vectors.flip(1)[:, :rank]
    values = torch.where(square > square[0] * 1e-10, square.sqrt(), 0)
    left = _blockwise_product(basis, torch.where(values > 0, vectors, 0))
    del basis
    right = _blockwise_product(projected, torch.where(values > 0, vectors / values, 0))
    return left, values.float(), right


def _lanczos(matrix: Any, rank: int, seed: int) -> tuple[Any, Any, Any]:
    from scipy.sparse.linalg import ArpackNoConvergence, svds

    try:
        return svds(matrix, k=rank, rng=np.random.default_rng(seed), maxiter=1000)
    except ArpackNoConvergence:
        # Many equal singular values at the cut, such as the ones of a normalised graph with many small components,
        # keep Lanczos from the last digits, which the result in float32 does not have; a wider basis holds more copies.
        columns = min(4 * rank + 20, min(matrix.shape) - 1)
        wider = {"ncv": columns} if columns > rank else {}
        return svds(matrix, k=rank, rng=np.random.default_rng(seed), tol=1e-10, **wider)


def _gram(x: Tensor) -> Tensor:
    """``x.T @ x`` in float64 without a float64 copy of ``x``."""
    total = torch.zeros(x.size(1), x.size(1), dtype=torch.float64)
    for block in x.split(_BLOCK):
        wide = block.double()
        total += wide.T @ wide
    return total


def _orthonormalize_(x: Tensor) -> Tensor:
    """Rotate and scale the columns in place until they are orthonormal; directions that are not there become zero."""
    # By the small Gram matrix and not by QR, which would need two more arrays of this size.
    square, vectors = torch.linalg.eigh(_gram(x))
    scaled = torch.where(square > square[-1] * 1e-9, vectors * square.clamp(min=1e-300).rsqrt(), 0).float()
    for block in x.split(_BLOCK):
        block.copy_(block @ scaled)
    return x


def _blockwise_product(x: Tensor, small: Tensor) -> Tensor:
    """``x @ small`` with a float64 ``small``, float32."""
    result = torch.empty(x.size(0), small.size(1))
    for block, out in zip(x.split(_BLOCK), result.split(_BLOCK), strict=True):
        torch.mm(block, small.float(), out=out)
    return result
