"""Raw ids and dense rows, both ways, and the errors and the warning of everything that reads data."""

from __future__ import annotations

import json
import re
import sys
import warnings

import numpy as np
import numpy.typing as npt

from ..errors import InfodclGeoError

IntArray = npt.NDArray[np.int64]

# The modules that reading goes through: a warning is attributed to what called the first of them.
_READING = {f"{__package__}.{name}" for name in ("ids", "text_files", "readers", "interactions")}


class InteractionError(InfodclGeoError):
    """The input cannot be used; the message is one line and names the file, and the line or row where there is one."""


class UnknownIdError(InteractionError):
    """An id that the data set does not have."""


class InteractionWarning(UserWarning):
    """The input was repaired, or has users a model cannot learn about; the message says how many."""


def one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def warn(message: str) -> None:
    """Warn, attributed to the first caller outside the modules that read interactions."""
    depth, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__") in _READING:
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, InteractionWarning, stacklevel=depth)


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
            raise InteractionError(f"not an id map: {one_line(error)}") from None
