"""What the implementations of top-k share: the items in the order in which they are looked at."""

from __future__ import annotations

import torch
from torch import Tensor

LONGEST_ON_GPU = 448
"""Longest list that fits a buffer of the Triton kernel beside a tile of new candidates."""
_LONGEST = 4096
"""Items that nearly every user is asked about; kept in order, where the table itself is not copied."""
_BLOCK = 1 << 20
"""Numbers that are doubles at a time."""


class ItemTable:
    """Items with what top-k wants of them, made once for any number of users.

    Args:
        items: embeddings ``[N, d]``.
    """

    def __init__(self, items: Tensor) -> None:
        self.items = items.detach().float() if items.dtype in (torch.float16, torch.bfloat16) else items.detach()
        lengths = row_lengths(self.items)
        self.order = lengths.argsort(descending=True, stable=True)
        """items by falling length, int64 ``[N]``"""
        self.lengths = lengths[self.order]
        """Euclidean lengths in this order, float64 ``[N]``"""

        self.longest = self.items[self.order[:_LONGEST]]

    def packed(self, start: int, count: int, out: Tensor) -> Tensor:
        """``count`` items from place ``start`` of the order on ``[count, d]``, in ``out`` or where they are."""
        if start + count <= self.longest.size(0):
            return self.longest[start : start + count]
        return torch.index_select(self.items, 0, self.order[start : start + count], out=out[:count])

    def reach(self, users: Tensor) -> Tensor:
        r"""For users ``[B, d]``: r with :math:`|u^\top i| \le r |i|` for the computed product, float64 ``[B]``."""
        # Cauchy-Schwarz; a sum of d products is off by d + 1 roundings of its terms' sizes at most, and torch may be
        # allowed to round operands of float32 first.
        eps = torch.finfo(users.dtype).eps
        share = 1 + (users.size(1) + 8) * eps
        if users.dtype == torch.float32 and not _full_precision():
            share += 2.0**-5
        if users.is_cuda:
            share += split_rounding(users.size(1))
        return row_lengths(users) * share

    def fits(self, reach: Tensor) -> Tensor:
        """Whether all scores of users with this reach are finite numbers, bool ``[]`` on the items' device."""
        if not reach.numel() or not self.lengths.numel():
            return torch.ones((), dtype=torch.bool, device=reach.device)
        # A NaN or an infinity anywhere makes one of both; a maximum over numbers and NaN is NaN.
        largest = reach.max() * self.lengths.max()
        return largest <= torch.finfo(self.items.dtype).max


def row_lengths(vectors: Tensor) -> Tensor:
    """Euclidean lengths of rows ``[n, d]`` in double precision, float64 ``[n]``."""
    # A CPU would make doubles of all numbers at once, twice the memory of the table.
    rows = max(1, _BLOCK // max(1, vectors.size(1))) if vectors.device.type == "cpu" else max(1, vectors.size(0))
    parts = [torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in vectors.split(rows)]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def split_rounding(d: int) -> float:
    r"""Relative error, beside :math:`|u| |i|`, of a product of d terms that a GPU forms as three in TensorFloat-32.

    An operand is the sum of two numbers of 11 bits but for :math:`2^{-20}` of it, if both are cut off, and the product
    of the two smaller ones, :math:`2^{-20}` too, is left out; sums of 3 d terms may be cut off in each addition.
    """
    return 2.0**-18 + (3 * d + 8) * 2.0**-23


def _full_precision() -> bool:
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # set in the newer way, for each backend
        return False
