"""Recommendations for raw ids, similar rows, users who were not trained, and held-out splits that are not seen."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infodcl_geo.configuration import configure
from infodcl_geo.data.ids import IdMap, UnknownIdError
from infodcl_geo.data.interactions import Interactions, Split, load_interactions
from infodcl_geo.errors import OptionError
from infodcl_geo.evaluation.ranking import rank_items
from infodcl_geo.experiment import run
from infodcl_geo.models import RECIPES, Recipe
from infodcl_geo.models.scoring import UserRows, with_popular_fallback
from infodcl_geo.recommender import Recommender
from infodcl_geo.serving import Server, fold_in_map

NAMES = np.array(["ann", "bob", "cat", "dan"])


@pytest.fixture
def recommender() -> Recommender:
    users = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [9.0, 9.0]])
    items = torch.tensor([[4.0, 0.0], [3.0, 1.0], [2.0, 5.0], [1.0, 2.0]])
    train = torch.tensor([[0, 2, 2, 2], [0, 0, 1, 2]])
    valid = torch.tensor([[1], [3]])
    return Recommender({"users": users, "items": items}, IdMap(NAMES), IdMap([10, 20, 30, 40]), train, valid)


def tiny(users: int = 24, items: int = 18, seed: int = 0) -> Interactions:
    """Users who take items of their own third, with string ids."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.arange(items) % 3 == torch.arange(users)[:, None] % 3
    taken = torch.rand(users, items, generator=generator) < torch.where(own, 0.9, 0.15)
    pairs = taken.nonzero().T
    names = np.array([f"u{row:02}" for row in range(users)])
    frame = np.stack([pairs[0].numpy(), pairs[1].numpy()])
    data = load_interactions(torch.from_numpy(frame), split=Split("ratio", 0.15, 0.25), seed=seed)
    return replace(data, user_ids=IdMap(names), item_ids=IdMap(range(100, 100 + items)))


def trained(recipe: str | Recipe, data: Interactions, **changes: Any) -> Any:
    config = configure(recipe)
    small = {"dim": 8, "num_layers": 1, "hidden": 12, "epochs": 2, "eval_every": 1, "batch_size": 64} | changes
    small["monitor"] = "ndcg@10"
    known = config.flat()
    return run(data, config.changed(**{k: v for k, v in small.items() if k in known}), ks=(5, 10), progress=False)


def test_by_hand(recommender: Recommender) -> None:
    ann, cat = recommender.recommend(["ann", "cat"], k=2)
    assert (ann.user, ann.items.tolist(), ann.scores.tolist(), ann.known) == ("ann", [20, 30], [3.0, 2.0], True)
    assert cat.items.tolist() == [40]  # all that is left
    everything = recommender.recommend(["ann"], k=9, exclude_seen=False)[0]
    assert everything.items.tolist() == [10, 20, 30, 40]


def test_users_without_training_get_what_is_popular(recommender: Recommender) -> None:
    (dan,) = recommender.recommend(["dan"], k=4)
    assert not dan.known
    assert dan.scores.tolist() == [2, 1, 1, 0]
    assert dan.items[0] == 10
    # Bob's validation item is not shown again, though the model was not trained on it.
    (bob,) = recommender.recommend(["bob"], k=4)
    assert not bob.known
    assert sorted(bob.items.tolist()) == [10, 20, 30]


def test_unknown_users(recommender: Recommender) -> None:
    with pytest.raises(UnknownIdError, match="dora"):
        recommender.recommend(["ann", "dora"])
    dora, ann = recommender.recommend(["dora", "ann"], k=2, unknown="popular")
    assert (dora.user, dora.known, dora.items[0], dora.scores.tolist()) == ("dora", False, 10, [2.0, 1.0])
    assert ann.items.tolist() == [20, 30]
    (only,) = recommender.recommend(["dora", "ann"], k=2, unknown="skip")
    assert only.user == "ann"
    assert recommender.recommend([]) == []
    assert recommender.recommend(["dora"], unknown="skip") == []
    with pytest.raises(OptionError, match="unknown"):
        recommender.recommend(["ann"], unknown="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", None, True])
def test_bad_lengths(recommender: Recommender, k: Any) -> None:
    asks: list[Callable[[], Any]] = [
        lambda: recommender.recommend(["ann"], k),
        lambda: recommender.recommend_for([[10]], k),
        lambda: recommender.similar_items([10], k),
        lambda: recommender.similar_users(["ann"], k),
    ]
    for ask in asks:
        with pytest.raises(OptionError, match="k must be at least 1"):
            ask()


def test_allowed_and_excluded_items(recommender: Recommender) -> None:
    (ann,) = recommender.recommend(["ann"], k=4, allowed=[10, 30, 40])
    assert ann.items.tolist() == [30, 40]
    (ann,) = recommender.recommend(["ann"], k=4, allowed=[10, 30, 40], excluded=[30], exclude_seen=False)
    assert ann.items.tolist() == [10, 40]
    (ann,) = recommender.recommend(["ann"], k=4, allowed=[])
    assert ann.items.tolist() == []
    with pytest.raises(UnknownIdError, match="99"):
        recommender.recommend(["ann"], excluded=[99])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans())
def test_lists_are_those_of_the_ranking(seed: int, k: int, seen: bool) -> None:
    """One user alone, all together and the evaluation's ranking agree, with many equal scores among them."""
    generator = torch.Generator().manual_seed(seed)
    users = torch.randint(-1, 2, (7, 3), generator=generator).float()
    items = torch.randint(-1, 2, (11, 3), generator=generator).float()
    pairs = (torch.rand(7, 11, generator=generator) < 0.3).nonzero().T
    recommender = Recommender({"users": users, "items": items}, IdMap(range(7)), IdMap(range(11)), pairs, pairs[:, :0])
    degree, counts = torch.bincount(pairs[0], minlength=7), torch.bincount(pairs[1], minlength=11)
    scorer = with_popular_fallback(recommender.scorer(), degree, counts)
    expected, _ = rank_items(scorer, torch.arange(7), k, num_users=7, num_items=11, seen=[pairs] if seen else [])
    together = recommender.recommend([3, 0, 6, 3, 1, 2, 4, 5], k, exclude_seen=seen)
    for answer in together:
        row = expected[answer.user]
        assert answer.items.tolist() == row[row >= 0].tolist()
        (alone,) = recommender.recommend([answer.user], k, exclude_seen=seen)
        assert alone.items.tolist() == answer.items.tolist()
        np.testing.assert_array_equal(alone.scores, answer.scores)
    # A filter takes out of the list what it forbids and nothing else.
    full = recommender.recommend([3], 11, exclude_seen=seen)[0].items.tolist()
    kept = recommender.recommend([3], 11, exclude_seen=seen, allowed=range(0, 11, 2), excluded=[4])[0].items.tolist()
    assert kept == [item for item in full if item % 2 == 0 and item != 4]


def test_similar_rows_by_hand(recommender: Recommender) -> None:
    (ten,) = recommender.similar_items([10], k=9)
    assert (ten.user, ten.items.tolist()) == (10, [20, 40, 30])
    np.testing.assert_allclose(ten.scores, [3 / 10**0.5, 1 / 5**0.5, 2 / 29**0.5], rtol=1e-6)
    (cat,) = recommender.similar_users(["cat"], k=2)
    assert cat.items[0] == "dan"  # the same direction, another length
    with pytest.raises(UnknownIdError):
        recommender.similar_items([11])


def test_similar_rows_of_item_weights() -> None:
    weights = torch.tensor([[0.0, 2.0, 1.0], [0.5, 0.0, 3.0], [0.0, 1.0, 0.0]])
    train = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 0, 1, 2]])
    recommender = Recommender({"item_weights": weights}, IdMap(range(3)), IdMap(range(3)), train, train[:, :0])
    (answer,) = recommender.similar_items([0], k=3)
    assert (answer.items.tolist(), answer.scores.tolist()) == ([1, 2], [2.0, 1.0])
    (user,) = recommender.similar_users([0], k=2)
    assert (user.items.tolist(), user.scores.tolist()) == ([1, 2], [pytest.approx(1), 0])
    (new,) = recommender.recommend_for([[1]], k=3)
    assert (new.items.tolist(), new.scores.tolist()) == ([2, 0], [3.0, 0.5])


def test_a_linear_user_is_folded_in_as_trained() -> None:
    """Where user vectors are a linear function of their items' mean, folding in finds it but for the small ridge."""
    items = torch.randn(30, 4)
    pairs = (torch.rand(200, 30) < 0.3).nonzero().T
    rows = UserRows(pairs, 200, 30)
    means = rows.product(torch.arange(200), items) / rows.degree.clamp(min=1)[:, None]
    turn = torch.randn(4, 4)
    found = fold_in_map(rows, means @ turn, items)
    gram = means.double().T @ means.double()
    ridge = 0.1 * gram.trace() / 4 * torch.eye(4)
    naive = torch.linalg.inv(gram + ridge) @ gram @ turn.double()
    torch.testing.assert_close(found, naive, rtol=1e-4, atol=1e-4)


def test_folding_in_finds_the_planted_taste() -> None:
    data = tiny(60, 30)
    recommender = Recommender.from_run(trained("svd", data), data)
    history = [int(i) for i in data.item_ids.raw if (i - 100) % 3 == 1][:6]
    (answer,) = recommender.recommend_for([history], k=4)
    assert all((item - 100) % 3 == 1 for item in answer.items)
    assert not set(answer.items.tolist()) & set(history)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_model_scores_as_in_training_and_serves(recipe: Recipe, tmp_path: Path) -> None:
    data = tiny()
    outcome = trained(recipe, data)
    Recommender.from_run(outcome, data).save(tmp_path)
    again = Recommender.load(tmp_path)
    assert again.score(data, ks=(5, 10)).ranking.mean() == outcome.test
    assert again.score(data, "valid", ks=(5, 10)).ranking.mean() == outcome.result.validation
    users = data.user_ids.raw.tolist()
    together = again.recommend(users, k=4)
    seen = again.seen
    for row, answer in enumerate(together):
        assert len(answer.items) == min(4, 18 - int((seen[0] == row).sum()))
        rows = data.item_ids.encode(answer.items)
        assert not set(rows.tolist()) & set(seen[1, seen[0] == row].tolist())
    # Users who were not trained: alone and beside others, and nothing of the history comes back.
    histories = [[100, 103, 106], [], [101], [101], [117, 102]]
    new = again.recommend_for(histories, k=3)
    assert [answer.known for answer in new] == [True, False, True, True, True]
    for history, answer in zip(histories, new, strict=True):
        (alone,) = again.recommend_for([history], k=3)
        assert alone.items.tolist() == answer.items.tolist()
        assert len(answer.items) == 3
        assert not set(history) & set(answer.items.tolist())
    assert len(again.similar_items([100], 3)[0].items) == 3
    assert 100 not in again.similar_items([100], 17)[0].items
    assert len(again.similar_users(["u03"], 3)[0].items) == 3


@pytest.mark.parametrize("name", ["mf", "ease", "gfcf", "diffrec"])
def test_what_ranks_is_made_for_the_first_request_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seen rows and the scorer were made anew for each user who was asked for."""
    data = tiny(40, 30)
    recommender = Recommender.from_run(trained(name, data), data)
    made: list[str] = []
    for owner, of in ((Recommender, "_own_scorer"), (Server, "__init__"), (UserRows, "__init__")):
        real = getattr(owner, of)

        def counted(*arguments: Any, _real: Any = real, _name: str = f"{owner.__name__}.{of}") -> Any:
            made.append(_name)
            return _real(*arguments)

        monkeypatch.setattr(owner, of, counted)
    users = data.user_ids.raw.tolist()
    recommender.recommend(users[:1])
    first = sorted(made)
    assert first.count("Recommender._own_scorer") == first.count("Server.__init__") == 1
    for user in users:
        recommender.recommend([user], 3)
    recommender.recommend(users, 5)
    assert sorted(made) == first


@pytest.mark.parametrize("name", ["mf", "ease", "gfcf", "diffrec"])
def test_thirty_two_threads_get_what_one_gets(name: str) -> None:
    data = tiny(40, 30)
    recommender = Recommender.from_run(trained(name, data), data)
    users = data.user_ids.raw.tolist()
    fresh = replace(recommender)
    expected = {user: recommender.recommend([user], k=5)[0].items.tolist() for user in users}
    histories = [data.item_ids.decode(data.train[1, data.train[0] == row].numpy()).tolist() for row in range(40)]
    folded = [answer.items.tolist() for answer in recommender.recommend_for(histories, k=5)]
    wrong: list[str] = []
    start = threading.Barrier(32)

    def ask(number: int) -> None:
        start.wait()
        for turn in range(6):
            row = (number * 7 + turn * 5) % 40
            if fresh.recommend([users[row]], k=5)[0].items.tolist() != expected[users[row]]:
                wrong.append(users[row])
            if fresh.recommend_for([histories[row]], k=5)[0].items.tolist() != folded[row]:
                wrong.append(f"history {row}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---------------------------------------------------------------------------------------------------------------------
# Held-out splits


@pytest.fixture(scope="module")
def scored() -> tuple[Recommender, Interactions]:
    data = tiny(40, 24)
    return Recommender.from_run(trained("ease", data), data), data


def resplit(data: Interactions, seed: int) -> Interactions:
    every = torch.cat([data.train, data.valid, data.test], 1)
    other = load_interactions(every, split=Split("ratio", 0.15, 0.25), seed=seed)
    return replace(other, user_ids=data.user_ids, item_ids=data.item_ids)


def test_another_split_is_refused_and_never_leaks(scored: tuple[Recommender, Interactions]) -> None:
    recommender, data = scored
    other = resplit(data, 9)
    with pytest.raises(OptionError, match="the interactions are the same but split otherwise") as caught:
        recommender.score(other)
    assert "other_data" in str(caught.value)
    assert "\n" not in str(caught.value)
    result = recommender.score(other, ks=(5,), other_data=True)
    own = {tuple(pair) for pair in data.train.T.tolist()}
    assert not {tuple(pair) for pair in result.ranking.pairs.T.tolist()} & own
    assert result.trained == sum(tuple(pair) in own for pair in other.test.T.tolist()) > 0
    assert result.unknown == 0


def test_other_interactions_are_refused(scored: tuple[Recommender, Interactions]) -> None:
    recommender, data = scored
    fewer = replace(data, test=data.test[:, 1:])
    with pytest.raises(OptionError, match=r"those were 40, 24 and \d+ \+ \d+ \+ \d+ of"):
        recommender.score(fewer)
    assert recommender.score(fewer, other_data=True).trained == 0


def test_ids_are_matched_not_rows(scored: tuple[Recommender, Interactions]) -> None:
    recommender, data = scored
    # The same interactions beside an item the model never saw, which moves every row by one.
    shift = torch.tensor([[0], [1]])
    other = replace(
        data,
        train=data.train + shift,
        valid=data.valid + shift,
        test=torch.cat([torch.tensor([[0], [0]]), data.test + shift], 1),
        num_items=25,
        item_ids=IdMap(range(99, 124)),
    )
    result = recommender.score(other, ks=(5,), other_data=True)
    assert result.unknown == 1
    assert result.ranking.mean() == recommender.score(data, ks=(5,)).ranking.mean()


def test_nothing_to_score_is_an_error(scored: tuple[Recommender, Interactions]) -> None:
    recommender, data = scored
    strangers = replace(data, user_ids=IdMap([f"x{n:02}" for n in range(40)]))
    with pytest.raises(OptionError, match="no interaction to score"):
        recommender.score(strangers, other_data=True)
    with pytest.raises(OptionError, match="no interaction to score"):
        recommender.score(replace(data, test=data.train[:, :3]), other_data=True)


def test_users_without_training_are_counted(scored: tuple[Recommender, Interactions]) -> None:
    recommender, data = scored
    cold = replace(data, train=data.train[:, data.train[0] != 5], valid=data.valid[:, data.valid[0] != 5])
    ranking = Recommender.from_run(trained("ease", cold), cold).score(cold, ks=(5,)).ranking
    assert ranking.cold_users == 1
    assert recommender.score(data, ks=(5,)).ranking.cold_users == 0
