r"""Batches that do not depend on how many ranks there are.

Which step of an epoch has an interaction, and which negative goes with it, is a hash of (seed, epoch, user, item);
which step diffuses an item one of (seed, epoch, item). So every rank finds its own share of each step alone, from the
interactions of its users, and the steps of two ranks and of four are the same steps: a run can go on with another
number. A step has about ``batch_size`` interactions, give or take the root of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.base import Anchors, Batch
from ..training.sampling import NegativeSampler
from .group import Group
from .partition import Partition

_SIGNED = 1 << 63


def _signed(value: int) -> int:
    return (value + _SIGNED) % (1 << 64) - _SIGNED


_GOLDEN, _FIRST, _SECOND = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A shift to the right that brings in zeros."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mixed(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): int64 to int64, every bit depends on all."""
    x = x + _GOLDEN
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def uniform_of(key: int, *parts: Tensor) -> Tensor:
    """Numbers of [0, 1), float64 ``[n]``, each a function of a key and of whole numbers ``[n]``."""
    state = torch.full_like(parts[0], _signed(key))
    for part in parts:
        state = mixed(state ^ part)
    return _shifted(mixed(state), 11).to(torch.float64) * 2.0**-53


def _key(seed: int, epoch: int, purpose: int) -> int:
    # Two whole numbers in one, of which 2^32 epochs would be needed to meet another seed's.
    return int(mixed(torch.tensor([_signed((seed << 34) + (epoch << 2) + purpose)]))[0])


@dataclass(frozen=True)
class SharedPlan:
    """A rank's share of the batches of an epoch; ``plan[step]`` is one, as in ``EpochPlan``."""

    users: Tensor
    """``[E]`` of this rank, as rows among all, by step"""
    positives: Tensor
    negatives: Tensor
    starts: list[int]
    """where each step's pairs begin, and the end"""
    totals: list[int]
    """pairs of each step on all ranks"""
    anchors: dict[int, Tensor]
    """this rank's items by the step that diffuses them"""
    anchor_totals: dict[int, int]
    """items by step on all ranks, steps without any left out"""
    kind: Anchors | None
    """'items' as above, 'positives' or 'unique' of the batch, ``None`` for none"""
    stand_in: tuple[int, int]
    """a user and an item of this rank, which take part with weight zero where it has nothing in a step"""

    def __len__(self) -> int:
        return len(self.totals)

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < len(self):
            raise IndexError(step)
        window = slice(self.starts[step], self.starts[step + 1])
        users, positives, negatives = self.users[window], self.positives[window], self.negatives[window]
        share = users.numel() / max(1, self.totals[step])
        if not users.numel():
            users, positives = (users.new_tensor([of]) for of in self.stand_in)
            negatives = positives
        anchors, anchor_share, weight = users[:0], 0.0, 1.0
        if self.kind in ("positives", "unique"):
            anchors, anchor_share = (positives.unique() if self.kind == "unique" else positives), share
        elif step in self.anchor_totals:
            anchors = self.anchors.get(step, anchors)
            anchor_share = anchors.numel() / self.anchor_totals[step]
            weight = anchor_share * len(self) / len(self.anchor_totals)
            if not anchors.numel():
                anchors = users.new_tensor(self.stand_in[1:])
        return Batch(users, positives, negatives, anchors, weight, share, anchor_share)


class SharedSampler:
    """An epoch of batches, of which this rank draws its share.

    Args:
        interactions: training pairs ``[2, E]`` of this rank's users, distinct.
        part: which rows are whose.
        group: the ranks.
        batch_size: interactions a step of all ranks, about.
        anchors: which items are diffused, see :class:`~infodcl_geo.training.sampling.BatchSampler`; ``None`` for models
            that diffuse none.
        anchor_batch: items of a step with diffusion, for anchors 'items'.
        seed: of all of it.
    """

    def __init__(
        self,
        interactions: Tensor,
        part: Partition,
        group: Group,
        *,
        batch_size: int,
        anchors: Anchors | None,
        anchor_batch: int,
        seed: int,
    ) -> None:
        self.part, self.group, self.seed, self.anchors = part, group, seed, anchors
        self.batch_size, self.anchor_batch = batch_size, anchor_batch
        local = torch.stack([interactions[0] - part.users.start, interactions[1]])
        self.negatives = NegativeSampler(local, len(part.users), part.items.total)
        free = self.negatives.degree < part.items.total
        if not bool(free.all()):
            local = local[:, free[local[0]]]
        self.local = local
        counts = torch.tensor([local.size(1)], device=group.device)
        self.num_interactions = int(group.sum_(counts, "counts"))
        """of an epoch, on all ranks"""
        self.generator = torch.Generator(group.device).manual_seed(seed)
        """the same on all ranks, for what a loss draws"""
        self.epoch = 0

    def __len__(self) -> int:
        return max(1, -(-self.num_interactions // self.batch_size))

    def draw(self) -> SharedPlan:
        """The share of epoch ``epoch``, which then is the next."""
        steps, (users, items) = len(self), self.local
        keys = [_key(self.seed, self.epoch, purpose) for purpose in range(3)]
        self.epoch += 1
        globals_ = users + self.part.users.start
        step = (uniform_of(keys[0], globals_, items) * steps).long().clamp(max=steps - 1)
        order = (step * (self.local.size(1) + 1) + torch.arange(step.numel(), device=step.device)).argsort()
        negatives = self.negatives.at(users, uniform_of(keys[1], globals_, items))
        counts = torch.bincount(step, minlength=steps)
        totals = self.group.sum_(counts.clone(), "counts")
        anchors, anchor_totals = self._anchors(keys[2], steps)
        stand_in = (
            min(self.part.users.start, self.part.users.total - 1),
            min(self.part.items.start, self.part.items.total - 1),
        )
        return SharedPlan(
            globals_[order],
            items[order],
            negatives[order],
            [0, *counts.cumsum(0).tolist()],
            totals.tolist(),
            anchors,
            anchor_totals,
            self.anchors,
            stand_in,
        )

    def _anchors(self, key: int, steps: int) -> tuple[dict[int, Tensor], dict[int, int]]:
        rows = self.part.items
        if self.anchors != "items":
            return {}, {}
        count = min(steps, -(-rows.total // self.anchor_batch))
        items = torch.arange(rows.start, rows.stop, device=self.group.device)
        chosen = (uniform_of(key, items) * count).long().clamp(max=count - 1)
        totals = self.group.sum_(torch.bincount(chosen, minlength=count), "counts").tolist()
        sets = {(2 * k + 1) * steps // (2 * count): (items[chosen == k], totals[k]) for k in range(count) if totals[k]}
        return {step: own for step, (own, _) in sets.items()}, {step: total for step, (_, total) in sets.items()}
