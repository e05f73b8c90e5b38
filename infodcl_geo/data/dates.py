"""Columns of times: numbers, or dates that are all read in one way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from .ids import warn
from .words import Fail, Words, as_words

_DATE = (
    r"^(\d{1,4})([-/.])(\d{1,2})[-/.](\d{1,4})"
    r"(?:[T ,]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*([AaPp][Mm])?)?"
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
    parts = [as_words(p) for p in parts]
    every = pl.concat([p.words for p in parts if p.words is not None]).unique()
    values = _dates(every, time_format, source, fail).to_numpy()
    found = pl.DataFrame({"w": every, "t": values})
    columns = []
    for part in parts:
        own = pl.DataFrame({"w": part.words}).join(found, on="w", how="left", maintain_order="left")
        columns.append(own["t"].to_numpy()[part.codes])
    return np.concatenate(columns)


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
        year, pl.lit("-"), month.str.zfill(2), pl.lit("-"), day.str.zfill(2), pl.lit(" "),
        hour.cast(pl.String).str.zfill(2),
        pl.lit(":"), pl.col("m").fill_null("00"), pl.lit(":"), pl.col("s").fill_null("00"),
    )  # fmt: skip
    # Nanoseconds only where they are written: their years end at 2262.
    digits = 9 if (groups["f"].str.len_chars() > 6).any() else 6
    fraction = pl.col("f").fill_null("0").str.pad_end(digits, "0").cast(pl.Int64)
    sign = pl.when(pl.col("zh").str.starts_with("-")).then(-1).otherwise(1)
    minutes = pl.col("zh").cast(pl.Int64).abs().fill_null(0) * 60 + pl.col("zm").cast(pl.Int64).fill_null(0)
    moment = text.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False, time_unit="us").to_physical()
    return frame.select(t=(moment - sign * minutes * 60_000_000) * 10 ** (digits - 6) + fraction)["t"]
