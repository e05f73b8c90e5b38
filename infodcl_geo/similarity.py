"""Similarity graphs among users and among items, by sparse products in chunks."""

from __future__ import annotations

from typing import Any

import numpy as np

from .graph import Graph, from_scipy, to_scipy


def jaccard_graph(interactions: Graph, *, top_k: int | None = None, chunk_size: int = 4096) -> Graph:
    r"""Jaccard similarity between the rows of an interaction matrix.

    .. math:: J_{ab} = \frac{|N_a \cap N_b|}{|N_a \cup N_b|}, \qquad J_{aa} = 0

    where :math:`N_a` are the columns in which row :math:`a` has an entry (InfoDCL section 3.1.1). For users pass the
    user-item matrix, for items its transpose.

    Args:
        interactions: matrix ``[n, m]``; its values are ignored, an entry counts as one.
        top_k: keep the ``top_k`` most similar rows of each row; ``None`` keeps all that share a column. Ties go to
            the smaller index.
        chunk_size: rows multiplied at a time; bounds the memory of the intermediate product.

    Returns:
        Graph ``[n, n]``, rows without a neighbour empty; symmetric if ``top_k`` is ``None``.

    Raises:
        ValueError: if ``top_k`` or ``chunk_size`` is not positive.
    """
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, not {chunk_size}")
    import scipy.sparse as sp

    matrix = to_scipy(interactions.matrix)
    matrix.data = np.ones_like(matrix.data)
    transpose = matrix.T.tocsr()
    degree = np.diff(matrix.indptr).astype(np.float32)
    rows = []
    for start in range(0, matrix.shape[0], chunk_size):
        shared = matrix[start : start + chunk_size] @ transpose
        row = np.repeat(np.arange(shared.shape[0]), np.diff(shared.indptr))
        shared.data = shared.data / (degree[start + row] + degree[shared.indices] - shared.data)
        shared.data[shared.indices == start + row] = 0.0
        shared.eliminate_zeros()
        rows.append(shared if top_k is None else keep_top_k(shared, top_k))
    stacked = sp.vstack(rows, format="csr") if rows else sp.csr_matrix((0, 0), dtype=np.float32)
    return Graph(from_scipy(stacked), symmetric=top_k is None)


def keep_top_k(matrix: Any, top_k: int) -> Any:
    """The ``top_k`` largest entries of each row of a scipy CSR matrix; ties go to the smaller column."""
    import scipy.sparse as sp

    matrix.sort_indices()
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, row))
    rank = np.arange(order.size) - matrix.indptr[row[order]]
    kept = order[rank < top_k]
    return sp.csr_matrix((matrix.data[kept], (row[kept], matrix.indices[kept])), shape=matrix.shape)
