"""The training loop: epochs of batches, selection on validation, early stopping."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data.interactions import Interactions
from ..evaluation.ranking import Ranking, evaluate
from ..models.base import Model
from ..models.scoring import Scorer
from .optim import LazyAdam
from .sampling import BatchSampler


@dataclass(frozen=True)
class TrainOptions:
    """How a model is trained.

    Args:
        epochs: passes over the training interactions, at most.
        batch_size: interactions a step.
        lr: learning rate of Adam.
        adam: 'dense' passes over the whole embedding tables in each step, 'lazy' over the rows that the step looked
            up (:class:`~infodcl_geo.training.optim.LazyAdam`, the same method), which MF and InfoDCL with sampled candidates
            allow; 'auto' is lazy for those of at least 200,000 users and items.
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
    adam: Literal["auto", "dense", "lazy"] = "auto"
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    eval_every: int = 5
    patience: int = 50
    monitor: str = "ndcg@20"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "eval_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, not {self.lr}")
        if self.adam not in ("auto", "dense", "lazy"):
            raise ValueError(f"adam must be 'auto', 'dense' or 'lazy', not {self.adam!r}")
        if self.matmul_precision not in ("highest", "high", "medium"):
            raise ValueError(f"matmul_precision must be 'highest', 'high' or 'medium', not {self.matmul_precision!r}")


@dataclass
class TrainResult:
    """What a training run found; the model it was run on holds the best epoch's weights."""

    best_epoch: int = 0
    validation: dict[str, float] = field(default_factory=dict)
    """metrics of the best epoch on the validation split"""
    epoch_seconds: list[float] = field(default_factory=list)
    """training time of each epoch, evaluation excluded"""
    history: list[dict[str, float]] = field(default_factory=list)
    """for each validated epoch its number, the seconds since the start, loss terms and metrics"""

    @property
    def seconds_per_epoch(self) -> float:
        return statistics.median(self.epoch_seconds) if self.epoch_seconds else 0.0


LAZY_ROWS = 200_000
"""Users and items from which on ``adam='auto'`` updates only the rows of a step."""


def make_optimizer(
    model: torch.nn.Module, lr: float, *, adam: Literal["auto", "dense", "lazy"] = "dense", anchors: int = 0
) -> torch.optim.Optimizer:
    """Adam, in its fused implementation, which updates each table in one pass, or lazily.

    Args:
        model: what to train; its own ``row_tables`` say whether and which tables can be updated lazily.
        lr: learning rate.
        adam: see :class:`TrainOptions`.
        anchors: of a batch, at most.

    Raises:
        ValueError: for 'lazy', if a step of the model reads whole tables.
    """
    tables = model.row_tables(anchors) if isinstance(model, Model) and adam != "dense" else []
    if adam == "lazy" and not tables:
        raise ValueError(f"a step of this {type(model).__name__} reads whole tables: adam='lazy' needs one of rows")
    if adam == "lazy" or (tables and sum(table.num_embeddings for table in tables) >= LAZY_ROWS):
        lazy = {table.weight for table in tables}
        return LazyAdam(tables, (weight for weight in model.parameters() if weight not in lazy), lr=lr)
    return torch.optim.Adam(model.parameters(), lr=lr, fused=True)


@contextmanager
def matmul_precision(precision: Literal["highest", "high", "medium"]) -> Iterator[None]:
    """``torch.set_float32_matmul_precision`` for a while."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def set_up(model: Model, data: Interactions, options: TrainOptions) -> tuple[BatchSampler, torch.optim.Optimizer]:
    """Batches of the training split, on the model's device and from the seed of ``options``, and the optimizer."""
    device = next(model.parameters()).device
    sampler = BatchSampler(
        data.train.to(device),
        data.num_users,
        data.num_items,
        batch_size=options.batch_size,
        anchors=model.anchors,
        anchor_batch=model.anchor_batch,
        generator=torch.Generator(device).manual_seed(options.seed),
    )
    by_item = max(model.anchor_batch, -(-data.num_items // len(sampler)))
    anchors = by_item if model.anchors == "items" else options.batch_size
    return sampler, make_optimizer(model, options.lr, adam=options.adam, anchors=anchors)


def train(
    model: Model,
    data: Interactions,
    options: TrainOptions = TrainOptions(),
    *,
    ks: tuple[int, ...] = (10, 20, 50),
    progress: bool = True,
    on_evaluation: Callable[[int, dict[str, float]], None] | None = None,
) -> TrainResult:
    """Train ``model`` and leave it with the weights of its best epoch on validation.

    The test split is never looked at. Without validation interactions the last epoch counts as the best.

    Args:
        model: on the device where training happens.
        data: its training and validation splits are used.
        options: see :class:`TrainOptions`.
        ks: cut-offs of the validation metrics.
        progress: show (on a terminal) a progress bar with the loss terms, the monitored metric and the time left.
        on_evaluation: called with the epoch and the validation metrics after each validation; an exception of
            its own ends the training (a pruned trial, say).

    Raises:
        ValueError: if ``options.monitor`` is not among the metrics.
        FloatingPointError: if the loss is not finite.
    """
    device = next(model.parameters()).device
    sampler, optimizer = set_up(model, data, options)
    result = TrainResult()
    best_state: dict[str, Tensor] | None = None
    best = -float("inf")
    quiet = None if progress else True
    started = time.perf_counter()
    bar = tqdm(range(1, options.epochs + 1), unit="epoch", disable=quiet, desc=type(model).__name__)
    for epoch in bar:
        start = time.perf_counter()
        with matmul_precision(options.matmul_precision):
            terms = train_epoch(model, sampler, optimizer, sampler.generator)
        result.epoch_seconds.append(time.perf_counter() - start)
        total = sum(terms.values())
        if total != total or abs(total) == float("inf"):
            raise FloatingPointError(f"the loss is {total} in epoch {epoch}: {terms}; a smaller lr may help")
        if epoch % options.eval_every and epoch != options.epochs:
            continue
        if data.valid.size(1):
            metrics = rank(data, model.scorer(), "valid", ks=ks, device=device).mean()
            if options.monitor not in metrics:
                raise ValueError(f"monitor must be one of {', '.join(metrics)}, not {options.monitor!r}")
        else:
            metrics = {options.monitor: float(epoch)}
        result.history.append({"epoch": epoch, "seconds": time.perf_counter() - started, **terms, **metrics})
        if metrics[options.monitor] > best:
            best, result.best_epoch = metrics[options.monitor], epoch
            result.validation = metrics if data.valid.size(1) else {}
            best_state = {name: value.detach().clone() for name, value in model.state_dict().items()}
        shown = {name: f"{value:.4g}" for name, value in terms.items()}
        cut_off = options.monitor.partition("@")[2]
        recall = {name: f"{value:.4f}" for name, value in metrics.items() if name == f"recall@{cut_off}"}
        bar.set_postfix({**shown, **recall, options.monitor: f"{metrics[options.monitor]:.4f}", "best": f"{best:.4f}"})
        if on_evaluation is not None:
            on_evaluation(epoch, metrics)
        if epoch - result.best_epoch >= options.patience:
            break
    bar.close()
    if best_state is not None:
        model.load_state_dict(best_state)
    return result


def train_epoch(
    model: Model,
    sampler: BatchSampler,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator | None = None,
) -> dict[str, float]:
    """One pass over the sampler's batches; the mean of each loss term."""
    sums: dict[str, Tensor] = {}
    for batch in sampler:
        optimizer.zero_grad(set_to_none=True)
        terms = model.loss(batch, generator)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        for name, value in terms.items():
            # Summed as tensors: reading a value each step would wait for the device.
            sums[name] = sums[name] + value.detach() if name in sums else value.detach()
    # What comes next reads whole tables, and the gradients only take its memory.
    optimizer.zero_grad(set_to_none=True)
    if isinstance(optimizer, LazyAdam):
        optimizer.flush()
    return {name: float(value) / len(sampler) for name, value in sums.items()}


def rank(
    data: Interactions,
    scorer: Scorer,
    split: Literal["valid", "test"],
    *,
    ks: tuple[int, ...] = (10, 20, 50),
    mask_validation: bool = False,
    device: torch.device | str = "cpu",
) -> Ranking:
    """Each user's metrics on a held-out split, training items left out of the ranking.

    Args:
        device: where ``scorer`` expects its users.
        mask_validation: in test, leave the validation items out of the ranking as well.
    """
    seen = [data.train] if split == "valid" or not mask_validation else [data.train, data.valid]
    return evaluate(
        scorer,
        getattr(data, split).to(device),
        num_users=data.num_users,
        num_items=data.num_items,
        seen=[pairs.to(device) for pairs in seen],
        ks=ks,
    )
