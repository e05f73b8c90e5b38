"""Raw user-item interactions, as they lie on disk or in memory, to dense ids and a split.

The one entry point for files is :func:`load_interactions`; :func:`from_hetero_data` does the same for a PyG graph.
Both return :class:`Interactions`: three ``[2, E]`` tensors of dense ids and the two :class:`IdMap` that lead back to
the ids of the source.

Everything wrong in the input either stops with one :class:`InteractionError` that names file and line, or is repaired
by the rule documented in :func:`load_interactions` and reported by one :class:`InteractionWarning` with the number of
rows it concerns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from .ids import IdMap, IntArray, InteractionError, InteractionWarning, UnknownIdError, one_line, warn
from .readers import find_files, read
from .text_files import Column, Columns, Format, Ids, Table

if TYPE_CHECKING:
    pass

__all__ = [
    "IdMap",
    "InteractionError",
    "InteractionWarning",
    "Interactions",
    "Split",
    "UnknownIdError",
    "load_interactions",
    "split_interactions",
]


# ---------------------------------------------------------------------------------------------------------------------
# Public containers


@dataclass(frozen=True)
class Split:
    """How interactions are divided into training, validation and test.

    - ``ratio``: of each user's ``n`` interactions, ``round(test * n)`` random ones are for test and
      ``round(valid * n)`` for validation (halves round up), but at least one stays for training.
    - ``leave-one-out``: the last interaction of each user is for test, the one before it for validation; users with
      fewer than three keep all for training. Last by time where there is a time column, else at random.
    - ``temporal``: one point in time for all users: the last ``test`` share of all interactions is for test, the
      ``valid`` share before it for validation. Needs a time column.

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

    def __post_init__(self) -> None:
        for part in ("train", "valid", "test"):
            pairs = getattr(self, part)
            if pairs.dim() != 2 or pairs.size(0) != 2 or pairs.dtype != torch.int64:
                raise InteractionError(f"{part} must be [2, E] int64, not {list(pairs.shape)} {pairs.dtype}")
            if pairs.size(1) == 0:
                continue
            users, items = pairs[0], pairs[1]
            if pairs.min() < 0 or users.max() >= self.num_users or items.max() >= self.num_items:
                raise InteractionError(f"{part} has ids outside {self.num_users} users x {self.num_items} items")
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
        return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------------
# Public functions


def load_interactions(
    path: str | PathLike[str],
    *,
    format: Format | None = None,
    valid: str | PathLike[str] | None = None,
    test: str | PathLike[str] | None = None,
    split: Split = Split(),
    min_rating: float | None = None,
    k_core: int = 0,
    user_column: Column | None = None,
    item_column: Column | None = None,
    rating_column: Column | None = None,
    time_column: Column | None = None,
    seed: int = 0,
    name: str | None = None,
) -> Interactions:
    """Read interactions from a folder or a file.

    A folder holds files whose names say train, valid (also validation, val, dev) and test; its split is kept. A folder
    without such names must hold one file of interactions (``*.inter``, a name like ``ratings`` or ``interactions``, or
    the only file there), which is split by ``split``, as is a single file. A split without validation gets one from the
    training interactions by ``split.valid`` and a warning.

    Formats, told by the ending and, for text, by the content (``format=`` overrides):

    - ``parquet`` (needs the extra ``parquet``), ``npy`` (integer pairs, ``E x 2`` or ``2 x E``; ``2 x 2`` is read as
      two pairs; ``E x 3`` and ``E x 4`` have a rating and a time), ``npz`` (a scipy sparse matrix, users x items;
      stored zeros are no interactions);
    - ``recbole``: RecBole's atomic ``.inter``, header fields ``name:type``;
    - ``table``: text with a header line, separated by tabs, commas, semicolons, bars or spaces; ids may be strings;
    - ``pairs``: text without a header, ``user item [rating [time]]`` a line, ids integers (strings too, if the columns
      are named by position);
    - ``adjacency``: text without a header, ``user item item ...`` a line, integers.

    Text ending in ``.gz`` is read through gzip; lines at the start that begin with ``#`` or ``%`` are comments; blank
    lines are skipped. *Pairs or adjacency:* the lines of the first megabyte of the (training) file decide. It is
    ``pairs`` if no line has more than two fields, or if the first field repeats from line to line and most lines have
    the same two to four fields; else it is ``adjacency``. Three or four fields on every line with no user repeated can
    be read both ways: a fourth column that is a time, or a third that is no integer, makes it ``pairs``; else it is
    ``adjacency``, with a warning.

    Columns of a header are found by usual names (``user``, ``user_id``, ``item_id``, ``movieId``, ``asin``,
    ``rating``, ``timestamp``, ...). Without a rating threshold every row is an interaction, whatever its rating.

    Ids: rows are the sorted distinct raw ids, over all splits, that have an interaction. A column of which all ids look
    like integers (no leading zeros) is a column of integers and sorts as numbers.

    Repairs, each with one :class:`InteractionWarning` that says how many: duplicate pairs are kept once (the earliest,
    where there is a time); pairs of validation that are also in training, and pairs of test that are in either, are
    removed from the later split. Users without a training item are kept, with a warning. Stored zeros of a sparse
    matrix and adjacency lines without an item are left out, with a warning.

    Args:
        path: folder or file.
        format: how to read the files; default: see above.
        valid: validation file, if ``path`` is the training file.
        test: test file, if ``path`` is the training file.
        split: how to split what is not split yet.
        min_rating: keep only rows with at least this rating.
        k_core: keep only users and items with at least this many interactions, repeated until all have; counted over
            all splits, before splitting.
        user_column: header name of the user column, or its position from 0 if there is no header.
        item_column: the same for items.
        rating_column: the same for ratings.
        time_column: the same for times (numbers or dates).
        seed: of the random split.
        name: what to call the data; default: the name of the folder or file.

    Returns:
        The interactions with dense ids.

    Raises:
        InteractionError: if the input cannot be read; one line that names file and line.
    """
    if format is not None and format not in get_args(Format):
        raise InteractionError(f"unknown format {format!r}: choose one of {', '.join(get_args(Format))}")
    columns = Columns(user_column, item_column, rating_column, time_column)
    where = Path(path)
    tables: dict[str, Table] = {}
    learned = format
    try:
        files = find_files(where, valid, test, format)
        for part, file in files.items():
            tables[part], learned = read(file, learned if file.suffix == files["train"].suffix else format, columns)
    except OSError as error:
        raise InteractionError(f"{error.filename or where}: {error.strerror or one_line(error)}") from None
    return _assemble(
        tables,
        name=name or (where.resolve().name if where.is_dir() else where.name.split(".")[0]),
        source=str(where),
        split=split,
        min_rating=min_rating,
        k_core=k_core,
        seed=seed,
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
    part = _assign(users, None if time is None else time.cpu().numpy()[order], split, seed)
    train, valid, test = (torch.from_numpy(np.stack([users[part == p], items[part == p]])) for p in range(3))
    return train, valid, test


# ---------------------------------------------------------------------------------------------------------------------
# From tables to interactions


def _assemble(
    tables: dict[str, Table],
    *,
    name: str,
    source: str,
    split: Split,
    min_rating: float | None,
    k_core: int,
    seed: int,
) -> Interactions:
    if min_rating is not None:
        if tables["train"].rating is None:
            raise InteractionError(f"{tables['train'].source}: min_rating needs a rating column, and there is none")
        for part, table in tables.items():
            if table.rating is None:
                warn(f"{table.source}: no rating column; all its {len(table)} rows are kept")
            else:
                tables[part] = table[table.rating >= min_rating]
        if len(tables["train"]) == 0:
            raise InteractionError(f"{tables['train'].source}: no rating is at least {min_rating:g}")
    if split.kind == "temporal" and "valid" not in tables and tables["train"].time is None:
        raise InteractionError(f"{source}: a temporal split needs a time column, and there is none")

    user_raw = _all_ids([t.users for t in tables.values()])
    item_raw = _all_ids([t.items for t in tables.values()])
    num_items = len(item_raw)
    # One integer for each pair, so that duplicates and overlaps are plain set operations.
    keys: dict[str, IntArray] = {}
    time = None
    for part, table in tables.items():
        key = table.users.rows_in(user_raw) * num_items + table.items.rows_in(item_raw)
        keys[part], kept = _without_duplicates(key, table)
        if part == "train" and table.time is not None:
            time = table.time[kept]
    keys = _without_overlaps(keys, {p: t.source for p, t in tables.items()})

    if k_core > 1:
        every = np.concatenate(list(keys.values()))
        core = _in_core(every // num_items, every % num_items, k_core)
        if not core.any():
            raise InteractionError(f"{source}: no user and item is left in the {k_core}-core")
        ends = np.cumsum([len(k) for k in keys.values()])[:-1]
        masks = dict(zip(keys, np.split(core, ends), strict=True))
        keys = {p: k[masks[p]] for p, k in keys.items()}
        time = None if time is None else time[masks["train"]]

    if len(keys) == 1:
        part_of = _assign(keys["train"] // num_items, time, split, seed)
        keys = {p: keys["train"][part_of == i] for i, p in enumerate(("train", "valid", "test"))}
    elif "valid" not in keys and split.valid > 0:
        # What the split would give to test is taken for validation: a test part is there already.
        of_training = replace(split, valid=0.0, test=split.valid / (1 - split.test))
        held_out = _assign(keys["train"] // num_items, time, of_training, seed) == 2
        keys["valid"], keys["train"] = keys["train"][held_out], keys["train"][~held_out]
        warn(f"{source}: no validation split; {len(keys['valid'])} training interactions were held out for it")
    if "test" not in keys:
        warn(f"{source}: no test split; nothing can be measured on test")

    pairs = {p: np.stack([keys[p] // num_items, keys[p] % num_items]) for p in keys}
    user_raw, item_raw = _compact(pairs, user_raw, 0), _compact(pairs, item_raw, 1)
    untrained = len(user_raw) - len(pd.unique(pairs["train"][0]))
    if untrained:
        warn(f"{source}: {untrained} of {len(user_raw)} users have no training item (kept)")
    empty = torch.empty(2, 0, dtype=torch.int64)
    train, valid, test = (torch.from_numpy(pairs[p]) if p in pairs else empty for p in ("train", "valid", "test"))
    return Interactions(
        train,
        valid,
        test,
        num_users=len(user_raw),
        num_items=len(item_raw),
        user_ids=IdMap(user_raw),
        item_ids=IdMap(item_raw),
        name=name,
    )


def _all_ids(columns: Sequence[Ids]) -> np.ndarray:
    """The ascending distinct ids of several columns; integers only if all columns are integers."""
    distinct = [c.distinct() for c in columns]
    if not all(c.are_integers for c in columns):
        return np.unique(np.concatenate([d.astype(np.str_) for d in distinct]))
    return np.sort(pd.unique(np.concatenate(distinct)))


def _without_duplicates(key: IntArray, table: Table) -> tuple[IntArray, IntArray]:
    """Ascending distinct keys and, for each, its row in the table: the earliest, or the first if there is no time."""
    order = np.argsort(key, kind="stable") if table.time is None else np.lexsort((table.time, key))
    key = key[order]
    first = np.ones(len(key), dtype=bool)
    np.not_equal(key[1:], key[:-1], out=first[1:])
    repeated = len(key) - int(first.sum())
    if repeated:
        warn(f"{table.source}: {repeated} duplicate pairs, kept once")
        key, order = key[first], order[first]
    return key, order


def _without_overlaps(keys: dict[str, IntArray], sources: dict[str, str]) -> dict[str, IntArray]:
    """Every pair only in the first of train, valid, test that has it."""
    kept = dict(keys)
    parts = list(keys)
    for i, part in enumerate(parts):
        for earlier in parts[:i]:
            shared = np.isin(kept[part], kept[earlier], assume_unique=True)
            if shared.any():
                count = int(shared.sum())
                warn(f"{sources[part]}: {count} pairs are also in {earlier}, removed from {part}")
                kept[part] = kept[part][~shared]
    return kept


def _in_core(users: IntArray, items: IntArray, k: int) -> np.ndarray:
    """Which pairs are in the k-core of the bipartite graph."""
    inside = np.ones(len(users), dtype=bool)
    while True:
        user_degree = np.bincount(users[inside], minlength=int(users.max()) + 1)
        item_degree = np.bincount(items[inside], minlength=int(items.max()) + 1)
        keep = inside & (user_degree[users] >= k) & (item_degree[items] >= k)
        if keep.sum() == inside.sum() or not keep.any():
            return keep
        inside = keep


def _assign(users: IntArray, time: np.ndarray | None, split: Split, seed: int) -> npt.NDArray[np.int8]:
    """0, 1, 2 for train, valid, test, for pairs sorted by (user, item)."""
    part = np.zeros(len(users), dtype=np.int8)
    if len(users) == 0:
        return part
    if split.kind == "temporal":
        if time is None:
            raise InteractionError("a temporal split needs the times of the interactions")
        order = np.argsort(time, kind="stable")
        test = _round_half_up(split.test * len(users))
        valid = _round_half_up(split.valid * len(users))
        part[order[len(users) - test :]] = 2
        part[order[len(users) - test - valid : len(users) - test]] = 1
        return part

    random = np.random.default_rng(seed).integers(1 << 32, size=len(users))
    if split.kind == "ratio" or time is None:
        # One stable sort of one integer takes a third of the time of a lexicographic one.
        order = np.argsort((users << 32) | random, kind="stable")
    else:
        order = np.lexsort((random, time, users))
    count = np.bincount(users)
    # Position from the end within each user's interactions, in the order drawn above: 0 is the last.
    from_end = np.cumsum(count)[users[order]] - 1 - np.arange(len(users))
    count = count[users[order]]
    if split.kind == "leave-one-out":
        part[order[(from_end == 0) & (count >= 3)]] = 2
        part[order[(from_end == 1) & (count >= 3)]] = 1
        return part
    test = np.minimum(_round_half_up(split.test * count), count - 1)
    valid = np.minimum(_round_half_up(split.valid * count), count - 1 - test)
    part[order[from_end < test]] = 2
    part[order[(from_end >= test) & (from_end < test + valid)]] = 1
    return part


def _round_half_up(x: Any) -> Any:
    # The small term keeps a half that floating point made a hair smaller (0.1 * 15) a half.
    return np.floor(np.asarray(x) + 0.5 + 1e-9).astype(np.int64)


def _compact(pairs: dict[str, np.ndarray], raw: np.ndarray, row: int) -> np.ndarray:
    """Renumber one row of the pairs, in place, to the ids that still occur; returns those ids."""
    used = np.zeros(len(raw), dtype=bool)
    for p in pairs.values():
        used[p[row]] = True
    if used.all():
        return raw
    new = np.cumsum(used) - 1
    for p in pairs.values():
        p[row] = new[p[row]]
    return raw[used]
