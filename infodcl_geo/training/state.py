"""What training knows as it goes, and what it found."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..models.base import Model
from .finite import FiniteWatch
from .options import TrainOptions
from .sampling import BatchSampler, EpochPlan


class StopTraining(Exception):
    """Raised by a callback to end training; what was best so far is kept. Its text says why."""


@dataclass
class TrainResult:
    """What a training run found; the model it was run on holds the best epoch's weights."""

    best_epoch: int = 0
    """0 where no epoch was validated"""
    validation: dict[str, float] = field(default_factory=dict)
    """metrics of the best epoch on the validation split"""
    epoch_seconds: list[float] = field(default_factory=list)
    """training time of each epoch, evaluation excluded"""
    history: list[dict[str, float]] = field(default_factory=list)
    """for each epoch its number, the seconds since the start and loss terms, and metrics if it was validated"""
    ended: str = ""
    """why training ended"""
    interrupted: bool = False
    """whether it was ended from outside (Ctrl-C, SIGTERM) and can go on"""

    @property
    def seconds_per_epoch(self) -> float:
        return statistics.median(self.epoch_seconds) if self.epoch_seconds else 0.0


@dataclass
class EpochProgress:
    """How far an epoch is."""

    start: Tensor
    """state of the sampler's generator before the epoch was drawn"""
    plan: EpochPlan
    step: int = 0
    """steps done"""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """of the loss terms over those steps"""
    seconds: float = 0.0
    """training time of those steps, as far as it was before a resumption"""


@dataclass
class TrainState:
    """What callbacks see of a training run, and how they end it."""

    name: str
    """the model, as the user calls it"""
    model: Model
    optimizer: torch.optim.Optimizer
    sampler: BatchSampler
    options: TrainOptions
    watch: FiniteWatch
    identity: str = ""
    """of the run, for its checkpoints"""
    epoch: int = 0
    """epochs done"""
    result: TrainResult = field(default_factory=TrainResult)
    best: float = -float("inf")
    """best value of the monitored metric"""
    best_weights: dict[str, Tensor] | None = None
    progress: EpochProgress | None = None
    """of the epoch that is under way"""
    stopped: str | None = None
    """why training is to end, once it is"""
    error: BaseException | None = None
    """what ended it, if an error did"""
    seconds_before: float = 0.0
    """that the run had taken before it was resumed"""
    started: float = field(default_factory=time.perf_counter)
    _constants: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Buffers that weights are saved without. Training may move some: those are no longer these, at this version.
        saved = self.model.state_dict().keys()
        self._constants = {
            name: (buffer, buffer._version) for name, buffer in self.model.named_buffers() if name not in saved
        }

    @property
    def history(self) -> list[dict[str, float]]:
        """See :attr:`TrainResult.history`."""
        return self.result.history

    @property
    def seconds(self) -> float:
        """Since the start of the run, without pauses between an interruption and a resumption."""
        return self.seconds_before + time.perf_counter() - self.started

    @property
    def validated(self) -> bool:
        """Whether the last epoch was."""
        return bool(self.history) and self.options.monitor in self.history[-1]

    @property
    def place(self) -> tuple[int, int]:
        """Whole epochs, and steps of the next one, that lie behind."""
        return self.epoch, 0 if self.progress is None else self.progress.step

    def stop(self, reason: str) -> None:
        """End training after this step (or this hook); the first reason counts."""
        self.stopped = self.stopped or reason

    def moved_buffers(self) -> dict[str, Tensor]:
        """Buffers outside ``state_dict`` that training has changed."""
        saved = self.model.state_dict().keys()
        return {
            name: buffer
            for name, buffer in self.model.named_buffers()
            if name not in saved and not self._unchanged(name, buffer)
        }

    def _unchanged(self, name: str, buffer: Tensor) -> bool:
        known, version = self._constants.get(name, (None, 0))
        return known is buffer and version == buffer._version

    def verify(self) -> None:
        """See that all losses and gradients so far, and all weights, are finite.

        Raises:
            TrainingError: names the first that is not.
        """
        if self.progress is None or not self.progress.step:
            return
        step, term = self.watch.first_bad() or (self.progress.step - 1, not_finite(self.model))
        if term:
            raise self.diverged(step, term)

    def diverged(self, step: int, term: str) -> TrainingError:
        """The error for a term that is not finite in a step (from 0) of the epoch under way."""
        epoch, steps = self.epoch + 1, len(self.sampler)
        error = TrainingError(
            f"{self.name}: {term} is not finite in step {step + 1} of {steps} of epoch {epoch}; a smaller lr may help"
        )
        error.epoch, error.step, error.term, error.result = epoch, step + 1, term, self.result
        error.batch = None if self.progress is None else self.progress.plan[step]
        return error


def not_finite(model: nn.Module) -> str:
    """Name of the first parameter or saved buffer of a model that is not finite, in one look at the device."""
    found = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    if not found:
        return ""
    # A sum is finite only if all its terms are, and reads faster than a comparison of each; it may overflow, though.
    doubtful = torch.stack([value.sum().double() for value in found.values()]).isfinite().logical_not().tolist()
    names = [name for name, bad in zip(found, doubtful, strict=True) if bad]
    return next((f"parameter {name}" for name in names if not bool(found[name].isfinite().all())), "")
