"""Columns that have a type, of frames, parquet and arrays, to what their roles need."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import polars as pl

from .dates import times_of
from .ids import IntArray, InteractionError
from .tables import Ids
from .words import NUMBERS, Fail, declared_parts, ids_of, narrow, numbers_of, portion


def typed(series: pl.Series, role: str, source: str, time_format: str | None) -> Any:
    """A typed column as what its role needs: :class:`Ids`, or an array of numbers, times or parts."""
    what = f"{source}: {role}"
    kind = series.dtype
    if isinstance(kind, (pl.Categorical, pl.Enum)) or kind == pl.Binary:
        try:
            series = series.cast(pl.String)
        except pl.exceptions.PolarsError:
            raise InteractionError(f"{what} column of type {kind} does not hold text; cast it to strings") from None
        kind = series.dtype
    if kind == pl.Null or series.null_count():
        fail_at(source, series.is_null().to_numpy(), f"{role} is missing")
    fail: Fail = lambda wrong, message: _fail_typed(series, wrong, source, f"{role} {message}")  # noqa: E731
    if role == "part":
        words = pl.Series(["?"]) if kind.is_nested() else series.cast(pl.String, strict=False).fill_null("")
        part = portion(words)
        return declared_parts([part], series.name, source)
    if (
        kind.is_nested()
        or kind in (pl.Object, pl.Unknown)
        or (kind.is_temporal() and role != "time")
        or kind == pl.Time
    ):
        raise InteractionError(f"{what} column of type {kind}; it must hold {_wanted(role)}, one a row")
    if kind.is_decimal():
        series = series.cast(pl.Float64) if role in NUMBERS or series.dtype.scale else _from_decimal(series)  # type: ignore[attr-defined]
        kind = series.dtype
    if kind.is_temporal():
        return series.to_physical().to_numpy()
    if kind == pl.String:
        parts = [portion(series.str.strip_chars(" "))]
        if role == "time":
            return times_of(parts, time_format, source, fail)
        return numbers_of(parts, fail) if role in NUMBERS else ids_of(parts, False, fail)
    values = series.to_numpy()
    if role in NUMBERS:
        check_finite(source, role, values)
        return values
    if kind == pl.UInt64 and bool((series >= 2**63).any()):  # hashes: strings, as in a text file
        return ids_of([portion(series.cast(pl.String))], False, fail)
    return Ids(narrow(integer_ids(source, values, role)))


def _from_decimal(series: pl.Series) -> pl.Series:
    whole = series.cast(pl.Int64, strict=False)
    return series.cast(pl.String) if whole.null_count() else whole


def _wanted(role: str) -> str:
    return {"time": "numbers or dates"}.get(role, "numbers" if role in NUMBERS else "integers or strings")


def _fail_typed(series: pl.Series, wrong: Any, source: str, message: str) -> NoReturn:
    if isinstance(wrong, set):
        wrong = series.is_in(list(wrong)).to_numpy()
    fail_at(source, np.ones(1, dtype=bool) if wrong is None else np.asarray(wrong), message)
    raise InteractionError(f"{source}: {message}")


def integer_ids(source: object, values: np.ndarray, what: str) -> IntArray:
    """Non-negative int64 ids of an array of numbers; anything else is an error that names the first such row."""
    if values.dtype.kind not in "iuf":
        raise InteractionError(f"{source}: {what} ids of type {values.dtype}, not integers")
    if values.dtype.kind == "f":
        # Beyond 2**53 (2**24, 2**11) neighbouring integers share a float: different ids may have become one.
        limit = 2.0 ** (np.finfo(values.dtype).nmant + 1)
        fail_at(source, ~np.isfinite(values), f"{what} id is not a number")
        fail_at(source, values != np.floor(values), f"{what} id is not an integer")
        fail_at(source, values > limit, f"{what} id is too large for {values.dtype}")
    elif values.dtype == np.uint64:
        fail_at(source, values > np.uint64(np.iinfo(np.int64).max), f"{what} id does not fit 64 bits")
    fail_at(source, values < 0, f"{what} id is negative")
    return np.ascontiguousarray(values, dtype=np.int64)


def fail_at(source: object, wrong: np.ndarray, message: str) -> None:
    """Refuse a column by its first row that is ``wrong``, and say how many more are."""
    if wrong.any():
        row, more = int(np.argmax(wrong)), int(wrong.sum()) - 1
        raise InteractionError(f"{source}: row {row} (from 0): {message}{f' (and {more} more)' if more else ''}")


def check_finite(source: str, what: str, values: np.ndarray) -> None:
    """Refuse values that are no numbers, or not finite ones."""
    if values.dtype.kind not in "iufb":
        raise InteractionError(f"{source}: {what} of type {values.dtype}, not numbers")
    if values.dtype.kind == "f":
        fail_at(source, ~np.isfinite(values), f"{what} is not a number")
