"""A ranking is a function of the scores alone: ties, rounding, chunks and cut-offs; scores that are no numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_evaluation import as_ranked, by_rule, naive, table
from torch import Tensor

from infodcl_geo.errors import ScoreError
from infodcl_geo.evaluation import ranking as module
from infodcl_geo.evaluation.metrics import beyond_accuracy
from infodcl_geo.evaluation.ranking import evaluate, rank_items
from infodcl_geo.models.scoring import ExactScorer, Scorer, UserRows, dot_scorer, item_scorer, with_popular_fallback

Draw = Callable[[st.SearchStrategy], int]


def pairs_of(mask: Tensor) -> Tensor:
    return mask.nonzero().T


@st.composite
def cases(draw: Draw) -> tuple[Tensor, Tensor, Tensor, int]:
    """Scores full of ties, seen and held-out pairs that share none, and a cut-off."""
    users, items = draw(st.integers(1, 6)), draw(st.integers(1, 60))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    levels = draw(st.sampled_from([1, 2, 4, 1000]))
    scores = torch.randint(0, levels, (users, items), generator=generator).float() - levels // 2
    kind = torch.rand(users, items, generator=generator)
    seen, held_out = pairs_of(kind < draw(st.sampled_from([0.0, 0.3, 0.9]))), pairs_of(kind > 0.85)
    if not held_out.size(1):
        held_out = torch.tensor([[0], [0]])
        seen = seen[:, (seen != 0).any(0)]
    return scores, seen, held_out, draw(st.integers(1, 70))


@given(cases(), st.integers(1, 7), st.integers(1, 61))
@settings(max_examples=150, deadline=None)
def test_lists_and_metrics_equal_the_loop_whatever_the_chunks(
    case: tuple[Tensor, Tensor, Tensor, int], chunk: int, item_chunk: int
) -> None:
    scores, seen, held_out, k = case
    sizes = {"num_users": scores.size(0), "num_items": scores.size(1)}
    chunks = {"chunk_size": chunk, "item_chunk_size": item_chunk}
    everyone = torch.arange(scores.size(0))
    items, values = rank_items(table(scores), everyone, k, seen=[seen], **sizes, **chunks)
    hidden = [{i for u, i in seen.T.tolist() if u == user} for user in everyone.tolist()]
    for user in everyone.tolist():
        expected = by_rule(scores, user, hidden[user])[:k]
        assert items[user, : len(expected)].tolist() == expected
        assert values[user, : len(expected)].tolist() == scores[user, expected].tolist()
        assert (items[user, len(expected) :] == -1).all()
        assert not hidden[user] & set(items[user].tolist())
    shorter, _ = rank_items(table(scores), everyone, max(1, k - 2), seen=[seen], **sizes)
    assert torch.equal(shorter, items[:, : max(1, k - 2)])
    result = evaluate(table(scores), held_out, seen=[seen], ks=(k,), **sizes, **chunks)
    more = evaluate(table(scores), held_out, seen=[seen], ks=(k, k + 9, 1), **sizes)
    for name, value in naive(as_ranked(scores, seen), held_out, seen, k).items():
        assert result.mean()[f"{name}@{k}"] == pytest.approx(value), name
        assert torch.equal(result.per_user[f"{name}@{k}"], more.per_user[f"{name}@{k}"])


def embeddings(seed: int, users: int, items: int, dim: int, kind: str) -> tuple[Tensor, Tensor]:
    """Embeddings whose inner products nearly tie, or do."""
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(users, dim, generator=generator), torch.randn(items, dim, generator=generator)
    if kind == "close":  # copies that differ in the last bits
        copy = right[torch.randint(0, max(1, items // 8), (items,), generator=generator)]
        right = copy * (1 + torch.randint(-2, 3, copy.shape, generator=generator) * 2.0**-23)
    elif kind == "equal":
        right = right[torch.randint(0, max(1, items // 8), (items,), generator=generator)]
    elif kind == "zero":  # of half of the users and items nothing is known
        left[::2] = 0
        right[1::2] = 0
    return left, right


@given(st.integers(0, 2**31), st.sampled_from(["random", "close", "equal", "zero"]), st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_inner_products_are_ranked_as_in_exact_arithmetic(seed: int, kind: str, k: int) -> None:
    users, items = embeddings(seed, 9, 400, 24, kind)
    # Sums of 24 products in double precision, in the order of a tree, rounded once.
    products = users.double()[:, None] * items.double()
    while products.size(2) > 1:
        if products.size(2) % 2:
            products = torch.nn.functional.pad(products, (0, 1))
        products = products[..., ::2] + products[..., 1::2]
    exact = products[..., 0].float()
    torch.testing.assert_close(exact, users @ items.T)
    sizes = {"num_users": 9, "num_items": 400}
    got, values = rank_items(dot_scorer(users, items), torch.arange(9), k, **sizes)
    for user in range(9):
        assert got[user].tolist() == by_rule(exact, user, set())[:k]
    assert torch.equal(values, exact.gather(1, got))
    held_out = pairs_of(torch.rand(9, 400, generator=torch.Generator().manual_seed(seed)) > 0.97)
    expected = evaluate(table(exact), held_out, ks=(k,), **sizes)
    for chunk, item_chunk in ((1, 400), (4, 37), (9, 9)):
        chunks = {"chunk_size": chunk, "item_chunk_size": item_chunk}
        result = evaluate(dot_scorer(users, items), held_out, ks=(k,), **sizes, **chunks)
        assert torch.equal(result.place, expected.place)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_products_that_may_round_their_operands_change_no_list(precision: str) -> None:
    users, items = embeddings(3, 20, 500, 32, "random")

    class Rounded:
        """Inner products of operands cut to the digits that the setting allows."""

        def __init__(self) -> None:
            self.inner = dot_scorer(users, items)
            self.kept = {"high": 13, "medium": 16}[precision]

        def cut(self, x: Tensor) -> Tensor:
            return ((x.contiguous().view(torch.int32) >> self.kept) << self.kept).view(torch.float32)

        def __call__(self, rows: Tensor, window: slice) -> Tensor:
            return self.cut(users[rows]) @ self.cut(items[window]).T

        def rounding(self, rows: Tensor) -> Tensor:
            return self.inner.rounding(rows)

        def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
            return self.inner.exact(rows, columns)

    rows, sizes = torch.arange(20), {"num_users": 20, "num_items": 500}
    expected, _ = rank_items(dot_scorer(users, items), rows, 30, **sizes)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        got, _ = rank_items(Rounded(), rows, 30, **sizes)
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(dtype: torch.dtype) -> None:
    users, items = (x.to(dtype) for x in embeddings(5, 6, 300, 16, "equal"))
    exact = (
        dot_scorer(users, items)
        .exact(torch.arange(6).repeat_interleave(300), torch.arange(300).repeat(6))
        .unflatten(0, (6, 300))
    )
    assert exact.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(exact.double(), users.double() @ items.double().T)
    got, _ = rank_items(dot_scorer(users, items), torch.arange(6), 25, num_users=6, num_items=300, item_chunk_size=77)
    assert all(got[user].tolist() == by_rule(exact, user, set())[:25] for user in range(6))


@given(st.integers(0, 2**31), st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_sums_of_item_weights_are_ranked_as_in_exact_arithmetic(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    num_users, num_items = 12, 120
    pairs = pairs_of(torch.rand(num_users, num_items, generator=generator) < torch.rand(num_users, 1) * 0.5)
    pairs = pairs[:, pairs[0] > 1]  # two users without interactions, all of whose scores are zero
    weights = torch.randn(num_items, num_items, generator=generator)
    weights[:, ::3] = weights[:, :1] * (1 + torch.randint(-1, 2, (num_items, 40), generator=generator) * 2.0**-23)
    rows = UserRows(pairs, num_users, num_items)
    exact = (rows.dense(torch.arange(num_users)).double() @ weights.double()).float()
    scorer = item_scorer(rows, weights)
    every = scorer.exact(
        torch.arange(num_users).repeat_interleave(num_items), torch.arange(num_items).repeat(num_users)
    )
    torch.testing.assert_close(every.view(num_users, num_items), exact)
    got, _ = rank_items(scorer, torch.arange(num_users), k, num_users=num_users, num_items=num_items, seen=[pairs])
    hidden = [{i for u, i in pairs.T.tolist() if u == user} for user in range(num_users)]
    for user in range(num_users):
        expected = by_rule(every.view(num_users, num_items), user, hidden[user])[:k]
        assert got[user, : len(expected)].tolist() == expected
        alone, _ = rank_items(
            scorer, torch.tensor([user]), k, num_users=num_users, num_items=num_items, seen=[pairs], item_chunk_size=17
        )
        assert torch.equal(alone[0], got[user])


def test_the_bound_of_rounding_holds() -> None:
    for seed in range(5):
        users, items = embeddings(seed, 40, 300, 70, "random")
        items *= 10.0 ** torch.randint(-6, 7, (300, 1))
        pairs = pairs_of(torch.rand(40, 300) < 0.3)
        weights = items @ items.T
        for scorer in (dot_scorer(users, items), item_scorer(UserRows(pairs, 40, 300), weights)):
            rows = torch.arange(40)
            fast = scorer(rows, slice(0, 300))
            exact = scorer.exact(rows.repeat_interleave(300), torch.arange(300).repeat(40)).view(40, 300)
            bound = scorer.rounding(rows)
            assert ((fast.double() - exact.double()).abs().amax(1) <= bound).all()
            assert (bound < 1e-3 * exact.abs().amax(1)).all()


def test_one_thread_and_several_rank_alike() -> None:
    users, items = embeddings(11, 300, 700, 48, "close")
    held_out = pairs_of(torch.rand(300, 700) > 0.99)
    before, places = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):  # from four on the candidates are found in another way
            torch.set_num_threads(threads)
            places.append(evaluate(dot_scorer(users, items), held_out, num_users=300, num_items=700).place)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(places[0], places[1])
    assert torch.equal(places[0], places[2])


def test_selection_of_candidates() -> None:
    for columns, width in ((1, 1), (7, 7), (100, 3), (1003, 30), (1003, 70), (160, 10), (167, 10)):
        scores = torch.randint(0, 50, (6, columns)).float()
        scores[0] = -torch.inf
        value, column = module._largest(scores, width)
        assert torch.equal(scores.gather(1, column), value)
        assert all(row.unique().numel() == width for row in column)
        assert torch.equal(value.sort(descending=True).values, scores.topk(width).values)


def test_ties_have_the_expectation_of_random_ones() -> None:
    # 600 users to whom all items are alike: of 50 items, 10 in the list and 3 held out.
    held_out = pairs_of(torch.zeros(600, 50).scatter_(1, torch.rand(600, 50).topk(3).indices, 1.0) > 0)
    held_out_first = torch.stack([torch.arange(600).repeat_interleave(3), torch.arange(3).repeat(600)])
    for pairs in (held_out, held_out_first):
        found = evaluate(table(torch.zeros(600, 50)), pairs, num_users=600, num_items=50, ks=(10,)).mean()["recall@10"]
        # Standard deviation of a user's recall: that of a hypergeometric count, 0.217.
        assert abs(found - 0.2) < 4 * 0.217 / 600**0.5


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("chunks", [(512, 65536), (2, 3)])
def test_scores_that_are_no_numbers_are_refused(wrong: float, chunks: tuple[int, int]) -> None:
    scores = torch.rand(5, 8)
    scores[3, 6] = wrong
    options = {"num_users": 5, "num_items": 8, "chunk_size": chunks[0], "item_chunk_size": chunks[1]}
    seen = torch.tensor([[3], [6]])  # also where the item is hidden
    message = rf"^lightfm scores item row 6 for user row 3 as {wrong}, .*smaller lr$"
    with pytest.raises(ScoreError, match=message):
        rank_items(table(scores), torch.arange(5), 2, seen=[seen], name="lightfm", **options)
    with pytest.raises(ScoreError, match=message):
        evaluate(table(scores), torch.tensor([[3], [0]]), seen=[seen], name="lightfm", **options)
    # Nobody who is not evaluated is scored.
    evaluate(table(scores), torch.tensor([[0], [0]]), ks=(1,), **options)


def test_large_scores_are_numbers() -> None:
    scores = torch.full((2, 5), 3e38)
    scores[:, 2] = 3.1e38
    items, _ = rank_items(table(scores), torch.arange(2), 1, num_users=2, num_items=5)
    assert items.tolist() == [[2], [2]]


def test_the_two_zeros_are_one_score() -> None:
    scores = torch.zeros(3, 90)
    negative = scores.clone()
    negative[:, ::2] = -0.0
    expected, _ = rank_items(table(scores), torch.arange(3), 40, num_users=3, num_items=90)
    got, values = rank_items(table(negative), torch.arange(3), 40, num_users=3, num_items=90)
    assert torch.equal(expected, got)
    assert not values.signbit().any()


def test_a_user_without_training_gets_what_is_popular() -> None:
    counts = torch.tensor([3, 9, 9, 1, 0, 5])
    asked: list[int] = []

    def inner(rows: Tensor, window: slice) -> Tensor:
        asked.extend(rows.tolist())
        return -torch.arange(6.0)[window].repeat(rows.numel(), 1)

    degree = torch.tensor([2, 0, 4, 0])
    users, items = torch.randn(4, 3), torch.randn(6, 3)
    scorers: list[Scorer] = [inner, dot_scorer(users, items)]
    for scorer in scorers:
        fallback = with_popular_fallback(scorer, degree, counts)
        assert isinstance(fallback, ExactScorer) == isinstance(scorer, ExactScorer)
        sizes = {"num_users": 4, "num_items": 6}
        for item_chunk in (6, 2):
            got, values = rank_items(fallback, torch.arange(4), 6, item_chunk_size=item_chunk, **sizes)
            own, _ = rank_items(scorer, torch.tensor([0, 2]), 6, **sizes)
            assert torch.equal(got[[0, 2]], own)
            for user in (1, 3):
                assert got[user].tolist() == by_rule(counts.float().expand(4, 6), user, set())
                assert values[user].tolist() == [9, 9, 5, 3, 1, 0]
        cold, _ = rank_items(fallback, torch.tensor([1, 3]), 3, **sizes)
        assert torch.equal(cold, got[[1, 3], :3])
    assert set(asked) == {0, 2}


def test_cold_users_and_items_are_counted() -> None:
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).expand(3, 4)
    train, valid = torch.tensor([[0, 0], [0, 1]]), torch.tensor([[1], [1]])
    held_out = torch.tensor([[0, 1, 2, 2], [2, 0, 2, 3]])
    options = {"num_users": 3, "num_items": 4, "ks": (1,)}
    ranking = evaluate(table(scores), held_out, seen=[train, valid], **options)
    assert (ranking.cold_users, ranking.cold_items) == (2, 2)
    assert ranking.cold is not None
    assert ranking.cold.tolist() == [False, True, True]
    assert ranking.mean()["hit@1"] == pytest.approx(2 / 3)
    assert ranking.mean_of(ranking.cold)["hit@1"] == 0.5
    assert ranking.mean_of(~ranking.cold)["hit@1"] == 1.0
    assert math.isnan(ranking.mean_of(torch.zeros(3, dtype=torch.bool))["hit@1"])
    given_train = evaluate(table(scores), held_out, train=torch.tensor([[0, 1], [0, 3]]), **options)
    assert (given_train.cold_users, given_train.cold_items) == (1, 1)
    # Item 3 is what everybody took, and no score says so.
    popular = torch.tensor([[0, 1], [3, 3]])
    by_popularity = evaluate(table(scores * torch.tensor([1.0, 1.0, 1.0, -9.0])), held_out, train=popular, **options)
    assert by_popularity.per_user["hit@1"][2] == 1.0
    unknown = evaluate(table(scores), held_out, **options)
    assert (unknown.cold, unknown.cold_users, unknown.cold_items) == (None, 0, 0)


def test_beyond_accuracy_by_hand() -> None:
    ranked = torch.tensor([[0, 1], [0, 2], [0, -1]])
    got = beyond_accuracy(ranked, torch.tensor([8, 2, 0, 4]), 8, ks=(1, 2))
    assert got["coverage@1"] == 1 / 4
    assert got["coverage@2"] == 3 / 4
    assert got["gini@1"] == 3 / 4  # one of four items has everything
    assert got["gini@2"] == pytest.approx((-3 * 0 - 1 * 1 + 1 * 1 + 3 * 3) / (4 * 5))
    assert got["novelty@1"] == 0  # everybody knows item 0
    assert got["novelty@2"] == pytest.approx((3 * 0 + 2 + 3) / 5)
    assert got["popularity@2"] == pytest.approx((3 * 8 + 2 + 0) / 5)
    nothing = beyond_accuracy(torch.full((2, 3), -1), torch.ones(4), 2, ks=(3,))
    assert nothing["coverage@3"] == 0
    assert math.isnan(nothing["gini@3"])


@given(cases())
@settings(max_examples=60, deadline=None)
def test_beyond_accuracy_equals_the_loop(case: tuple[Tensor, Tensor, Tensor, int]) -> None:
    scores, seen, held_out, k = case
    num_users, num_items = scores.shape
    counts = torch.bincount(seen[1], minlength=num_items)
    sizes = {"num_users": num_users, "num_items": num_items}
    result = evaluate(table(scores), held_out, seen=[seen], ks=(k, 1), item_counts=counts, **sizes)
    shown, scores = [], as_ranked(scores, seen)
    for user in sorted(set(held_out[0].tolist())):
        hidden = {i for u, i in seen.T.tolist() if u == user}
        shown += by_rule(scores, user, hidden)[:k]
    exposure = [shown.count(item) for item in range(num_items)]
    assert result.beyond[f"coverage@{k}"] == pytest.approx(len(set(shown)) / num_items)
    if not shown:  # everybody has seen everything
        assert all(math.isnan(result.beyond[f"{name}@{k}"]) for name in ("gini", "novelty", "popularity"))
        return
    # Gini as half of the mean difference of all pairs, relative to the mean.
    differences = sum(abs(a - b) for a in exposure for b in exposure)
    assert result.beyond[f"gini@{k}"] == pytest.approx(differences / (2 * num_items * sum(exposure)))
    share = [max(1, int(count)) / num_users for count in counts]
    assert result.beyond[f"novelty@{k}"] == pytest.approx(sum(-math.log2(share[i]) for i in shown) / len(shown))
    assert result.beyond[f"popularity@{k}"] == pytest.approx(sum(int(counts[i]) for i in shown) / len(shown))


def test_accuracy_agrees_with_torchmetrics() -> None:
    retrieval = pytest.importorskip("torchmetrics.functional.retrieval", reason="torchmetrics is not installed")
    scores, kind = torch.rand(30, 80), torch.rand(30, 80)
    held_out = pairs_of(kind > 0.93)
    users = held_out[0].unique()
    result = evaluate(table(scores), held_out, num_users=30, num_items=80, ks=(4, 15))
    theirs = {
        "recall": retrieval.retrieval_recall,
        "ndcg": retrieval.retrieval_normalized_dcg,
        "precision": retrieval.retrieval_precision,
        "mrr": retrieval.retrieval_reciprocal_rank,
        "hit": retrieval.retrieval_hit_rate,
    }
    target = kind > 0.93
    for k in (4, 15):
        for name, metric in theirs.items():
            expected = [float(metric(scores[user], target[user], top_k=k)) for user in users]
            # It computes in single precision.
            assert result.per_user[f"{name}@{k}"].tolist() == pytest.approx(expected, rel=1e-5), name
        # Its average precision is divided by the hits among the first k, ours by those that there could be.
        found = result.per_user[f"precision@{k}"] * k
        possible = target[users].sum(1).clamp(max=k)
        expected = [float(retrieval.retrieval_average_precision(scores[u], target[u], top_k=k)) for u in users]
        ours = result.per_user[f"map@{k}"] * possible / found.clamp(min=1)
        assert ours.tolist() == pytest.approx(expected, rel=1e-5)
