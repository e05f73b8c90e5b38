"""The order of equal scores."""

from __future__ import annotations

import torch

from infodcl_geo.kernels.ties import tie_order


def mix(x: int) -> int:
    """The finaliser of MurmurHash3 in Python's own integers."""
    x ^= x >> 16
    x = x * 0x85EBCA6B % 2**32
    x ^= x >> 13
    x = x * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def test_is_the_published_mixing() -> None:
    assert mix(1) == 0x514E28B7  # a known value of the finaliser
    users, items = torch.tensor([0, 1, 7, 2**31 + 5, 2**32 - 1]), torch.tensor([0, 3, 11_588, 2**32 - 1])
    got = tie_order(users[:, None], items)
    for u, row in zip(users.tolist(), got.tolist(), strict=True):
        assert row == [mix(i ^ mix((u + 0x9E3779B9) % 2**32)) for i in items.tolist()]


def test_every_user_has_a_shuffle_of_their_own() -> None:
    users, items = 400, 50
    order = tie_order(torch.arange(users)[:, None], torch.arange(items)[None])
    assert all(row.unique().numel() == items for row in order)
    place = order.argsort(1).argsort(1).double()
    # Places of an item over the users are those of uniform shuffles: mean 24.5, standard deviation 14.4.
    assert (place.mean(0) - 24.5).abs().max() < 4.5 * 14.43 / users**0.5
    assert (place.std(0) - 14.43).abs().max() < 2.0
    # Two users' shuffles are unrelated: correlations of 0.143, of which 79,800 stay within 5.2 standard deviations.
    assert torch.corrcoef(place).triu(1).abs().max() < 0.75
    # Which of two neighbours comes first is a fair coin.
    first = (place[:, 1:] < place[:, :-1]).double().mean(0)
    assert (first - 0.5).abs().max() < 4.5 * 0.5 / users**0.5
