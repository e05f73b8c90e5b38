"""A rank's part of a training run: its rows of the model, its batches and optimizer, and what all must agree on."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..data.interactions import Interactions
from ..errors import OptionError
from ..models.base import Batch, EmbeddingModel, Model
from ..models.recipe import Recipe
from ..training.callbacks import Callback
from ..training.interrupt import Interruption
from ..training.loop import LAZY_ROWS, OneProcess
from ..training.optim import LazyAdam
from ..training.options import CheckpointOptions, TrainOptions
from ..training.sampling import BatchSampler
from ..training.state import TrainState
from .batches import SharedSampler
from .evaluation import mean_metrics, own_pairs
from .exchange import ShardedEmbedding
from .graph import ShardedGraph
from .group import Group
from .input import OwnInteractions
from .partition import Partition
from .ranks import ShardedRanks, WholeRanks

Tables = Literal["auto", "sharded", "whole"]

WHOLE_ROWS = 50_000
"""Users and items up to which every rank has all tables, unless it is said otherwise."""


def choose_tables(recipe: Recipe, options: Any, nodes: int, asked: Tables = "auto") -> tuple[bool, str]:
    """Whether tables lie in parts, and why, in words.

    Args:
        recipe, options: the model.
        nodes: users and items together.
        asked: 'auto' is by size.

    Raises:
        OptionError: if parts are asked for and the model cannot have them.
    """
    reason = "its loss is not written in contributions" if recipe.splits is None else recipe.splits(options)
    if asked == "sharded":
        if reason:
            raise OptionError(f"{recipe.name} cannot be trained with tables in parts: {reason}; give --tables whole")
        return True, "tables in parts, as asked for"
    if asked == "whole":
        return False, "every process has all tables, as asked for"
    if reason:
        return False, f"every process has all tables, gradients are averaged: {reason}"
    if nodes <= WHOLE_ROWS:
        return False, f"every process has all tables: {nodes} users and items are at most {WHOLE_ROWS}"
    return True, f"tables in parts: {nodes} users and items are more than {WHOLE_ROWS}"


def take_part(model: Model, pairs: Tensor, part: Partition, group: Group) -> None:
    """Turn the whole model into this rank's part of it, in place.

    Args:
        model: one of a recipe with ``splits``, the same on all ranks.
        pairs: training interactions ``[2, E]`` of this rank's users.
        part: which rows are whose.
        group: the ranks.
    """
    assert isinstance(model, EmbeddingModel)
    model.keep_rows(part.users.own, part.items.own)
    join(model, ShardedGraph(pairs, part, group), part, group)


def join(model: EmbeddingModel, graph: ShardedGraph, part: Partition, group: Group) -> None:
    """Connect a model of this rank's rows with those of the other ranks, in place."""
    model.graph = graph
    model.ranks = ShardedRanks(group, part)
    model.user_embedding = ShardedEmbedding(model.user_embedding, group, part.users)  # type: ignore[assignment]
    model.item_embedding = ShardedEmbedding(model.item_embedding, group, part.items)  # type: ignore[assignment]


def sharded_tables(model: nn.Module) -> list[nn.Embedding]:
    """Tables of this rank's own rows."""
    return [module.local for module in model.modules() if isinstance(module, ShardedEmbedding)]


class Workers(OneProcess):
    """What several processes do in their own way while they train together.

    Args:
        group: the processes.
        part: which rows are whose.
        sharded: whether tables lie in parts, or every process has a copy.
        recipe: the model's.
        options: the model's.
    """

    def __init__(self, group: Group, part: Partition, *, sharded: bool, recipe: Recipe, options: Any) -> None:
        self.group, self.part, self.sharded = group, part, sharded
        self.contributes = recipe.splits is not None and not recipe.splits(options)
        self.asked: Callable[[], bool] = lambda: False
        """whether rank 0 asks for a checkpoint"""
        self.due = False
        """whether all are to write one"""
        self.resumed = False
        """whether the run goes on from a checkpoint"""

    def set_up(
        self, model: Model, data: Interactions, options: TrainOptions
    ) -> tuple[BatchSampler, torch.optim.Optimizer]:
        if options.adam == "fused":
            raise OptionError("adam='fused' is of one process: several have 'lazy' or 'dense'")
        if not self.sharded and self.contributes:
            model.ranks = WholeRanks(self.group, self.part)
        sampler: Any = SharedSampler(
            own_pairs(data.train, self.part.users).to(self.group.device),
            self.part,
            self.group,
            batch_size=options.batch_size,
            anchors=model.anchors if has_anchors(model) else None,
            anchor_batch=model.anchor_batch,
            seed=options.seed,
        )
        if not self.contributes:
            self._scale_losses(model, sampler)
        return sampler, self._optimizer(model, options, len(sampler))

    def _scale_losses(self, model: Model, sampler: SharedSampler) -> None:
        """The loss of a model that knows nothing of ranks is a mean over this rank's pairs: their share of the mean."""
        whole = model.loss
        # What it draws is for its own pairs.
        sampler.generator.manual_seed(sampler.seed + 7919 * self.group.rank)

        def loss(batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
            weight = batch.anchor_weight / batch.anchor_share if batch.anchor_share else batch.anchor_weight
            return {name: batch.share * v for name, v in whole(batch._replace(anchor_weight=weight), generator).items()}

        model.loss = loss  # type: ignore[method-assign]

    def _optimizer(self, model: Model, options: TrainOptions, steps: int) -> torch.optim.Optimizer:
        tables = sharded_tables(model)
        own = {table.weight for table in tables}
        replicated = [weight for weight in model.parameters() if weight not in own]
        rows = model.row_tables(_most_anchors(model, self.part, steps)) if tables else []
        lazily = bool(rows) and options.adam == "lazy"
        if options.adam == "auto" and rows:
            lazily = self.part.users.total + self.part.items.total >= LAZY_ROWS
        if options.adam == "lazy" and not lazily:
            raise OptionError("adam='lazy' needs tables in parts and steps that read rows of them: give 'dense'")
        optimizer: torch.optim.Optimizer
        if lazily:
            optimizer = LazyAdam(tables, replicated, lr=options.lr)
        else:
            optimizer = torch.optim.Adam(model.parameters(), lr=options.lr, fused=True)
        optimizer.register_step_pre_hook(lambda *_: self.add_gradients(replicated))
        return optimizer

    def add_gradients(self, weights: list[nn.Parameter]) -> None:
        """The sum of all ranks' gradients of weights that all have, in one message."""
        # A step without a gradient leaves a weight alone; which weights it reads is the same on all ranks.
        parts = [(weight, weight.grad) for weight in weights if weight.grad is not None]
        if not parts:
            return
        flat = self.group.sum_(torch.cat([gradient.reshape(-1) for _, gradient in parts]), "gradients")
        for (weight, gradient), total in zip(parts, flat.split([g.numel() for _, g in parts]), strict=True):
            weight.grad = total.view(gradient.shape)

    def goes_on(self, state: TrainState, interruption: Interruption) -> bool:
        # All must end after the same step, whoever was asked to; rank 0 says when a checkpoint is due.
        code = 2 if interruption else 1 if state.stopped is not None else 0
        flags = torch.tensor([code, int(self.group.first and self.asked())], device=self.group.device)
        code, due = self.group.max_(flags, "agreement").tolist()
        self.due = bool(due)
        if code == 2:
            interruption.signal = interruption.signal or "a signal to another process"
        elif code == 1:
            state.stop("another process ended it")
        return not code

    def totals(self, terms: dict[str, float]) -> dict[str, float]:
        values = torch.tensor(list(terms.values()), dtype=torch.float64, device=self.group.device)
        return dict(zip(terms, self.group.sum_(values, "agreement").tolist(), strict=True))

    def has_validation(self, data: Interactions) -> bool:
        return bool(data.totals[1] if isinstance(data, OwnInteractions) else data.valid.size(1))

    def validate(self, state: TrainState, data: Interactions, ks: tuple[int, ...]) -> dict[str, float]:
        how: Any = {"sharded": self.sharded, "ks": ks, "name": state.name}
        return mean_metrics(state.model, data, "valid", self.part, self.group, **how)

    def checkpoint(self, options: CheckpointOptions) -> Callback:
        from .checkpoint import ShardedCheckpoint

        written = ShardedCheckpoint(options, self)
        self.asked = written.is_due
        return written

    def restore(self, state: TrainState, folder: str | Path) -> None:
        from .checkpoint import restore

        restore(state, folder, self)
        self.resumed = True


def _most_anchors(model: Model, part: Partition, steps: int) -> int:
    """Anchors of a step that is as full as chance makes one in a thousand million."""
    mean = max(model.anchor_batch, part.items.total / steps)
    return min(math.ceil(mean + 6 * math.sqrt(mean)), part.items.total)


def has_anchors(model: Model) -> bool:
    """Whether the model reads the anchors of a batch; those that do say how many in their options."""
    return hasattr(getattr(model, "options", None), "anchor_batch")
