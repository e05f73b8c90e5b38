"""What a run leaves: the trained model with its numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from torch import Tensor

from .channels.base import Channel
from .configuration import Config
from .data.options import DataOptions
from .environment import versions
from .evaluation.ranking import Ranking
from .models import Model
from .models.item_term import ItemTerm
from .models.scoring import Scorer
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
        """User and item embeddings that rank, ``[M, d]`` and ``[N, d]``, of models that have them."""
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
            "test_by_user_degree": self.test_by_user_degree,
            "test_by_item_degree": self.test_by_item_degree,
            "config": config if data is None else {"data": asdict(data), **config},
            "history": self.result.history,
            "versions": versions(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
