"""Truncated singular value decomposition of sparse graphs, exact for small ones and randomized for large ones."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from .graph import Graph, to_scipy

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
        ValueError: if ``rank`` or ``method`` is out of its range.
    """
    if method not in get_args(SVDMethod):
        raise ValueError(f"method must be one of {', '.join(get_args(SVDMethod))}, not {method!r}")
    smaller = min(graph.shape)
    if not 1 <= rank < smaller:
        raise ValueError(f"a {graph.shape[0]} x {graph.shape[1]} matrix has no truncated SVD of rank {rank}")
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
