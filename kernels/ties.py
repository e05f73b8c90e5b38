"""The order of equal scores: a fixed shuffle of the items, another one for each user."""

from __future__ import annotations

from torch import Tensor

_LOW = 0xFFFFFFFF
_ODD = (0x85EBCA6B - 2**32, 0xC2B2AE35 - 2**32)
"""Multipliers of the mixing; less 2**32, which leaves products the same modulo 2**32, and within int64."""


def _mix(x: Tensor) -> Tensor:
    """The finaliser of MurmurHash3: a bijection of the integers below 2**32."""
    x = x ^ (x >> 16)
    x = (x * _ODD[0]) & _LOW
    x = x ^ (x >> 13)
    x = (x * _ODD[1]) & _LOW
    return x ^ (x >> 16)


def tie_order(users: Tensor, items: Tensor) -> Tensor:
    r"""Places of items among those with the same score: the smaller comes first.

    .. math:: o(u, i) = \text{mix}\big(i \oplus \text{mix}(u + \mathtt{9E3779B9}_{16})\big) \in [0, 2^{32})

    with the bijection mix of 32 bits that ends MurmurHash3 (Appleby, public domain), sums modulo :math:`2^{32}`. For
    one user no two items have the same place, so that the order is total; it depends on nothing but the two row
    numbers, so that it is the same on every device. Neither the order of ids nor popularity enters, and every user has
    a shuffle of their own: metrics over many users are those that random ties would give.

    Args:
        users, items: row numbers in ``[0, 2**32)``, int64, of shapes that broadcast.

    Returns:
        int64 of their common shape.
    """
    return _mix(items ^ _mix((users + 0x9E3779B9) & _LOW))
