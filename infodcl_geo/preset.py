"""What the data want of a model, chosen on their validation split by successive halving before the model is trained."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from .channels.base import Channel, PretrainedVectors
from .channels.build import FROM_INTERACTIONS
from .configuration import Config, configure
from .data.interactions import Interactions
from .environment import device_of
from .errors import OptionError, TrainingError
from .experiment import fit
from .models import RECIPES, Recipe
from .models.item_term import ItemTerm
from .models.scoring import Scorer
from .outcome import Run
from .pretraining import pretrain
from .selection import choose_term, fit_terms
from .training.options import TrainOptions

DIMS = (64, 128, 256)
"""Sizes of the embeddings that are tried beside the configuration's own."""
CHANNELS = ("user", "ease", "user,ease")
"""Channels that are tried, of models that read channels made of interactions."""
HEAVIER = {"contrast": 3.0, "reconstruction": 10.0}
"""Factors of the weights that are tried as a whole, of models that have them."""
TERM_WEIGHTS = (0.0, 0.2, 0.5, 1.0)
"""Weights of the item term with which candidates are judged, of which each costs a ranking."""
KEPT = 3
"""Of so many candidates one goes on."""


def can_choose(recipe: Recipe) -> bool:
    """Whether there is anything to choose: the model is trained, and has embeddings that an item term can stand by."""
    return not recipe.closed_form and {"dim", "item_term"} <= set(recipe.option_names)


def sizes_of(config: Config) -> list[dict[str, Any]]:
    """Sizes of the embeddings that are tried, as changes of ``config``; none at all is the first."""
    dim = config.options.dim  # type: ignore[attr-defined]
    return [{}, *({"dim": other} for other in DIMS if other != dim)]


def objectives_of(config: Config) -> list[dict[str, Any]]:
    """What is tried beside the size, as changes of ``config``, every combination; none at all is the first.

    Channels (:data:`CHANNELS`, unless ``config`` asks for channels from files) and the weights of the objective, its
    own or heavier (:data:`HEAVIER`).
    """
    options, names = config.options, config.recipe.option_names
    channels: list[dict[str, Any]] = [{}]
    own = getattr(options, "channel_names", None)
    if own is not None and set(own) <= set(FROM_INTERACTIONS):
        channels += [{"channels": other} for other in CHANNELS if other.split(",") != own]
    weights: list[dict[str, Any]] = [{}]
    heavier = {name: getattr(options, name) * factor for name, factor in HEAVIER.items() if name in names}
    if "reconstruction" in heavier:
        heavier["reconstruction"] = min(heavier["reconstruction"], 0.9)
    if any(heavier.values()):
        weights.append({name: round(value, 6) for name, value in heavier.items()})
    return [{**a, **b} for b, a in itertools.product(weights, channels)]


def rungs(count: int, epochs: int) -> list[tuple[int, int]]:
    """Candidates and epochs of each, rung by rung; all epochs together are at most ``epochs``.

    Every rung has the same share of the epochs, and a third of the candidates of the one before. Where there are fewer
    epochs than candidates the last of these are not tried.

    Args:
        count: candidates.
        epochs: what the search may cost.
    """
    number = max(1, math.ceil(math.log(count, KEPT) - 1e-9)) if count > 1 else 0
    found: list[tuple[int, int]] = []
    for _ in range(number):
        share = epochs // number
        count = min(count, share)
        if count < 2:
            break
        found.append((count, share // count))
        count = -(-count // KEPT)
    return found


@dataclass
class _Known:
    """What runs of one size share, so that it is made once."""

    changes: dict[str, Any]
    vectors: PretrainedVectors | None


class _Tried(NamedTuple):
    """What was tried, and the NDCG@20 by epochs."""

    changes: dict[str, Any]
    ndcg: dict[int, float]

    def record(self) -> dict[str, Any]:
        return {"changes": self.changes, "ndcg@20": {str(epochs): value for epochs, value in self.ndcg.items()}}


class _Halved(NamedTuple):
    """The best candidate, the epochs that this took, and what was tried."""

    best: dict[str, Any]
    epochs: int
    tried: list[dict[str, Any]]


class _Search:
    def __init__(self, data: Interactions, config: Config, terms: dict[str, ItemTerm], device: torch.device) -> None:
        self.data, self.config, self.terms, self.device = data, config, terms, device
        self.sizes: dict[int, _Known] = {}
        self.channels: dict[tuple[int, str], list[Channel]] = {}

    def inputs(self, changes: dict[str, Any]) -> tuple[Config, dict[str, Any]]:
        """The configuration with ``changes``, and what is ready for it."""
        config = self.config.changed(**changes)
        options: Any = config.options
        known = self.sizes.get(options.dim)
        if known is None:
            vectors, found = None, {}
            if config.uses_vectors:
                chosen, vectors = pretrain(self.data, options, seed=config.training.seed, device=self.device)
                found = {"smoothing": chosen.smoothing}
            known = self.sizes[options.dim] = _Known(found, vectors)
        ready = self.channels.get((options.dim, getattr(options, "channels", "")))
        return config.changed(**known.changes), {"vectors": known.vectors, "channels": ready}

    def ndcg(self, changes: dict[str, Any], epochs: int) -> float:
        """NDCG@20 on validation after ``epochs``, with the best item term."""
        config, ready = self.inputs(changes)
        training = replace(config.training, epochs=epochs, eval_every=epochs, patience=epochs)
        short = replace(config, training=training).changed(item_term="none", item_term_weight=None)
        try:
            run = fit(self.data, short, ks=(20,), device=self.device, progress=False, **ready)
        except TrainingError:  # numbers that are not finite
            return -math.inf
        options: Any = run.config.options
        if options.num_layers is not None:
            self.sizes[options.dim].changes["num_layers"] = options.num_layers
        if run.config.recipe.reads_channels:
            self.channels[options.dim, options.channels] = run.channels
        return self._with_term(run.scorer)

    def halve(self, plan: Sequence[tuple[int, int]], candidates: Sequence[dict[str, Any]]) -> _Halved:
        """The best of ``candidates`` by rungs of how many and how many epochs; the first, if there are no rungs."""
        tried = [_Tried(changes, {}) for changes in candidates]
        alive = list(tried)
        for count, epochs in plan:
            alive = alive[:count]
            for one in alive:
                one.ndcg[epochs] = self.ndcg(one.changes, epochs)
            alive.sort(key=lambda one: -one.ndcg[epochs])  # of equal ones the first
        spent = sum(min(count, len(tried)) * epochs for count, epochs in plan)
        return _Halved(alive[0].changes, spent, [one.record() for one in tried if one.ndcg])

    def _with_term(self, scorer: Scorer) -> float:
        choice = choose_term(scorer, self.terms, self.data, weights=TERM_WEIGHTS)
        # The form that suits the first candidate judges the others; the trained model is asked for its own again.
        self.terms = {choice.form: self.terms[choice.form]}
        return choice.ndcg[choice.form].get(choice.weight, 0.0)


def search_epochs(training: TrainOptions) -> int:
    """Epochs that a search may take: twice what one training takes at least, be it stopped as early as can be."""
    return 2 * min(training.epochs, training.patience)


def fit_preset(
    data: Interactions,
    config: Config | Recipe | str = RECIPES[0],
    *,
    device: torch.device | str | None = None,
    **fitting: Any,
) -> Run:
    r"""Choose the options that suit the data, then :func:`~infodcl_geo.experiment.fit` the model with them.

    The sizes of :func:`sizes_of` are trained for an epoch each. With the best one all of :func:`objectives_of` are
    trained for a few, the best third of them for more, until one is left (successive halving). Each is judged by
    NDCG@20 on validation with the item term that suits it. The search takes at most
    :math:`2 \min(\text{epochs}, \text{patience})` epochs, so that it and the training together have at most three times
    the epochs of the training alone. Epochs of larger embeddings or of more channels take longer. The item term, where
    the configuration has none, is 'auto'. The same configuration and data give the same choice.

    Args:
        data: the training split trains, the validation split chooses.
        config: a model with its settings; ``dim``, ``channels``, ``contrast``, ``reconstruction`` and ``item_term``
            are chosen.
        device: where to train.
        fitting: as of ``fit``, but for ``channels`` and ``vectors``.

    Returns:
        The run, with what was tried in its ``chosen["preset"]``.

    Raises:
        OptionError: if the model has nothing to choose, or there is no validation split.
    """
    config = config if isinstance(config, Config) else configure(config)
    if not can_choose(config.recipe):
        raise OptionError(f"{config.name} has nothing for preset auto to choose: it is for trained embeddings")
    if not data.valid.size(1):
        raise OptionError("preset auto chooses on the validation split, and there is none")
    begin, target = time.perf_counter(), device_of(device)
    if not config.has_item_term:
        config = config.changed(item_term="auto")
    form = config.options.item_term  # type: ignore[attr-defined]
    terms = fit_terms(data, device=target) if form == "auto" else fit_terms(data, forms=(form,), device=target)
    search = _Search(data, config, terms, target)
    budget = search_epochs(config.training)
    # One epoch tells sizes apart and nothing else, so that the others are tried with the best size alone, for longer.
    by_size = search.halve([(len(sizes_of(config)), 1)] if budget > 1 else [], sizes_of(config))
    left = budget - by_size.epochs
    found = search.halve(
        rungs(len(objectives_of(config)), left), [{**by_size.best, **c} for c in objectives_of(config)]
    )
    chosen, ready = search.inputs(found.best)
    record = {
        "chosen": found.best,
        "search_epochs": by_size.epochs + found.epochs,
        "search_seconds": time.perf_counter() - begin,
        "tried": by_size.tried + found.tried,
    }
    try:
        outcome = fit(data, chosen, device=target, **ready, **fitting)
    except TrainingError as error:
        if error.run is not None:
            error.run.chosen["preset"] = record
        raise
    outcome.chosen["preset"] = record
    return outcome
