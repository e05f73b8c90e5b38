"""What a run leaves: the trained model with its numbers."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from .channels.base import Channel
from .configuration import Config
from .data.interactions import Interactions
from .data.options import DataOptions
from .environment import versions
from .errors import OptionError
from .evaluation.groups import by_item_degree, by_user_degree
from .evaluation.ranking import Ranking
from .models import Model
from .models.item_term import ItemTerm
from .models.scoring import Scorer
from .selection import FORMS, add_term
from .training.loop import rank
from .training.state import TrainResult


@dataclass
class Run:
    """A trained model with its numbers."""

    config: Config
    """what ran, with what was chosen on the way"""
    model: Model
    scorer: Scorer
    """what ranks"""
    result: TrainResult
    test: dict[str, float] = field(default_factory=dict)
    """metrics of the test split; empty where it was not scored"""
    preparation_seconds: dict[str, float] = field(default_factory=dict)
    """what happens once before training: pretraining, channels and model; the fit of closed forms"""
    ranking: Ranking | None = None
    """the test split user by user"""
    channels: list[Channel] = field(default_factory=list)
    """channels that were built or given ready"""
    test_by_user_degree: dict[str, dict[str, float]] = field(default_factory=dict)
    """see :func:`~infodcl_geo.evaluation.groups.by_user_degree`"""
    test_by_item_degree: dict[str, dict[str, float]] = field(default_factory=dict)
    """see :func:`~infodcl_geo.evaluation.groups.by_item_degree`"""
    item_term: ItemTerm | None = None
    """what ``scorer`` adds to the model's, with the weight that ``config`` holds"""
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    """what validation chose beside the epoch, and by which numbers"""

    @property
    def embeddings(self) -> tuple[Tensor, Tensor] | None:
        """User and item embeddings that rank, ``[M, d]`` and ``[N, d]``, of models that rank by these alone."""
        state = self.model.state()
        if self.config.recipe.restore is not None or not {"users", "items"} <= set(state):
            return None
        return None if self.item_term is not None else (state["users"], state["items"])

    def state(self) -> dict[str, Tensor]:
        """Tensors from which it ranks again: those of the model, and of the item term."""
        return {**self.model.state(), **({} if self.item_term is None else self.item_term.tensors())}

    def metrics(self, data: DataOptions | None = None) -> dict[str, Any]:
        """Content of ``metrics.json``: numbers, what ran, with which versions, and how training went.

        Args:
            data: where the interactions came from.
        """
        notes = self.model.notes()
        config = self.config.to_dict()
        return {
            "model": self.config.name,
            "seed": self.config.training.seed,
            "best_epoch": self.result.best_epoch,
            "epochs_run": len(self.result.epoch_seconds),
            "seconds_per_epoch": self.result.seconds_per_epoch,
            "preparation_seconds": self.preparation_seconds,
            "channels": {
                c.name: {"source": c.source, "coverage": c.coverage, **notes.get(c.name, {})} for c in self.channels
            },
            **self.chosen,
            "validation": self.result.validation,
            "test": self.test,
            "test_without_training": None
            if self.ranking is None
            else {"users": self.ranking.cold_users, "items": self.ranking.cold_items},
            "test_by_user_degree": self.test_by_user_degree,
            "test_by_item_degree": self.test_by_item_degree,
            "config": config if data is None else {"data": asdict(data), **config},
            "history": self.result.history,
            "versions": versions(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def with_test(run: Run, data: Interactions, ranking: Ranking) -> Run:
    """The run with the metrics of the test split that ``ranking`` has."""
    user_degree, item_degree = (
        torch.bincount(pairs, minlength=size)
        for pairs, size in zip(data.train, (data.num_users, data.num_items), strict=True)
    )
    return replace(
        run,
        test=ranking.mean(),
        ranking=ranking,
        test_by_user_degree=by_user_degree(ranking, user_degree),
        test_by_item_degree=by_item_degree(ranking, item_degree),
    )


def check_item_term(config: Config, data: Interactions) -> None:
    """Refuse before anything is trained what the item term cannot do."""
    weight = getattr(config.options, "item_term_weight", None)
    if weight is not None and not config.has_item_term:
        raise OptionError("item_term_weight is given without a term: name one by item_term")
    if config.has_item_term and weight is None and not data.valid.size(1):
        raise OptionError("there is no validation split to choose the weight of the item term: give item_term_weight")


def with_item_term(run: Run, data: Interactions, ks: tuple[int, ...], device: torch.device) -> Run:
    """The run with the item term that its options ask for, and its validation metrics."""
    options: Any = run.config.options
    if not run.config.has_item_term or not (run.config.recipe.closed_form or run.result.best_epoch):
        return run
    begin = time.perf_counter()
    forms = FORMS if options.item_term == "auto" else (options.item_term,)
    found = add_term(run.scorer, data, forms=forms, weight=options.item_term_weight, device=device)
    options = replace(options, item_term=found.form, item_term_weight=found.weight)
    # The result is also what training and its checkpoints hold: these keep the model's own numbers.
    result = replace(run.result)
    if data.valid.size(1):
        result.validation = rank(data, found.scorer, "valid", ks=ks, device=device, name=run.config.name).mean()
    return replace(
        run,
        config=replace(run.config, options=options),
        scorer=found.scorer,
        result=result,
        item_term=found.term,
        chosen={"item_term": found.record()},
        preparation_seconds={**run.preparation_seconds, "item term": time.perf_counter() - begin},
    )
