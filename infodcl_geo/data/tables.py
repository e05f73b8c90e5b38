"""Tables of raw ids: what the readers of every format hand on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from .ids import IdMap, IntArray, InteractionError


@dataclass(frozen=True)
class Ids:
    """A column of raw ids: row ``e`` holds ``vocabulary[codes[e]]`` (strings), or ``codes[e]`` itself without one."""

    codes: np.ndarray
    vocabulary: pl.Series | None = None

    def __getitem__(self, rows: np.ndarray) -> Ids:
        return replace(self, codes=self.codes[rows])

    def distinct(self, as_strings: bool) -> pl.Series:
        """The raw ids that occur, ascending."""
        used = _distinct(self.codes)
        if self.vocabulary is not None:
            return self.vocabulary.gather(used)
        return pl.Series(used).cast(pl.String).sort() if as_strings else pl.Series(used)

    def encode(self, ids: IdMap) -> IntArray:
        """Dense row of every raw id, -1 where ``ids`` does not have it."""
        if self.vocabulary is not None:
            return ids.encode(self.vocabulary, missing=-1)[self.codes]
        used = _distinct(self.codes)
        return ids.encode(pl.Series(used), missing=-1)[_positions(used, self.codes)]

    def rows_in(self, raw: pl.Series) -> np.ndarray:
        """Position of every row's id in the ascending ids ``raw``, which has them all."""
        if self.vocabulary is None and raw.dtype != pl.String:
            return _positions(raw.to_numpy(), self.codes)
        if self.vocabulary is not None:
            # A vocabulary may have entries that no row uses any more; where those land does not matter.
            return np.asarray(raw.search_sorted(self.vocabulary), dtype=np.int64).reshape(-1)[self.codes]
        used = _distinct(self.codes)
        at = np.asarray(raw.search_sorted(pl.Series(used).cast(pl.String)), dtype=np.int64).reshape(-1)
        return at[_positions(used, self.codes)]


def _distinct(codes: np.ndarray) -> IntArray:
    """The values that occur, ascending; by a table where they are not too spread out."""
    if len(codes) and int(codes.min()) >= 0 and int(codes.max()) < 4 * len(codes) + (1 << 16):
        seen = np.zeros(int(codes.max()) + 1, dtype=bool)
        seen[codes] = True
        return np.flatnonzero(seen)
    return np.unique(codes).astype(np.int64)


def _positions(raw: IntArray, values: np.ndarray) -> np.ndarray:
    """``searchsorted`` for values that are all in ``raw``; a table look-up where the ids are not too spread out."""
    low, high = int(raw[0]), int(raw[-1])
    if high - low + 1 == len(raw):
        return values - low if low else values
    if high - low < 4 * len(raw) + (1 << 16):
        table = np.zeros(high - low + 1, dtype=np.int32 if len(raw) < 2**31 else np.int64)
        table[raw - low] = np.arange(len(raw))
        return table[values - low]
    return np.searchsorted(raw, values)


def concatenated(columns: Sequence[Ids]) -> Ids:
    """Several columns of ids one after the other: strings if any is."""
    if all(c.vocabulary is None for c in columns):
        return Ids(np.concatenate([c.codes for c in columns]))
    raw = all_ids(columns)
    return Ids(np.concatenate([c.rows_in(raw) for c in columns]), raw)


def all_ids(columns: Sequence[Ids]) -> pl.Series:
    """The ascending distinct ids of several columns; integers only if all columns are integers."""
    strings = any(c.vocabulary is not None for c in columns)
    every = [c.distinct(strings) for c in columns]
    return every[0] if len(every) == 1 else pl.concat(every).unique().sort()


@dataclass(frozen=True)
class Table:
    """What one file holds: the ids, and the rating, time and declared part of every row where there are such columns.

    ``taken`` and ``ignored`` are names of columns: role and name, and the names of the others.
    """

    source: str
    users: Ids
    items: Ids
    rating: np.ndarray | None = None
    time: np.ndarray | None = None
    part: np.ndarray | None = None
    taken: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.users.codes)

    def __getitem__(self, rows: np.ndarray) -> Table:
        extra: dict[str, Any] = {
            k: None if (v := getattr(self, k)) is None else v[rows] for k in ("rating", "time", "part")
        }
        return replace(self, users=self.users[rows], items=self.items[rows], **extra)


def joined(tables: Sequence[Table]) -> Table:
    """The tables of several files as one."""
    if len(tables) == 1:
        return tables[0]
    extra: dict[str, Any] = {}
    for key in ("rating", "time", "part"):
        given = [v for t in tables if (v := getattr(t, key)) is not None]
        if given and len(given) < len(tables):
            raise InteractionError(f"{tables[0].source} and the files beside it: some have a {key} column, some none")
        extra[key] = np.concatenate(given) if given else None
    users, items = (concatenated([getattr(t, key) for t in tables]) for key in ("users", "items"))
    return replace(tables[0], users=users, items=items, **extra)
