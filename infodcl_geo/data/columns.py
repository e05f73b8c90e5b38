"""Columns of a table, typed or text, to raw ids, numbers and times."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import polars as pl

from .ids import IntArray, InteractionError, escaped, warn

NUMBERS = ("rating", "weight", "time")  # names of columns that are no ids
MISSING = ("", "nan", "NaN", "NULL", "null", "<NA>")
_PARTS = {
    "train": 0, "training": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2, "testing": 2,
    "0": 0, "1": 1, "2": 2, "0.0": 0, "1.0": 1, "2.0": 2,
}  # fmt: skip
CANONICAL = r"^(?:0|-?[1-9]\d{0,18})$"
INTEGRAL = r"^-?(?:(?:0|[1-9]\d*)(?:\.0*)?|\d\.\d+[eE][+-]?\d+)$"

# Raises for the rows that are wrong: a mask of rows (or the words that are), and what they are.
Fail = Callable[[Any, str], NoReturn]


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
        extra = {k: None if (v := getattr(self, k)) is None else v[rows] for k in ("rating", "time", "part")}
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


# ---------------------------------------------------------------------------------------------------------------------
# Columns of text, which come in portions


@dataclass(frozen=True)
class Words:
    """A portion of a text column: plain integers under ``codes``, or codes into its distinct words."""

    codes: np.ndarray
    words: pl.Series | None


def portion(column: pl.Series) -> Words:
    """A column of strings in the least room: 4 or 8 bytes a row, and each distinct string once."""
    values = column.cast(pl.Int64, strict=False)
    if not values.null_count() and bool(column.str.contains(CANONICAL).all()):
        codes = values.to_numpy()
        return Words(_narrow(codes), None)
    words = column.fill_null("").unique()
    numbered = pl.DataFrame({"w": words, "n": np.arange(len(words), dtype=np.uint32)})
    joined_to = pl.DataFrame({"w": column.fill_null("")}).join(numbered, on="w", how="left", maintain_order="left")
    return Words(joined_to["n"].to_numpy(), words)


def _narrow(codes: np.ndarray) -> np.ndarray:
    small = len(codes) == 0 or (-(2**31) <= int(codes.min()) and int(codes.max()) < 2**31)
    return codes.astype(np.int32) if small else codes


def ids_of(parts: Sequence[Words], integers_only: bool, fail: Fail) -> Ids:
    """Ids of a column in portions: integers if every one of them is (also as ``10.0``), else strings."""
    integral = True
    for part in parts:
        if part.words is None:
            continue
        wrong = part.words.is_in(MISSING)
        if wrong.any():
            fail(wrong.to_numpy()[part.codes], "id is missing")
        integral = integral and bool(part.words.str.contains(INTEGRAL).all())
    if integral:
        numbers = [_integral(p) for p in parts]
        if all(n is not None for n in numbers):
            codes = np.concatenate([n for n in numbers if n is not None])
            if len(codes) and int(codes.min()) < 0:
                fail(codes < 0, "id is negative")
            return Ids(codes)
    if integers_only:
        fail(None, "id is not an integer")
    return concatenated([Ids(p.codes) if p.words is None else _by_word(p.codes, p.words) for p in parts])


def _by_word(codes: np.ndarray, words: pl.Series) -> Ids:
    order = words.arg_sort().to_numpy()
    place = np.empty(len(order), dtype=np.int32)
    place[order] = np.arange(len(order))
    return Ids(place[codes], words.gather(order))


def _integral(part: Words) -> np.ndarray | None:
    if part.words is None:
        return part.codes
    values = part.words.cast(pl.Float64, strict=False)
    if values.null_count() or bool(((values != values.floor()) | (values.abs() >= 2.0**53)).any()):
        return None
    return _narrow(values.cast(pl.Int64).to_numpy())[part.codes]


def numbers_of(parts: Sequence[Words], fail: Fail) -> np.ndarray:
    columns = []
    for part in parts:
        if part.words is None:
            columns.append(part.codes)
            continue
        values = part.words.str.strip_chars().cast(pl.Float64, strict=False)
        wrong = ~values.is_finite().fill_null(False)
        if wrong.any():
            fail(set(part.words.filter(wrong)), "is not a number")
        columns.append(values.to_numpy()[part.codes])
    return np.concatenate(columns)


def declared_parts(parts: Sequence[Words], name: str, source: str) -> np.ndarray | None:
    """0, 1, 2 for each row of a column that declares a split; None, with a warning, if it holds something else."""
    parts = [_as_words(p) for p in parts]
    words = pl.concat([p.words for p in parts if p.words is not None])
    found = _part_numbers(words)
    present = set(found)
    # A fold of 0 and 1 may as well be one of ten; all three numbers, or words, say what is meant.
    vague = (
        re.sub(r"[^a-z]", "", name.lower()) == "fold"
        and present != {0, 1, 2}
        and bool(words.str.contains(r"^\d").any())
    )
    if None in present or 0 not in present or present == {0} or vague:
        shown = ", ".join(repr(w) for w in words.unique().sort().head(4))
        warn(f"{source}: column {escaped(name)} holds {shown}, not train, valid and test; ignored")
        return None
    return np.concatenate([_part_numbers(p.words).to_numpy()[p.codes] for p in parts if p.words is not None])


def _part_numbers(words: pl.Series) -> pl.Series:
    return words.str.strip_chars().str.to_lowercase().replace_strict(_PARTS, default=None, return_dtype=pl.Int8)


# ---------------------------------------------------------------------------------------------------------------------
# Times


_DATE = (
    r"^(\d{1,4})([-/.])(\d{1,2})[-/.](\d{1,4})(?:[T ,]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*([AaPp][Mm])?)?"
    r"\s*(?:(Z|UTC|GMT)|([+-]\d{2}):?(\d{2})?)?$"
)
_OTHER_DATES = (
    "%a %b %d %H:%M:%S %z %Y", "%a, %d %b %Y %H:%M:%S %z", "%a %b %d %H:%M:%S %Y", "%m %d, %Y", "%b %d, %Y",
    "%B %d, %Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y %H:%M:%S", "%d %b %Y %H:%M:%S", "%d-%b-%Y", "%d-%b-%y",
)  # fmt: skip


def times_of(parts: Sequence[Words], time_format: str | None, source: str, fail: Fail) -> np.ndarray:
    """Times as numbers: as they are written, or microseconds of dates, all read in one way."""
    texts = [p.words for p in parts if p.words is not None]
    if texts and time_format is None:
        words = pl.concat(texts).str.strip_chars()
        numbers = words.cast(pl.Float64, strict=False)
        if numbers.is_finite().fill_null(False).all():
            columns = [
                p.codes if p.words is None else p.words.str.strip_chars().cast(pl.Float64).to_numpy()[p.codes]
                for p in parts
            ]
            return np.concatenate(columns)
    if not texts and time_format is None:
        return np.concatenate([p.codes for p in parts])
    parts = [_as_words(p) for p in parts]
    every = pl.concat([p.words for p in parts if p.words is not None]).unique()
    values = _dates(every, time_format, source, fail).to_numpy()
    found = pl.DataFrame({"w": every, "t": values})
    columns = []
    for part in parts:
        own = pl.DataFrame({"w": part.words}).join(found, on="w", how="left", maintain_order="left")
        columns.append(own["t"].to_numpy()[part.codes])
    return np.concatenate(columns)


def _as_words(part: Words) -> Words:
    if part.words is not None:
        return part
    used, codes = np.unique(part.codes, return_inverse=True)
    return Words(codes, pl.Series(used).cast(pl.String))


def _dates(words: pl.Series, time_format: str | None, source: str, fail: Fail) -> pl.Series:
    """Microseconds of each word, all words read in the same way."""
    plain = words.str.strip_chars()
    if time_format is not None:
        found = _parsed(plain, time_format)
        if found is None or found.null_count():
            wrong = set(words) if found is None else set(words.filter(found.is_null()))
            fail(wrong, f"is not a time of the format {time_format!r}")
        return found
    groups = plain.str.extract_groups(_DATE).struct.unnest()
    groups.columns = ["a", "mark", "b", "c", "h", "m", "s", "f", "half", "utc", "zh", "zm"]
    if groups["a"].null_count() == 0:
        found = _numeric_dates(groups, plain, source)
    else:
        tried = ((form, _parsed(plain, form)) for form in _OTHER_DATES)
        found = next((t for _, t in tried if t is not None and not t.null_count()), None)
        if found is None:
            unlike = groups["a"].is_null() & ~plain.cast(pl.Float64, strict=False).is_finite().fill_null(False)
            if not unlike.any():
                unlike = groups["a"].is_null()
            fail(
                set(words.filter(unlike)),
                "is neither a number nor a date like the others; time_format= says how to read it",
            )
    if found.null_count():
        fail(set(words.filter(found.is_null())), "is neither a number nor a date; time_format= says how to read it")
    return found


def _parsed(words: pl.Series, form: str) -> pl.Series | None:
    try:
        dates = words.str.strptime(pl.Datetime("us"), form, strict=False)
        if dates.null_count() == len(dates):
            dates = words.str.strptime(pl.Date, form, strict=False).cast(pl.Datetime("us"))
        return dates.to_physical()
    except pl.exceptions.PolarsError:
        return None


def _numeric_dates(groups: pl.DataFrame, words: pl.Series, source: str) -> pl.Series:
    """Dates of three numbers: year first, or day and month in the one order that suits all rows."""
    first_is_year = groups["a"].str.len_chars() == 4
    last_is_year = groups["c"].str.len_chars() == 4
    if not (first_is_year | last_is_year).all():  # a year of two digits can stand anywhere
        return pl.Series(np.zeros(len(words))).set((~(first_is_year | last_is_year)), None)
    others = groups.filter(~first_is_year).select(pl.col("a", "b").cast(pl.Int32), pl.col("mark"))
    day_first = False
    if len(others):
        day_first = bool((others["a"] > 12).any())
        if not day_first and not bool((others["b"] > 12).any()):
            day_first = bool((others["mark"] != "/").all())
            form = "%d{0}%m{0}%Y" if day_first else "%m{0}%d{0}%Y"
            warn(
                f"{source}: dates such as {words.filter(~first_is_year)[0]!r} can be read day first or month first; "
                f"read {'day' if day_first else 'month'} first (time_format={form.format(others['mark'][0])!r})"
            )
    frame = groups.with_columns(y=first_is_year, l=last_is_year)
    year = pl.when("y").then("a").when("l").then("c")
    one, two = (pl.col("a"), pl.col("b")) if day_first else (pl.col("b"), pl.col("a"))
    day = pl.when("y").then("c").otherwise(one)
    month = pl.when("y").then("b").otherwise(two)
    hour = pl.col("h").fill_null("0").cast(pl.Int32)
    half = pl.col("half").str.to_lowercase()
    hour = pl.when(half == "pm").then(hour % 12 + 12).when(half == "am").then(hour % 12).otherwise(hour)
    text = pl.concat_str(
        year, pl.lit("-"), month.str.zfill(2), pl.lit("-"), day.str.zfill(2), pl.lit(" "), hour.cast(pl.String).str.zfill(2),
        pl.lit(":"), pl.col("m").fill_null("00"), pl.lit(":"), pl.col("s").fill_null("00"),
    )  # fmt: skip
    micro = pl.col("f").fill_null("0").str.pad_end(6, "0").str.head(6).cast(pl.Int64)
    sign = pl.when(pl.col("zh").str.starts_with("-")).then(-1).otherwise(1)
    minutes = pl.col("zh").cast(pl.Int64).abs().fill_null(0) * 60 + pl.col("zm").cast(pl.Int64).fill_null(0)
    moment = text.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False, time_unit="us").to_physical()
    return frame.select(t=moment + micro - sign * minutes * 60_000_000)["t"]


# ---------------------------------------------------------------------------------------------------------------------
# Columns that have a type: frames and parquet


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
    if kind.is_nested() or kind in (pl.Object, pl.Unknown) or (kind.is_temporal() and role != "time"):
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
    if kind == pl.UInt64 and len(series) and series.max() >= 2**63:  # hashes: strings, as in a text file
        return ids_of([portion(series.cast(pl.String))], False, fail)
    return Ids(_narrow(integer_ids(source, values, role)))


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
    if wrong.any():
        row, more = int(np.argmax(wrong)), int(wrong.sum()) - 1
        raise InteractionError(f"{source}: row {row} (from 0): {message}{f' (and {more} more)' if more else ''}")


def check_finite(source: str, what: str, values: np.ndarray) -> None:
    if values.dtype.kind not in "iufb":
        raise InteractionError(f"{source}: {what} of type {values.dtype}, not numbers")
    if values.dtype.kind == "f":
        fail_at(source, ~np.isfinite(values), f"{what} is not a number")
