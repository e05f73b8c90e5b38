"""Batches of users, positives, negatives and contrastive anchors, drawn on the tensors' device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import OptionError
from ..models.base import Anchors, Batch


class NegativeSampler:
    """Uniform negatives, exact: an item of the user's training interactions is never drawn.

    A draw is a rank among the user's items without interaction, turned into an item by one binary search: no
    rejection, no loop, the same work for every draw.

    Args:
        interactions: training pairs, int64 ``[2, E]``, without duplicates.
    """

    def __init__(self, interactions: Tensor, num_users: int, num_items: int) -> None:
        self.num_items = num_items
        keys = (interactions[0] * num_items + interactions[1]).sort().values
        users = keys // num_items
        self.degree = torch.bincount(users, minlength=num_users)
        self.start = self.degree.cumsum(0) - self.degree
        # The k-th positive p_k of a user has p_k - k negatives before it.
        position = torch.arange(keys.numel(), device=keys.device) - self.start[users]
        self.keys = keys - position

    def __call__(self, users: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One negative item for each of ``users`` ``[B]``; users with every item are an error of the caller's."""
        return self.at(users, torch.rand(users.shape, generator=generator, device=users.device, dtype=torch.float64))

    def at(self, users: Tensor, uniform: Tensor) -> Tensor:
        """The negative items that numbers of U(0, 1) ``[B]``, float64, stand for."""
        free = self.num_items - self.degree[users]
        rank = torch.minimum((uniform * free).long(), free - 1)
        before = torch.searchsorted(self.keys, users * self.num_items + rank, right=True) - self.start[users]
        return rank + before


@dataclass(frozen=True)
class EpochPlan:
    """The batches of one epoch, drawn beforehand; ``plan[step]`` is one, whatever was taken before."""

    users: Tensor
    """``[E]``, shuffled"""
    positives: Tensor
    """``[E]``"""
    negatives: Tensor
    """``[E]``"""
    anchors: Anchors
    anchor_sets: dict[int, Tensor]
    """items by the step that diffuses them, for anchors 'items'"""
    batch_size: int

    def __len__(self) -> int:
        return -(-self.users.numel() // self.batch_size)

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < len(self):
            raise IndexError(step)
        window = slice(step * self.batch_size, (step + 1) * self.batch_size)
        positives = self.positives[window]
        if self.anchors == "items":
            anchors = self.anchor_sets.get(step, positives[:0])
        else:
            anchors = positives.unique() if self.anchors == "unique" else positives
        weight = len(self) / len(self.anchor_sets) if self.anchor_sets else 1.0
        return Batch(self.users[window], positives, self.negatives[window], anchors, weight)


class BatchSampler:
    """An epoch of shuffled training interactions with negatives and anchors.

    Args:
        interactions: training pairs, int64 ``[2, E]``, without duplicates.
        batch_size: interactions a step; the last batch of an epoch holds what is left.
        anchors: which items are diffused and contrasted in a step (the sum of InfoDCL eq. 10 and 11):
            ``"items"``: all items, each once an epoch, ``anchor_batch`` at a time in evenly spaced steps;
            ``"positives"``: the batch's positive items, repeats included, so popular items count more;
            ``"unique"``: the batch's positive items, each once.
        anchor_batch: items of a step with diffusion, for ``anchors="items"``. The networks of the diffusion cost about
            the same for thirty items as for several hundred, so a few full steps are cheaper than many thin ones.
        generator: source of all randomness, on the interactions' device.
    """

    def __init__(
        self,
        interactions: Tensor,
        num_users: int,
        num_items: int,
        *,
        batch_size: int = 2048,
        anchors: Anchors = "items",
        anchor_batch: int = 1024,
        generator: torch.Generator | None = None,
    ) -> None:
        if batch_size < 1 or anchor_batch < 1:
            raise OptionError(f"batch_size and anchor_batch must be at least 1, not {batch_size} and {anchor_batch}")
        if anchors not in ("items", "positives", "unique"):
            raise OptionError(f"anchors must be 'items', 'positives' or 'unique', not {anchors!r}")
        self.negatives = NegativeSampler(interactions, num_users, num_items)
        saturated = self.negatives.degree >= num_items
        if bool(saturated.any()):
            count = int(saturated.sum())
            warnings.warn(
                f"{count} user(s) interacted with every item and have no negatives: left out of training batches",
                stacklevel=2,
            )
            interactions = interactions[:, ~saturated[interactions[0]]]
        if interactions.size(1) == 0:
            raise OptionError("no training interaction has a negative item to compare with")
        self.interactions = interactions
        self.num_items = num_items
        self.batch_size = batch_size
        self.anchors = anchors
        self.anchor_batch = anchor_batch
        self.generator = generator

    @property
    def num_interactions(self) -> int:
        """Interactions of an epoch."""
        return self.interactions.size(1)

    def __len__(self) -> int:
        return -(-self.num_interactions // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        plan = self.draw()
        return (plan[step] for step in range(len(plan)))

    def draw(self) -> EpochPlan:
        """The next epoch: all that is random about its batches is drawn here, and nothing later."""
        device = self.interactions.device
        users, items = self.interactions[:, self._permutation(self.interactions.size(1), device)]
        negatives = self.negatives(users, self.generator)
        steps = len(self)
        anchor_sets: dict[int, Tensor] = {}
        if self.anchors == "items":
            count = min(steps, -(-self.num_items // self.anchor_batch))
            sets = self._permutation(self.num_items, device).tensor_split(count)
            anchor_sets = {(2 * k + 1) * steps // (2 * count): chosen for k, chosen in enumerate(sets)}
        return EpochPlan(users, items, negatives, self.anchors, anchor_sets, self.batch_size)

    def _permutation(self, size: int, device: torch.device) -> Tensor:
        return torch.randperm(size, generator=self.generator, device=device)
