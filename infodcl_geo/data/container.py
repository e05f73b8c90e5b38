"""The container of a data set: three splits of dense pairs, id maps, and where they come from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..text import escape
from .ids import IdMap, InteractionError
from .split import Split

_CHECKED = 1 << 20  # pairs that are checked at once


@dataclass(frozen=True)
class Origin:
    """Where interactions come from and what was done to them; everything that :func:`load_interactions` decided.

    Args:
        source: path, or kind of object.
        format: how it was read.
        columns: role and name of each column that was taken.
        ignored: names of the columns that were not.
        how: how the split was made, in words.
        split: the rule, or None where the source declares its split.
        seed: of the random choices.
        filters: name and value of each filter.
    """

    source: str
    format: str
    columns: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    how: str = ""
    split: Split | None = None
    seed: int = 0
    filters: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Interactions:
    """A data set of implicit feedback, split, with dense ids.

    Args:
        train: training pairs ``[2, E]`` int64, row 0 users, row 1 items; distinct, sorted by (user, item).
        valid: validation pairs, the same way.
        test: test pairs, the same way.
        num_users: number of users ``M``; ids are below it.
        num_items: number of items ``N``; ids are below it.
        user_ids: raw ids of the users, length ``M``.
        item_ids: raw ids of the items, length ``N``.
        name: what to call the data in tables.
        generated: whether the data are made up.
        origin: where they come from, if they were read.

    Raises:
        InteractionError: if the tensors do not hold what is said above.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    num_users: int
    num_items: int
    user_ids: IdMap = field(repr=False)
    item_ids: IdMap = field(repr=False)
    name: str
    generated: bool = False
    origin: Origin | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for part in ("train", "valid", "test"):
            pairs = getattr(self, part)
            if pairs.dim() != 2 or pairs.size(0) != 2 or pairs.dtype != torch.int64:
                raise InteractionError(f"{part} must be [2, E] int64, not {list(pairs.shape)} {pairs.dtype}")
            if pairs.size(1) == 0:
                continue
            if pairs.min() < 0 or pairs[0].max() >= self.num_users or pairs[1].max() >= self.num_items:
                raise InteractionError(f"{part} has ids outside {self.num_users} users x {self.num_items} items")
            for start in range(0, pairs.size(1), _CHECKED):
                users, items = pairs[:, start : start + _CHECKED + 1]
                if bool((torch.diff(users * self.num_items + items) <= 0).any()):
                    raise InteractionError(f"{part} must be distinct pairs sorted by (user, item)")
        if len(self.user_ids) != self.num_users or len(self.item_ids) != self.num_items:
            raise InteractionError("an id map does not have one id for each row")

    @property
    def num_interactions(self) -> int:
        """Number of pairs over the three splits."""
        return self.train.size(1) + self.valid.size(1) + self.test.size(1)

    @property
    def density(self) -> float:
        """Share of the user-item pairs that have an interaction."""
        return self.num_interactions / max(1, self.num_users * self.num_items)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, hexadecimal, of sizes, raw ids and the three splits: the same data split the same way, or not."""
        found = hashlib.sha256(f"{self.num_users} {self.num_items}".encode())
        found.update(self.user_ids.digest() + self.item_ids.digest())
        for part in (self.train, self.valid, self.test):
            found.update(f" {part.size(1)} ".encode())
            for row in part.cpu():
                found.update(row.contiguous().numpy().data)
        return found.hexdigest()

    def __repr__(self) -> str:
        return (
            f"Interactions({self.name!r}, users={self.num_users}, items={self.num_items}, "
            f"train={self.train.size(1)}, valid={self.valid.size(1)}, test={self.test.size(1)}"
            f"{', generated' if self.generated else ''})"
        )

    def summary(self) -> str:
        """The numbers of the data set as a few lines of text."""
        train_users = int(torch.unique(self.train[0]).numel())
        train_items = int(torch.unique(self.train[1]).numel())
        lines = [
            f"data set      {self.name}{' (generated)' if self.generated and 'generated' not in self.name else ''}",
            f"users         {self.num_users} ({self.num_users - train_users} without a training item)",
            f"items         {self.num_items} ({self.num_items - train_items} without a training user)",
            f"interactions  {self.num_interactions} "
            f"(train {self.train.size(1)}, valid {self.valid.size(1)}, test {self.test.size(1)})",
            f"density       {100 * self.density:.3f}%",
        ]
        if self.origin is not None:
            made = self.origin
            lines += [
                f"read from     {escape(made.source)} ({made.format})",
                f"columns       {', '.join(f'{role}: {name}' for role, name in made.columns) or 'user, item'}",
                f"ignored       {', '.join(made.ignored[:12]) or 'nothing'}{', ...' if len(made.ignored) > 12 else ''}",
                f"split         {made.how}",
            ]
            if made.filters:
                lines.append(f"filters       {', '.join(f'{key} {value:g}' for key, value in made.filters)}")
        lines.append(f"fingerprint   {self.fingerprint[:16]}")
        return "\n".join(lines)
