"""Raw user-item interactions, as they lie on disk or in memory, to dense ids and a split.

The one entry point for files is :func:`load_interactions`; :func:`from_hetero_data` does the same for a PyG graph.
Both return :class:`Interactions`: three ``[2, E]`` tensors of dense ids and the two :class:`IdMap` that lead back to
the ids of the source.

Everything wrong in the input either stops with one :class:`InteractionError` that names file and line, or is repaired
by the rule documented in :func:`load_interactions` and reported by one :class:`InteractionWarning` with the number of
rows it concerns.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Protocol, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

__all__ = [
    "IdMap",
    "InteractionError",
    "InteractionWarning",
    "Interactions",
    "Split",
    "UnknownIdError",
    "from_hetero_data",
    "load_interactions",
    "split_interactions",
]

Format = Literal["pairs", "adjacency", "table", "recbole", "parquet", "npy", "npz"]
Column = str | int
IntArray = npt.NDArray[np.int64]


class InteractionError(ValueError):
    """The input cannot be used; the message is one line and names the file, and the line or row where there is one."""


class UnknownIdError(InteractionError):
    """An id that the data set does not have."""


class InteractionWarning(UserWarning):
    """The input was repaired, or has users a model cannot learn about; the message says how many."""


# ---------------------------------------------------------------------------------------------------------------------
# Public containers


class IdMap:
    """Raw ids and dense rows ``0 .. n-1``, both ways.

    Row ``r`` is the ``r``-th smallest raw id: integers sort as numbers, strings by code point.

    Args:
        raw: the distinct raw ids, ``[n]``, integers or strings, in ascending order.

    Raises:
        InteractionError: if the ids are not ascending and distinct.
    """

    def __init__(self, raw: npt.ArrayLike) -> None:
        values = np.asarray(raw)
        if values.size == 0 and values.dtype.kind not in "U":
            values = values.astype(np.int64)
        if values.dtype.kind in "iu":
            values = values.astype(np.int64)
        elif values.dtype.kind in "OT":
            values = values.astype(np.str_)
        if values.ndim != 1 or values.dtype.kind not in "iU":
            raise InteractionError(f"ids must be a list of integers or strings, not {values.dtype} of {values.shape}")
        if not bool(np.all(values[1:] > values[:-1])):
            raise InteractionError("the ids of an IdMap must be distinct and ascending")
        values = values.view()
        values.setflags(write=False)
        self.raw: np.ndarray = values

    def __len__(self) -> int:
        return len(self.raw)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdMap) and np.array_equal(self.raw, other.raw)

    def __hash__(self) -> int:
        return hash((len(self.raw), self.raw.dtype.kind))

    def __repr__(self) -> str:
        shown = ", ".join(str(v) for v in self.raw[:3])
        kind = "integers" if self.raw.dtype.kind == "i" else "strings"
        return f"IdMap({len(self)} {kind}: {shown}{', ...' if len(self) > 3 else ''})"

    def encode(self, raw_ids: npt.ArrayLike, *, missing: int | None = None) -> IntArray:
        """Rows of raw ids, ``[n]`` -> ``[n]`` int64.

        Strings are accepted for integer ids (a command line has nothing else), and integers for string ids.

        Args:
            raw_ids: the ids.
            missing: the row to give to ids that the map does not have; by default they are an error.

        Raises:
            UnknownIdError: for ids that the map does not have; the message lists the first few.
        """
        asked = np.atleast_1d(np.asarray(raw_ids))
        wanted = self._as_own_kind(asked)
        if len(self.raw) == 0:
            rows, known = np.zeros(len(asked), dtype=np.int64), np.zeros(len(asked), dtype=bool)
        else:
            rows = np.minimum(np.searchsorted(self.raw, wanted), len(self.raw) - 1).astype(np.int64)
            known = self.raw[rows] == wanted
            if asked.dtype.kind not in "iu" and self.raw.dtype.kind == "i":
                known &= np.array([str(w) == str(a) for w, a in zip(wanted, asked, strict=True)], dtype=bool)
        if not known.all():
            if missing is None:
                unknown = asked[~known]
                shown = ", ".join(str(v) for v in unknown[:5])
                raise UnknownIdError(f"{len(unknown)} unknown id(s): {shown}{', ...' if len(unknown) > 5 else ''}")
            rows[~known] = missing
        return rows

    def _as_own_kind(self, asked: np.ndarray) -> np.ndarray:
        if self.raw.dtype.kind == "U":
            return asked.astype(np.str_)
        if asked.dtype.kind in "iu":
            return asked.astype(np.int64)
        # What is no integer cannot be in an integer map; -1 stands for it, and the caller compares the text again.
        return np.array([int(v) if re.fullmatch(r"\d{1,18}", str(v)) else -1 for v in asked], dtype=np.int64)

    def decode(self, rows: npt.ArrayLike) -> np.ndarray:
        """Raw ids of rows, any shape.

        Raises:
            UnknownIdError: if a row is outside ``0 .. n-1``.
        """
        index = np.asarray(rows, dtype=np.int64)
        if index.size and (index.min() < 0 or index.max() >= len(self.raw)):
            raise UnknownIdError(f"row {int(index.min() if index.min() < 0 else index.max())} of {len(self.raw)} ids")
        return self.raw[index]

    def to_json(self) -> str:
        """The map as JSON text; consecutive integers are written as a range."""
        if self.raw.dtype.kind == "i" and len(self.raw) and self.raw[-1] - self.raw[0] == len(self.raw) - 1:
            return json.dumps({"kind": "range", "start": int(self.raw[0]), "stop": int(self.raw[-1]) + 1})
        kind = "integers" if self.raw.dtype.kind == "i" else "strings"
        return json.dumps({"kind": kind, "ids": self.raw.tolist()}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> IdMap:
        """The map that :meth:`to_json` wrote.

        Raises:
            InteractionError: if the text is not such a map.
        """
        try:
            content = json.loads(text)
            if content["kind"] == "range":
                return cls(np.arange(int(content["start"]), int(content["stop"]), dtype=np.int64))
            return cls(np.array(content["ids"], dtype={"integers": np.int64, "strings": np.str_}[content["kind"]]))
        except (KeyError, TypeError, ValueError) as error:
            raise InteractionError(f"not an id map: {_one_line(error)}") from None


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
# What readers hand on


@dataclass(frozen=True)
class _Ids:
    """A column of raw ids: the id of row ``e`` is ``vocabulary[codes[e]]``, or ``codes[e]`` itself without one."""

    codes: IntArray
    vocabulary: np.ndarray | None = None

    def __getitem__(self, rows: np.ndarray) -> _Ids:
        return replace(self, codes=self.codes[rows])

    @property
    def are_integers(self) -> bool:
        return self.vocabulary is None or self.vocabulary.dtype.kind == "i"

    def distinct(self) -> np.ndarray:
        """The raw ids that occur (maybe more than once each when a vocabulary repeats one)."""
        used = pd.unique(self.codes)
        return used if self.vocabulary is None else self.vocabulary[used]

    def rows_in(self, raw: np.ndarray) -> IntArray:
        """Position of every row's id in the ascending ids ``raw``, which has them all."""
        if self.vocabulary is None and raw.dtype.kind == "i":
            return _positions(raw, self.codes)
        if self.vocabulary is None:
            distinct, codes = np.unique(self.codes, return_inverse=True)
        else:
            distinct, codes = self.vocabulary, self.codes
        if raw.dtype.kind == "U":
            distinct = distinct.astype(np.str_)
        # A vocabulary may have entries that no row uses any more; where those land does not matter.
        return np.searchsorted(raw, distinct)[codes]


def _positions(raw: IntArray, values: IntArray) -> IntArray:
    """``searchsorted`` for values that are all in ``raw``; a table look-up where the ids are not too spread out."""
    low, high = int(raw[0]), int(raw[-1])
    if high - low + 1 == len(raw):
        return values - low if low else values
    if high - low < 4 * len(raw) + (1 << 20):
        table = np.zeros(high - low + 1, dtype=np.int64)
        table[raw - low] = np.arange(len(raw))
        return table[values - low]
    return np.searchsorted(raw, values)


@dataclass(frozen=True)
class _Table:
    """What one file holds: the ids, and the rating and time of every row where there are such columns."""

    source: str
    users: _Ids
    items: _Ids
    rating: np.ndarray | None = None
    time: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users.codes)

    def __getitem__(self, rows: np.ndarray) -> _Table:
        return _Table(
            self.source,
            self.users[rows],
            self.items[rows],
            None if self.rating is None else self.rating[rows],
            None if self.time is None else self.time[rows],
        )


@dataclass(frozen=True)
class _Columns:
    """The columns a caller named: header names, or positions from 0 in a file without a header."""

    user: Column | None = None
    item: Column | None = None
    rating: Column | None = None
    time: Column | None = None

    @property
    def are_positions(self) -> bool:
        return any(isinstance(c, int) for c in (self.user, self.item, self.rating, self.time))


class _Fail(Protocol):
    """Raise for the rows that are wrong; ``integers`` says that the column must hold integers."""

    def __call__(self, wrong: np.ndarray, message: str, integers: bool = ...) -> None: ...


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _warn(message: str) -> None:
    """Warn, attributed to the first caller outside this module."""
    depth, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals is globals():
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, InteractionWarning, stacklevel=depth)


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
    columns = _Columns(user_column, item_column, rating_column, time_column)
    where = Path(path)
    tables: dict[str, _Table] = {}
    learned = format
    try:
        files = _find_files(where, valid, test, format)
        for part, file in files.items():
            tables[part], learned = _read(file, learned if file.suffix == files["train"].suffix else format, columns)
    except OSError as error:
        raise InteractionError(f"{error.filename or where}: {error.strerror or _one_line(error)}") from None
    return _assemble(
        tables,
        name=name or (where.resolve().name if where.is_dir() else where.name.split(".")[0]),
        source=str(where),
        split=split,
        min_rating=min_rating,
        k_core=k_core,
        seed=seed,
    )


def from_hetero_data(
    data: HeteroData,
    *,
    edge_type: tuple[str, str, str] | None = None,
    valid: Tensor | None = None,
    test: Tensor | None = None,
    split: Split = Split(),
    min_rating: float | None = None,
    k_core: int = 0,
    seed: int = 0,
    name: str = "hetero-data",
) -> Interactions:
    """Interactions of a PyG graph; raw ids are node numbers.

    Ratings and times are the edge attributes ``rating`` and ``time``, where there are.

    Args:
        data: the graph.
        edge_type: the edges from users to items; default: the only edge type between two different node types that is
            not a reverse (``rev_...``), or the only one of these from nodes called ``user``.
        valid: validation edges ``[2, E]``, if the graph's edges are for training only.
        test: test edges ``[2, E]``, if the graph's edges are for training only.
        split: how to split what is not split yet, as in :func:`load_interactions`.
        min_rating: as in :func:`load_interactions`; ``valid`` and ``test`` edges have no rating and all stay.
        k_core: as in :func:`load_interactions`.
        seed: of the random split.
        name: what to call the data.

    Raises:
        InteractionError: if there are no such edges.
    """
    if edge_type is None:
        candidates = [t for t in data.edge_types if t[0] != t[2] and not t[1].startswith("rev_")]
        if len(candidates) > 1:
            candidates = [t for t in candidates if t[0] == "user"]
        if len(candidates) != 1:
            raise InteractionError(f"HeteroData: name the user-item edges with edge_type=, one of {data.edge_types}")
        edge_type = candidates[0]
    if edge_type not in data.edge_types:
        raise InteractionError(f"HeteroData: no edges {edge_type}; there are {data.edge_types}")
    store = data[edge_type]
    source = f"HeteroData {edge_type}"
    if "edge_index" not in store:
        raise InteractionError(f"{source}: no edge_index")
    parts = {"train": store.edge_index, "valid": valid, "test": test}
    tables = {p: _from_edges(f"{source} {p}", edges) for p, edges in parts.items() if edges is not None}
    count = len(tables["train"])
    attributes: dict[str, Any] = {}
    for key in ("rating", "time"):
        values = store.get(key)
        if values is not None:
            values = np.asarray(torch.as_tensor(values).detach().cpu())
            if values.shape != (count,):
                raise InteractionError(f"{source}: {key} has shape {values.shape}, not one value for {count} edges")
            _check_finite(source, key, values)
            attributes[key] = values
    tables["train"] = replace(tables["train"], **attributes)
    return _assemble(tables, name=name, source=source, split=split, min_rating=min_rating, k_core=k_core, seed=seed)


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


class IdColumn(NamedTuple):
    """A column of raw ids: row ``e`` holds ``ids[codes[e]]``; ``ids`` may have entries that no row uses."""

    codes: IntArray
    ids: np.ndarray

    def encode(self, ids: IdMap) -> IntArray:
        """Dense row of every raw id, -1 where ``ids`` does not have it."""
        return ids.encode(self.ids, missing=-1)[self.codes]


def read_columns(
    path: str | PathLike[str],
    roles: Mapping[str, str],
    *,
    weight: bool = False,
    columns: Sequence[Column] | None = None,
) -> dict[str, Any]:
    """Columns of raw ids from a table: text with or without a header, RecBole's atomic files, parquet or npy.

    A header is recognised by RecBole's types (``name:type``) or by a usual name of one of the roles. Where every role
    has a column with a usual name, names decide, else the order of the columns.

    Args:
        path: the file.
        roles: what the columns hold, and the usual names of such columns (small letters and digits, blank-separated).
        weight: whether a column of numbers may follow: called ``weight``, or the next one of a file without a header.
        columns: header names or positions of the roles, in their order (one more for the weight).

    Returns:
        An :class:`IdColumn` for each role, and a float array under ``weight`` where there is one.

    Raises:
        InteractionError: if the file cannot be read; one line that names file and line.
    """
    file = Path(path)
    keys = [*roles, *(["weight"] if weight else [])]
    if columns is not None and not len(roles) <= len(columns) <= len(keys):
        raise InteractionError(f"{file}: columns= names the columns of {', '.join(keys)}, not {len(columns)} columns")

    def find(header: Sequence[str]) -> dict[str, int]:
        if columns is not None:
            return {key: _column(header, wanted, key, str(file)) for key, wanted in zip(keys, columns, strict=False)}
        plain = [_plain(h) for h in header]
        found = {key: next((plain.index(n) for n in names.split() if n in plain), -1) for key, names in roles.items()}
        if min(found.values()) < 0:
            if len(header) < len(roles):
                raise InteractionError(f"{file}: {len(header)} columns where {', '.join(roles)} are expected")
            found = dict(zip(roles, range(len(roles)), strict=True))
        if weight and "weight" in plain:
            found["weight"] = plain.index("weight")
        return found

    try:
        if not file.is_file():
            raise InteractionError(f"{file}: no such file")
        kind = _BINARY.get(_ending(file))
        if kind == "parquet":
            values = _parquet_columns(file, find)
        elif kind == "npy":
            values = _array_columns(file, keys[: len(columns)] if columns else keys, len(roles), columns)
        elif kind == "npz":
            table = _read_npz(file)
            values = dict(zip(keys, (table.users, table.items, table.rating), strict=False))
        else:
            values = _text_columns(*_lay_out_columns(file, roles, keys, columns, find))
    except OSError as error:
        raise InteractionError(f"{error.filename or file}: {error.strerror or _one_line(error)}") from None
    except (EOFError, zlib.error) as error:
        raise InteractionError(f"{file}: damaged compressed file ({_one_line(error)})") from None
    result = dict(values)
    for role in roles:
        column = values[role]
        if column.vocabulary is None:
            ids, codes = np.unique(column.codes, return_inverse=True)
            result[role] = IdColumn(codes, ids)
        else:
            result[role] = IdColumn(column.codes, column.vocabulary)
    return result


def _column(header: Sequence[str], wanted: Column, key: str, source: str) -> int:
    if isinstance(wanted, int):
        return _checked_position(wanted, len(header), key, source)
    matches = [p for p, h in enumerate(header) if wanted in (h, h.split(":")[0])]
    if not matches:
        raise InteractionError(f"{source}: no column {wanted!r} for {key}; there are {_shown(header)}")
    return matches[0]


def _array_columns(file: Path, keys: Sequence[str], least: int, columns: Sequence[Column] | None) -> dict[str, Any]:
    try:
        array = np.load(file, allow_pickle=False)
    except Exception as error:  # whatever numpy meets in damaged bytes
        raise InteractionError(f"{file}: not an array of numbers ({_one_line(error)})") from None
    if array.ndim == 2 and array.shape[0] in (least, len(keys)) and array.shape[1] > len(keys):
        array = array.T
    if array.ndim != 2 or array.shape[1] < least or array.size == 0:
        raise InteractionError(f"{file}: shape {array.shape}, not E x {least} or {least} x E")
    header = [str(p) for p in range(array.shape[1])]
    wanted = columns if columns is not None else range(min(len(keys), len(header)))
    values: dict[str, Any] = {}
    for key, column in zip(keys, wanted, strict=False):
        part = array[:, _column(header, column, key, str(file))]
        if key == "weight":
            _check_finite(str(file), key, part)
            values[key] = part.astype(np.float64)
        else:
            values[key] = _Ids(_integer_ids(file, part, key))
    return values


def _lay_out_columns(
    file: Path,
    roles: Mapping[str, str],
    keys: Sequence[str],
    columns: Sequence[Column] | None,
    find: Callable[[Sequence[str]], dict[str, int]],
) -> tuple[_Layout, dict[str, int]]:
    """The layout of a text file for :func:`read_columns`, and the position of each column."""
    layout = _lay_out(file, "pairs", _Columns(user=0, item=1))
    _, first = next(_rows_of(layout))
    typed = all(re.fullmatch(r"[^:]+:(token|float|token_seq|float_seq)", f) for f in first)
    usual = {_plain(f) for f in first} & set(" ".join(roles.values()).split())
    if typed or usual or any(isinstance(c, str) for c in columns or ()):
        layout = _lay_out(file, "recbole" if typed else "table", _Columns())
        assert layout.header is not None
        return layout, find(layout.header)
    if layout.width < len(roles):
        raise InteractionError(
            f"{file}:{layout.first_line}: {layout.width} fields where {', '.join(roles)} are expected"
        )
    positions = columns if columns is not None else range(min(len(keys), layout.width))
    header = [str(p) for p in range(layout.width)]
    found = zip(keys, positions, strict=False)
    return layout, {key: _column(header, position, key, str(file)) for key, position in found}


# ---------------------------------------------------------------------------------------------------------------------
# From tables to interactions


def _assemble(
    tables: dict[str, _Table],
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
                _warn(f"{table.source}: no rating column; all its {len(table)} rows are kept")
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
        _warn(f"{source}: no validation split; {len(keys['valid'])} training interactions were held out for it")
    if "test" not in keys:
        _warn(f"{source}: no test split; nothing can be measured on test")

    pairs = {p: np.stack([keys[p] // num_items, keys[p] % num_items]) for p in keys}
    user_raw, item_raw = _compact(pairs, user_raw, 0), _compact(pairs, item_raw, 1)
    untrained = len(user_raw) - len(pd.unique(pairs["train"][0]))
    if untrained:
        _warn(f"{source}: {untrained} of {len(user_raw)} users have no training item (kept)")
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


def _all_ids(columns: Sequence[_Ids]) -> np.ndarray:
    """The ascending distinct ids of several columns; integers only if all columns are integers."""
    distinct = [c.distinct() for c in columns]
    if not all(c.are_integers for c in columns):
        return np.unique(np.concatenate([d.astype(np.str_) for d in distinct]))
    return np.sort(pd.unique(np.concatenate(distinct)))


def _without_duplicates(key: IntArray, table: _Table) -> tuple[IntArray, IntArray]:
    """Ascending distinct keys and, for each, its row in the table: the earliest, or the first if there is no time."""
    order = np.argsort(key, kind="stable") if table.time is None else np.lexsort((table.time, key))
    key = key[order]
    first = np.ones(len(key), dtype=bool)
    np.not_equal(key[1:], key[:-1], out=first[1:])
    repeated = len(key) - int(first.sum())
    if repeated:
        _warn(f"{table.source}: {repeated} duplicate pairs, kept once")
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
                _warn(f"{sources[part]}: {count} pairs are also in {earlier}, removed from {part}")
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


# ---------------------------------------------------------------------------------------------------------------------
# Finding files and telling formats


_PARTS = {
    "train": {"train", "training"},
    "valid": {"valid", "validation", "val", "dev"},
    "test": {"test", "testing"},
}
_BINARY = {".npy": "npy", ".npz": "npz", ".parquet": "parquet", ".pq": "parquet"}
_TEXT_ENDINGS = {"", ".txt", ".csv", ".tsv", ".dat", ".data", ".inter", ".edges", ".edgelist", ".list", ".tab"}
_ENDINGS_OF = {
    "npy": {".npy"},
    "npz": {".npz"},
    "parquet": {".parquet", ".pq"},
    "recbole": {".inter"},
}
_USUAL_NAMES = ("interactions", "interaction", "ratings", "rating", "inter", "u", "events", "reviews", "data")


def _ending(file: Path) -> str:
    """The ending that tells the format: the last, or the one before ``.gz``."""
    return (Path(file.stem) if file.suffix == ".gz" else file).suffix.lower()


def _find_files(
    where: Path,
    valid: str | PathLike[str] | None,
    test: str | PathLike[str] | None,
    format: Format | None,
) -> dict[str, Path]:
    """The files of each part, ``train`` first; only ``train`` if there is one file to be split."""
    given = {"valid": valid, "test": test}
    if not where.exists():
        raise InteractionError(f"{where}: no such file or folder")
    if where.is_dir():
        if valid is not None or test is not None:
            raise InteractionError(f"{where}: valid= and test= go with a training file, not with a folder")
        return _files_of_folder(where, format)
    files = {"train": where}
    for part, file in given.items():
        if file is not None:
            files[part] = Path(file)
            if not files[part].is_file():
                raise InteractionError(f"{file}: no such file")
    return files


def _files_of_folder(folder: Path, format: Format | None) -> dict[str, Path]:
    endings = _ENDINGS_OF.get(format or "", _TEXT_ENDINGS if format else _TEXT_ENDINGS | set(_BINARY))
    readable = sorted(
        f
        for f in folder.iterdir()
        if f.is_file() and not f.name.startswith((".", "_")) and _ending(f) in endings and f.stem.lower() != "readme"
    )
    if not readable:
        raise InteractionError(f"{folder}: no file of interactions in this folder")
    files: dict[str, Path] = {}
    for part, words in _PARTS.items():
        named = [f for f in readable if words & set(re.split(r"[._\-]+", f.name.lower()))]
        exact = [f for f in named if f.name.lower().split(".")[0] in words]
        candidates = exact or named
        if len(candidates) > 1:
            shown = ", ".join(f.name for f in candidates[:5])
            raise InteractionError(f"{folder}: several files for {part} ({shown}); give the files, or format=")
        if candidates:
            files[part] = candidates[0]
    if "train" in files:
        return files
    if files:
        raise InteractionError(f"{folder}: has {next(iter(files.values())).name} but no training file")
    for choice in (
        [f for f in readable if _ending(f) == ".inter"],
        [f for f in readable if f.name.lower().split(".")[0] in (*_USUAL_NAMES, folder.name.lower())],
        readable,
    ):
        if len(choice) == 1:
            return {"train": choice[0]}
    shown = ", ".join(f.name for f in readable[:5])
    raise InteractionError(f"{folder}: cannot tell which file holds the interactions ({shown}); give the file itself")


def _read(file: Path, format: Format | None, columns: _Columns) -> tuple[_Table, Format]:
    """The table of a file and the format it was read in."""
    format = format or _BINARY.get(_ending(file))  # type: ignore[assignment]
    if format == "npy":
        return _read_npy(file, columns), format
    if format == "npz":
        return _read_npz(file), format
    if format == "parquet":
        return _read_parquet(file, columns), format
    try:
        return _read_text(file, format, columns)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InteractionError(f"{file}: damaged compressed file ({_one_line(error)})") from None


# ---------------------------------------------------------------------------------------------------------------------
# Binary formats


def _read_npy(file: Path, columns: _Columns) -> _Table:
    try:
        array = np.load(file, allow_pickle=False)
    except Exception as error:  # whatever numpy meets in damaged bytes
        raise InteractionError(f"{file}: not an array of numbers ({_one_line(error)})") from None
    if not isinstance(array, np.ndarray):
        raise InteractionError(f"{file}: an archive of arrays, not one array")
    if array.ndim == 2 and array.shape[0] == 2 and array.shape[1] != 2:
        array = array.T
    if array.ndim != 2 or array.shape[1] not in (2, 3, 4):
        raise InteractionError(
            f"{file}: shape {array.shape}; pairs are E x 2 or 2 x E, or E x 3 or 4 with rating and time"
        )
    if len(array) == 0:
        raise InteractionError(f"{file}: empty, no interactions")
    position = _positions_of(columns, array.shape[1], str(file))
    users, items = (_Ids(_integer_ids(file, array[:, position[c]], c)) for c in ("user", "item"))
    extra: dict[str, np.ndarray] = {}
    for key in ("rating", "time"):
        if key in position:
            extra[key] = np.ascontiguousarray(array[:, position[key]])
            _check_finite(str(file), key, extra[key])
    return _Table(str(file), users, items, **extra)


def _integer_ids(source: object, values: np.ndarray, what: str) -> IntArray:
    """Non-negative int64 ids of an array of numbers; anything else is an error that names the first such row."""
    if values.dtype.kind not in "iuf":
        raise InteractionError(f"{source}: {what} ids of type {values.dtype}, not integers")
    if values.dtype.kind == "f":
        # Beyond 2**53 (2**24, 2**11) neighbouring integers share a float: different ids may have become one.
        limit = 2.0 ** (np.finfo(values.dtype).nmant + 1)
        _fail_at(source, ~np.isfinite(values), f"{what} id is not a number")
        _fail_at(source, values != np.floor(values), f"{what} id is not an integer")
        _fail_at(source, values > limit, f"{what} id is too large for {values.dtype}")
    elif values.dtype == np.uint64:
        _fail_at(source, values > np.uint64(np.iinfo(np.int64).max), f"{what} id does not fit 64 bits")
    _fail_at(source, values < 0, f"{what} id is negative")
    return np.ascontiguousarray(values, dtype=np.int64)


def _fail_at(source: object, wrong: np.ndarray, message: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        more = int(wrong.sum()) - 1
        raise InteractionError(f"{source}: row {row} (from 0): {message}{f' (and {more} more)' if more else ''}")


def _check_finite(source: str, what: str, values: np.ndarray) -> None:
    if values.dtype.kind not in "iufb":
        raise InteractionError(f"{source}: {what} of type {values.dtype}, not numbers")
    if values.dtype.kind == "f":
        _fail_at(source, ~np.isfinite(values), f"{what} is not a number")


def _read_npz(file: Path) -> _Table:
    try:
        matrix = sp.load_npz(file)
        if matrix.format in ("csr", "csc", "bsr"):
            matrix.check_format(full_check=True)
        matrix = matrix.tocoo()
    except Exception as e:  # whatever numpy and scipy meet in damaged bytes
        raise InteractionError(f"{file}: not a sparse matrix saved by scipy ({_one_line(e)})") from None
    if matrix.data.dtype.kind not in "iufb":
        raise InteractionError(f"{file}: a matrix of {matrix.data.dtype}, not of numbers")
    _check_finite(str(file), "value", matrix.data)
    users, items = _integer_ids(file, matrix.row, "user"), _integer_ids(file, matrix.col, "item")
    _fail_at(file, (users >= matrix.shape[0]) | (items >= matrix.shape[1]), f"index outside the shape {matrix.shape}")
    stored = matrix.data != 0
    if not stored.all():
        _warn(f"{file}: {int((~stored).sum())} stored zeros are no interactions, left out")
    table = _Table(str(file), _Ids(users), _Ids(items), rating=matrix.data)[stored]
    if len(table) == 0:
        raise InteractionError(f"{file}: empty, no interactions")
    return table


def _read_parquet(file: Path, columns: _Columns) -> _Table:
    found = _parquet_columns(file, lambda names: _find_columns(names, columns, str(file)))
    return _Table(str(file), found["user"], found["item"], found.get("rating"), found.get("time"))


def _parquet_columns(file: Path, find: Callable[[list[str]], dict[str, int]]) -> dict[str, Any]:
    """The columns of a parquet file that ``find`` picks by name: ids, or numbers for those of :data:`_NUMBERS`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InteractionError(f"{file}: parquet needs pyarrow: pip install 'infodcl-geo[parquet]'") from None
    try:
        parquet = pq.ParquetFile(file)
        names = parquet.schema_arrow.names
        found = find(names)
        table = parquet.read(columns=[names[p] for p in found.values()])
        if table.num_rows == 0:
            raise InteractionError(f"{file}: empty, no interactions")
        values: dict[str, Any] = {}
        for key, position in found.items():
            column = table.column(names[position])
            if column.null_count:
                _fail_at(file, np.asarray(column.is_null()), f"{key} is missing")
            if key not in _NUMBERS:
                if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
                    values[key] = _Ids(_integer_ids(file, column.to_numpy(), key))
                    continue
                encoded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
                words = np.asarray(encoded.dictionary.to_pylist(), dtype=np.str_)
                codes = encoded.indices.to_numpy().astype(np.int64)
                values[key] = _ids_from_words([(codes, words)], integers_only=False, fail=_failing_rows(file, key))
            elif pa.types.is_temporal(column.type):
                values[key] = column.cast(pa.timestamp("ns")).to_numpy().astype(np.int64)
            else:
                values[key] = column.to_numpy()
                _check_finite(str(file), key, values[key])
    except pa.ArrowException as error:
        raise InteractionError(f"{file}: not readable as parquet ({_one_line(error)})") from None
    return values


def _failing_rows(file: Path, what: str) -> _Fail:
    def fail(wrong: np.ndarray, message: str, integers: bool = False) -> None:
        _fail_at(file, wrong, f"{what} {message}")

    return fail


def _from_edges(source: str, edges: Tensor) -> _Table:
    if edges.dim() != 2 or edges.size(0) != 2:
        raise InteractionError(f"{source}: edges of shape {list(edges.shape)}, not [2, E]")
    if edges.size(1) == 0:
        raise InteractionError(f"{source}: empty, no interactions")
    array = edges.detach().cpu().numpy()
    return _Table(source, _Ids(_integer_ids(source, array[0], "user")), _Ids(_integer_ids(source, array[1], "item")))


# ---------------------------------------------------------------------------------------------------------------------
# Columns


# The usual names of each column without capitals and punctuation, the most telling first.
_NAMES: dict[str, str] = {
    "user": "user userid uid u useridx userindex reviewerid reviewer customerid customer visitorid visitor memberid "
    "member accountid sessionid",
    "item": "item itemid iid i itemidx itemindex movieid movie parentasin asin productid product bookid book isbn "
    "artistid artist trackid track songid song gameid game businessid business venueid venue locationid poi poiid "
    "videoid video newsid articleid",
    "rating": "rating ratings score stars overall weight value click label",
    "time": "timestamp time ts date datetime unixreviewtime reviewtime createdat",
}


def _plain(name: str) -> str:
    """A header field without its RecBole type, capitals and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.split(":")[0].lower())


def _find_columns(header: Sequence[str], columns: _Columns, source: str) -> dict[str, int]:
    """Position of the user, item and, where there are, rating and time columns of a header."""
    plain = [_plain(h) for h in header]
    found: dict[str, int] = {}
    for key, names in _NAMES.items():
        wanted = getattr(columns, key)
        if wanted is not None:
            found[key] = _column(header, wanted, key, source)
        else:
            match = next((plain.index(n) for n in names.split() if n in plain), None)
            if match is not None:
                found[key] = match
    for key in ("user", "item"):
        if key not in found:
            raise InteractionError(
                f"{source}: cannot tell the {key} column among {_shown(header)}; name it with {key}_column="
            )
    if found["user"] == found["item"]:
        raise InteractionError(f"{source}: user and item cannot be the same column {header[found['user']]!r}")
    return found


def _positions_of(columns: _Columns, width: int, source: str) -> dict[str, int]:
    """The columns of a source without a header: ``user item [rating [time]]`` unless positions are given."""
    found: dict[str, int] = {}
    taken = {c for c in (columns.user, columns.item, columns.rating, columns.time) if c is not None}
    for default, key in enumerate(_NAMES):
        wanted = getattr(columns, key)
        if isinstance(wanted, str):
            raise InteractionError(f"{source}: no header, so no column {wanted!r}; give {key}_column= as a position")
        if wanted is not None:
            found[key] = _checked_position(wanted, width, key, source)
        elif default < width and default not in taken:
            found[key] = default
        elif key in ("user", "item"):
            raise InteractionError(f"{source}: {width} columns; say which is the {key} with {key}_column=")
    if found["user"] == found["item"]:
        raise InteractionError(f"{source}: user and item cannot be the same column {found['user']}")
    return found


def _checked_position(position: int, width: int, key: str, source: str) -> int:
    if not 0 <= position < width:
        raise InteractionError(f"{source}: no column {position} for {key}; there are {width}, counted from 0")
    return position


def _shown(header: Sequence[str]) -> str:
    return ", ".join(repr(h) for h in header[:8]) + (", ..." if len(header) > 8 else "")


# ---------------------------------------------------------------------------------------------------------------------
# Text


_SAMPLE = 1 << 20
_BLOCK = 1 << 24
_ROWS = 1 << 20
_LONGEST = 1000  # characters of an id; more is a quote that never closed, and fixed-width arrays would be huge
_NUMBERS = ("rating", "weight", "time")  # names of columns that are no ids
_MISSING = ("", "nan", "NaN", "NULL", "null", "<NA>")
_INTEGER = re.compile(r"0|[1-9]\d*")
_INTEGRAL = re.compile(r"(?:0|[1-9]\d*)(?:\.0*)?|\d\.\d+[eE][+-]?\d+")


@dataclass(frozen=True)
class _Layout:
    """How a text file is laid out."""

    file: Path
    format: Format
    separator: str | None  # None: any run of spaces and tabs
    start: int  # byte of the first line of data
    first_line: int  # its number, from 1
    header: list[str] | None
    width: int  # fields a line; for adjacency without meaning

    @property
    def quoting(self) -> Literal[0, 3]:
        return csv.QUOTE_NONE if self.format == "recbole" or self.separator is None else csv.QUOTE_MINIMAL

    def fields(self, line: str) -> list[str]:
        """The fields of a line without quotes."""
        line = line.rstrip("\r\n")
        if '"' in line and self.separator is not None and len(self.separator) == 1 and "\r" not in line:
            return next(csv.reader([line], delimiter=self.separator, skipinitialspace=True, quoting=self.quoting))
        return line.split() if self.separator is None else [f.strip(" ") for f in line.split(self.separator)]


def _open(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb") if file.suffix == ".gz" else open(file, "rb")  # type: ignore[return-value]


def _read_text(file: Path, format: Format | None, columns: _Columns) -> tuple[_Table, Format]:
    layout = _lay_out(file, format, columns)
    if layout.format == "adjacency":
        return _read_adjacency(layout), "adjacency"
    if layout.header is None:
        position = _positions_of(columns, layout.width, str(file))
        return _read_pairs(layout, position, columns.are_positions), layout.format
    return _read_table(layout, _find_columns(layout.header, columns, f"{file}:{layout.first_line - 1}")), layout.format


def _lay_out(file: Path, format: Format | None, columns: _Columns) -> _Layout:
    with _open(file) as stream:
        sample = stream.read(_SAMPLE)
        whole = not stream.read(1)
    start = 3 if sample.startswith(b"\xef\xbb\xbf") else 0
    if b"\0" in sample:
        raise InteractionError(f"{file}: not a text file (a binary file, or text in UTF-16)")
    if not whole:
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    try:
        text = sample[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        line = sample.count(b"\n", 0, start + error.start) + 1
        raise InteractionError(f"{file}:{line}: not UTF-8 text") from None
    if "\r" in text and "\n" not in text:
        raise InteractionError(f"{file}: lines end in bare carriage returns; convert the file to newlines")
    number = 1
    lines = text.split("\n")
    while lines and (not lines[0].strip() or lines[0].lstrip().startswith(("#", "%"))):
        start += len(lines[0].encode()) + 1
        number += 1
        lines.pop(0)
    if not lines:
        raise InteractionError(f"{file}: empty, no interactions")

    first = lines[0].rstrip("\r")
    separator = next((s for s in ("::", "\t", ",", ";", "|") if s in first), None)
    plain = _Layout(file, "table", separator, start, number, None, 0)
    fields = plain.fields(first)
    typed = [f for f in fields if re.fullmatch(r"[^:]+:(token|float|token_seq|float_seq)", f)]
    if format == "recbole" and len(typed) < len(fields):
        raise InteractionError(f"{file}:{number}: not a RecBole header (name:type), but {_shown(fields)}")
    if format is None and len(typed) == len(fields):
        format = "recbole"
    has_header = format in ("recbole", "table") or (
        format is None
        and not all(_is_number(f) for f in fields)
        and (not columns.are_positions or _names_its_columns(fields, columns))
    )
    if has_header:
        if format is None and not isinstance(columns.user, str) and not isinstance(columns.item, str):
            _require_a_header(fields, f"{file}:{number}")
        if not any(line.strip() for line in lines[1:]):
            raise InteractionError(f"{file}: empty, a header and no interactions")
        start += len(lines[0].encode()) + 1
        return replace(
            plain, format=format or "table", start=start, first_line=number + 1, header=fields, width=len(fields)
        )
    rows = [f for f in (plain.fields(line) for line in lines) if f and f != [""]]
    if format is None:
        format = "pairs" if columns.are_positions else _pairs_or_adjacency(file, rows)
    counts = [len(r) for r in rows]
    width = max(set(counts), key=lambda c: (counts.count(c), c)) if format == "pairs" else 0
    if format == "pairs" and width < 2:
        raise InteractionError(f"{file}:{number}: one field a line; interactions are 'user item' pairs")
    if format == "pairs" and width > 4 and not columns.are_positions:
        raise InteractionError(
            f"{file}:{number}: {width} fields a line and no header; give user_column= and item_column= as positions"
        )
    return replace(plain, format=format, width=width)


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return not token
    return True


def _names_its_columns(fields: list[str], columns: _Columns) -> bool:
    """Whether a first line has, at the positions a caller gave, what such columns are usually called."""
    return any(
        isinstance(at := getattr(columns, key), int) and at < len(fields) and _plain(fields[at]) in names.split()
        for key, names in _NAMES.items()
    )


def _require_a_header(header: Sequence[str], where: str) -> None:
    """A first line that is neither numbers nor a header with known names might be data: do not swallow it."""
    plain = {_plain(h) for h in header}
    if not plain & set(" ".join(_NAMES.values()).split()):
        raise InteractionError(
            f"{where}: neither numbers nor a header with known column names: {_shown(header)}; "
            "name the columns (user_column=, item_column=), by position if there is no header"
        )


def _pairs_or_adjacency(file: Path, rows: list[list[str]]) -> Format:
    """The rule of :func:`load_interactions`."""
    counts = [len(r) for r in rows]
    widest = max(counts)
    common = max(set(counts), key=counts.count)
    repeats = len({r[0] for r in rows}) < len(rows)
    if widest <= 2:
        return "pairs"
    if repeats:
        return "pairs" if common <= 4 and counts.count(common) * 2 > len(counts) else "adjacency"
    if widest > 4 or len(set(counts)) > 1:
        return "adjacency"
    if any(not _INTEGER.fullmatch(r[2]) for r in rows):
        return "pairs"
    if widest == 4 and all(r[3].isdigit() and int(r[3]) >= 10**8 for r in rows):
        return "pairs"
    _warn(
        f"{file}: every line has {widest} integers and its own user; read as adjacency lists "
        "(format='pairs' if the third column is a rating)"
    )
    return "adjacency"


def _blocks(layout: _Layout) -> Iterator[npt.NDArray[np.uint8]]:
    """The data of a file in pieces of whole lines, each ending in a newline."""
    with _open(layout.file) as stream:
        stream.seek(layout.start)
        rest = b""
        while piece := stream.read(_BLOCK):
            cut = piece.rfind(b"\n") + 1
            if cut == 0:
                rest += piece
                continue
            yield np.frombuffer(rest + piece[:cut], dtype=np.uint8)
            rest = piece[cut:]
        if rest:
            yield np.frombuffer(rest + b"\n", dtype=np.uint8)


def _parse_integers(block: npt.NDArray[np.uint8], separator: str | None) -> tuple[IntArray, IntArray] | None:
    """All integers of a block in order, and how many each line has.

    ``None`` if there is anything but canonical non-negative integers below 10**18, one separator between two of them
    (or blanks, without a separator), and line ends: other code then reads the file, or finds what is wrong.
    """
    digit = block - np.uint8(48) < 10
    newline = block == 10
    other = ~(digit | newline)
    edge = np.flatnonzero(np.diff(digit.view(np.int8), prepend=np.int8(0)))
    starts, ends = edge[::2], edge[1::2]
    length = ends - starts
    line_ends = np.flatnonzero(newline)
    per_line = np.diff(np.searchsorted(starts, line_ends), prepend=0)
    if len(starts) == 0:
        return None if (other & (block != 32) & (block != 13)).any() else (np.empty(0, np.int64), per_line)
    if length.max() > 18 or ((block[starts] == 48) & (length > 1)).any():
        return None
    blank = other & ((block == 32) | ((block == 9) if separator is None else False))
    carriage = np.flatnonzero(block == 13)
    if len(carriage) and not newline[np.minimum(carriage + 1, len(block) - 1)].all():
        return None
    marks = np.flatnonzero(other & ~blank & (block != 13))
    if separator is None:
        if len(marks):
            return None
    else:
        if (block[marks] != ord(separator[0])).any():
            return None
        # Gaps between two integers of one line: each must hold exactly the separator.
        line_of = np.repeat(np.arange(len(per_line)), per_line)
        inner = np.flatnonzero(line_of[1:] == line_of[:-1])
        width = len(separator)
        if len(marks) != width * len(inner):
            return None
        first, last = marks[::width], marks[width - 1 :: width]
        if (first < ends[inner]).any() or (last >= starts[inner + 1]).any() or (last - first != width - 1).any():
            return None
    values = np.zeros(len(starts), dtype=np.int64)
    for place in range(int(length.max())):
        inside = place < length
        digits = block[np.minimum(starts + place, len(block) - 1)] - np.uint8(48)
        values = np.where(inside, values * 10 + digits, values)
    return values, per_line


def _read_adjacency(layout: _Layout) -> _Table:
    users: list[IntArray] = []
    items: list[IntArray] = []
    childless = 0
    for block in _blocks(layout):
        parsed = _parse_integers(block, layout.separator)
        if parsed is None:
            _fail_at_line(layout, {}, ("user", "item"))
        values, per_line = parsed
        per_line = per_line[per_line > 0]
        heads = np.cumsum(per_line) - per_line
        childless += int((per_line == 1).sum())
        users.append(np.repeat(values[heads], per_line - 1))
        items.append(np.delete(values, heads))
    table = _Table(str(layout.file), _Ids(np.concatenate(users)), _Ids(np.concatenate(items)))
    if childless:
        _warn(f"{layout.file}: {childless} lines have a user and no item, left out")
    if len(table) == 0:
        raise InteractionError(f"{layout.file}: empty, no interactions")
    return table


def _read_pairs(layout: _Layout, position: dict[str, int], may_be_strings: bool) -> _Table:
    """Text without a header; the plain case, integers only, does not go through pandas."""
    parts: list[IntArray] = []
    for block in _blocks(layout):
        parsed = _parse_integers(block, layout.separator)
        if parsed is None:
            return _read_table(layout, position, integers_only=not may_be_strings)
        values, per_line = parsed
        if not np.isin(per_line, (0, layout.width)).all():
            _fail_at_line(layout, position, ("user", "item"))
        parts.append(values.reshape(-1, layout.width).T)
    column = {key: np.concatenate([p[at] for p in parts]) for key, at in position.items()}
    return _Table(
        str(layout.file), _Ids(column["user"]), _Ids(column["item"]), column.get("rating"), column.get("time")
    )


def _read_table(layout: _Layout, position: dict[str, int], integers_only: bool = False) -> _Table:
    found = _text_columns(layout, position, integers_only)
    return _Table(str(layout.file), found["user"], found["item"], found.get("rating"), found.get("time"))


def _text_columns(layout: _Layout, position: dict[str, int], integers_only: bool = False) -> dict[str, Any]:
    """Separated text through pandas, a million rows at a time, only the needed columns kept.

    The columns called as in :data:`_NUMBERS` are numbers, all others are ids.
    """
    doubled = layout.separator == "::"  # pandas' fast parser takes one character: every second column is then empty
    scale = 2 if doubled else 1
    width = scale * (layout.width - 1) + 1
    need = tuple(key for key in position if key not in _NUMBERS) if integers_only else ()
    _check_widths(layout, lambda: _fail_at_line(layout, position, need))
    words: dict[str, list[tuple[IntArray, np.ndarray]]] = {key: [] for key in position}
    try:
        with _open(layout.file) as stream:
            stream.seek(layout.start)
            for chunk in pd.read_csv(
                stream,
                sep=r"\s+" if layout.separator is None else layout.separator[0],
                header=None,
                names=list(range(width)),
                index_col=False,
                dtype={scale * at: object for at in position.values()},
                keep_default_na=False,
                skipinitialspace=True,
                quoting=layout.quoting,
                chunksize=_ROWS,
                low_memory=False,
                encoding="utf-8",
            ):
                for key, at in position.items():
                    codes, distinct = pd.factorize(chunk[scale * at])
                    if max(map(len, distinct)) > _LONGEST:
                        _fail_at_line(layout, position, need)
                    words[key].append((codes.astype(np.int64), np.char.strip(np.asarray(distinct, dtype=np.str_))))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        _fail_at_line(layout, position, need, f"cannot be parsed ({_one_line(error)})")

    def failing(key: str) -> _Fail:
        def fail(wrong: np.ndarray, message: str, integers: bool = integers_only) -> NoReturn:
            also = (key,) if integers else ()
            _fail_at_line(layout, position, (*need, *also), f"{key} {message}")

        return fail

    values: dict[str, Any] = {}
    for key, parts in words.items():
        if key == "time":
            values[key] = _times_from_words(parts, failing(key))
        elif key in _NUMBERS:
            values[key] = _numbers_from_words(parts, failing(key))
        else:
            values[key] = _ids_from_words(parts, integers_only, failing(key))
    return values


def _check_widths(layout: _Layout, fail: Callable[[], None]) -> None:
    """Every line must have all its fields: a parser fills short lines with nothing."""
    for block in _blocks(layout):
        if layout.quoting == csv.QUOTE_MINIMAL and (block == 34).any():
            break
        line_ends = np.flatnonzero(block == 10)
        if layout.separator is None:
            gap = (block == 32) | (block == 9) | (block == 10) | (block == 13)
            marks = np.flatnonzero(gap[:-1] & ~gap[1:]) + 1
            if not gap[0]:
                marks = np.concatenate([[0], marks])
            fields = np.diff(np.searchsorted(marks, line_ends), prepend=0)
            blank = fields == 0
        else:
            marks = np.flatnonzero(block == ord(layout.separator[0]))
            fields = np.diff(np.searchsorted(marks, line_ends), prepend=0) // len(layout.separator) + 1
            before = np.diff(line_ends, prepend=-1) - 1
            blank = (before == 0) | ((before == 1) & (block[np.maximum(line_ends - 1, 0)] == 13))
        if ((fields != layout.width) & ~blank).any():
            fail()
    else:
        return
    # Quoted fields may hold separators and line ends: only a parser can count.
    for _, row in _rows_of(layout):
        if len(row) != layout.width:
            fail()


def _rows_of(layout: _Layout, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every row, one by one: to find what is wrong once it is known that something is."""
    with _open(layout.file) as stream:
        stream.seek(layout.start)
        lines = _decoded(layout, stream)
        if layout.separator is None or len(layout.separator) > 1 or layout.format == "adjacency":
            for number, line in enumerate(lines, layout.first_line):
                if line.strip(None if layout.separator is None else "\r\n"):
                    yield number, layout.fields(line)
            return
        reader = csv.reader(
            lines, delimiter=layout.separator, skipinitialspace=True, quoting=layout.quoting, strict=strict
        )
        number = layout.first_line
        try:
            for row in reader:
                if row:
                    yield number, row
                number = layout.first_line + reader.line_num
        except csv.Error as error:
            what = "a quote that never closes" if "unexpected end" in str(error) else f"cannot be read ({error})"
            raise InteractionError(f"{layout.file}:{number}: {what}") from None


def _decoded(layout: _Layout, stream: IO[bytes]) -> Iterator[str]:
    for number, raw in enumerate(stream, layout.first_line):
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError:
            raise InteractionError(f"{layout.file}:{number}: not UTF-8 text") from None


def _fail_at_line(
    layout: _Layout, position: dict[str, int], integers: Collection[str], otherwise: str = "cannot be parsed"
) -> NoReturn:
    """Raise for the first line that is wrong, by the rules that the vectorised readers check in bulk.

    ``integers`` are the columns that must hold integers; ``otherwise`` is said if no line by itself is wrong.
    """
    for number, row in _rows_of(layout):
        problem = _problem_of(row, layout, position, integers)
        if problem:
            raise InteractionError(f"{layout.file}:{number}: {problem}") from None
    # Each row is well formed by itself: an open quote, or a character that no row should have.
    for _ in _rows_of(layout, strict=True):
        pass
    with _open(layout.file) as stream:
        stream.seek(layout.start)
        for number, line in enumerate(_decoded(layout, stream), layout.first_line):
            stray = re.search(r"[^\S \t\r\n]|[\x00-\x08\x0e-\x1f]|\r(?!\n|$)", line)
            if stray:
                raise InteractionError(f"{layout.file}:{number}: stray character {stray[0]!r}") from None
    raise InteractionError(f"{layout.file}: {otherwise}") from None


def _problem_of(row: list[str], layout: _Layout, position: dict[str, int], integers: Collection[str]) -> str | None:
    if layout.format == "adjacency":
        named = [("user", row[0]), *(("item", token) for token in row[1:])]
    else:
        if len(row) != layout.width:
            hint = " (a line cut short?)" if len(row) < layout.width else " (two lines in one?)"
            also = "; format='adjacency' if these are lists of items" if layout.format == "pairs" else ""
            return f"{len(row)} fields where {layout.width} are expected{hint}{also}"
        named = [(key, row[at].strip()) for key, at in position.items()]
    for key, token in named:
        if len(token) > _LONGEST:
            return f"{key} of {len(token)} characters (an open quote?)"
        if key not in _NUMBERS:
            if token in _MISSING:
                return f"{key} id is missing ({token!r})"
            if key in integers and not _INTEGRAL.fullmatch(token):
                if re.fullmatch(r"-\d+(\.0*)?", token):
                    return f"{key} id {token!r} is negative"
                zeros = " (leading zeros: give the column by position to read strings)" if token.isdigit() else ""
                return f"{key} id {token!r} is not an integer{zeros}"
            if key in integers and float(token) >= (1e18 if layout.format == "adjacency" else 2.0**63):
                return f"{key} id {token!r} is too large"
        elif token in _MISSING:
            return f"{key} is missing ({token!r})"
        elif key in ("rating", "weight") and not (_is_number(token) and np.isfinite(float(token))):
            return f"{key} {token!r} is not a number"
        elif key == "time" and not _is_number(token) and pd.isna(pd.to_datetime(token, errors="coerce")):
            return f"time {token!r} is neither a number nor a date"
    return None


def _ids_from_words(parts: list[tuple[IntArray, np.ndarray]], integers_only: bool, fail: _Fail) -> _Ids:
    """Ids of a column that came in parts, each as codes into its own words."""
    for codes, words in parts:
        wrong = np.isin(words, _MISSING)
        if wrong.any() or (codes < 0).any():
            fail((codes < 0) | wrong[np.maximum(codes, 0)], "id is missing")
    numbers = [_as_integers(words) for _, words in parts]
    if all(n is not None for n in numbers):
        codes = np.concatenate([n[c] for n, (c, _) in zip(numbers, parts, strict=True) if n is not None])
        if (codes < 0).any():
            fail(codes < 0, "id is negative", True)
        return _Ids(codes)
    if integers_only:
        fail(np.ones(1, dtype=bool), "id is not an integer")
    vocabulary, position = np.unique(np.concatenate([w for _, w in parts]), return_inverse=True)
    offset = np.cumsum([0] + [len(w) for _, w in parts])
    codes = np.concatenate([position[offset[i] + c] for i, (c, _) in enumerate(parts)])
    return _Ids(codes, vocabulary)


def _as_integers(words: np.ndarray) -> IntArray | None:
    """The words as integers, if every one of them is an integer written plainly, or one with a decimal point."""
    try:
        values = words.astype(np.int64)
        if (values.astype(np.str_) == words).all():
            return values
    except (ValueError, OverflowError):
        pass
    if not all(_INTEGRAL.fullmatch(w) or _INTEGRAL.fullmatch(w.removeprefix("-")) for w in words.tolist()):
        return None
    floats = words.astype(np.float64)
    if (floats != np.floor(floats)).any() or np.abs(floats).max() >= 2.0**53:
        return None
    return floats.astype(np.int64)


def _numbers_from_words(parts: list[tuple[IntArray, np.ndarray]], fail: _Fail) -> npt.NDArray[np.float64]:
    columns = []
    for codes, words in parts:
        try:
            values = words.astype(np.float64)
        except ValueError:
            values = np.full(len(words), np.nan)
        if (codes < 0).any() or not np.isfinite(values[codes]).all():
            fail(np.ones(1, dtype=bool), "is not a number")
        columns.append(values[codes])
    return np.concatenate(columns)


def _times_from_words(parts: list[tuple[IntArray, np.ndarray]], fail: _Fail) -> np.ndarray:
    """Times as numbers: as they are written, or nanoseconds of a date."""
    columns = []
    for codes, words in parts:
        try:
            values = words.astype(np.float64)
        except ValueError:
            dates = pd.to_datetime(pd.Series(words), errors="coerce", format="mixed", utc=True)
            if dates.isna().any():
                fail(np.ones(1, dtype=bool), "time is neither a number nor a date")
            values = dates.dt.tz_localize(None).to_numpy().astype("datetime64[ns]").astype(np.int64)
        if (codes < 0).any() or not np.isfinite(values[codes]).all():
            fail(np.ones(1, dtype=bool), "time is not a number")
        columns.append(values[codes])
    if len({c.dtype for c in columns}) > 1:
        fail(np.ones(1, dtype=bool), "times are numbers in one place and dates in another")
    return np.concatenate(columns)
