"""Item-item weights, how strongly one item in a history speaks for another: in closed form, dense or local."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError
from .graph import Graph, from_scipy, interaction_graph, to_scipy
from .similarity import keep_top_k

ItemWeights: TypeAlias = Tensor | Graph
"""Weights :math:`B` with which user u scores :math:`x_u B`: dense ``[N, N]``, :math:`B_{ji}` of item j in a history for
item i; or, sparse, a graph of :math:`B^\\top`, row = the item that is described or scored, column = by whom."""

DEFAULT_L2 = 200.0
"""Penalty that is used where nothing chooses one."""

DENSE_BYTES = 6 * 2**30
"""Memory that the dense closed form may take at its peak before :func:`item_weights` turns to the neighbourhoods:
three float32 matrices ``N x N``, so 23,170 items."""


def ease_weights(interactions: Tensor, num_users: int, num_items: int, l2: float = DEFAULT_L2) -> Tensor:
    r"""Item-item weights of EASE (Steck, WWW 2019), with which user u scores :math:`x_u B`.

    .. math::
        \min_B \|X - XB\|_F^2 + \lambda \|B\|_F^2, \quad \operatorname{diag}(B) = 0
        \qquad\Rightarrow\qquad
        P = (X^\top X + \lambda I)^{-1}, \quad B = I - P \operatorname{diag}(P)^{-1}

    Args:
        interactions: training pairs, int64 ``[2, E]``; their device computes.
        num_users, num_items: M and N.
        l2: lambda, positive.

    Returns:
        B ``[N, N]``, float32.

    Raises:
        OptionError: if the N x N matrices (three at the peak) do not fit into the free memory, with the size in GiB;
            or if ``l2`` is too small for float32, or not positive.
    """
    _check_l2(l2)
    device = interactions.device
    needed, free = dense_bytes(num_items), _free_bytes(device)
    if needed > free:
        raise OptionError(
            f"EASE inverts a matrix of {num_items:,} x {num_items:,} items, for which {needed / 2**30:.1f} GiB are "
            f"needed and {free / 2**30:.1f} GiB are free on {device}; take a low-rank model, or keep "
            "fewer items with k_core"
        )
    x = to_scipy(interaction_graph(interactions, num_users, num_items).matrix)
    columns = x.T.tocsr()
    gram = torch.empty(num_items, num_items, device=device)
    step = max(1, 2**24 // num_items)  # blocks of rows, so that the sparse product never stands beside the dense one
    for start in range(0, num_items, step):
        gram[start : start + step] = torch.from_numpy((columns[start : start + step] @ x).toarray())
    gram.diagonal().add_(l2)
    try:
        factor = torch.linalg.cholesky(gram)
    except torch.linalg.LinAlgError as error:
        raise OptionError(f"l2 = {l2} is too small to invert the Gram matrix in float32") from error
    del gram
    # LAPACK leaves columns together; the transpose, the same symmetric matrix, has the rows that ranking adds together.
    weights = torch.cholesky_inverse(factor).mT
    weights /= -weights.diagonal().clone()
    weights.fill_diagonal_(0)
    return weights


def local_ease_graph(
    interactions: Tensor,
    num_users: int,
    num_items: int,
    l2: float = DEFAULT_L2,
    *,
    neighbours: int = 200,
    top_k: int | None = None,
) -> Graph:
    r"""EASE in which each item is explained by its neighbourhood alone, for catalogues where N x N does not fit.

    .. math::
        B_{C_i, i} = (G_{C_i C_i} + \lambda I)^{-1} G_{C_i, i}, \qquad G = X^\top X,

    with :math:`C_i` the items j, without i, of largest :math:`G_{ji} / \sqrt{G_{jj}}` (the cosine of their user sets
    with that of i). With :math:`C_i` all other items this is :func:`ease_weights`. The Gram matrix is held as a sparse
    one, one column is solved at a time; the work grows with N times ``neighbours`` squared to cubed, the memory with
    the pairs of items that share a user.

    Args:
        interactions: training pairs, int64 ``[2, E]``; a CPU computes.
        num_users, num_items: M and N.
        l2: lambda, positive.
        neighbours: size of :math:`C_i`, at most; fewer where fewer items share a user with i.
        top_k: keep only the weights of largest absolute value into an item; ``None`` for all.

    Returns:
        Graph ``[N, N]`` of :math:`B^\top`: row = the item that is explained, column = by whom. Weights may be negative.

    Raises:
        OptionError: if ``l2`` is not positive, or ``neighbours`` or ``top_k`` not at least 1.
    """
    import scipy.sparse as sp
    from scipy.linalg.lapack import sposv

    _check_l2(l2)
    for name, value in (("neighbours", neighbours), ("top_k", top_k)):
        if value is not None and value < 1:
            raise OptionError(f"{name} must be at least 1, not {value}")
    gram = _gram(interactions.cpu(), num_users, num_items)
    degree = gram.diagonal()
    near = _nearest(gram, degree, neighbours)
    columns, values, lengths = [], [], np.diff(near.indptr)
    for item in range(num_items):
        chosen = np.sort(near.indices[near.indptr[item] : near.indptr[item + 1]])
        if not chosen.size:
            continue
        among = gram[chosen]
        block = among[:, chosen].toarray()
        block[np.arange(chosen.size), np.arange(chosen.size)] += l2
        own = gram[[item]][:, chosen].toarray().ravel()
        _, weights, failed = sposv(block, own, overwrite_a=True)
        if failed:
            raise OptionError(f"l2 = {l2} is too small to solve for item {item} in float32")
        columns.append(chosen)
        values.append(weights)
    if not columns:
        return Graph(from_scipy(sp.csr_matrix((num_items, num_items), dtype=np.float32)))
    pointers = np.concatenate([[0], np.cumsum(lengths)])
    found = sp.csr_matrix((np.concatenate(values), np.concatenate(columns), pointers), shape=(num_items, num_items))
    return Graph(from_scipy(found if top_k is None else _keep_largest(found, top_k)))


def slim_graph(
    interactions: Tensor,
    num_users: int,
    num_items: int,
    *,
    l1: float = 1.0,
    l2: float = 20.0,
    neighbours: int | None = None,
    sweeps: int = 20,
    tolerance: float = 1e-3,
) -> Graph:
    r"""Item-item weights of SLIM (Ning and Karypis, ICDM 2011): sparse and not negative, by coordinate descent.

    .. math::
        \min_{b \ge 0, \; b_i = 0} \tfrac12 \|x_i - X b\|^2 + \tfrac{\lambda_2}{2} \|b\|^2 + \lambda_1 \|b\|_1

    for each column i of B, over the items that share a user with i (no other weight would leave zero), or over the
    nearest of them (their fsSLIM). The Gram matrix is held as a sparse one; Numba, where installed, compiles the loop,
    without which it takes some ten times as long.

    Args:
        interactions: training pairs, int64 ``[2, E]``; a CPU computes.
        num_users, num_items: M and N.
        l1, l2: lambda 1 and 2, the first at least and the second above zero; with l1 = 1 an item that shares a single
            user with i has no weight of its own.
        neighbours: items that may explain an item, at most, those of largest cosine of their user sets with that of i;
            ``None`` for all.
        sweeps: passes over the items of a column, at most.
        tolerance: a column is done when no weight moved by more in a pass.

    Returns:
        Graph ``[N, N]`` of :math:`B^\top`: row = the item that is explained, column = by whom.

    Raises:
        OptionError: if ``l2`` is not positive, ``l1`` negative, or ``neighbours`` not at least 1.
    """
    import scipy.sparse as sp

    _check_l2(l2)
    if not l1 >= 0:
        raise OptionError(f"l1 cannot be negative: {l1}")
    if neighbours is not None and neighbours < 1:
        raise OptionError(f"neighbours must be at least 1, not {neighbours}")
    gram = _gram(interactions.cpu(), num_users, num_items)
    degree = gram.diagonal()
    near = gram if neighbours is None else _nearest(gram, degree, neighbours)
    near.sort_indices()
    weights = np.zeros(near.nnz, dtype=gram.data.dtype)
    _compiled(_slim_columns)(
        near.indptr, near.indices, gram.indptr, gram.indices, gram.data, degree, l1, l2, sweeps, tolerance, weights
    )
    found = sp.csr_matrix((weights, near.indices, near.indptr), shape=gram.shape)
    found.eliminate_zeros()
    return Graph(from_scipy(found))


def item_weights(
    interactions: Tensor,
    num_users: int,
    num_items: int,
    l2: float = DEFAULT_L2,
    *,
    max_bytes: int = DENSE_BYTES,
    neighbours: int = 200,
) -> ItemWeights:
    """:func:`ease_weights` where its :func:`dense_bytes` are within ``max_bytes``, else :func:`local_ease_graph`.

    Args:
        max_bytes: bound of the dense form.
        interactions, num_users, num_items, l2, neighbours: as there.
    """
    if dense_bytes(num_items) <= max_bytes:
        return ease_weights(interactions, num_users, num_items, l2)
    return local_ease_graph(interactions, num_users, num_items, l2, neighbours=neighbours).to(interactions.device)


def dense_bytes(num_items: int) -> int:
    """Bytes of the dense closed form at its peak: three float32 matrices ``N x N``."""
    return 3 * 4 * num_items**2


def strongest_into(weights: ItemWeights, top_k: int) -> Graph:
    """The ``top_k`` largest positive weights into each item.

    Args:
        weights: see :data:`ItemWeights`.
        top_k: weights kept, at most; ties go to the item of smaller index.

    Returns:
        Graph ``[N, N]`` on the CPU: row = the item that is described, column = by whom. Items without a positive weight
        have an empty row.

    Raises:
        OptionError: if ``top_k`` is not at least 1.
    """
    import scipy.sparse as sp

    if top_k < 1:
        raise OptionError(f"top_k must be at least 1, not {top_k}")
    if isinstance(weights, Graph):
        matrix = to_scipy(weights.matrix)
        matrix = sp.csr_matrix((np.maximum(matrix.data, 0), matrix.indices, matrix.indptr), shape=matrix.shape)
        matrix.eliminate_zeros()
        return Graph(from_scipy(keep_top_k(matrix, top_k)))
    blocks, size = [], weights.size(0)
    step = max(1, 2**24 // max(size, 1))
    for start in range(0, size, step):
        into = weights[:, start : start + step].T
        # All that reach the k-th largest, so that ties are settled by the index and not by the order of a selection.
        least = into.topk(min(top_k, size), dim=1).values[:, -1:]
        row, column = ((into > 0) & (into >= least)).nonzero().unbind(1)
        entries = into[row, column].cpu().numpy(), (row.cpu().numpy(), column.cpu().numpy())
        blocks.append(keep_top_k(sp.csr_matrix(entries, shape=into.shape), top_k))
    stacked = sp.vstack(blocks, format="csr") if blocks else sp.csr_matrix((0, 0), dtype=np.float32)
    return Graph(from_scipy(stacked))


def _check_l2(l2: float) -> None:
    if not l2 > 0:
        raise OptionError(f"l2 must be positive, not {l2}")


@functools.cache
def _compiled(function: Any) -> Any:
    """The function compiled by Numba, or as it is."""
    try:
        import numba
    except ImportError:
        return function
    return numba.njit(function)


def _slim_columns(
    begins: Any,
    chosen: Any,
    pointers: Any,
    columns: Any,
    values: Any,
    degree: Any,
    l1: float,
    l2: float,
    sweeps: int,
    tolerance: float,
    out: Any,
) -> None:
    """Weights of the items ``chosen`` for each item, of a CSR Gram matrix with sorted columns, written to ``out``."""
    size = len(begins) - 1
    product, weight, target = np.zeros(size), np.zeros(size), np.zeros(size)  # G b, b, the item's row of G
    for item in range(size):
        row = slice(pointers[item], pointers[item + 1])
        target[columns[row]] = values[row]
        for _ in range(sweeps):
            largest = 0.0
            for entry in range(begins[item], begins[item + 1]):
                j = chosen[entry]
                if j == item:
                    continue
                old = weight[j]
                new = max(0.0, (target[j] - product[j] + degree[j] * old - l1) / (degree[j] + l2))
                if new != old:
                    weight[j] = new
                    largest = max(largest, abs(new - old))
                    others = slice(pointers[j], pointers[j + 1])
                    product[columns[others]] += values[others] * (new - old)
            if largest < tolerance:
                break
        target[columns[row]] = 0.0
        for entry in range(begins[item], begins[item + 1]):
            j = chosen[entry]
            out[entry] = weight[j]
            if weight[j] != 0.0:
                product[columns[pointers[j] : pointers[j + 1]]] = 0.0
                weight[j] = 0.0


def _gram(interactions: Tensor, num_users: int, num_items: int) -> Any:
    """:math:`X^\\top X` as a scipy CSR matrix, float32, with sorted columns."""
    x = to_scipy(interaction_graph(interactions, num_users, num_items).matrix)
    gram = (x.T.tocsr() @ x).tocsr()
    gram.sort_indices()
    return gram


def _nearest(gram: Any, degree: Any, neighbours: int) -> Any:
    """For each row the ``neighbours`` columns of largest cosine, without the diagonal, as a scipy CSR matrix."""
    import scipy.sparse as sp

    row = np.repeat(np.arange(gram.shape[0]), np.diff(gram.indptr))
    cosine = gram.data / np.sqrt(degree)[gram.indices]  # that of the row itself is the same for all its columns
    cosine[gram.indices == row] = 0.0
    near = sp.csr_matrix((cosine, gram.indices.copy(), gram.indptr.copy()), shape=gram.shape)
    near.eliminate_zeros()
    return keep_top_k(near, neighbours)


def _keep_largest(matrix: Any, top_k: int) -> Any:
    """The ``top_k`` entries of each row of a scipy CSR matrix that are largest in absolute value."""
    kept = keep_top_k(abs(matrix), top_k)
    kept.data[:] = 1.0
    return matrix.multiply(kept).tocsr()


def _free_bytes(device: torch.device) -> int:
    """Memory that can still be had; the whole memory where the system does not say what is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2**63
