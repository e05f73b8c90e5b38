"""Negatives are exact and uniform; epochs visit what they should."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from infodcl_geo.training.sampling import BatchSampler, NegativeSampler


def positives_of(pairs: Tensor) -> set[tuple[int, int]]:
    return set(map(tuple, pairs.T.tolist()))


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=35), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_never_a_positive_and_always_a_possible_negative(chosen: set[tuple[int, int]], seed: int) -> None:
    pairs = torch.tensor(sorted(chosen), dtype=torch.int64).reshape(-1, 2).T
    sampler = NegativeSampler(pairs, 6, 7)
    free = [u for u in range(6) if sum(1 for user, _ in chosen if user == u) < 7]
    if not free:
        return
    users = torch.tensor(free).repeat(200)
    drawn = sampler(users, torch.Generator().manual_seed(seed))
    assert not positives_of(pairs) & set(zip(users.tolist(), drawn.tolist(), strict=True))
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < 7
    if len(chosen) <= 20:
        seen = set(zip(users.tolist(), drawn.tolist(), strict=True))
        wanted = {(u, i) for u in free for i in range(7)} - chosen
        assert len(seen) > 0.9 * len(wanted)  # 200 draws of at most 7 items


def test_negatives_are_uniform() -> None:
    pairs = torch.tensor([[0, 0, 0, 1], [1, 4, 5, 0]])
    drawn = NegativeSampler(pairs, 2, 8)(torch.zeros(50_000, dtype=torch.int64), torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=8)
    assert counts[[1, 4, 5]].sum() == 0
    # Five free items, 10,000 draws each, standard deviation about 90.
    assert (counts[[0, 2, 3, 6, 7]] - 10_000).abs().max() < 500


PAIRS = torch.tensor([[0, 0, 1, 1, 2, 2, 3], [0, 1, 0, 2, 0, 3, 4]])


def test_an_epoch_visits_every_interaction_once() -> None:
    sampler = BatchSampler(PAIRS, 4, 6, batch_size=3, generator=torch.Generator().manual_seed(0))
    batches = list(sampler)
    assert len(batches) == len(sampler) == 3
    visited = sorted(
        pair for batch in batches for pair in zip(batch.users.tolist(), batch.positives.tolist(), strict=True)
    )
    assert visited == sorted(positives_of(PAIRS))
    again = [batch.users.tolist() for batch in sampler]
    assert again != [batch.users.tolist() for batch in batches]


def test_anchor_choices() -> None:
    def batches(anchors: str) -> list:
        generator = torch.Generator().manual_seed(3)
        return list(BatchSampler(PAIRS, 4, 6, batch_size=4, anchors=anchors, generator=generator))  # type: ignore[arg-type]

    items = torch.cat([batch.anchors for batch in batches("items")])
    assert sorted(items.tolist()) == list(range(6))
    thin = list(BatchSampler(PAIRS, 4, 6, batch_size=1, anchor_batch=3))
    assert [batch.anchors.numel() for batch in thin] == [0, 3, 0, 0, 0, 3, 0]
    # Two of seven steps have anchors: what they weigh makes up for the other five.
    assert {batch.anchor_weight for batch in thin} == {7 / 2}
    assert sorted(torch.cat([batch.anchors for batch in thin]).tolist()) == list(range(6))
    for batch in batches("positives"):
        assert torch.equal(batch.anchors, batch.positives)
    for batch in batches("unique"):
        assert batch.anchors.tolist() == sorted(set(batch.positives.tolist()))


def test_the_seed_determines_the_epoch() -> None:
    def epoch(seed: int) -> list[list[int]]:
        sampler = BatchSampler(PAIRS, 4, 6, batch_size=3, generator=torch.Generator().manual_seed(seed))
        return [part.tolist() for batch in sampler for part in batch[:4]]

    assert epoch(5) == epoch(5)
    assert epoch(5) != epoch(6)


def test_a_user_with_every_item_is_left_out_with_a_warning() -> None:
    pairs = torch.tensor([[0, 0, 1], [0, 1, 1]])
    with pytest.warns(UserWarning, match=r"1 user\(s\) interacted with every item"):
        sampler = BatchSampler(pairs, 2, 2)
    assert [batch.users.tolist() for batch in sampler] == [[1]]
    assert [batch.negatives.tolist() for batch in sampler] == [[0]]
    with (
        pytest.warns(UserWarning, match="every item"),
        pytest.raises(ValueError, match="no training interaction has a negative"),
    ):
        BatchSampler(pairs[:, :2], 1, 2)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        BatchSampler(PAIRS, 4, 6, batch_size=0)
    with pytest.raises(ValueError, match="anchors must be"):
        BatchSampler(PAIRS, 4, 6, anchors="users")  # type: ignore[arg-type]
