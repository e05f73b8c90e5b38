"""Raw user-item interactions, as they lie on disk or in memory, to dense ids and a split.

The one entry point for files is :func:`load_interactions`; :func:`from_hetero_data` does the same for a PyG graph.
Both return :class:`Interactions`: three ``[2, E]`` tensors of dense ids and the two :class:`IdMap` that lead back to
the ids of the source.

Everything wrong in the input either stops with one :class:`InteractionError` that names file and line, or is repaired
by the rule documented in :func:`load_interactions` and reported by one :class:`InteractionWarning` with the number of
rows it concerns.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import torch
from torch import Tensor

from .columns import Table, all_ids, joined
from .ids import IdMap, IntArray, InteractionError, InteractionWarning, UnknownIdError, escaped, one_line, warn
from .layouts import LAYOUTS, Column, Columns, Format
from .readers import Reading, find_files, from_object, read
from .split import Split, assign, split_interactions

__all__ = [
    "LAYOUTS",
    "IdMap",
    "InteractionError",
    "InteractionWarning",
    "Interactions",
    "Origin",
    "Split",
    "UnknownIdError",
    "load_interactions",
    "split_interactions",
]


_PARTS = ("train", "valid", "test")
_CHECKED = 1 << 20  # pairs that are checked at once

# ---------------------------------------------------------------------------------------------------------------------
# Public containers


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
                f"read from     {escaped(made.source)} ({made.format})",
                f"columns       {', '.join(f'{role}: {name}' for role, name in made.columns) or 'user, item'}",
                f"ignored       {', '.join(made.ignored[:12]) or 'nothing'}{', ...' if len(made.ignored) > 12 else ''}",
                f"split         {made.how}",
            ]
            if made.filters:
                lines.append(f"filters       {', '.join(f'{key} {value:g}' for key, value in made.filters)}")
        lines.append(f"fingerprint   {self.fingerprint[:16]}")
        return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------------
# Public functions


def load_interactions(
    source: Any,
    *,
    format: Format | None = None,
    train: str | PathLike[str] | None = None,
    valid: Any = None,
    test: Any = None,
    split: Split = Split(),  # noqa: B008 - frozen
    min_rating: float | None = None,
    k_core: int = 0,
    user_column: Column | None = None,
    item_column: Column | None = None,
    rating_column: Column | None = None,
    time_column: Column | None = None,
    encoding: str | None = None,
    separator: str | None = None,
    time_format: str | None = None,
    seed: int = 0,
    name: str | None = None,
) -> Interactions:
    """Interactions of a folder, a file, a frame, a matrix or a tensor of pairs.

    A folder holds files whose names say train, valid (also validation, val, dev) and test; its split is kept. A folder
    without such names must hold one file of interactions (``*.inter``, a name like ``ratings`` or ``interactions``, or
    the only file there) or the portions of one (``part-0.csv``, ``part-1.csv``, ...; also in folders ``train``, ``test``
    or ``split=train``), which is split by ``split``, as is a single file, unless a column called ``split``, ``x_label``
    or ``fold`` holds train, valid and test (or 0, 1, 2): its split is kept too. A split without validation gets one
    from the training interactions by ``split.valid`` and a warning.

    Formats, told by the ending and the content (``format=`` overrides):

    - ``parquet``, ``npy`` (integer pairs, ``E x 2`` or ``2 x E``; ``2 x 2`` is read as two pairs; ``E x 3`` and
      ``E x 4`` have a rating and a time), ``npz`` (a scipy sparse matrix, users x items; stored zeros are no
      interactions), ``json`` (lines of objects, or one array of them);
    - ``recbole``: RecBole's atomic ``.inter``, header fields ``name:type``;
    - ``table``: text with a header line, separated by tabs, commas, semicolons, bars or spaces; ids may be strings;
    - ``pairs``: text without a header, ``user item [rating [time]]`` a line, ids integers (strings too, if the columns
      are named by position, or in a layout of :data:`LAYOUTS`);
    - ``adjacency``: text without a header, ``user item item ...`` or ``user:item item ...`` a line, integers.

    Text packed by gzip is unpacked, to at most 200 times its size and 64 MiB; lines at the start that begin with ``#``
    or ``%`` are comments; blank lines are skipped. *Pairs or adjacency:* the lines of the first megabyte of the
    (training) file decide. It is ``pairs`` if no line has more than two fields, or if the first field repeats from line
    to line and most lines have the same two to four fields; if they have more, the columns must be given. Else it is
    ``adjacency``. Three or four fields on every line with no user repeated can be read both ways: a fourth column that
    is a time, or a third that is no integer, makes it ``pairs``; else it is ``adjacency``, with a warning.

    Columns of a header are found by usual names (``user``, ``user_id``, ``item_id``, ``movieId``, ``asin``,
    ``rating``, ``timestamp``, ...). Without a rating threshold every row is an interaction, whatever its rating; where
    ratings of 0 or less are among them, a warning says so.

    Ids: rows are the sorted distinct raw ids, over all splits, that have an interaction. A column of which all ids look
    like integers (no leading zeros) is a column of integers and sorts as numbers.

    Times are numbers, or dates that are all read in one way: day or month first as suits every row, with a warning
    where both do.

    Repairs, each with one :class:`InteractionWarning` that says how many: duplicate pairs are kept once (the earliest,
    where there is a time); pairs of validation that are also in training, and pairs of test that are in either, are
    removed from the later split. Users without a training item are kept, with a warning. Stored zeros of a sparse
    matrix and adjacency lines without an item are left out, with a warning.

    Args:
        source: path of a folder or a file; a pandas or polars frame or a pyarrow table; a scipy sparse matrix, users x
            items; or a tensor or an array of pairs, laid out as in ``npy``.
        format: how to read the files; default: see above.
        train: training file within the folder ``source``, if its name does not say so.
        valid: validation file, or an object like ``source``, if ``source`` is for training.
        test: the same for test.
        split: how to split what is not split yet.
        min_rating: keep only rows with at least this rating.
        k_core: keep only users and items with at least this many interactions, repeated until all have; counted over
            all splits, before splitting.
        user_column: header name of the user column, or its position from 0 if there is no header (also as digits).
        item_column: the same for items.
        rating_column: the same for ratings.
        time_column: the same for times (numbers or dates).
        encoding: of text; default UTF-8.
        separator: between two fields of text; default: told from the first line.
        time_format: how dates are written, as for ``strptime``, such as ``%d.%m.%Y %H:%M``.
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
    how = Reading(format, columns, encoding, separator, time_format)
    tables: dict[str, Table] = {}
    read_as: str = ""
    if isinstance(source, (str, PathLike)):
        where = Path(source)
        shown = str(where)
        name = name or (where.resolve().name if where.is_dir() else where.name.split(".")[0])
        try:
            files = find_files(where, {"train": train, "valid": valid, "test": test}, format)
            for part, of_part in files.items():
                portions = []
                for file in of_part:
                    same = bool(read_as) and file.suffix == files["train"][0].suffix
                    table, found = read(file, replace(how, format=read_as if same else format))
                    portions.append(table)
                    read_as = read_as or found
                tables[part] = joined(portions)
        except OSError as error:
            raise InteractionError(f"{error.filename or where}: {error.strerror or one_line(error)}") from None
    else:
        if train is not None:
            raise InteractionError("train= is a file of a folder; give the training interactions as the source")
        for part, given in (("train", source), ("valid", valid), ("test", test)):
            if given is not None:
                tables[part], found = from_object(given, how)
                read_as = read_as or found
        shown = read_as
    return assemble(
        tables, name=name or "interactions", source=shown, format=read_as, split=split, min_rating=min_rating,
        k_core=k_core, seed=seed,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# From tables to interactions


def assemble(
    tables: dict[str, Table],
    *,
    name: str,
    source: str,
    format: str,
    split: Split,
    min_rating: float | None,
    k_core: int,
    seed: int,
) -> Interactions:
    """Tables of raw ids, one for each part or one to be split, to interactions; ``tables`` is used up."""
    of_training = tables["train"]
    _filter(tables, min_rating)
    declared = "the files say" if len(tables) > 1 else ""
    if of_training.part is not None:
        column = dict(of_training.taken).get("part", "part")
        if len(tables) > 1:
            warn(f"{source}: column {column} is ignored: there are files for the parts")
        else:
            table = tables.pop("train")
            assert table.part is not None
            tables |= {p: table[table.part == n] for n, p in enumerate(_PARTS) if (table.part == n).any()}
            declared = f"column {column} says"
            if "train" not in tables:
                raise InteractionError(f"{source}: column {column} leaves no pairs for training")
    if split.kind == "temporal" and "valid" not in tables and tables["train"].time is None:
        raise InteractionError(f"{source}: a temporal split needs a time column, and there is none (time_column=)")

    user_raw = all_ids([t.users for t in tables.values()])
    item_raw = all_ids([t.items for t in tables.values()])
    num_items = len(item_raw)
    # One integer for each pair, so that duplicates and overlaps are plain set operations.
    keys: dict[str, IntArray] = {}
    time = None
    sources = {part: table.source for part, table in tables.items()}
    for part in list(tables):
        table = tables.pop(part)
        key = table.users.rows_in(user_raw).astype(np.int64)
        key *= num_items
        key += table.items.rows_in(item_raw)
        when = table.time if part == "train" else None
        del table
        keys[part], kept = _without_duplicates(key, when, sources[part])
        if when is not None and kept is not None:
            time = when[kept]
        del key, when, kept
    keys = _without_overlaps(keys, sources)

    if k_core > 1:
        every = np.concatenate(list(keys.values()))
        core = _in_core(every // num_items, every % num_items, k_core)
        if not core.any():
            raise InteractionError(f"{source}: no user and item is left in the {k_core}-core")
        ends = np.cumsum([len(k) for k in keys.values()])[:-1]
        masks = dict(zip(keys, np.split(core, ends), strict=True))
        keys = {p: k[masks[p]] for p, k in keys.items()}
        time = None if time is None else time[masks["train"]]

    how = f"as {declared}"
    if len(keys) == 1:
        shares = "" if split.kind == "leave-one-out" else f", {split.valid:g} for validation, {split.test:g} for test"
        how = f"{split.kind}{shares}, seed {seed}"
        part_of = assign(keys["train"] // num_items, time, split, seed, source)
        whole = keys.pop("train")
        keys = {p: whole[part_of == i] for i, p in enumerate(_PARTS)}
        del whole, part_of
    elif "valid" not in keys and split.valid > 0:
        # What the split would give to test is taken for validation: a test part is there already.
        part_of_training = replace(split, valid=0.0, test=split.valid / (1 - split.test))
        held_out = assign(keys["train"] // num_items, time, part_of_training, seed, source) == 2
        keys["valid"], keys["train"] = keys["train"][held_out], keys["train"][~held_out]
        warn(f"{source}: no validation split; {len(keys['valid'])} training interactions were held out for it")
        how += f"; validation held out of training ({split.kind}, seed {seed})"
    if "test" not in keys:
        warn(f"{source}: no test split; nothing can be measured on test")

    pairs: dict[str, np.ndarray] = {}
    for part in list(keys):
        key = keys.pop(part)
        pairs[part] = np.empty((2, len(key)), dtype=np.int64)
        np.floor_divide(key, num_items, out=pairs[part][0])
        np.remainder(key, num_items, out=pairs[part][1])
    user_raw, item_raw = _compact(pairs, user_raw, 0), _compact(pairs, item_raw, 1)
    trained = np.zeros(len(user_raw), dtype=bool)
    trained[pairs["train"][0]] = True
    if not trained.all():
        warn(f"{source}: {int((~trained).sum())} of {len(user_raw)} users have no training item (kept)")
    empty = torch.empty(2, 0, dtype=torch.int64)
    train, valid, test = (torch.from_numpy(pairs[p]) if p in pairs else empty for p in _PARTS)
    filters = (("min_rating", min_rating), ("k_core", k_core if k_core > 1 else None))
    origin = Origin(
        source,
        format,
        of_training.taken,
        of_training.ignored,
        how,
        None if declared else split,
        seed,
        tuple((key, value) for key, value in filters if value is not None),
    )
    return Interactions(
        train,
        valid,
        test,
        num_users=len(user_raw),
        num_items=len(item_raw),
        user_ids=IdMap(user_raw),
        item_ids=IdMap(item_raw),
        name=name,
        origin=origin,
    )


def _filter(tables: dict[str, Table], min_rating: float | None) -> None:
    """Leave out what is rated below the threshold; without one, say that there are explicit negatives."""
    source = tables["train"].source
    if min_rating is not None and tables["train"].rating is None:
        raise InteractionError(f"{source}: min_rating needs a rating column, and there is none (rating_column=)")
    for part, table in tables.items():
        if min_rating is None:
            negative = 0 if table.rating is None else int((table.rating <= 0).sum())
            if negative:
                warn(
                    f"{table.source}: {negative} of {len(table)} ratings are 0 or less and count as interactions; "
                    "min_rating= leaves them out"
                )
        elif table.rating is None:
            warn(f"{table.source}: no rating column; all its {len(table)} rows are kept")
        else:
            tables[part] = table[table.rating >= min_rating]
    if min_rating is not None and len(tables["train"]) == 0:
        raise InteractionError(f"{source}: no rating is at least {min_rating:g}")


def _without_duplicates(key: IntArray, time: np.ndarray | None, source: str) -> tuple[IntArray, IntArray | None]:
    """Ascending distinct keys and, where there is a time, the row of each in the table: the earliest."""
    order = None
    if time is not None:
        order = np.lexsort((time, key))
        key = key[order]
    elif bool((key[1:] < key[:-1]).any()):
        key.sort()
    first = np.ones(len(key), dtype=bool)
    np.not_equal(key[1:], key[:-1], out=first[1:])
    repeated = len(key) - int(first.sum())
    if repeated:
        warn(f"{source}: {repeated} duplicate pairs, kept once")
        key, order = key[first], None if order is None else order[first]
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


def _compact(pairs: dict[str, np.ndarray], raw: pl.Series, row: int) -> pl.Series:
    """Renumber one row of the pairs, in place, to the ids that still occur; returns those ids."""
    used = np.zeros(len(raw), dtype=bool)
    for p in pairs.values():
        used[p[row]] = True
    if used.all():
        return raw
    new = np.cumsum(used) - 1
    for p in pairs.values():
        p[row] = new[p[row]]
    return raw.filter(pl.Series(used))
