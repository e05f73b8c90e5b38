"""Single entries and sums of rows of square weights, dense or sparse."""

from __future__ import annotations

import torch
from torch import Tensor

from .graph import Graph, csr_parts

_ENTRIES = 2**23
"""Products held at a time where sparse rows are summed: about 200 MB."""


def row_sums(
    graph: Graph,
    rows: Tensor,
    position: Tensor,
    count: int,
    start: int,
    stop: int,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Sums of rows of a graph, :math:`y_{bi} = \sum_{e:\, p_e = b} B_{r_e i}` for columns i from start to stop.

    Args:
        graph: B ``[N, N]``.
        rows: r ``[E]``, int64.
        position: p, which sum each row belongs to, ``[E]``.
        count: sums.
        start, stop: columns; memory grows with ``count`` times them.
        dtype: in which is summed.

    Returns:
        ``[count, stop - start]`` of that type.
    """
    pointers, columns, values, _ = csr_parts(graph.matrix)
    width, size = stop - start, graph.shape[1]
    lengths = pointers.diff()[rows]
    result = torch.zeros(count, width, device=rows.device, dtype=dtype)
    # Some rows at a time, so that what is summed never takes more memory than the sums.
    ends = lengths.cumsum(0)
    begin = 0
    while begin < rows.numel():
        before = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(torch.searchsorted(ends, before + _ENTRIES, right=True)))
        some, length = rows[begin:end], lengths[begin:end]
        first = torch.repeat_interleave(pointers[some] - (length.cumsum(0) - length), length)
        entry = first + torch.arange(first.numel(), device=rows.device)
        column = columns[entry] - start
        place = torch.repeat_interleave(position[begin:end] * width, length) + column
        value = values[entry].to(dtype)
        if width < size:
            inside = (column >= 0) & (column < width)
            place, value = place[inside], value[inside]
        result.view(-1).index_add_(0, place, value)
        begin = end
    return result


def entries(weights: Tensor | Graph, rows: Tensor, columns: Tensor) -> Tensor:
    """The weight into item ``rows`` from item ``columns``, of pairs ``[n]``; 0 where there is none.

    Args:
        weights: :data:`~infodcl_geo.graph.item_item.ItemWeights`: dense, :math:`B_{column, row}`, or the graph of the
            transpose, whose columns ascend within a row.
    """
    if isinstance(weights, Tensor):
        return weights[columns, rows]
    pointers, known, values, _ = csr_parts(weights.matrix)
    if not values.numel():
        return torch.zeros(rows.numel(), device=rows.device)
    # Halving the interval of each pair's row finds its column or where it would be.
    low, high = pointers[rows], pointers[rows + 1]
    for _ in range(int(pointers.diff().max()).bit_length()):
        middle = (low + high) // 2
        below = (low < high) & (known[middle.clamp(max=known.numel() - 1)] < columns)
        low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
    place = low.clamp(max=known.numel() - 1)
    found = (low < pointers[rows + 1]) & (known[place] == columns)
    return torch.where(found, values[place], 0.0)
