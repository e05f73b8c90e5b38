"""SLIM: sparse item-item weights by an elastic net over each item's neighbourhood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..graph.graph import Graph, from_scipy, interaction_graph, to_scipy
from ..graph.similarity import keep_top_k
from .base import Fitted
from .item_term import ItemTerm
from .options import ModelOptions, check
from .recipe import Inputs, Recipe, Sizes, Space
from .scoring import Scorer, UserRows

_FLOATS = 1 << 24
"""Entries of the neighbourhoods' Gram matrices that are held at once."""


@dataclass(frozen=True)
class SLIMOptions(ModelOptions):
    """Options of SLIM.

    Args:
        l1: weight of the absolute weights, which leaves out the useless.
        l2: weight of the squared weights.
        neighbours: items that may explain an item, those of the nearest user sets by the cosine.
        sweeps: of coordinate descent, at most.
    """

    l1: float = 0.5
    l2: float = 10.0
    neighbours: int = 100
    sweeps: int = 30

    def __post_init__(self) -> None:
        check(self, at_least_1=["neighbours", "sweeps"], positive=["l2"])


def slim_weights(interactions: Tensor, num_users: int, num_items: int, options: SLIMOptions = SLIMOptions()) -> Graph:
    r"""Item-item weights of SLIM (Ning and Karypis, ICDM 2011, eq. 4; the neighbourhoods are their fsSLIM):

    .. math::
        \min_{b \ge 0} \tfrac12 \|x_i - X_{C_i} b\|^2 + \tfrac{\lambda_2}{2} \|b\|^2 + \lambda_1 \|b\|_1

    for each item i, with :math:`C_i` its nearest items. Coordinate descent on the Gram matrix of the neighbourhood,
    many items at once: :math:`b_j \leftarrow \max(0, G_{ji} - \sum_{k \neq j} G_{jk} b_k - \lambda_1)
    / (G_{jj} + \lambda_2)`. Memory grows with the pairs of items that share a user.

    Args:
        interactions: training pairs, int64 ``[2, E]``; a CPU computes.
        num_users, num_items: M and N.
        options: see :class:`SLIMOptions`.

    Returns:
        Graph ``[N, N]``: row = the item that is scored, column = by whom; only positive weights are kept.
    """
    import scipy.sparse as sp

    x = to_scipy(interaction_graph(interactions.cpu(), num_users, num_items).matrix)
    gram = (x.T.tocsr() @ x).tocsr()
    gram.sort_indices()
    degree = gram.diagonal()
    cosine = gram.tocoo()
    apart = cosine.row != cosine.col
    # The item's own degree is the same for all its neighbours.
    near = (cosine.data[apart] / np.sqrt(degree[cosine.col[apart]]), (cosine.row[apart], cosine.col[apart]))
    nearest = keep_top_k(sp.csr_matrix(near, shape=gram.shape), options.neighbours).tocsr()
    width = int(np.diff(nearest.indptr).max(initial=0))
    if width == 0:
        return Graph(from_scipy(sp.csr_matrix(gram.shape, dtype=np.float32)))
    values = np.zeros(nearest.nnz, dtype=np.float32)
    step = max(1, _FLOATS // width**2)
    for start in range(0, num_items, step):
        stop = min(start + step, num_items)
        blocks = np.zeros((stop - start, width, width), dtype=np.float32)
        target = np.zeros((stop - start, width), dtype=np.float32)
        for place, item in enumerate(range(start, stop)):
            chosen = nearest.indices[nearest.indptr[item] : nearest.indptr[item + 1]]
            blocks[place, : chosen.size, : chosen.size] = gram[chosen][:, chosen].toarray()
            target[place, : chosen.size] = gram[[item]][:, chosen].toarray()[0]
        found = nonnegative_elastic_net(torch.from_numpy(blocks), torch.from_numpy(target), options).numpy()
        inside = np.arange(width) < np.diff(nearest.indptr)[start:stop, None]
        values[nearest.indptr[start] : nearest.indptr[stop]] = found[inside]
    weights = sp.csr_matrix((values, nearest.indices, nearest.indptr), shape=gram.shape)
    weights.eliminate_zeros()
    return Graph(from_scipy(weights))


def nonnegative_elastic_net(gram: Tensor, target: Tensor, options: SLIMOptions) -> Tensor:
    r"""Coordinate descent for :math:`\min_{b \ge 0} \tfrac12 b^\top (G + \lambda_2 I) b - b^\top (g - \lambda_1)`.

    Args:
        gram: G ``[n, k, k]``, one problem a row; rows of zeros for places that are not there.
        target: g ``[n, k]``.
        options: see :class:`SLIMOptions`; it ends earlier where no weight moves by more than 1e-4.

    Returns:
        b ``[n, k]``.
    """
    b = torch.zeros_like(target)
    slope = target - options.l1  # g - l1 - G b, kept up to date
    diagonal = gram.diagonal(dim1=1, dim2=2)
    for _ in range(options.sweeps):
        largest = 0.0
        for j in range(target.size(1)):
            new = ((slope[:, j] + diagonal[:, j] * b[:, j]) / (diagonal[:, j] + options.l2)).clamp(min=0)
            move = new - b[:, j]
            slope -= gram[:, j] * move[:, None]
            b[:, j] = new
            largest = max(largest, float(move.abs().max()))
        if largest < 1e-4:
            break
    return b


def _build(inputs: Inputs, options: SLIMOptions) -> Fitted:
    weights = slim_weights(inputs.train, *inputs.sizes, options).to(inputs.train.device)
    term = ItemTerm(UserRows(inputs.train, *inputs.sizes), weights)
    return Fitted(term.tensors(), term.scores)


def _restore(state: Mapping[str, Tensor], options: SLIMOptions, train: Tensor, sizes: Sizes) -> Scorer:
    return ItemTerm.from_tensors(UserRows(train, *sizes), state).scores


def _fold_in(
    state: Mapping[str, Tensor], options: SLIMOptions, train: Tensor, sizes: Sizes, histories: UserRows
) -> Scorer:
    return ItemTerm.from_tensors(histories, state).scores


def _search(space: Space) -> None:
    space.number("l1", 0.01, 10)
    space.number("l2", 1, 1000)


recipe = Recipe(
    name="slim",
    summary="sparse item-item weights by an elastic net",
    paper="Ning and Karypis, SLIM, ICDM 2011",
    options=SLIMOptions,
    build=_build,
    search=_search,
    closed_form=True,
    restore=_restore,
    fold_in=_fold_in,
)
