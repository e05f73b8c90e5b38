"""Columns of text, which come in portions, to ids, numbers and declared parts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import polars as pl

from ..text import escape
from .ids import warn
from .tables import Ids, concatenated

NUMBERS = ("rating", "weight", "time")  # names of columns that are no ids
MISSING = ("", "nan", "NaN", "NULL", "null", "<NA>")
_LIKE_MISSING = ("NA", "N/A", "n/a", "None", "none", "#N/A", "\\N", "undefined")
_PARTS = {
    "train": 0, "training": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2, "testing": 2,
    "0": 0, "1": 1, "2": 2, "0.0": 0, "1.0": 1, "2.0": 2,
}  # fmt: skip
CANONICAL = r"^(?:0|-?[1-9]\d{0,18})$"
INTEGRAL = r"^-?(?:(?:0|[1-9]\d*)(?:\.0*)?|\d\.\d+[eE][+-]?\d+)$"

# Raises for the rows that are wrong: a mask of rows (or the words that are), and what they are.
Fail = Callable[[Any, str], NoReturn]


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
        return Words(narrow(codes), None)
    words = column.fill_null("").unique()
    numbered = pl.DataFrame({"w": words, "n": np.arange(len(words), dtype=np.uint32)})
    joined_to = pl.DataFrame({"w": column.fill_null("")}).join(numbered, on="w", how="left", maintain_order="left")
    return Words(joined_to["n"].to_numpy(), words)


def narrow(codes: np.ndarray) -> np.ndarray:
    """Codes in 32 bits, where they fit."""
    small = len(codes) == 0 or (int(codes.min()) >= -(2**31) and int(codes.max()) < 2**31)
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


def say_odd(ids: Ids, role: str, source: str) -> None:
    """Warn of strings that seldom are ids: what stands for a missing one, and a few among nothing but integers."""
    if ids.vocabulary is None:
        return
    for word in ids.vocabulary.filter(ids.vocabulary.is_in(_LIKE_MISSING)):
        count = int((ids.codes == int(ids.vocabulary.search_sorted(word))).sum())  # type: ignore[arg-type]
        warn(f"{source}: {count} rows have the {role} id {word!r}; leave them out if it stands for a missing one")
    others = ids.vocabulary.filter(~ids.vocabulary.str.contains(INTEGRAL))
    if len(others) <= 3 and len(ids.vocabulary) >= 10 + len(others):
        shown = ", ".join(repr(escape(w)) for w in others)
        warn(f"{source}: {role} ids are strings because of {shown}; all the others are integers (a second header?)")


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
    return narrow(values.cast(pl.Int64).to_numpy())[part.codes]


def numbers_of(parts: Sequence[Words], fail: Fail) -> np.ndarray:
    """A column in portions as finite numbers."""
    columns = []
    for part in parts:
        if part.words is None:
            columns.append(part.codes)
            continue
        words = part.words.str.strip_chars()
        truths = words.str.to_lowercase().replace_strict(
            {"true": 1.0, "false": 0.0}, default=None, return_dtype=pl.Float64
        )
        values = words.cast(pl.Float64, strict=False).fill_null(truths)
        wrong = ~values.is_finite().fill_null(False)
        if wrong.any():
            fail(set(part.words.filter(wrong)), "is not a number")
        columns.append(values.to_numpy()[part.codes])
    return np.concatenate(columns)


def as_words(part: Words) -> Words:
    """The same portion with its whole numbers as words."""
    if part.words is not None:
        return part
    used, codes = np.unique(part.codes, return_inverse=True)
    return Words(codes, pl.Series(used).cast(pl.String))


def declared_parts(parts: Sequence[Words], name: str, source: str) -> np.ndarray | None:
    """0, 1, 2 for each row of a column that declares a split; None, with a warning, if it holds something else."""
    parts = [as_words(p) for p in parts]
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
        warn(f"{source}: column {escape(name)} holds {shown}, not train, valid and test; ignored")
        return None
    return np.concatenate([_part_numbers(p.words).to_numpy()[p.codes] for p in parts if p.words is not None])


def _part_numbers(words: pl.Series) -> pl.Series:
    return words.str.strip_chars().str.to_lowercase().replace_strict(_PARTS, default=None, return_dtype=pl.Int8)
