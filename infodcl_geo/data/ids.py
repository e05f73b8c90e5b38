"""Raw ids and dense rows, both ways, and the errors and the warning of everything that reads data."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from bisect import bisect_left
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ..errors import InfodclGeoError
from ..text import escape

IntArray = npt.NDArray[np.int64]

# What reads interactions: a warning is attributed to what called it.
_READING = (f"{__package__}.", __package__.replace(".data", ".pyg"))


class InteractionError(InfodclGeoError):
    """The input cannot be used; the message is one line and names the file, and the line or row where there is one."""


class UnknownIdError(InteractionError):
    """An id that the data set does not have."""


class InteractionWarning(UserWarning):
    """The input was repaired, or has users a model cannot learn about; the message says how many."""


def one_line(error: object) -> str:
    """The words of an error on one line, control characters escaped."""
    return escape(" ".join(str(error).split())[:300]) or type(error).__name__


def warn(message: str) -> None:
    """Warn, attributed to the first caller outside the modules that read interactions."""
    depth, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_READING):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, InteractionWarning, stacklevel=depth)


class IdMap:
    """Raw ids and dense rows ``0 .. n-1``, both ways.

    Row ``r`` is the ``r``-th smallest raw id: integers sort as numbers, strings by code point. Strings are held once,
    in a column of variable width: memory is that of their bytes.

    Args:
        raw: the distinct raw ids, ``[n]``, integers or strings, in ascending order: an array, a list or a series.

    Raises:
        InteractionError: if the ids are not ascending and distinct.
    """

    def __init__(self, raw: npt.ArrayLike | pl.Series) -> None:
        values = raw if isinstance(raw, pl.Series) else _series(raw)
        if values.dtype != pl.String and not values.dtype.is_integer():
            raise InteractionError(f"ids must be a list of integers or strings, not {values.dtype}")
        if values.null_count() or not bool((values.slice(1) > values.head(max(0, len(values) - 1))).all()):
            raise InteractionError("the ids of an IdMap must be distinct and ascending")
        self.values: pl.Series = values if values.dtype == pl.String else values.cast(pl.Int64)

    @property
    def are_integers(self) -> bool:
        return self.values.dtype != pl.String

    @cached_property
    def raw(self) -> np.ndarray:
        """The raw ids, ``[n]``: int64, or Python strings in an object array (made when first asked for)."""
        values = self.values.to_numpy() if self.are_integers else np.array([*self.values, None], dtype=object)[:-1]
        values = values.view()
        values.setflags(write=False)
        return values

    def __len__(self) -> int:
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IdMap) and self.values.equals(other.values, check_dtypes=True)

    def __hash__(self) -> int:
        return hash((len(self), self.are_integers))

    def __repr__(self) -> str:
        shown = ", ".join(escape(v) for v in self.values.head(3))
        kind = "integers" if self.are_integers else "strings"
        return f"IdMap({len(self)} {kind}: {shown}{', ...' if len(self) > 3 else ''})"

    def __getstate__(self) -> dict[str, Any]:
        return {"values": self.values}

    def encode(self, raw_ids: npt.ArrayLike | pl.Series, *, missing: int | None = None) -> IntArray:
        """Rows of raw ids, ``[n]`` -> ``[n]`` int64.

        Strings are accepted for integer ids (a command line has nothing else), and integers for string ids.

        Args:
            raw_ids: the ids.
            missing: the row to give to ids that the map does not have; by default they are an error.

        Raises:
            UnknownIdError: for ids that the map does not have; the message lists the first few.
        """
        asked = raw_ids if isinstance(raw_ids, pl.Series) else _series(np.atleast_1d(np.asarray(raw_ids, dtype=object)))
        rows = self._find(asked)
        unknown = rows < 0
        if unknown.any():
            if missing is None:
                names = asked.filter(pl.Series(unknown))
                shown = ", ".join(escape(v) for v in names.head(5))
                raise UnknownIdError(f"{len(names)} unknown id(s): {shown}{', ...' if len(names) > 5 else ''}")
            rows[unknown] = missing
        return rows

    def _find(self, asked: pl.Series) -> IntArray:
        """The row of every id, -1 where the map does not have it."""
        if asked.dtype == pl.String and self.are_integers:
            # Only what is written as the integer itself is that integer: "03" is another id.
            plain = asked.str.contains(r"^-?[1-9]\d{0,18}$|^0$")
            asked = pl.select(pl.when(plain).then(asked)).to_series().cast(pl.Int64, strict=False)
        elif asked.dtype != self.values.dtype:
            asked = asked.cast(self.values.dtype, strict=False)
        if len(self) == 0:
            return np.full(len(asked), -1, dtype=np.int64)
        if len(asked) == 1 and asked[0] is not None:  # one user is asked for: no plan, a look
            row = bisect_left(self.values, asked[0])
            return np.array([row if row < len(self) and self.values[row] == asked[0] else -1], dtype=np.int64)
        found = self.values.search_sorted(asked.fill_null(self.values[0]), side="left")
        rows = np.minimum(np.asarray(found, dtype=np.int64).reshape(len(asked)), len(self) - 1)
        known = (self.values.gather(rows) == asked).fill_null(False).to_numpy()
        return np.where(known, rows, -1)

    def decode(self, rows: npt.ArrayLike) -> np.ndarray:
        """Raw ids of rows, any shape.

        Raises:
            UnknownIdError: if a row is outside ``0 .. n-1``.
        """
        index = np.asarray(rows, dtype=np.int64)
        if index.size and (index.min() < 0 or index.max() >= len(self)):
            raise UnknownIdError(f"row {int(index.min() if index.min() < 0 else index.max())} of {len(self)} ids")
        return self.raw[index]

    def digest(self) -> bytes:
        """SHA-256 over kind and ids; distinct for distinct maps."""
        found = hashlib.sha256(b"integers" if self.are_integers else b"strings")
        if self.are_integers:
            found.update(self.values.to_numpy().tobytes())
        else:
            found.update(self.values.str.len_bytes().to_numpy().tobytes())
            for at in range(0, len(self), 1 << 16):
                found.update("".join(self.values.slice(at, 1 << 16)).encode())
        return found.digest()

    def to_json(self) -> str:
        """The map as JSON text; consecutive integers are written as a range."""
        if self.are_integers and len(self) and self.values[-1] - self.values[0] == len(self) - 1:
            return json.dumps({"kind": "range", "start": self.values[0], "stop": self.values[-1] + 1})
        kind = "integers" if self.are_integers else "strings"
        return json.dumps({"kind": kind, "ids": self.values.to_list()}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, size: int | None = None) -> IdMap:
        """The map that :meth:`to_json` wrote.

        Args:
            text: the JSON.
            size: how many ids it must have; without it a range may have at most 2**27.

        Raises:
            InteractionError: if the text is not such a map, or not of that size; nothing is allocated for its claims.
        """
        try:
            content = json.loads(text)
            kind, ids = content["kind"], content.get("ids")
            if kind == "range":
                start, stop = content["start"], content["stop"]
                good = type(start) is type(stop) is int and -(2**63) <= start <= stop < 2**63
                count = stop - start if good else -1
            else:
                wanted = {"integers": int, "strings": str}[kind]
                count = len(ids) if isinstance(ids, list) and all(type(i) is wanted for i in ids) else -1
            if not 0 <= count <= (2**27 if size is None else size) or size not in (None, count):
                raise ValueError(f"{count} ids where {'at most 2**27' if size is None else size} are expected")
            if kind == "range":
                return cls(np.arange(start, stop, dtype=np.int64))
            return cls(pl.Series(ids, dtype=pl.Int64 if kind == "integers" else pl.String))
        except InteractionError:
            raise
        except (KeyError, TypeError, ValueError, RecursionError, OverflowError, pl.exceptions.PolarsError) as error:
            raise InteractionError(f"not an id map: {one_line(error)}") from None


def _series(raw: npt.ArrayLike) -> pl.Series:
    """Ids of a list or an array as a column of integers, or of strings where there is any string."""
    array = np.asarray(raw)
    if array.ndim != 1:
        raise InteractionError(f"ids must be a list of integers or strings, not {array.dtype} of {array.shape}")
    if array.dtype.kind == "i":
        return pl.Series(array.astype(np.int64))
    values = array.tolist()
    if not values:
        return pl.Series([], dtype=pl.String if array.dtype.kind in "UT" else pl.Int64)
    if all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in values):
        if not all(-(2**63) <= v < 2**63 for v in values):
            raise InteractionError("an id does not fit 64 bits")
        return pl.Series([int(v) for v in values], dtype=pl.Int64)
    if not all(isinstance(v, (str, int, np.integer)) for v in values):
        raise InteractionError(f"ids must be integers or strings, not {array.dtype}")
    try:
        return pl.Series([str(v) for v in values], dtype=pl.String)
    except UnicodeEncodeError:
        raise InteractionError("an id is not valid text (a lone surrogate)") from None
