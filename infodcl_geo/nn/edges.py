"""The interactions inside a normalised user-item graph, to be weighted anew in each step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..graph.graph import Graph, csr_parts


class Edges(nn.Module):
    """Where each interaction lies in a symmetric graph over users and items.

    Users come first, so the upper half of the entries holds each interaction once, in the order of users, and the
    lower half in the order of items. A graph of other weights has its entries at the same places: nothing is sorted or
    moved, and an interaction that is left out is an explicit zero.

    Args:
        graph: of :func:`~infodcl_geo.graph.graph.normalized_adjacency`.
    """

    users: Tensor
    """``[E]`` rows of the users"""
    items: Tensor
    """``[E]`` rows of the items, from ``num_users``"""
    _transposed: Tensor

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        pointers, col, _, (size, _) = csr_parts(graph.matrix)
        half = col.numel() // 2
        row = torch.repeat_interleave(torch.arange(size, device=col.device), pointers.diff())[:half]
        col = col[:half]
        # Rebuilt from the data, so a checkpoint of the weights need not carry them.
        self.register_buffer("users", row, persistent=False)
        self.register_buffer("items", col, persistent=False)
        self.register_buffer("_transposed", torch.argsort(col * size + row), persistent=False)

    def weights(self, graph: Graph) -> Tensor:
        """Weights of the interactions in ``graph``, ``[E]``."""
        return csr_parts(graph.matrix)[2][: self.users.numel()]

    def reweighted(self, graph: Graph, weights: Tensor) -> Graph:
        """``graph`` with the weights ``[E]`` in place of its own."""
        pointers, col, _, shape = csr_parts(graph.matrix)
        values = torch.cat([weights, weights[self._transposed]])
        return Graph(torch.sparse_csr_tensor(pointers, col, values, size=shape, check_invariants=False), symmetric=True)
