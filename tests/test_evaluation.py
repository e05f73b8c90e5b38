"""Metrics by hand and against a loop over users."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from infodcl_geo.cli import main
from infodcl_geo.evaluation.groups import by_item_degree, by_user_degree
from infodcl_geo.evaluation.metrics import METRICS, accuracy
from infodcl_geo.evaluation.ranking import evaluate, rank_items
from infodcl_geo.kernels.ties import tie_order
from infodcl_geo.models.scoring import Scorer, dot_scorer


def table(scores: Tensor) -> Scorer:
    return lambda rows, window: scores[rows][:, window].clone()


def by_rule(scores: Tensor, user: int, hidden: set[int]) -> list[int]:
    """The user's list: descending score, equal ones by the tie rule."""
    rule = tie_order(torch.tensor(user), torch.arange(scores.size(1))).tolist()
    left = (item for item in range(scores.size(1)) if item not in hidden)
    return sorted(left, key=lambda item: (-float(scores[user, item]), rule[item]))


def as_ranked(scores: Tensor, train: Tensor) -> Tensor:
    """The scores, and in the rows of users without a training interaction the items' numbers of them."""
    if not train.numel():
        return scores
    cold = torch.bincount(train[0], minlength=scores.size(0)) == 0
    return torch.where(cold[:, None], torch.bincount(train[1], minlength=scores.size(1)).float(), scores)


def naive(scores: Tensor, held_out: Tensor, seen: Tensor, k: int) -> dict[str, float]:
    sums = dict.fromkeys(METRICS, 0.0)
    users = sorted(set(held_out[0].tolist()))
    for user in users:
        targets = {i for u, i in held_out.T.tolist() if u == user}
        hidden = {i for u, i in seen.T.tolist() if u == user}
        ranked = by_rule(scores, user, hidden)
        hits = [1.0 if item in targets else 0.0 for item in ranked[:k]]
        sums["recall"] += sum(hits) / len(targets)
        sums["precision"] += sum(hits) / k
        sums["hit"] += float(any(hits))
        sums["mrr"] += max((h / (j + 1) for j, h in enumerate(hits)), default=0.0)
        ideal = sum(1 / math.log2(j + 2) for j in range(min(k, len(targets))))
        sums["ndcg"] += sum(h / math.log2(j + 2) for j, h in enumerate(hits)) / ideal
        sums["map"] += sum(h * sum(hits[: j + 1]) / (j + 1) for j, h in enumerate(hits)) / min(k, len(targets))
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
    assert got["map@3"] == pytest.approx((1 + 2 / 3) / 3)
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
    for name, value in naive(as_ranked(scores, seen[:, ::2]), held_out, seen, k).items():
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


def test_groups_by_degree_by_hand() -> None:
    # Everybody's list is 0, 1, 2, 3.
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).expand(3, 4)
    held_out = torch.tensor([[0, 0, 1, 2], [0, 3, 1, 3]])
    ranking = evaluate(table(scores), held_out, num_users=3, num_items=4, ks=(1, 2))
    assert ranking.pairs.tolist() == held_out.tolist()
    assert ranking.place.tolist() == [1, 0, 2, 0]  # place 4 is beyond the largest cut-off

    users = by_user_degree(ranking, torch.tensor([5, 6, 1]), edges=(5, 10))
    assert list(users) == ["0", "1-5", "6-10", "11+"]
    assert users["1-5"]["users"] == 2
    assert users["1-5"]["recall@1"] == pytest.approx((1 / 2 + 0) / 2)
    assert users["6-10"]["recall@1"] == 0
    # Who has no training interaction is in no group with others.
    assert by_user_degree(ranking, torch.tensor([5, 6, 0]), edges=(5, 10))["0"] == {
        "users": 1,
        **ranking.mean_of(torch.tensor([False, False, True])),
    }
    assert list(by_user_degree(ranking, torch.tensor([5, 6, 0]))) == [
        "0",
        "1-5",
        "6-10",
        "11-15",
        "16-20",
        "21-25",
        "26+",
    ]
    assert users["6-10"]["hit@2"] == 1
    assert users["11+"] == {"users": 0}

    # Item 3 is held out twice and never found.
    items = by_item_degree(ranking, torch.tensor([9, 30, 7, 9]), edges=(0, 8, 9))
    assert list(items) == ["0", "1-8", "9", "10+"]
    assert items["9"] == {"items": 2, "pairs": 3, "recall@1": 1 / 3, "recall@2": 1 / 3}
    assert items["10+"] == {"items": 1, "pairs": 1, "recall@1": 0.0, "recall@2": 1.0}
    assert items["0"] == items["1-8"] == {"items": 0, "pairs": 0}


@given(st.integers(0, 10_000), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_groups_match_the_loop(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    users, items, edges = 7, 8, (1, 2, 4)
    scores = torch.rand(users, items, generator=generator)
    kind = torch.rand(users, items, generator=generator)
    seen, held_out = (kind < 0.4).nonzero().T, (kind > 0.7).nonzero().T
    if held_out.size(1) == 0:
        return
    user_degree, item_degree = (torch.bincount(row, minlength=8) for row in seen)
    shuffled = held_out[:, torch.randperm(held_out.size(1), generator=generator)]
    ranking = evaluate(table(scores), shuffled, num_users=users, num_items=items, seen=[seen], ks=(k, 8))
    by_user, by_item = by_user_degree(ranking, user_degree, edges), by_item_degree(ranking, item_degree, edges)
    scores = as_ranked(scores, seen)

    def is_in(degree: int, name: str) -> bool:
        low, _, high = name.rstrip("+").partition("-")
        return int(low) <= degree <= (10**9 if name.endswith("+") else int(high or low))

    for name in ("0", "1", "2", "3-4", "5+"):
        own = [user for user in held_out[0].unique().tolist() if is_in(int(user_degree[user]), name)]
        assert by_user[name]["users"] == len(own)
        if own:
            chosen = held_out[:, torch.isin(held_out[0], torch.tensor(own))]
            for metric, value in naive(scores, chosen, seen, k).items():
                assert by_user[name][f"{metric}@{k}"] == pytest.approx(value), metric
        found = []
        for user, item in held_out.T.tolist():
            if is_in(int(item_degree[item]), name):
                hidden = {i for u, i in seen.T.tolist() if u == user}
                ranked = by_rule(scores, user, hidden)
                found.append(item in ranked[:k])
        assert by_item[name]["pairs"] == len(found)
        if found:
            assert by_item[name][f"recall@{k}"] == pytest.approx(sum(found) / len(found))
    assert sum(group["users"] for group in by_user.values()) == ranking.users.numel()
    assert sum(group["pairs"] for group in by_item.values()) == held_out.size(1)


@pytest.mark.parametrize("edges", [(), (5, 5), (10, 5), (-1, 5)])
def test_bounds_of_groups_must_ascend(edges: tuple[int, ...]) -> None:
    ranking = evaluate(table(torch.ones(1, 2)), torch.tensor([[0], [0]]), num_users=1, num_items=2, ks=(1,))
    with pytest.raises(ValueError, match="must ascend"):
        by_user_degree(ranking, torch.tensor([3]), edges)


def test_groups_reach_the_file_and_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = tmp_path / "pairs.csv"
    lines = [f"{u},{i}" for u in range(30) for i in range(60) if i % 3 == u % 3 and (u + i) % 5]
    pairs.write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    out = tmp_path / "run"
    words = ["--epochs", "2", "--dim", "8", "--progress", "false"]
    assert main(["train", "--data", str(pairs), "--out", str(out), *words]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    users, items = metrics["test_by_user_degree"], metrics["test_by_item_degree"]
    total = sum(group["users"] * group.get("recall@20", 0.0) for group in users.values())
    assert total / 30 == pytest.approx(metrics["test"]["recall@20"])
    # All users hold out as many items, so that the mean over pairs is the mean over users.
    total = sum(group["pairs"] * group.get("recall@20", 0.0) for group in items.values())
    assert total / sum(group["pairs"] for group in items.values()) == pytest.approx(metrics["test"]["recall@20"])
    capsys.readouterr()
    assert main(["evaluate", "--checkpoint", str(out), "--data", str(pairs), "--groups"]) == 0
    printed = capsys.readouterr().out
    largest = max(items, key=lambda name: items[name]["pairs"])
    assert f"{items[largest]['recall@20']:.4f}" in printed
    assert "training interactions of the user" in printed


def test_no_bit_depends_on_the_other_cut_offs() -> None:
    hits = (torch.rand(500, 90, generator=torch.Generator().manual_seed(0)) < 0.3).double()
    targets = hits.sum(1).clamp(min=1)
    every = accuracy(hits, targets, range(1, 91))
    for k in range(1, 91):
        alone = accuracy(hits[:, :k].contiguous(), targets, (k,))
        for name, value in alone.items():
            assert torch.equal(value, every[name]), name
