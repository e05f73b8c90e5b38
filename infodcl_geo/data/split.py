"""How interactions are divided into training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .ids import IntArray, InteractionError, warn

_DRAWN = 1 << 20  # rows whose order is drawn at once: a bound on the memory of a random split


@dataclass(frozen=True)
class Split:
    """How interactions are divided into training, validation and test.

    - ``ratio``: of each user's ``n`` interactions, ``round(test * n)`` random ones are for test and
      ``round(valid * n)`` for validation (halves round up), but at least one stays for training.
    - ``leave-one-out``: the last interaction of each user is for test, the one before it for validation; users with
      fewer than three keep all for training. Last by time; at random, with a warning, where there is no time or
      equal times do not say which is last.
    - ``temporal``: one point in time for all users: the last ``test`` share of all interactions is for test, the
      ``valid`` share before it for validation. Needs a time column. Interactions of one time stay together: a cut
      moves to the nearer end of the equal times around it.

    Args:
        kind: one of the three.
        valid: share of the interactions for validation, in [0, 1).
        test: share of the interactions for test, in [0, 1).
    """

    kind: Literal["ratio", "leave-one-out", "temporal"] = "ratio"
    valid: float = 0.1
    test: float = 0.2

    def __post_init__(self) -> None:
        if self.kind not in ("ratio", "leave-one-out", "temporal"):
            raise InteractionError(f"unknown split {self.kind!r}: choose ratio, leave-one-out or temporal")
        if not (0 <= self.valid < 1 and 0 <= self.test < 1 and self.valid + self.test < 1):
            raise InteractionError(
                f"split shares must be in [0, 1) and sum below 1, not valid={self.valid}, test={self.test}"
            )


def split_interactions(
    pairs: Tensor, split: Split, *, time: Tensor | None = None, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Divide distinct pairs into training, validation and test.

    Args:
        pairs: ``[2, E]`` int64, row 0 users, row 1 items, no duplicates, any order.
        split: the rule, see :class:`Split`.
        time: ``[E]``, when each interaction was.
        seed: of the random choices; the result does not depend on the order of ``pairs``.

    Returns:
        Three tensors ``[2, E']`` sorted by (user, item), disjoint, together the input.

    Raises:
        InteractionError: if a temporal split has no times, or pairs repeat.
    """
    users, items = pairs.cpu().numpy()
    order = np.lexsort((items, users))
    users, items = users[order], items[order]
    if ((users[1:] == users[:-1]) & (items[1:] == items[:-1])).any():
        raise InteractionError("duplicate pairs cannot be split: both copies may not end in the same part")
    part = assign(users, None if time is None else time.cpu().numpy()[order], split, seed, "pairs")
    train, valid, test = (torch.from_numpy(np.stack([users[part == p], items[part == p]])) for p in range(3))
    return train, valid, test


def assign(users: IntArray, time: np.ndarray | None, split: Split, seed: int, source: str) -> npt.NDArray[np.int8]:
    """0, 1, 2 for train, valid, test, for pairs sorted by (user, item)."""
    part = np.zeros(len(users), dtype=np.int8)
    if len(users) == 0:
        return part
    if split.kind == "temporal":
        if time is None:
            raise InteractionError(f"{source}: a temporal split needs the times of the interactions")
        _assign_by_time(part, time, split, source)
        return part
    if split.kind == "leave-one-out" and time is None:
        warn(f"{source}: no times; leave-one-out holds out random interactions, not the last")
    if seed < 0:
        raise InteractionError(f"{source}: the seed of the split must be a whole number from 0, not {seed}")
    random = np.random.default_rng(seed)
    # The order of each user's pairs is that of random numbers drawn in a row, so users can be taken in portions.
    ends = np.flatnonzero(np.append(users[1:] != users[:-1], True)) + 1
    start, undecided = 0, 0
    while start < len(users):
        end = int(ends[np.searchsorted(ends, min(start + _DRAWN, len(users)))])
        when = None if time is None or split.kind == "ratio" else time[start:end]
        undecided += _assign_by_user(part[start:end], users[start:end], when, split, random)
        start = end
    if undecided:
        warn(
            f"{source}: {undecided} users have equal times at the end; "
            "leave-one-out holds out random ones of these interactions"
        )
    return part


def _assign_by_time(part: npt.NDArray[np.int8], time: np.ndarray, split: Split, source: str) -> None:
    ascending, total = np.sort(time), len(time)
    test, valid = int(round_half_up(split.test * total)), int(round_half_up(split.valid * total))

    def cut(at: int) -> int:
        """Equal times stay together: the nearer end of those around the cut, but never all of the pairs."""
        if not 0 < at < total or ascending[at - 1] != ascending[at]:
            return at
        low, high = (int(np.searchsorted(ascending, ascending[at], side=side)) for side in ("left", "right"))
        return low if low > 0 and at - low <= high - at else high

    first, last = cut(total - test - valid), cut(total - test)
    for number, at in ((1, first), (2, last)):
        if at < total:
            part[time >= ascending[at]] = number
    for what, share, size in (("validation", valid, last - first), ("test", test, total - last)):
        if share and not size:
            warn(f"{source}: so many equal times that the temporal split leaves no pairs for {what}")


def _assign_by_user(
    part: npt.NDArray[np.int8], users: IntArray, time: np.ndarray | None, split: Split, random: np.random.Generator
) -> int:
    """Write the parts of whole users, by a random order or that of time; returns how many users' times did not say."""
    drawn = random.integers(1 << 32, size=len(users))
    # One stable sort of one integer takes a third of the time of a lexicographic one.
    order = np.argsort((users << 32) | drawn, kind="stable") if time is None else np.lexsort((drawn, time, users))
    users = users - users[0]
    count = np.bincount(users)
    # Position from the end within each user's interactions, in the order drawn above: 0 is the last.
    from_end = np.cumsum(count)[users[order]] - 1 - np.arange(len(users))
    count = count[users[order]]
    if split.kind == "leave-one-out":
        part[order[(from_end == 0) & (count >= 3)]] = 2
        part[order[(from_end == 1) & (count >= 3)]] = 1
        if time is None:
            return 0
        ordered = time[order]
        tied = np.append(ordered[:-1] == ordered[1:], False) & (count >= 3) & ((from_end == 1) | (from_end == 2))
        return len(np.unique(users[order][tied]))
    test = np.minimum(round_half_up(split.test * count), count - 1)
    valid = np.minimum(round_half_up(split.valid * count), count - 1 - test)
    part[order[from_end < test]] = 2
    part[order[(from_end >= test) & (from_end < test + valid)]] = 1
    return 0


def round_half_up(x: Any) -> Any:
    """The nearest whole numbers; halves go up."""
    # The small term keeps a half that floating point made a hair smaller (0.1 * 15) a half.
    return np.floor(np.asarray(x) + 0.5 + 1e-9).astype(np.int64)
