"""Propagation and the aggregations behind channels as layers for any PyG model.

They take adjacency as PyG's layers do, in four forms that give equal numbers: ``edge_index`` ``[2, E]`` (sources above
targets) with optional weights, torch CSR or ``SparseTensor`` with targets as rows (PyG's ``adj_t``), and this library's
:class:`~infodcl_geo.graph.graph.Graph`, rows again the targets. Results are differentiable in vectors, not in weights.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..graph.graph import Graph, csr_parts, propagate, sparse_matrix
from ..graph.similarity import weighted_mean

Adjacency: TypeAlias = Any
"""``Adj`` of ``torch_geometric.typing`` (``edge_index`` or ``SparseTensor``), a torch CSR tensor, or a ``Graph``."""


def as_graph(adj: Adjacency, edge_weight: Tensor | None = None, size: tuple[int, int] | None = None) -> Graph:
    """A :class:`~infodcl_geo.graph.graph.Graph` whose product sums over sources, from any form of adjacency.

    Args:
        adj: see the module.
        edge_weight: ``[E]``, only with ``edge_index``; repeated edges count twice.
        size: number of sources and of targets, as in PyG's ``MessagePassing``; needed with ``edge_index``.

    Returns:
        The graph, targets as rows ``[size[1], size[0]]``.

    Raises:
        ValueError: if weights come with another form than ``edge_index``, or the sizes differ.
    """
    if isinstance(adj, Tensor) and adj.layout == torch.strided:
        if adj.dim() != 2 or adj.size(0) != 2 or adj.dtype != torch.int64:
            raise ValueError(f"edge_index must be [2, E] int64, not {list(adj.shape)} {adj.dtype}")
        if size is None:
            raise ValueError("an edge_index needs the number of sources and targets")
        return Graph(sparse_matrix(adj[1], adj[0], edge_weight, (size[1], size[0])))
    if edge_weight is not None:
        raise ValueError("edge_weight goes with edge_index; other forms of adjacency hold their weights")
    graph = adj if isinstance(adj, Graph) else Graph(adj)
    if size is not None and graph.shape != (size[1], size[0]):
        raise ValueError(
            f"an adjacency of {graph.shape[0]} targets and {graph.shape[1]} sources, not {size[1]}, {size[0]}"
        )
    return graph


def normalized(graph: Graph) -> Graph:
    r"""The graph :math:`D^{-1/2} A D^{-1/2}` with :math:`D` the row sums of a square A, as PyG's ``gcn_norm`` has it
    without self-loops."""
    pointers, col, value, (rows, cols) = csr_parts(graph.matrix)
    row = torch.repeat_interleave(torch.arange(rows, device=col.device), pointers.diff())
    degree = torch.zeros(rows, dtype=value.dtype, device=value.device).index_add(0, row, value)
    scale = torch.where(degree > 0, degree, torch.inf).rsqrt()
    return Graph(sparse_matrix(row, col, scale[row] * value * scale[col], (rows, cols)))


class Propagation(nn.Module):
    r"""LightGCN propagation, :math:`\frac{1}{K+1}\sum_{k=0}^{K} (D^{-1/2} A D^{-1/2})^k X`.

    LightGCN eq. 7 and 8; inference of InfoDCL (section 3.4). The graph is normalised once a call, not once a layer.

    Args:
        num_layers: K.
        normalize: False if the adjacency is normalised already.
    """

    def __init__(self, num_layers: int, normalize: bool = True) -> None:
        super().__init__()
        if num_layers < 0:
            raise ValueError(f"num_layers cannot be negative: {num_layers}")
        self.num_layers, self.normalize = num_layers, normalize

    def reset_parameters(self) -> None:
        """There are none; for models that reset all their layers."""

    def forward(self, x: Tensor, edge_index: Adjacency, edge_weight: Tensor | None = None) -> Tensor:
        """Propagated vectors ``[n, d]`` of nodes ``x`` ``[n, d]``."""
        graph = as_graph(edge_index, edge_weight, (x.size(0), x.size(0)))
        return propagate(normalized(graph) if self.normalize else graph, x, self.num_layers)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_layers}, normalize={self.normalize})"


class NeighbourMean(nn.Module):
    r"""Weighted mean over neighbours, :math:`y_i = \sum_j w_{ij} x_j / \sum_j w_{ij}`, with a fallback without any.

    The aggregation behind the item channel (InfoDCL section 3.1.1).
    """

    def reset_parameters(self) -> None:
        """There are none; for models that reset all their layers."""

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Adjacency,
        edge_weight: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Means ``[targets, d]``.

        Args:
            x: vectors ``[n, d]`` of all nodes, or those of sources and of targets; targets without neighbours keep
                their own vector. A single row of targets is the fallback of all.
            edge_index, edge_weight: see :func:`as_graph`.
            size: number of sources and targets, where the vectors do not tell.
        """
        sources, targets = x if isinstance(x, tuple) else (x, x)
        if size is None and isinstance(edge_index, Tensor) and edge_index.layout == torch.strided:
            size = (sources.size(0), targets.size(0))
        return weighted_mean(as_graph(edge_index, edge_weight, size), sources, targets)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class UserToItem(nn.Module):
    r"""User vectors smoothed over users, then averaged over each item's users.

    .. math::
        s_u = (1 - \lambda)\, p_u + \lambda \frac{\sum_v F_{uv}\, p_v}{\sum_v F_{uv}}, \qquad
        m_i = \frac{\sum_u A_{ui}\, s_u}{\sum_u A_{ui}}

    The aggregation behind the user and the social channel (InfoDCL section 3.1.1), which have :math:`\lambda = 1/2`.
    Users without neighbours keep :math:`p_u`, items without users get the mean of all :math:`s_u`.

    Args:
        smoothing: lambda.
    """

    def __init__(self, smoothing: float = 0.5) -> None:
        super().__init__()
        if not 0 <= smoothing <= 1:
            raise ValueError(f"smoothing is a share, from 0 to 1, not {smoothing}")
        self.smoothing = smoothing
        self.mean = NeighbourMean()

    def reset_parameters(self) -> None:
        """There are none; for models that reset all their layers."""

    def forward(
        self,
        x: Tensor,
        edge_index: Adjacency,
        user_item: Adjacency,
        edge_weight: Tensor | None = None,
        num_items: int | None = None,
    ) -> Tensor:
        """Item vectors ``[N, d]`` from user vectors ``x`` ``[M, d]``.

        Args:
            x: user vectors.
            edge_index, edge_weight: edges between users, from the one who gives to the one who takes.
            user_item: edges from users to items.
            num_items: N, needed if ``user_item`` is an ``edge_index``.
        """
        smoothed = torch.lerp(x, self.mean(x, edge_index, edge_weight), self.smoothing)
        size = None if num_items is None else (x.size(0), num_items)
        return self.mean((smoothed, smoothed.mean(0, keepdim=True)), user_item, size=size)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(smoothing={self.smoothing})"
