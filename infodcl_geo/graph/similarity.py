"""Similarity graphs among users and among items, by sparse products in chunks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from .graph import Graph, from_scipy, sparse_matrix, to_scipy


def weighted_mean(graph: Graph, x: Tensor, fallback: Tensor) -> Tensor:
    """Row-wise weighted mean of ``x`` over the neighbours; rows without neighbours take ``fallback``."""
    total = graph @ x.new_ones(x.size(0), 1)
    return torch.where(total > 0, (graph @ x) / total.clamp(min=torch.finfo(x.dtype).tiny), fallback)


def top_k_product(left: Any, right: Any, top_k: int, chunk_size: int = 2048) -> Graph:
    """The ``top_k`` largest entries of each row of a scipy product, without the diagonal, some rows at a time."""
    import scipy.sparse as sp

    blocks = []
    for start in range(0, left.shape[0], chunk_size):
        block = (left[start : start + chunk_size] @ right).tocsr()
        row = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        block.data[block.indices == start + row] = 0.0
        block.eliminate_zeros()
        blocks.append(keep_top_k(block, top_k))
    return Graph(from_scipy(sp.vstack(blocks, format="csr")))


MAX_PAIRS = 2**32
"""Default bound of the pairs that an intersection count looks at; the user graph of MovieLens-1M has 0.25 billion."""

_BLOCK_PAIRS = 2**24
"""Pairs of a chunk: about 130 MB of product, small enough to be cheap and large enough that numpy's overhead is not."""


def jaccard_graph(
    interactions: Graph, *, top_k: int | None = None, max_pairs: int | None = MAX_PAIRS, chunk_size: int = 4096
) -> Graph:
    r"""Jaccard similarity between the rows of an interaction matrix.

    .. math:: J_{ab} = \frac{|N_a \cap N_b|}{|N_a \cup N_b|}, \qquad J_{aa} = 0

    where :math:`N_a` are the columns in which row :math:`a` has an entry (InfoDCL section 3.1.1). For users pass the
    user-item matrix, for items its transpose.

    The intersections are counted column by column: a column with :math:`c` entries adds one to :math:`c^2` pairs of
    rows. Where the sum of these exceeds ``max_pairs``, the fewest columns with the most entries are left out of all
    :math:`N_a`, and a warning says which; the result is then the exact similarity by the other columns. Such columns
    cost most and tell least: nearly everybody shares them.

    Args:
        interactions: matrix ``[n, m]``; its values are ignored, an entry counts as one.
        top_k: keep the ``top_k`` most similar rows of each row; ``None`` keeps all that share a column. Ties go to
            the smaller index.
        max_pairs: bound of :math:`\sum_c |N_c|^2` over the columns that count; ``None`` for no bound.
        chunk_size: rows multiplied at a time, at most; fewer where rows are long, so that a chunk is about 130 MB.

    Returns:
        Graph ``[n, n]``, rows without a neighbour empty; symmetric if ``top_k`` is ``None``.

    Raises:
        OptionError: if ``top_k``, ``max_pairs`` or ``chunk_size`` is not positive.
    """
    import scipy.sparse as sp

    if top_k is not None and top_k < 1:
        raise OptionError(f"top_k must be at least 1, not {top_k}")
    blocks = _jaccard_blocks(_sets(interactions, max_pairs), chunk_size)
    rows = [block if top_k is None else keep_top_k(block, top_k) for _, block in blocks]
    stacked = sp.vstack(rows, format="csr") if rows else sp.csr_matrix((0, 0), dtype=np.float32)
    return Graph(from_scipy(stacked), symmetric=top_k is None)


def jaccard_mean(
    interactions: Graph, x: Tensor, *, max_pairs: int | None = MAX_PAIRS, chunk_size: int = 4096
) -> Tensor:
    r"""Mean of vectors over all similar rows, weighted by Jaccard similarity, without ever holding the graph.

    .. math:: y_a = \frac{\sum_b J_{ab}\, x_b}{\sum_b J_{ab}}, \qquad y_a = x_a \text{ if no } J_{ab} > 0

    Equal to products with :func:`jaccard_graph`, chunk by chunk.

    Args:
        interactions, max_pairs, chunk_size: as in :func:`jaccard_graph`.
        x: a vector of each row, ``[n, d]``, on the CPU.

    Returns:
        ``[n, d]``, of the type of ``x``.

    Raises:
        OptionError: if ``max_pairs`` or ``chunk_size`` is not positive, or ``x`` has not ``n`` rows.
    """
    if x.size(0) != interactions.shape[0]:
        raise OptionError(f"{interactions.shape[0]} rows need as many vectors, not {x.size(0)}")
    vectors, result = x.detach().numpy(), x.detach().clone()
    for start, block in _jaccard_blocks(_sets(interactions, max_pairs), chunk_size):
        total = np.asarray(block.sum(1)).ravel()
        some = np.flatnonzero(total)
        mean = (block @ vectors)[some] / total[some, None]
        result[start + torch.from_numpy(some)] = torch.from_numpy(mean).to(x.dtype)
    return result


def _sets(interactions: Graph, max_pairs: int | None) -> Any:
    """The interactions as a scipy CSR matrix of ones, without the columns that :func:`jaccard_graph` leaves out."""
    if max_pairs is not None and max_pairs < 1:
        raise OptionError(f"max_pairs must be at least 1, not {max_pairs}")
    matrix = to_scipy(interactions.matrix)
    matrix.data = np.ones_like(matrix.data)
    if max_pairs is None or matrix.nnz == 0:
        return matrix
    degree = np.bincount(matrix.indices, minlength=matrix.shape[1])
    ordered = np.sort(degree)
    # The pairs of all columns up to each; columns of the same degree stay or go together.
    pairs = np.cumsum(ordered.astype(np.float64) ** 2)[np.searchsorted(ordered, ordered, side="right") - 1]
    if pairs[-1] <= max_pairs:
        return matrix
    fitting = ordered[pairs <= max_pairs]
    most = int(fitting[-1]) if fitting.size else 0
    left_out = degree > most
    warnings.warn(
        f"similarities of {matrix.shape[0]} rows would look at {pairs[-1]:.3g} pairs, more than max_pairs={max_pairs}: "
        f"the {int(left_out.sum())} columns with more than {most} entries are left out",
        stacklevel=3,
    )
    matrix = matrix.copy()  # its indices may be the graph's own
    matrix.data[left_out[matrix.indices]] = 0.0
    matrix.eliminate_zeros()
    return matrix


def _jaccard_blocks(matrix: Any, chunk_size: int) -> Iterator[tuple[int, Any]]:
    """Successive rows of the Jaccard matrix, without its diagonal: the first row, and a scipy CSR matrix."""
    if chunk_size < 1:
        raise OptionError(f"chunk_size must be at least 1, not {chunk_size}")
    transpose = matrix.T.tocsr()
    degree = np.diff(matrix.indptr).astype(np.float32)
    pairs = np.zeros(matrix.shape[0] + 1)
    pairs[1:] = np.cumsum(matrix @ np.diff(transpose.indptr).astype(np.float64))
    start = 0
    while start < matrix.shape[0]:
        fit = int(np.searchsorted(pairs, pairs[start] + _BLOCK_PAIRS, side="right")) - 1
        stop = min(max(fit, start + 1), start + chunk_size, matrix.shape[0])
        shared = matrix[start:stop] @ transpose
        row = np.repeat(np.arange(stop - start), np.diff(shared.indptr))
        shared.data /= degree[start + row] + degree[shared.indices] - shared.data
        shared.data[shared.indices == start + row] = 0.0
        shared.eliminate_zeros()
        yield start, shared
        start = stop


def keep_top_k(matrix: Any, top_k: int) -> Any:
    """The ``top_k`` largest entries of each row of a scipy CSR matrix, float32; ties go to the smaller column."""
    import scipy.sparse as sp

    # One integer orders entries by value and then by falling column, so that selecting is one partition: the bits of
    # a float sort as integers do once those of negative numbers are turned round.
    bits = matrix.data.astype(np.float32).view(np.int32).astype(np.int64)
    bits ^= (bits >> 63) & 0x7FFFFFFF
    keys = (bits << 32) | (0xFFFFFFFF - matrix.indices.astype(np.int64))
    length = np.diff(matrix.indptr)
    short = np.flatnonzero(length <= top_k)
    kept_rows = [np.repeat(short, length[short])]
    kept_keys = [keys[np.repeat(length <= top_k, length)]]
    # Rows are padded to the longest of their like: rows whose lengths have the same number of bits, some at a time.
    size_class = np.where(length > top_k, np.frexp(length)[1], 0)
    for bit_length in np.unique(size_class[size_class > 0]):
        alike = np.flatnonzero(size_class == bit_length)
        width = int(length[alike].max())
        for rows in np.array_split(alike, -(-alike.size * width // 2**22)):
            offset = np.arange(width)
            place = np.minimum(matrix.indptr[rows][:, None] + offset, keys.size - 1)
            padded = np.where(offset < length[rows][:, None], keys[place], np.iinfo(np.int64).min)
            kept_keys.append(np.partition(padded, width - top_k, axis=1)[:, width - top_k :].ravel())
            kept_rows.append(np.repeat(rows, top_k))
    chosen = np.concatenate(kept_keys)
    row, column, bits = np.concatenate(kept_rows), 0xFFFFFFFF - (chosen & 0xFFFFFFFF), chosen >> 32
    bits ^= (bits >> 63) & 0x7FFFFFFF
    return sp.csr_matrix((bits.astype(np.int32).view(np.float32), (row, column)), shape=matrix.shape)


def cosine_graph(values: Tensor, covered: Tensor, *, top_k: int, chunk_size: int = 2048) -> Graph:
    r"""The ``top_k`` rows of largest positive cosine similarity :math:`x_a^\top x_b / (\|x_a\| \|x_b\|)` of each row.

    Args:
        values: vectors x ``[n, f]``.
        covered: bool ``[n]``, rows that take part; the others have and are no neighbours.
        top_k: neighbours of each row, itself excluded; fewer where fewer are similar.
        chunk_size: rows compared at a time; bounds memory. The work grows with n squared.

    Returns:
        Graph ``[n, n]`` with the cosines as weights.
    """
    known = covered.nonzero().squeeze(1)
    unit = F.normalize(values[known], dim=1)
    row, col, weight = [], [], []
    count = min(top_k, max(len(known) - 1, 0))
    for start in range(0, len(known) if count else 0, chunk_size):
        cosine = unit[start : start + chunk_size] @ unit.T
        inside = torch.arange(len(cosine))
        cosine[inside, start + inside] = -torch.inf
        largest, index = cosine.topk(count)
        positive = largest > 0
        row.append(known[start + inside].unsqueeze(1).expand_as(index)[positive])
        col.append(known[index[positive]])
        weight.append(largest[positive])
    if not row:
        empty = torch.empty(0, dtype=torch.int64)
        row, col, weight = [empty], [empty], [torch.empty(0)]
    return Graph(sparse_matrix(torch.cat(row), torch.cat(col), torch.cat(weight), (len(values), len(values))))
