"""The generated power-law graph: its counts for any size, its degrees for a large one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from infodcl_geo.data.generated import power_law_graph
from infodcl_geo.data.named import DatasetError


def keys(pairs: Tensor, num_items: int) -> Tensor:
    return pairs[0] * num_items + pairs[1]


@st.composite
def sizes(draw: st.DrawFn) -> tuple[int, int, int]:
    num_users, num_items = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    return num_users, num_items, draw(st.integers(1, num_users * num_items))


@given(sizes(), st.floats(1.2, 4), st.floats(1.2, 4), st.sampled_from([0.0, 0.05, 0.3]), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_any_size(
    size: tuple[int, int, int], user_exponent: float, item_exponent: float, share: float, seed: int
) -> None:
    num_users, num_items, count = size
    data = power_law_graph(
        *size, user_exponent=user_exponent, item_exponent=item_exponent, valid=share, test=share / 2, seed=seed
    )
    assert (data.num_users, data.num_items, data.num_interactions) == size
    together = torch.cat([keys(part, num_items) for part in (data.train, data.valid, data.test)])
    assert together.unique().numel() == count  # distinct, and no pair in two splits
    # As many users and items as one interaction each can reach have one in training.
    assert data.train[0].unique().numel() == min(num_users, count)
    assert data.train[1].unique().numel() == min(num_items, count)
    free = count - min(count, max(num_users, num_items))
    assert data.test.size(1) == min(round(share / 2 * count), free)
    assert data.valid.size(1) == min(round(share * count), free - data.test.size(1))
    assert data.generated


def test_the_complete_graph_is_reached() -> None:
    data = power_law_graph(30, 20, 600, valid=0, test=0, seed=3)
    assert torch.equal(keys(data.train, 20), torch.arange(600))


def test_the_seed_decides() -> None:
    first, again, other = (power_law_graph(200, 300, 2000, seed=seed) for seed in (1, 1, 2))
    for part in ("train", "valid", "test"):
        assert torch.equal(getattr(first, part), getattr(again, part))
    assert not torch.equal(first.train, other.train)


@pytest.mark.parametrize("exponent", [2.2, 3.0])
def test_degrees_follow_the_power_law(exponent: float) -> None:
    data = power_law_graph(100_000, 20_000, 600_000, user_exponent=3.5, item_exponent=exponent, valid=0, test=0)
    degree = np.sort(np.bincount(data.train[1].numpy()))[::-1]
    # Where the number of nodes of degree k falls as k^-gamma, the degree of rank r falls as r^(-1/(gamma-1)).
    slope = np.log(degree[1000] / degree[10]) / np.log(1000 / 10)
    assert 1 - 1 / slope == pytest.approx(exponent, rel=0.12)
    # Ids do not tell the rank.
    assert abs(np.corrcoef(np.arange(20_000), np.bincount(data.train[1].numpy()))[0, 1]) < 0.05


def test_default_sizes_are_the_papers() -> None:
    data = power_law_graph()
    assert (data.num_users, data.num_items, data.num_interactions) == (32_886, 52_974, 337_837)
    assert data.valid.size(1) == data.test.size(1) == 16_892


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_users": 2, "num_items": 2, "num_interactions": 5}, "no 5 distinct pairs"),
        ({"num_interactions": 0}, "at least one"),
        ({"user_exponent": 1.0}, "exponents must be above 1"),
        ({"valid": 0.6, "test": 0.5}, "sum below 1"),
    ],
)
def test_errors(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        power_law_graph(**arguments)  # type: ignore[arg-type]
