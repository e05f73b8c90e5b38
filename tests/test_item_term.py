"""The item-item term: scores, moments and offsets against a plain computation, dense and sparse, and its weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from infodcl_geo import selection
from infodcl_geo.data.ids import IdMap
from infodcl_geo.data.interactions import Interactions, load_interactions
from infodcl_geo.errors import InfodclGeoError
from infodcl_geo.evaluation.ranking import evaluate, rank_items
from infodcl_geo.graph.graph import Graph, sparse_matrix
from infodcl_geo.graph.item_item import ItemWeights, ease_weights, slim_graph
from infodcl_geo.models import item_term
from infodcl_geo.models.item_term import ItemTerm, combined_scorer, score_moments
from infodcl_geo.models.scoring import UserRows, dot_scorer
from infodcl_geo.selection import choose_l2, choose_term, choose_weight, fit_terms, validation_sample

USERS, ITEMS = 9, 12


def histories(seed: int, share: float = 0.35) -> Tensor:
    x = torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(seed)) < share
    x[2] = False  # a user without a history
    return x.nonzero().T


def random_weights(seed: int) -> Tensor:
    weights = torch.randn(ITEMS, ITEMS, generator=torch.Generator().manual_seed(seed))
    weights[torch.rand(ITEMS, ITEMS, generator=torch.Generator().manual_seed(seed + 1)) < 0.5] = 0
    return weights


def as_graph(weights: Tensor) -> Graph:
    row, column = weights.T.nonzero().unbind(1)
    return Graph(sparse_matrix(row, column, weights.T[row, column], tuple(weights.shape)))  # type: ignore[arg-type]


def plain(pairs: Tensor, weights: Tensor) -> Tensor:
    x = torch.zeros(USERS, ITEMS)
    x[pairs[0], pairs[1]] = 1
    return x @ weights


def standardised(scores: Tensor) -> Tensor:
    centred = scores.double() - scores.double().mean(1, keepdim=True)
    std = centred.square().mean(1, keepdim=True).sqrt()
    return torch.where(std > 1e-9, centred / std, 0.0).float()


both = pytest.mark.parametrize("form", [lambda weights: weights, as_graph], ids=["dense", "sparse"])


@both
def test_offsets_by_hand(form) -> None:  # type: ignore[no-untyped-def]
    # User 0 has items 0 and 1, user 1 has item 2, user 2 nothing.
    pairs = torch.tensor([[0, 0, 1], [0, 1, 2]])
    weights = torch.tensor([[0.0, 1.0, 4.0], [3.0, 0.0, -1.0], [0.0, 2.0, 0.0]])
    term = ItemTerm(UserRows(pairs, 3, 3), form(weights))
    # User 0 scores (3, 1, 3): mean 7/3, variance 8/9. User 1 scores (0, 2, 0): mean 2/3, variance 8/9.
    std = (8 / 9) ** 0.5
    users, items = torch.tensor([1, 0, 2, 0, 1]), torch.tensor([1, 2, 0, 1, 0])
    expected = torch.tensor([(2 - 2 / 3) / std, (3 - 7 / 3) / std, 0.0, (1 - 7 / 3) / std, -2 / 3 / std])
    torch.testing.assert_close(term.offsets(users, items), expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 0.2, 1.0]), sparse=st.booleans())
def test_scores_moments_and_offsets_are_those_of_a_plain_product(seed: int, share: float, sparse: bool) -> None:
    pairs, weights = histories(seed, share), random_weights(seed)
    term = ItemTerm(UserRows(pairs, USERS, ITEMS), as_graph(weights) if sparse else weights)
    expected = plain(pairs, weights)
    users = torch.tensor([3, 2, 8, 0, 3])
    torch.testing.assert_close(term.scores(users, slice(0, ITEMS)), expected[users])
    torch.testing.assert_close(term.scores(users, slice(4, 9)), expected[users, 4:9])
    mean, std = term.moments(chunk_size=4)
    torch.testing.assert_close(mean, expected.mean(1))
    torch.testing.assert_close(std, expected.std(1, correction=0), atol=1e-5, rtol=1e-5)
    generator = torch.Generator().manual_seed(seed)
    u = torch.randint(USERS, (50,), generator=generator)
    i = torch.randint(ITEMS, (50,), generator=generator)
    torch.testing.assert_close(term.offsets(u, i), standardised(expected)[u, i], atol=1e-4, rtol=1e-4)


def test_sparse_scores_do_not_depend_on_how_many_products_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, weights = histories(1), random_weights(1)
    term = ItemTerm(UserRows(pairs, USERS, ITEMS), as_graph(weights))
    monkeypatch.setattr("infodcl_geo.graph.entries._ENTRIES", 3)
    torch.testing.assert_close(term.scores(torch.arange(USERS), slice(2, ITEMS)), plain(pairs, weights)[:, 2:])


@both
@pytest.mark.parametrize("window", [5, 65536])
def test_the_combination_is_the_sum_of_standardised_scores(form, window: int, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(item_term, "_WINDOW", window)
    pairs, weights = histories(2), random_weights(2)
    users, items = torch.randn(USERS, 4), torch.randn(ITEMS, 4)
    term, base = ItemTerm(UserRows(pairs, USERS, ITEMS), form(weights)), dot_scorer(users, items)
    scorer = combined_scorer(base, term, 0.7, ITEMS)
    expected = standardised(users @ items.T) + 0.7 * standardised(plain(pairs, weights))
    for chunk in (torch.tensor([4, 0, 2]), torch.tensor([1])):
        for part in (slice(0, ITEMS), slice(3, 8)):
            found = scorer(chunk, part)
            torch.testing.assert_close(found, expected[chunk, part], atol=1e-4, rtol=1e-4)
            found.fill_(-torch.inf)  # the ranking writes into what it gets
    # A user without a history is ranked by the embeddings alone; so is everybody without a weight.
    torch.testing.assert_close(scorer(torch.tensor([2]), slice(0, ITEMS)), standardised(users @ items.T)[[2]])
    assert combined_scorer(base, term, 0.0, ITEMS) is base
    ranked, _ = rank_items(scorer, torch.arange(USERS), 3, num_users=USERS, num_items=ITEMS, item_chunk_size=5)
    assert ranked.tolist() == expected.topk(3).indices.tolist()


def test_moments_of_slices_keep_their_digits_far_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_term, "_WINDOW", 4)
    scores = 1000 + 0.1 * torch.randn(3, ITEMS)
    mean, std = score_moments(lambda users, window: scores[users, window], torch.arange(3), ITEMS)
    torch.testing.assert_close(mean, scores.double().mean(1).float())
    torch.testing.assert_close(std, scores.double().std(1, correction=0).float(), atol=0, rtol=1e-3)


@both
def test_scores_that_are_all_the_same_say_nothing(form) -> None:  # type: ignore[no-untyped-def]
    pairs = histories(3)
    term = ItemTerm(UserRows(pairs, USERS, ITEMS), form(torch.full((ITEMS, ITEMS), 0.1)))
    assert (term.offsets(torch.arange(USERS), torch.arange(USERS)) == 0).all()


@both
def test_new_users_need_only_their_history(form) -> None:  # type: ignore[no-untyped-def]
    pairs, weights = histories(4), random_weights(4)
    term = ItemTerm(UserRows(pairs, USERS, ITEMS), form(weights))
    term.moments()
    known = [pairs[1, pairs[0] == user] for user in (5, 2, 7)]
    torch.testing.assert_close(term.scores_of_history(known), plain(pairs, weights)[[5, 2, 7]])
    torch.testing.assert_close(term.scores_of_history(known, slice(2, 6)), plain(pairs, weights)[[5, 2, 7], 2:6])
    repeated = [known[0].repeat(2)]
    torch.testing.assert_close(term.scores_of_history(repeated), plain(pairs, weights)[[5]])
    folded, users = term.of_histories(known), torch.tensor([0, 1, 2])
    torch.testing.assert_close(
        folded.offsets(users, users), term.offsets(torch.tensor([5, 2, 7]), users), atol=1e-5, rtol=1e-5
    )
    assert term.of_histories([]).num_users == 0
    with pytest.raises(InfodclGeoError, match=f"reach from {ITEMS} to {ITEMS}, of items 0 to {ITEMS - 1}"):
        term.of_histories([torch.tensor([ITEMS])])


@both
def test_a_term_survives_being_kept_as_tensors(form) -> None:  # type: ignore[no-untyped-def]
    rows = UserRows(histories(6), USERS, ITEMS)
    term = ItemTerm(rows, form(random_weights(6)))
    again = ItemTerm.from_tensors(rows, {name: value.clone() for name, value in term.tensors().items()})
    users = torch.arange(USERS)
    torch.testing.assert_close(again.scores(users, slice(0, ITEMS)), term.scores(users, slice(0, ITEMS)))


def test_weights_of_another_catalogue_are_refused() -> None:
    with pytest.raises(InfodclGeoError, match="12 items needs weights of as many rows and columns, not \\(3, 3\\)"):
        ItemTerm(UserRows(histories(0), USERS, ITEMS), torch.zeros(3, 3))


def tastes(valid: bool = True) -> Interactions:
    """Sixty users of forty items who like a circle of neighbours each, which few dimensions do not hold."""
    users, items = torch.arange(60)[:, None], torch.arange(40)[None]
    near = (items - users * 7) % 40 < 8
    pairs = near.nonzero().T
    part = torch.rand(pairs.size(1), generator=torch.Generator().manual_seed(0))
    held = pairs[:, part < 0.3] if valid else pairs[:, :0]
    return Interactions(pairs[:, part >= 0.3], held, pairs[:, :0], 60, 40, IdMap(range(60)), IdMap(range(40)), "tastes")


def term_of(data: Interactions, weights: ItemWeights | None = None) -> ItemTerm:
    sizes = data.num_users, data.num_items
    return ItemTerm(UserRows(data.train, *sizes), ease_weights(data.train, *sizes, 1.0) if weights is None else weights)


def test_the_weight_is_the_best_of_the_grid_on_validation() -> None:
    data, grid = tastes(), (0.0, 0.5, 4.0)
    base, term = dot_scorer(torch.randn(60, 3), torch.randn(40, 3)), term_of(data)
    choice = choose_weight(base, term, data, weights=grid, k=5)
    for weight in grid:
        scorer = combined_scorer(base, term, weight, 40)
        ranking = evaluate(scorer, data.valid, num_users=60, num_items=40, seen=[data.train], ks=(5,))
        assert choice.ndcg[weight] == pytest.approx(ranking.mean()["ndcg@5"])
    assert choice.value == 4.0  # noise helps least
    assert choice.ndcg[4.0] > choice.ndcg[0.0] + 0.2


def test_a_term_that_is_noise_is_left_out() -> None:
    data = tastes()
    good, sizes = term_of(data), (data.num_users, data.num_items)
    noise = term_of(data, torch.randn(sizes[1], sizes[1], generator=torch.Generator().manual_seed(1)))
    assert choose_weight(good.scores, noise, data, weights=(1.0, 0.0, 2.0), k=5).value == 0.0


def test_of_several_terms_the_best_on_validation_is_taken() -> None:
    data = tastes()
    noise = torch.randn(40, 40, generator=torch.Generator().manual_seed(1))
    terms = {"noise": term_of(data, noise), "ease": term_of(data)}
    base = dot_scorer(torch.randn(60, 3), torch.randn(40, 3))
    choice = choose_term(base, terms, data, weights=(0.0, 1.0), k=5)
    alone = choose_weight(base, terms["ease"], data, weights=(0.0, 1.0), k=5)
    assert (choice.form, choice.weight) == ("ease", 1.0)
    assert choice.ndcg["ease"] == alone.ndcg
    assert choice.ndcg["noise"][0.0] == pytest.approx(alone.ndcg[0.0])
    with pytest.raises(InfodclGeoError, match="an item term to try"):
        choose_term(base, {}, data)


def test_terms_are_fitted_by_form_on_training_alone() -> None:
    data = tastes()
    terms, users = fit_terms(data, l2=3.0), torch.arange(60)
    assert list(terms) == ["ease", "slim"]
    dense, sparse = ease_weights(data.train, 60, 40, 3.0), slim_graph(data.train, 60, 40)
    for form, weights in (("ease", dense), ("slim", sparse)):
        expected = term_of(data, weights).scores(users, slice(0, 40))
        torch.testing.assert_close(terms[form].scores(users, slice(0, 40)), expected)
    chosen = fit_terms(data, forms=("ease",))["ease"].weights
    torch.testing.assert_close(chosen, choose_l2(data)[1])
    with pytest.raises(InfodclGeoError, match="item terms are ease and slim, not 'knn'"):
        fit_terms(data, forms=("knn",))


def test_without_a_validation_split_nothing_is_chosen() -> None:
    data = tastes(valid=False)
    assert choose_weight(term_of(data).scores, term_of(data), data) == (0.0, {})
    assert choose_term(term_of(data).scores, {"ease": term_of(data)}, data) == ("ease", 0.0, {"ease": {}})
    choice, weights = choose_l2(data)
    assert choice == (200.0, {})
    torch.testing.assert_close(weights, ease_weights(data.train, 60, 40, 200.0))


@pytest.mark.parametrize("grid", [(), (0.1, -0.1)])
def test_a_grid_of_nothing_or_of_negative_weights_is_refused(grid: tuple[float, ...]) -> None:
    data = tastes()
    with pytest.raises(InfodclGeoError, match="weights of the item term"):
        choose_weight(term_of(data).scores, term_of(data), data, weights=grid)
    with pytest.raises(InfodclGeoError, match="a penalty to try"):
        choose_l2(data, ())


def test_the_penalty_is_the_best_of_its_candidates() -> None:
    data = tastes()
    choice, weights = choose_l2(data, (0.1, 5000.0), k=5)
    assert choice.ndcg[choice.value] == max(choice.ndcg.values())
    torch.testing.assert_close(weights, ease_weights(data.train, 60, 40, choice.value))
    for l2, ndcg in choice.ndcg.items():
        scores = term_of(data, ease_weights(data.train, 60, 40, l2)).scores
        ranking = evaluate(scores, data.valid, num_users=60, num_items=40, seen=[data.train], ks=(5,))
        assert ndcg == pytest.approx(ranking.mean()["ndcg@5"])


def test_validation_users_are_sampled_whole_and_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tastes()
    sample = validation_sample(data, 10)
    assert len(sample[0].unique()) == 10
    assert sample.size(1) == int(torch.isin(data.valid[0], sample[0].unique()).sum())
    assert torch.equal(sample, validation_sample(data, 10))
    monkeypatch.setattr(selection, "_CHUNK", 7)
    choice = choose_weight(term_of(data).scores, term_of(data), data, weights=(0.5,), k=5, max_users=10)
    ranking = evaluate(
        combined_scorer(term_of(data).scores, term_of(data), 0.5, 40),
        sample,
        num_users=60,
        num_items=40,
        seen=[data.train],
        ks=(5,),
    )
    assert choice.ndcg[0.5] == pytest.approx(ranking.mean()["ndcg@5"])


@pytest.mark.real_data
def test_on_office_the_term_doubles_what_popularity_finds(data_root: Path) -> None:
    data = load_interactions(data_root / "office")
    sizes = data.num_users, data.num_items
    term = ItemTerm(UserRows(data.train, *sizes), ease_weights(data.train, *sizes))
    counts = torch.bincount(data.train[1], minlength=data.num_items).float()
    popular = dot_scorer(torch.ones(data.num_users, 1), counts[:, None])
    choice = choose_weight(popular, term, data)
    assert choice.value > 0
    assert choice.ndcg[choice.value] > 2 * choice.ndcg[0.0]
