"""Turbo-CF: polynomial filters over the item-item graph, in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..graph.graph import Graph, csr_parts, from_scipy, sparse_matrix, to_scipy
from .base import Fitted
from .options import ModelOptions, check
from .recipe import Inputs, Recipe, Sizes, Space
from .scoring import Scorer, UserRows, chunk_scorer

Filter = Literal["linear", "second", "third"]


@dataclass(frozen=True)
class TurboCFOptions(ModelOptions):
    r"""Options of Turbo-CF.

    Args:
        normalization: alpha, the power of the users' degrees; that of the items' is :math:`1 - \alpha`.
        hadamard: s, the power to which every entry of the graph is raised; the authors search it between 0.5 and 1.5.
        filter: 'linear', 'second' or 'third', the order of the polynomial.
    """

    normalization: float = 0.5
    hadamard: float = 1.0
    filter: Filter = "linear"

    def __post_init__(self) -> None:
        check(self, shares=["normalization"], positive=["hadamard"])


def item_graph(interactions: Tensor, num_users: int, num_items: int, options: TurboCFOptions) -> Graph:
    r"""The item-item graph of Turbo-CF, sparse: two items without a common user have no entry.

    .. math:: \bar P = (\tilde R^\top \tilde R)^{\circ s}, \qquad \tilde R = D_u^{-\alpha} R D_i^{\alpha - 1}

    Args:
        interactions: training pairs, int64 ``[2, E]``; a CPU computes.
        num_users, num_items: M and N.
        options: see :class:`TurboCFOptions`.
    """
    users, items = interactions.cpu()
    alpha = options.normalization
    by_user = torch.bincount(users, minlength=num_users).float().clamp(min=1) ** -alpha
    by_item = torch.bincount(items, minlength=num_items).float().clamp(min=1) ** (alpha - 1)
    weighted = to_scipy(sparse_matrix(users, items, by_user[users] * by_item[items], (num_users, num_items)))
    product = (weighted.T.tocsr() @ weighted).tocsr()
    product.data = product.data**options.hadamard
    return Graph(from_scipy(product), symmetric=True)


def filtered(graph: Graph, x: Tensor, kind: Filter) -> Tensor:
    r"""Rows of interactions through the low-pass filter, never with an N x N matrix:

    - linear: :math:`\bar P x`;
    - second: :math:`(2 \bar P - \bar P^2) x`;
    - third: :math:`(\bar P + 0.01 (-\bar P^3 + 10 \bar P^2 - 29 \bar P)) x`.

    (Park et al., SIGIR 2024, section 3.3.)

    Args:
        graph: P ``[N, N]``.
        x: users' rows as columns, ``[N, B]``.
        kind: see above.
    """
    first = graph @ x
    if kind == "linear":
        return first
    second = graph @ first
    if kind == "second":
        return 2 * first - second
    return first + 0.01 * (-(graph @ second) + 10 * second - 29 * first)


def turbocf_scorer(rows: UserRows, graph: Graph, kind: Filter) -> Scorer:
    """Scores of Turbo-CF: each user's row through the filter. Beside the graph N x B numbers are held for B users."""
    return chunk_scorer(
        lambda users: filtered(graph, rows.dense(users, torch.float64).T.contiguous(), kind),
        lambda scores, window: scores[window].T,
    )


def _build(inputs: Inputs, options: TurboCFOptions) -> Fitted:
    graph = item_graph(inputs.train, *inputs.sizes, options).to(inputs.train.device)
    pointers, columns, values, _ = csr_parts(graph.matrix)
    scorer = turbocf_scorer(UserRows(inputs.train, *inputs.sizes), graph, options.filter)
    return Fitted({"pointers": pointers, "columns": columns, "values": values}, scorer)


def _restore(state: Mapping[str, Tensor], options: TurboCFOptions, train: Tensor, sizes: Sizes) -> Scorer:
    return _fold_in(state, options, train, sizes, UserRows(train, *sizes))


def _fold_in(
    state: Mapping[str, Tensor], options: TurboCFOptions, train: Tensor, sizes: Sizes, histories: UserRows
) -> Scorer:
    columns = state["columns"]
    row = torch.repeat_interleave(torch.arange(sizes[1], device=columns.device), state["pointers"].diff())
    graph = Graph(sparse_matrix(row, columns, state["values"], (sizes[1], sizes[1])), symmetric=True)
    return turbocf_scorer(histories, graph, options.filter)


def _search(space: Space) -> None:
    space.number("normalization", 0.1, 0.9, log=False)
    space.number("hadamard", 0.5, 1.5, log=False)
    space.choice("filter", ["linear", "second", "third"])


recipe = Recipe(
    name="turbocf",
    summary="polynomial filters over the item-item graph",
    paper="Park et al., Turbo-CF, SIGIR 2024",
    options=TurboCFOptions,
    build=_build,
    search=_search,
    closed_form=True,
    restore=_restore,
    fold_in=_fold_in,
)
