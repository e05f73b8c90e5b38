"""Metrics by hand and against a loop over users."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from infodcl_geo.evaluation import evaluate, rank_items
from infodcl_geo.scoring import Scorer, dot_scorer


def table(scores: Tensor) -> Scorer:
    return lambda rows, window: scores[rows][:, window].clone()


def naive(scores: Tensor, held_out: Tensor, seen: Tensor, k: int) -> dict[str, float]:
    sums = dict.fromkeys(("recall", "ndcg", "precision", "mrr", "hit"), 0.0)
    users = sorted(set(held_out[0].tolist()))
    for user in users:
        targets = {i for u, i in held_out.T.tolist() if u == user}
        hidden = {i for u, i in seen.T.tolist() if u == user}
        ranked = sorted((i for i in range(scores.size(1)) if i not in hidden), key=lambda i: -float(scores[user, i]))
        hits = [1.0 if item in targets else 0.0 for item in ranked[:k]]
        sums["recall"] += sum(hits) / len(targets)
        sums["precision"] += sum(hits) / k
        sums["hit"] += float(any(hits))
        sums["mrr"] += max((h / (j + 1) for j, h in enumerate(hits)), default=0.0)
        ideal = sum(1 / math.log2(j + 2) for j in range(min(k, len(targets))))
        sums["ndcg"] += sum(h / math.log2(j + 2) for j, h in enumerate(hits)) / ideal
    return {name: value / len(users) for name, value in sums.items()}


def test_by_hand() -> None:
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])
    held_out = torch.tensor([[0, 0, 0], [1, 3, 4]])
    seen = torch.tensor([[0], [0]])
    # Without the seen item 0 the list is 1, 2, 3, 4; hits at places 1 and 3 of the first three.
    got = evaluate(table(scores), held_out, num_users=1, num_items=5, seen=[seen], ks=(3,)).mean()
    ideal = 1 + 1 / math.log2(3) + 0.5
    assert got["recall@3"] == pytest.approx(2 / 3)
    assert got["precision@3"] == pytest.approx(2 / 3)
    assert got["ndcg@3"] == pytest.approx((1 + 0.5) / ideal)
    assert got["mrr@3"] == 1.0
    assert got["hit@3"] == 1.0
    unmasked = evaluate(table(scores), held_out, num_users=1, num_items=5, ks=(1, 2)).mean()
    assert unmasked["recall@1"] == 0
    assert unmasked["mrr@2"] == 0.5


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 4), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_matches_the_loop(seed: int, k: int, chunk: int, item_chunk: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    users, items = 5, 8
    scores = torch.rand(users, items, generator=generator)
    kind = torch.rand(users, items, generator=generator)
    seen, held_out = (kind < 0.4).nonzero().T, (kind > 0.8).nonzero().T
    if held_out.size(1) == 0:
        return
    result = evaluate(
        table(scores),
        held_out,
        num_users=users,
        num_items=items,
        seen=[seen[:, ::2], seen[:, 1::2]],
        ks=(k,),
        chunk_size=chunk,
        item_chunk_size=item_chunk,
    )
    for name, value in naive(scores, held_out, seen, k).items():
        assert result.mean()[f"{name}@{k}"] == pytest.approx(value), name


def test_masking_the_validation_items_changes_the_ranking() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    test, valid = torch.tensor([[0], [1]]), torch.tensor([[0], [0]])

    def recall(seen: list[Tensor]) -> float:
        return evaluate(table(scores), test, num_users=1, num_items=3, seen=seen, ks=(1,)).mean()["recall@1"]

    assert recall([]) == 0.0
    assert recall([valid]) == 1.0


def test_an_exhausted_user_gets_no_padding_hits() -> None:
    # The user has seen everything but one item, which is not the held-out one of user 1.
    scores = torch.ones(2, 3)
    seen = torch.tensor([[0, 0], [0, 1]])
    items, values = rank_items(table(scores), torch.tensor([0, 1]), 5, seen=[seen], num_users=2, num_items=3)
    assert items[0].tolist() == [2, -1, -1]
    assert values[0].tolist() == [1.0, -math.inf, -math.inf]
    result = evaluate(table(scores), torch.tensor([[0], [0]]), num_users=2, num_items=3, seen=[seen], ks=(3,))
    assert result.mean()["recall@3"] == 0.0


def test_dot_scorer_and_bad_cutoffs() -> None:
    users, items = torch.randn(3, 4), torch.randn(5, 4)
    torch.testing.assert_close(
        dot_scorer(users, items)(torch.tensor([2, 0]), slice(1, 4)), users[[2, 0]] @ items[1:4].T
    )
    with pytest.raises(ValueError, match="cut-offs must be positive"):
        evaluate(dot_scorer(users, items), torch.tensor([[0], [0]]), num_users=3, num_items=5, ks=(0,))
