"""Graphs of similar items by their features, and a layer that passes over one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph.graph import Graph, csr_parts, sparse_matrix
from ..graph.similarity import cosine_graph
from .propagation import normalized


def knn_graph(features: Tensor, top_k: int, *, binary: bool) -> Graph:
    r"""The graph of similar items, :math:`\hat S = D^{-1/2} S D^{-1/2}` with :math:`D_{ii} = \sum_j S_{ij}`.

    :math:`S_{ij}`, for the item i itself and for the ``top_k - 1`` others of largest positive cosine with it, is 1 or
    that cosine; 0 elsewhere. Not symmetric. An item whose features are all zero has none but itself.

    Args:
        features: ``[N, f]``.
        top_k: K, with the item itself.
        binary: whether S holds ones instead of cosines.
    """
    pointers, col, weight, (size, _) = csr_parts(
        cosine_graph(features.float(), (features != 0).any(1), top_k=top_k - 1).matrix
    )
    own = torch.arange(size, device=col.device)
    row = torch.cat([torch.repeat_interleave(own, pointers.diff()), own])
    weight = torch.cat([torch.ones_like(weight) if binary else weight, torch.ones(size, device=col.device)])
    return normalized(Graph(sparse_matrix(row, torch.cat([col, own]), weight, (size, size))))


def weighted_sum(graphs: list[Graph], weights: list[float]) -> Graph:
    r"""The graph :math:`\sum_m w_m S^m` of square graphs of one size."""
    row, col, value = [], [], []
    for graph, weight in zip(graphs, weights, strict=True):
        pointers, columns, values, (size, _) = csr_parts(graph.matrix)
        row.append(torch.repeat_interleave(torch.arange(size, device=columns.device), pointers.diff()))
        col.append(columns)
        value.append(weight * values)
    place, where = (torch.cat(row) * size + torch.cat(col)).unique(return_inverse=True)
    total = torch.zeros(place.numel()).index_add_(0, where, torch.cat(value))
    return Graph(sparse_matrix(place // size, place % size, total, (size, size)))


class ItemGraph(nn.Module):
    """A fixed graph over items that moves with the model that holds it.

    Args:
        graph: ``[N, N]``.
    """

    _where: Tensor

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.register_buffer("_where", torch.empty(0), persistent=False)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.graph = self.graph.to(self._where.device)
        return self

    def forward(self, x: Tensor, num_layers: int) -> Tensor:
        r""":math:`S^L X` of vectors ``[N, d]``."""
        for _ in range(num_layers):
            x = self.graph @ x
        return x


def similar_items_graph(features: Tensor, top_k: int, *, chunk_size: int = 2048) -> Graph:
    r"""The graph of similar items, :math:`\hat S = D^{-1/2} S D^{-1/2}` (DiffCL section 4.2.4).

    :math:`S_{ij} = 1` for the ``top_k`` items j whose features have the largest cosine with those of i, itself among
    them, and 0 for all others; :math:`D_{ii} = \sum_j S_{ij}`. Not symmetric.

    Args:
        features: ``[num_items, f]``.
        top_k: K; all items where there are fewer.
        chunk_size: rows of the similarity matrix that exist at a time.

    Returns:
        Graph ``[num_items, num_items]``.
    """
    unit = F.normalize(features.float(), dim=1)
    top_k = min(top_k, len(unit))
    col = torch.cat([(rows @ unit.T).topk(top_k).indices for rows in unit.split(chunk_size)])
    row = torch.arange(len(unit)).unsqueeze(1).expand_as(col)
    # Every row has K ones, so every weight of the normalised matrix is 1 / K.
    weight = torch.full((col.numel(),), 1 / top_k)
    return Graph(sparse_matrix(row.reshape(-1), col.reshape(-1), weight, (len(unit), len(unit))))
