"""Propagation over a graph whose nodes lie on several ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..graph.graph import Graph, sparse_matrix
from ..nn.ranks import Side
from .exchange import Request
from .group import Group
from .partition import Partition


class ShardedGraph(Graph):
    r"""This rank's rows of the normalised adjacency: products take and give the rows of its users and its items.

    Each interaction lives with its node of the larger side ("home", mostly the user). With :math:`A_r` the home rows of
    rank r, a product is

    .. math:: Y^{home}_r = A_r X^{away}, \qquad Y^{away} = \sum_r A_r^\top X^{home}_r

    so that nothing but rows of the smaller side travels: those of distinct nodes that r's interactions name, once each
    way. The matrix is symmetric, so the backward pass is the same product.

    Args:
        pairs: interactions ``[2, E]`` of this rank's users, as rows among all.
        part: the rows of all ranks.
        group: the ranks.
        home: the side that interactions live with; the larger one if missing.
        smoothing: share of the mean degree that is added to every degree, see
            :func:`~infodcl_geo.graph.graph.normalized_interactions`.
    """

    def __init__(
        self, pairs: Tensor, part: Partition, group: Group, *, home: Side | None = None, smoothing: float = 0.0
    ) -> None:
        self.group, self.part = group, part
        self.home: Side = home or ("users" if part.users.total >= part.items.total else "items")
        if self.home == "items":
            order, give = part.items.by_owner(pairs[1])
            take = group.counts(give)
            near, far = group.exchange(pairs.T[order].flip(1), give, take, "interactions").T
            sides = part.items, part.users
        else:
            near, far = pairs
            sides = part.users, part.items
        home_rows, away_rows = sides
        needed, column = far.unique(return_inverse=True)
        self.needed = needed.numel()
        self.request = Request(group, away_rows, needed)
        home_degree = torch.bincount(near - home_rows.start, minlength=len(home_rows)).to(torch.float32)
        # What others count of a node's interactions is added up where it lives, and told to all who need it.
        own = self._reduce(torch.bincount(column, minlength=self.needed).to(torch.float32)[:, None], len(away_rows))
        away_degree = group.exchange(own[self.request.asked], self.request.give, self.request.take, "degrees")[:, 0]
        row = near - home_rows.start
        if smoothing:
            total = int(group.sum_(torch.tensor([pairs.size(1)], device=group.device), "counts"))
            home_degree += smoothing * total / home_rows.total
            away_degree += smoothing * total / away_rows.total
        weights = (home_degree[row] * away_degree[column]).rsqrt()
        self.block = Graph(sparse_matrix(row, column, weights, (len(home_rows), self.needed)))
        super().__init__(self.block.matrix)

    def _reduce(self, partial: Tensor, rows: int) -> Tensor:
        """Sums over the ranks of rows of the nodes that they need, where these nodes live."""
        request = self.request
        received = self.group.exchange(partial, request.take, request.give, "propagation")
        return received.new_zeros(rows, partial.size(1)).index_add_(0, request.asked, received)

    @property
    def shape(self) -> tuple[int, int]:
        """That of this rank's users and items."""
        own = sum(self.part.sizes)
        return own, own

    @property
    def num_edges(self) -> int:
        return 2 * self.block.num_edges

    def t(self) -> Graph:
        return self

    def to(self, device: torch.device | str) -> Graph:
        """The same graph, which is where the ranks' tensors are."""
        return self

    def __matmul__(self, x: Tensor) -> Tensor:
        """This rank's rows of the product with the nodes of all ranks, differentiable in them."""
        if x.size(0) != self.shape[0]:
            raise ValueError(f"a graph of shape {self.shape} cannot multiply a tensor of {x.size(0)} rows")
        return _Product.apply(x, self)

    def product(self, x: Tensor) -> Tensor:
        """The product, without autograd."""
        users, items = x.split(self.part.sizes)
        return torch.cat([self.to_users(items), self.to_items(users)])

    def to_users(self, items: Tensor) -> Tensor:
        r""":math:`\tilde A X` of this rank's users, from its rows of items ``[n, d]``; without autograd."""
        return self._to_home(items) if self.home == "users" else self._to_away(items)

    def to_items(self, users: Tensor) -> Tensor:
        r""":math:`\tilde A^\top X` of this rank's items, from its rows of users ``[m, d]``; without autograd."""
        return self._to_away(users) if self.home == "users" else self._to_home(users)

    def _to_home(self, away: Tensor) -> Tensor:
        request = self.request
        # The request asked for distinct nodes in ascending order: what comes is in the order of the columns.
        return self.block @ self.group.exchange(away[request.asked], request.give, request.take, "propagation")

    def _to_away(self, home: Tensor) -> Tensor:
        rows = self.part.items if self.home == "users" else self.part.users
        return self._reduce(self.block.t() @ home, len(rows))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: ShardedGraph) -> Tensor:
        ctx.graph = graph
        return graph.product(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Product.apply(grads[0], ctx.graph), None
