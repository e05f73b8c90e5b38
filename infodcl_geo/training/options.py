"""What training is told."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import OptionError


@dataclass(frozen=True)
class TrainOptions:
    """How a model is trained.

    Args:
        epochs: passes over the training interactions, at most.
        batch_size: interactions a step.
        lr: learning rate of Adam.
        adam: 'dense' passes over the whole embedding tables in each step, 'lazy' over the rows that the step looked
            up (:class:`~infodcl_geo.training.optim.LazyAdam`, the same method), which only models allow whose steps
            read rows; 'fused' makes the steps that are BPR alone in one compiled operation on their rows, which
            matrix factorisation and InfoDCL have (needs the extra numba on a CPU, triton on a GPU). All three are the
            same method and differ by rounding. 'auto' is fused where it can be from 25,000 users and items together
            on (on a GPU from the first on), lazy from 200,000 on where it can be, and dense otherwise.
        matmul_precision: of float32 matrix products while training, see ``torch.set_float32_matmul_precision``. On a
            CPU with bfloat16 instructions 'medium' makes InfoNCE faster; on a GPU 'high' allows TensorFloat-32.
        eval_every: epochs between validations.
        patience: epochs without a better validation after which training stops.
        monitor: validation metric that selects the epoch.
        seed: of initial weights, shuffling, negatives and noise.
    """

    epochs: int = 300
    batch_size: int = 2048
    lr: float = 0.005
    adam: Literal["auto", "dense", "lazy", "fused"] = "auto"
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    eval_every: int = 5
    patience: int = 50
    monitor: str = "ndcg@20"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_every", "patience"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise OptionError(f"lr must be positive, not {self.lr}")
        if not 0 <= self.seed < 2**63:
            raise OptionError(f"seed must be a whole number from 0 to 2^63 - 1, not {self.seed}")
        if self.adam not in ("auto", "dense", "lazy", "fused"):
            raise OptionError(f"adam must be 'auto', 'dense', 'lazy' or 'fused', not {self.adam!r}")
        if self.matmul_precision not in ("highest", "high", "medium"):
            raise OptionError(f"matmul_precision must be 'highest', 'high' or 'medium', not {self.matmul_precision!r}")


@dataclass(frozen=True)
class CheckpointOptions:
    """Where and how often training writes checkpoints.

    Args:
        folder: of the checkpoints alone; made if it is not there.
        every_minutes: between checkpoints, in the midst of an epoch too; ``None`` for none by time.
        every_epochs: between checkpoints, at the end of an epoch; ``None`` for none by epochs.
        keep: the newest so many stay.
    """

    folder: str | Path
    every_minutes: float | None = 10.0
    every_epochs: int | None = None
    keep: int = 1

    def __post_init__(self) -> None:
        if self.every_minutes is not None and not self.every_minutes > 0:
            raise OptionError(f"every_minutes must be positive, not {self.every_minutes}")
        if self.every_epochs is not None and self.every_epochs < 1:
            raise OptionError(f"every_epochs must be at least 1, not {self.every_epochs}")
        if self.keep < 1:
            raise OptionError(f"keep must be at least 1, not {self.keep}")
