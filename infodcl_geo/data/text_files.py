"""Separated text to columns, parsed in bulk by polars; and the line of what is wrong in it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import polars as pl

from .dates import times_of
from .ids import InteractionError, one_line, warn
from .layouts import Column, Format, Layout, is_number
from .streams import blocks, not_utf8
from .tables import Ids
from .words import (
    CANONICAL,
    INTEGRAL,
    MISSING,
    NUMBERS,
    Fail,
    Words,
    declared_parts,
    ids_of,
    numbers_of,
    portion,
    say_odd,
)

__all__ = ["Column", "Format", "converted", "lines_of", "read_adjacency", "read_text", "rows_of"]

_ROWS = 1 << 16  # rows of quoted text at once
LONGEST = 1000  # characters of an id; more is a quote that never closed


class _Wrong(Exception):
    """A portion of text that is not as its layout says; a slow pass finds the line."""


_BAD = (_Wrong, UnicodeDecodeError, pl.exceptions.PolarsError)


def _tidy(block: bytes, layout: Layout) -> tuple[bytes, bytes]:
    """A block with one single separator between two fields and no blank lines, and that separator."""
    if b"\0" in block:
        raise _Wrong
    if not block.isascii():
        block.decode()
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
        if b"\r" in block:
            raise _Wrong
    mark = (layout.separator or " ").encode()
    if layout.separator in (None, ":"):
        block = block.translate(bytes.maketrans(b"\t", b" "))
        if mark == b":":
            if any(line.count(b":") != 1 for line in block.split(b"\n") if line.strip()):
                raise _Wrong
            block, mark = block.replace(b":", b" "), b" "
        while b"  " in block:
            block = block.replace(b"  ", b" ")
        block = block.replace(b" \n", b"\n").replace(b"\n ", b"\n").removeprefix(b" ")
    elif len(mark) > 1:
        if b"\x1f" in block:
            raise _Wrong
        block, mark = block.replace(mark, b"\x1f"), b"\x1f"
    while b"\n\n" in block:
        block = block.replace(b"\n\n", b"\n")
    return block.removeprefix(b"\n"), mark


def _fields_of_lines(block: bytes, mark: bytes) -> np.ndarray:
    data = np.frombuffer(block, dtype=np.uint8)
    return np.diff(np.searchsorted(np.flatnonzero(data == mark[0]), np.flatnonzero(data == 10)), prepend=0) + 1


def _unquoted(block: bytes, mark: bytes) -> bytes | None:
    """The block without its quotes, if they only stand around whole fields that need none."""
    data = np.frombuffer(b"\n" + block + b"\n", dtype=np.uint8)
    quotes = np.flatnonzero(data == 34)
    border = (data == mark[0]) | (data == 10)
    closed = len(quotes) % 2 == 0 and border[quotes[::2] - 1].all() and border[quotes[1::2] + 1].all()
    if not closed or (quotes[1::2] - quotes[::2] > LONGEST).any():
        return None
    inner = np.cumsum(border)
    return block.replace(b'"', b"") if (inner[quotes[1::2]] == inner[quotes[::2]]).all() else None


def _frame(block: bytes, layout: Layout, positions: Sequence[int]) -> Iterator[pl.DataFrame]:
    """The needed columns of a block as strings, in the order of ``positions``."""
    quoted = layout.quoted and b'"' in block
    if quoted and (plain := _unquoted(block.replace(b"\r\n", b"\n"), str(layout.separator).encode())) is not None:
        block, quoted = plain, False
    if quoted:
        yield from _quoted_frames(block, layout, positions)
        return
    block, mark = _tidy(block, layout)
    if not block:
        return
    fields = _fields_of_lines(block, mark)
    if (fields != layout.width).any():
        raise _Wrong
    frame = pl.read_csv(
        block, has_header=False, separator=mark.decode(), quote_char=None, infer_schema=False,
        columns=sorted(set(positions)), raise_if_empty=False,
    )  # fmt: skip
    if len(frame) != len(fields):
        raise _Wrong
    place = dict(zip(sorted(set(positions)), frame.columns, strict=True))
    frame = frame.select(pl.col(place[at]).alias(str(n)) for n, at in enumerate(positions))
    padded = mark != b" " and (b" " in block or (mark != b"\t" and b"\t" in block) or not block.isascii())
    yield frame.with_columns(pl.all().str.strip_chars()) if padded else frame


def _quoted_frames(block: bytes, layout: Layout, positions: Sequence[int]) -> list[pl.DataFrame]:
    """The same where separators, line ends or quotes stand inside quotes: row by row."""
    if b"\0" in block:
        raise _Wrong
    for strict in (True, False):
        lines = io.StringIO(block.decode(), newline="")
        reader = csv.reader(lines, delimiter=str(layout.separator), skipinitialspace=True, strict=strict)
        columns: list[list[str]] = [[] for _ in positions]
        frames: list[pl.DataFrame] = []
        try:
            for row in reader:
                if row and len(row) != layout.width:
                    raise _Wrong
                for column, at in zip(columns, positions if row else (), strict=bool(row)):
                    column.append(row[at].strip())
                if len(columns[0]) == _ROWS:
                    frames.append(pl.DataFrame({str(n): c for n, c in enumerate(columns)}))
                    columns = [[] for _ in positions]
        except csv.Error as error:
            # An open quote is wrong; text behind a closing one, or quotes within a field, are letters like others.
            if strict and "unexpected end" not in str(error):
                continue
            raise _Wrong from None
        return [*frames, pl.DataFrame({str(n): c for n, c in enumerate(columns)})] if columns[0] else frames
    raise _Wrong


def read_text(
    layout: Layout, position: dict[str, int], *, integers_only: bool = False, time_format: str | None = None
) -> dict[str, Any]:
    """The columns of separated text: :class:`Ids`, or arrays for the names of :data:`NUMBERS` and ``part``."""
    need = tuple(key for key in position if key not in (*NUMBERS, "part")) if integers_only else ()
    parts: dict[str, list[Words]] = {key: [] for key in position}
    at = list(position.values())
    try:
        for block in blocks(layout):
            for frame in _frame(block, layout, at):
                for key, column in zip(position, frame.get_columns(), strict=True):
                    found = portion(column)
                    if found.words is not None and (found.words.str.len_chars().max() or 0) > LONGEST:  # type: ignore[operator]
                        raise _Wrong
                    parts[key].append(found)
    except _BAD as error:
        otherwise = f"cannot be parsed ({one_line(error)})" if str(error) else "cannot be parsed"
        _fail_at_line(layout, position, need, otherwise)
    if not parts[next(iter(position))]:
        raise InteractionError(f"{layout.file}: empty, no interactions")

    def failing(key: str) -> Fail:
        def fail(wrong: Any, message: str) -> NoReturn:
            words = wrong if isinstance(wrong, set) else frozenset()
            integers = {*need, key} if "integer" in message or "negative" in message else need
            _fail_at_line(layout, position, integers, f"{key} {message}", key, words)

        return fail

    names = layout.header or [str(at) for at in range(layout.width)]
    named = {key: names[at] for key, at in position.items()}
    return converted(parts, str(layout.file), named, integers_only, time_format, failing)


def converted(
    parts: dict[str, list[Words]],
    source: str,
    names: dict[str, str],
    integers_only: bool,
    time_format: str | None,
    failing: Callable[[str], Fail],
) -> dict[str, Any]:
    """Columns in portions to what their roles need; ``parts`` is used up."""
    values: dict[str, Any] = {}
    for key in list(parts):
        column = parts.pop(key)
        if key == "time":
            values[key] = times_of(column, time_format, source, failing(key))
        elif key == "part":
            values[key] = declared_parts(column, names[key], source)
        elif key in NUMBERS:
            values[key] = numbers_of(column, failing(key))
        else:
            values[key] = ids_of(column, integers_only, failing(key))
            say_odd(values[key], key, source)
    return values


def read_adjacency(layout: Layout) -> tuple[Ids, Ids]:
    """``user item item ...`` a line, integers: users and items of the pairs."""
    users: list[np.ndarray] = []
    items: list[np.ndarray] = []
    childless = 0
    for block in blocks(layout):
        try:
            tidy, mark = _tidy(block, layout)
            if not tidy:
                continue
            per_line = _fields_of_lines(tidy, mark)
            flat = tidy.replace(mark, b"\n")
            column = pl.read_csv(
                flat, has_header=False, separator="\x1f", quote_char=None, infer_schema=False
            ).to_series()
            found = portion(column.str.strip_chars(" ") if b" " in flat else column)
        except _BAD:
            _fail_at_line(layout, {}, ("user", "item"))
        if found.words is not None or int(found.codes.min()) < 0 or int(found.codes.max()) >= 10**18:
            _fail_at_line(layout, {}, ("user", "item"))
        heads = np.cumsum(per_line) - per_line
        childless += int((per_line == 1).sum())
        users.append(np.repeat(found.codes[heads], per_line - 1))
        items.append(np.delete(found.codes, heads))
    if childless:
        warn(f"{layout.file}: {childless} lines have a user and no item, left out")
    if not sum(map(len, items)):
        raise InteractionError(f"{layout.file}: empty, no interactions")
    return Ids(np.concatenate(users)), Ids(np.concatenate(items))


# ---------------------------------------------------------------------------------------------------------------------
# Finding what is wrong, line by line, once it is known that something is


def lines_of(layout: Layout) -> Iterator[tuple[int, str]]:
    """Number and text of every line."""
    number = layout.first_line
    for block in blocks(replace(layout, known=None, format="adjacency")):
        for raw in block[:-1].split(b"\n"):
            try:
                yield number, raw.decode() + "\n"
            except UnicodeDecodeError:
                raise InteractionError(f"{layout.file}:{number}: {not_utf8(layout.encoding)}") from None
            number += 1


def rows_of(layout: Layout, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every row."""
    if not layout.quoted:
        for number, line in lines_of(layout):
            if line.strip(None if layout.separator in (None, ":") else "\r\n"):
                yield number, layout.fields(line)
        return
    lines = (line for _, line in lines_of(layout))
    reader = csv.reader(lines, delimiter=str(layout.separator), skipinitialspace=True, strict=strict)
    number = layout.first_line
    try:
        for row in reader:
            if row:
                yield number, row
            number = layout.first_line + reader.line_num
    except csv.Error as error:
        what = "a quote that never closes" if "unexpected end" in str(error) else f"cannot be read ({error})"
        raise InteractionError(f"{layout.file}:{number}: {what}") from None


def _fail_at_line(
    layout: Layout,
    position: dict[str, int],
    integers: Collection[str],
    otherwise: str = "cannot be parsed",
    key: str = "",
    words: Collection[str] = (),
) -> NoReturn:
    """Raise for the first line that is wrong, by the rules that the readers check in bulk.

    ``integers`` are the columns that must hold integers; ``words`` are wrong in column ``key``; ``otherwise`` is said
    if no line by itself is wrong.
    """
    for number, row in rows_of(layout):
        problem = _problem_of(row, layout, position, integers)
        if problem is None and words and (word := row[position[key]].strip()) in words:
            problem = f"{key} {word[:80]!r}{otherwise.removeprefix(key)}"
        if problem:
            raise InteractionError(f"{layout.file}:{number}: {problem}") from None
    # Each row is well formed by itself: an open quote, or a character that no row should have.
    for _ in rows_of(layout, strict=True):
        pass
    for number, line in lines_of(layout):
        stray = re.search(r"[^\S \t\r\n]|[\x00-\x08\x0e-\x1f]|\r(?!\n|$)", line)
        if stray:
            raise InteractionError(f"{layout.file}:{number}: stray character {stray[0]!r}") from None
    raise InteractionError(f"{layout.file}: {otherwise}") from None


def _problem_of(row: list[str], layout: Layout, position: dict[str, int], integers: Collection[str]) -> str | None:
    if layout.format == "adjacency":
        named = [("user", row[0]), *(("item", token) for token in row[1:])]
    else:
        if len(row) != layout.width:
            hint = " (a line cut short?)" if len(row) < layout.width else " (two lines in one?)"
            also = "; format='adjacency' if these are lists of items" if layout.format == "pairs" else ""
            return f"{len(row)} fields where {layout.width} are expected{hint}{also}"
        named = [(key, row[at].strip()) for key, at in position.items() if key != "part"]
    for key, token in named:
        if len(token) > LONGEST:
            return f"{key} of {len(token)} characters (an open quote?)"
        if "\0" in token:
            return f"{key} holds a NUL character (a binary file?)"
        if key not in NUMBERS:
            if token in MISSING:
                return f"{key} id is missing ({token!r})"
            if key in integers and not re.match(INTEGRAL, token):
                zeros = " (leading zeros: give the column by position to read strings)" if token.isdigit() else ""
                return f"{key} id {token!r} is not an integer{zeros}"
            if key in integers and token.startswith("-"):
                return f"{key} id {token!r} is negative"
            if key in integers and float(token) >= (1e18 if layout.format == "adjacency" else 2.0**63):
                return f"{key} id {token!r} is too large"
            if layout.format == "adjacency" and not re.match(CANONICAL, token):
                return f"{key} id {token!r} is not an integer"
        elif token in MISSING:
            return f"{key} is missing ({token!r})"
        elif key in ("rating", "weight") and not (is_number(token) and np.isfinite(float(token))):
            return f"{key} {token!r} is not a number"
    return None
