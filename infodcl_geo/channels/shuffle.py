"""A graph with the same degrees and no information: the control of every channel."""

from __future__ import annotations

import numpy as np
import torch

from ..data.ids import IntArray
from ..graph.graph import Graph, csr_parts, sparse_matrix, to_scipy
from .base import ChannelError


def shuffled(graph: Graph, generator: torch.Generator | None = None, *, swaps: float = 4.0) -> Graph:
    r"""A random graph with the same degrees: ends of edges are exchanged, :math:`ab, cd \to ad, cb`.

    Double edge swaps of all edges at once, paired at random: an exchange is made unless it would give a loop or an edge
    that is already there. Every row keeps its number of entries and every column as well; a weight stays with the
    row's end of its edge, so that rows keep their weights too. A symmetric graph stays symmetric (its edges are
    exchanged as undirected ones, either end of a weight may move). The diagonal stays as it is.

    Args:
        graph: square.
        generator: source of randomness, on the CPU.
        swaps: how many times each edge is exchanged on average; a graph in which hardly any exchange is possible,
            because hubs are joined to everything, stops earlier.

    Returns:
        The shuffled graph, on the device of ``graph``.

    Raises:
        ChannelError: if the graph is not square.
    """
    size = graph.shape[0]
    if graph.shape != (size, size):
        raise ChannelError(f"only the edges of a square graph can be shuffled, not of {graph.shape}")
    seed = int(torch.randint(2**62, (), generator=generator))
    rng = np.random.default_rng(seed)
    matrix = to_scipy(graph.matrix)
    symmetric = graph.t() is graph or (matrix != matrix.T).nnz == 0
    row = np.repeat(np.arange(size), np.diff(matrix.indptr))
    col, weight = matrix.indices.astype(np.int64), matrix.data
    loop = row == col
    kept = (row < col) if symmetric else ~loop
    a, b = _exchange(row[kept], col[kept], size, rng, undirected=symmetric, swaps=swaps)
    rows, cols, weights = [row[loop], a], [col[loop], b], [weight[loop], weight[kept]]
    if symmetric:
        rows, cols, weights = [*rows, b], [*cols, a], [*weights, weight[kept]]
    parts = (torch.from_numpy(np.concatenate(part)) for part in (rows, cols, weights))
    new_row, new_col, new_weight = parts
    dtype = csr_parts(graph.matrix)[2].dtype
    result = Graph(sparse_matrix(new_row, new_col, new_weight.to(dtype), (size, size)), symmetric=symmetric)
    return result.to(graph.device)


def _exchange(
    row: IntArray, col: IntArray, size: int, rng: np.random.Generator, *, undirected: bool, swaps: float
) -> tuple[IntArray, IntArray]:
    """Ends of the edges after random exchanges, see :func:`shuffled`."""
    row, col, edges = row.copy(), col.copy(), len(row)

    def key(a: IntArray, b: IntArray) -> IntArray:
        return np.minimum(a, b) * size + np.maximum(a, b) if undirected else a * size + b

    moved = 0
    for _ in range(round(16 * swaps)):
        if edges < 2 or moved >= swaps * edges:
            break
        if undirected:
            flip = rng.random(edges) < 0.5
            row[flip], col[flip] = col[flip], row[flip]
        order = rng.permutation(edges)
        one, other = order[: edges // 2], order[edges // 2 : edges // 2 * 2]
        new = np.concatenate([key(row[one], col[other]), key(row[other], col[one])])
        # An edge may arise once, and only where there is none: neither now nor by another exchange of this round.
        every = np.concatenate([key(row, col), new])
        by_key = every.argsort()
        again = every[by_key[1:]] == every[by_key[:-1]]
        taken = np.zeros(len(every), dtype=bool)
        taken[by_key[1:][again]] = True
        taken[by_key[:-1][again]] = True
        refused = taken[edges:].reshape(2, -1).any(0) | (row[one] == col[other]) | (row[other] == col[one])
        one, other = one[~refused], other[~refused]
        col[one], col[other] = col[other], col[one]
        moved += 2 * len(one)
    return row, col
