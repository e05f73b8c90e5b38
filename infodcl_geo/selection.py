"""What validation chooses without training again: the penalty of item-item weights, the weight of the item term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .data.interactions import Interactions
from .errors import OptionError
from .evaluation.ranking import evaluate
from .graph.item_item import DEFAULT_L2, DENSE_BYTES, ItemWeights, item_weights, slim_graph
from .models.item_term import Combination, ItemTerm, combined_scorer
from .models.scoring import Scorer, UserRows

TERM_WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Weights of the item term that are tried; 0 leaves it out."""

L2_CANDIDATES = (50.0, 100.0, 200.0, 400.0, 800.0)
"""Penalties of item-item weights that are tried."""

FORMS = ("ease", "slim")
"""Forms of the item term's weights."""

MAX_USERS = 4096
"""Users of the validation split that judge, at most."""

_CHUNK = 1024


class Choice(NamedTuple):
    """A value, and the NDCG of every candidate."""

    value: float
    ndcg: dict[float, float]


def validation_sample(data: Interactions, max_users: int = MAX_USERS) -> Tensor:
    """Validation pairs ``[2, E]`` of at most ``max_users`` users, always the same ones."""
    users = data.valid[0].unique()
    if len(users) <= max_users:
        return data.valid
    some = users[torch.randperm(len(users), generator=torch.Generator().manual_seed(0))[:max_users]]
    return data.valid[:, torch.isin(data.valid[0], some)]


def choose_weight(
    scorer: Scorer,
    term: ItemTerm,
    data: Interactions,
    *,
    weights: Sequence[float] = TERM_WEIGHTS,
    k: int = 20,
    max_users: int = MAX_USERS,
) -> Choice:
    r"""The weight of the item term beside ``scorer`` with the best NDCG@k on validation; the smallest of equal ones.

    Both parts are scored once, whatever the number of weights, see :class:`~infodcl_geo.models.item_term.Combination`.

    Args:
        scorer: of the trained model.
        term: of the training histories, on the device of ``scorer``.
        data: its training items are left out of the ranking, its validation split judges.
        weights: candidates.
        k: cut-off of NDCG.
        max_users: users that judge, at most.

    Returns:
        The weight and the NDCG of each; without a validation split weight 0 and nothing tried.

    Raises:
        OptionError: if there is no candidate, or a negative one.
    """
    if not weights or min(weights) < 0:
        raise OptionError(f"weights of the item term are numbers from zero on, at least one, not {tuple(weights)}")
    if not data.valid.size(1):
        return Choice(0.0, {})
    combination = Combination(scorer, term, data.num_items)
    return _best(
        {weight: combination.scorer(weight) for weight in sorted(set(weights))}, data, k, max_users, term.device
    )


class TermChoice(NamedTuple):
    """An item term and its weight, and the NDCG of every candidate."""

    form: str
    """name of the term"""
    weight: float
    ndcg: dict[str, dict[float, float]]
    """by form and weight"""


def choose_term(
    scorer: Scorer,
    terms: Mapping[str, ItemTerm],
    data: Interactions,
    *,
    weights: Sequence[float] = TERM_WEIGHTS,
    k: int = 20,
    max_users: int = MAX_USERS,
) -> TermChoice:
    """Which of several item terms is added to ``scorer``, and with which weight: the best NDCG@k on validation.

    Sparse interactions that fall into small groups (Amazon-Office) want weights of near items alone, those with a few
    items that everybody has (TikTok) all weights of the closed form; the difference is some percent either way.

    Args:
        terms: candidates by name; of equal ones the first is taken.
        scorer, data, weights, k, max_users: as in :func:`choose_weight`.

    Raises:
        OptionError: if there is no term, or a weight is wrong.
    """
    if not terms:
        raise OptionError("choose_term needs an item term to try")
    found = {
        name: choose_weight(scorer, term, data, weights=weights, k=k, max_users=max_users)
        for name, term in terms.items()
    }
    best = max(found, key=lambda name: found[name].ndcg.get(found[name].value, 0.0))
    return TermChoice(best, found[best].value, {name: choice.ndcg for name, choice in found.items()})


def fit_terms(
    data: Interactions, *, l2: float | None = None, forms: Sequence[str] = FORMS, device: torch.device | str = "cpu"
) -> dict[str, ItemTerm]:
    """Item terms of the training histories, by the form of their weights, for :func:`choose_term`.

    Args:
        l2: penalty of EASE; ``None`` for that of :func:`choose_l2`.
        forms: 'ease' (:func:`~infodcl_geo.graph.item_item.item_weights`, dense where that fits) and 'slim'
            (:func:`~infodcl_geo.graph.item_item.slim_graph`).
        device: of the terms.

    Raises:
        OptionError: if a form is unknown.
    """
    unknown = [form for form in forms if form not in FORMS]
    if unknown:
        raise OptionError(f"item terms are {' and '.join(FORMS)}, not {unknown[0]!r}")
    train, sizes = data.train.to(device), (data.num_users, data.num_items)
    rows = UserRows(train, *sizes)
    terms: dict[str, ItemTerm] = {}
    for form in forms:
        if form == "slim":
            terms[form] = ItemTerm(rows, slim_graph(train, *sizes).to(device))
        elif l2 is None:
            chosen, weights = choose_l2(data, device=device)
            terms[form] = ItemTerm(rows, weights, chosen.value)
        else:
            terms[form] = ItemTerm(rows, item_weights(train, *sizes, l2), l2)
    return terms


class AddedTerm(NamedTuple):
    """What ranks with an item term, and how that was chosen."""

    scorer: Scorer
    term: ItemTerm | None
    """``None`` where its weight is 0"""
    form: str
    weight: float
    l2: float | None
    """penalty of EASE's weights"""
    ndcg: dict[str, dict[float, float]]
    """NDCG@20 of at most 4,096 validation users by form and weight"""

    def record(self) -> dict[str, Any]:
        """The choice as plain data."""
        tried = {form: {f"{weight:g}": value for weight, value in by.items()} for form, by in self.ndcg.items()}
        value = self.ndcg[self.form].get(self.weight)
        return {"form": self.form, "weight": self.weight, "l2": self.l2, "ndcg@20": value, "tried": tried}


def add_term(
    scorer: Scorer,
    data: Interactions,
    *,
    forms: Sequence[str] = FORMS,
    weight: float | None = None,
    terms: Mapping[str, ItemTerm] | None = None,
    device: torch.device | str = "cpu",
) -> AddedTerm:
    """``scorer`` with the item term, form, penalty and weight that validation prefers (:func:`choose_term`).

    Args:
        scorer: of a trained model, on ``device``.
        data: its training histories are fitted, its validation split judges.
        forms: that are fitted, see :func:`fit_terms`.
        weight: of the term, if it is not to be chosen.
        terms: what :func:`fit_terms` gave, if it is there already.
        device: where to compute.

    Raises:
        OptionError: if a form is unknown, or the weight negative.
    """
    terms = fit_terms(data, forms=forms, device=device) if terms is None else terms
    choice = choose_term(scorer, terms, data, weights=TERM_WEIGHTS if weight is None else (weight,))
    taken = choice.weight if weight is None else weight
    term = terms[choice.form] if taken > 0 else None
    if term is None:
        return AddedTerm(scorer, None, choice.form, 0.0, terms[choice.form].l2, choice.ndcg)
    ranks = combined_scorer(scorer, term, taken, data.num_items)
    return AddedTerm(ranks, term, choice.form, taken, term.l2, choice.ndcg)


def choose_l2(
    data: Interactions,
    candidates: Sequence[float] = L2_CANDIDATES,
    *,
    k: int = 20,
    max_users: int = MAX_USERS,
    max_bytes: int = DENSE_BYTES,
    device: torch.device | str = "cpu",
) -> tuple[Choice, ItemWeights]:
    """The penalty of item-item weights that on their own have the best NDCG@k on validation, and these weights.

    Args:
        data: training interactions fit, the validation split judges; without one :data:`DEFAULT_L2` is taken.
        candidates: penalties; each costs a fit.
        k, max_users: as in :func:`choose_weight`.
        max_bytes: see :func:`~infodcl_geo.graph.item_item.item_weights`.
        device: where to compute.

    Raises:
        OptionError: if there is no candidate.
    """
    if not candidates:
        raise OptionError("choose_l2 needs a penalty to try")
    train, sizes = data.train.to(device), (data.num_users, data.num_items)
    if not data.valid.size(1):
        return Choice(DEFAULT_L2, {}), item_weights(train, *sizes, DEFAULT_L2, max_bytes=max_bytes)
    rows = UserRows(train, *sizes)
    ndcg: dict[float, float] = {}
    best: tuple[float, ItemWeights] | None = None  # so that never more than two are held
    for l2 in sorted(set(candidates)):
        weights = item_weights(train, *sizes, l2, max_bytes=max_bytes)
        ndcg |= _best({l2: ItemTerm(rows, weights).scores}, data, k, max_users, train.device).ndcg
        if best is None or ndcg[l2] > ndcg[best[0]]:
            best = l2, weights
    assert best is not None
    return Choice(best[0], ndcg), best[1]


def _best(scorers: dict[float, Scorer], data: Interactions, k: int, max_users: int, device: torch.device) -> Choice:
    """The key whose scorer has the largest NDCG@k; users outside, scorers inside, so that these can share work."""
    held_out, train = validation_sample(data, max_users).to(device), data.train.to(device)
    total, users = dict.fromkeys(scorers, 0.0), held_out[0].unique()
    for chunk in users.split(_CHUNK):
        pairs = held_out[:, torch.isin(held_out[0], chunk)]
        for key, scorer in scorers.items():
            ranking = evaluate(
                scorer,
                pairs,
                num_users=data.num_users,
                num_items=data.num_items,
                seen=[train],
                ks=(k,),
                chunk_size=_CHUNK,
            )
            total[key] += float(ranking.per_user[f"ndcg@{k}"].sum())
    ndcg = {key: value / len(users) for key, value in total.items()}
    return Choice(max(ndcg, key=lambda key: ndcg[key]), ndcg)
