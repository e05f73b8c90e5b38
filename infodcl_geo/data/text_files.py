"""Text files to columns: a stream of UTF-8 in portions of whole lines, parsed in bulk by polars."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import re
import stat
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import polars as pl

from .columns import (
    CANONICAL,
    INTEGRAL,
    MISSING,
    NUMBERS,
    Fail,
    Ids,
    Words,
    declared_parts,
    ids_of,
    numbers_of,
    portion,
    times_of,
)
from .ids import InteractionError, escaped, one_line, warn
from .layouts import Column, Columns, Format, Layout, is_number, lay_out

__all__ = ["Column", "Format", "lines_of", "open_text", "read_adjacency", "read_json", "read_text", "rows_of"]

_SAMPLE = 1 << 20
_BLOCK = 1 << 22
_ROWS = 1 << 16  # rows of a quoted or JSON file at once
_LONGEST = 1000  # characters of an id; more is a quote that never closed
RATIO, ALLOWANCE = 200, 64 << 20  # a compressed file may unpack to 200 times its size and 64 MiB

_MAGIC: tuple[tuple[bytes, int, str], ...] = (
    (b"PK\x03\x04", 0, "a zip archive; unpack it and give the file in it"),
    (b"ustar", 257, "a tar archive; unpack it and give the file in it"),
    (b"7z\xbc\xaf'", 0, "a 7z archive; unpack it and give the file in it"),
    (b"Rar!", 0, "a rar archive; unpack it and give the file in it"),
    (b"BZh", 0, "compressed with bzip2; unpack it, or compress it with gzip"),
    (b"\xfd7zXZ", 0, "compressed with xz; unpack it, or compress it with gzip"),
    (b"\x28\xb5\x2f\xfd", 0, "compressed with zstd; unpack it, or compress it with gzip"),
    (b"SQLite format 3", 0, "an SQLite database; export the table of interactions as csv"),
    (b"\x89HDF", 0, "an HDF5 file; export the table of interactions as csv or parquet"),
    (b"%PDF", 0, "a PDF document, no table"),
    (b"ARROW1", 0, "an Arrow IPC file; write it as parquet"),
)
PICKLE = "a pickle, which can run code when it is loaded, and is refused; save the matrix with scipy.sparse.save_npz"


class _Wrong(Exception):
    """A portion of text that is not as its layout says; a slow pass finds the line."""


# ---------------------------------------------------------------------------------------------------------------------
# Bytes


def require_file(file: Path) -> int:
    """The size of a regular file.

    Raises:
        InteractionError: for a device, a pipe or a socket: reading one could wait forever, or never end.
    """
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        raise InteractionError(f"{file}: not a regular file")
    return status.st_size


def _stream(file: Path, encoding: str | None) -> Iterator[bytes]:
    """The text of a file as UTF-8 without a byte order mark, in portions."""
    size = require_file(file)
    with open(file, "rb") as raw:
        packed = file.suffix == ".gz" or raw.read(2) == b"\x1f\x8b"
        if packed and size > 20:  # the last four bytes say the unpacked size, of honest files below 4 GiB
            raw.seek(-4, os.SEEK_END)
            _bound(file, size, int.from_bytes(raw.read(4), "little"))
        raw.seek(0)
        source: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
        try:
            b"".decode(encoding or "utf-8")  # refuses also what turns bytes to bytes
            decoder = codecs.getincrementaldecoder(encoding)() if encoding else None
        except (LookupError, ValueError):
            raise InteractionError(f"{file}: no text encoding is called {escaped(encoding)!r}") from None
        total, first = 0, True
        while piece := source.read(_BLOCK):
            total += len(piece)
            if packed:
                _bound(file, size, total)
            if first and not encoding:
                _refuse(file, piece)
            if decoder is not None:
                try:
                    piece = decoder.decode(piece).encode()
                except UnicodeError as error:
                    raise InteractionError(f"{file}: not text in {encoding} ({one_line(error)})") from None
            yield piece.removeprefix(b"\xef\xbb\xbf") if first else piece
            first = False


def _bound(file: Path, size: int, unpacked: int) -> None:
    if unpacked > RATIO * size + ALLOWANCE:
        raise InteractionError(
            f"{file}: {size} bytes unpack to {unpacked} or more, over {RATIO} times as many; if that is no mistake, "
            "unpack it yourself"
        )


def _refuse(file: Path, head: bytes) -> None:
    for magic, at, what in _MAGIC:
        if head[at : at + len(magic)] == magic:
            raise InteractionError(f"{file}: not a text file; it looks like {what}")
    if re.match(rb"\x80[\x02-\x05]", head):
        raise InteractionError(f"{file}: not a text file; it looks like {PICKLE}")
    for mark, name in ((b"\xff\xfe\0\0", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if head.startswith(mark):
            raise InteractionError(f"{file}: not a text file in UTF-8; encoding={name!r} reads it")
    if b"\0" in head[:_SAMPLE]:
        even, odd = head[0:2000:2].count(0), head[1:2000:2].count(0)
        name = "utf-16-be" if even > odd else "utf-16-le"
        hint = f" (encoding={name!r} if it is UTF-16)" if abs(even - odd) * 4 > len(head[:2000]) else ""
        raise InteractionError(f"{file}: not a text file but a binary one{hint}")


def open_text(
    file: Path, format: Format | None, columns: Columns, encoding: str | None = None, separator: str | None = None
) -> Layout:
    """How a text file is laid out; blank lines and comments (``#``, ``%``) before the first line are skipped."""
    if separator is not None and (not 0 < len(separator) <= 8 or "\n" in separator or '"' in separator):
        raise InteractionError(f"{file}: separator={separator!r}: give the one to eight characters between two fields")
    text, skipped, number, head = b"", 0, 1, True
    whole = True
    for piece in _stream(file, encoding):
        text += piece
        if head:
            blank = re.match(rb"(?:[ \t\r]*(?:[#%][^\n]*)?\n)*", text)
            done = blank.end() if blank else 0
            number += text.count(b"\n", 0, done)
            skipped, text = skipped + done, text[done:]
            head = not text.strip() or (text.lstrip()[:1] in (b"#", b"%") and b"\n" not in text)
        if len(text) > _SAMPLE:
            whole = False
            break
    if head and (not text.strip() or text.lstrip()[:1] in (b"#", b"%")):
        raise InteractionError(f"{file}: empty, no interactions")
    if not whole:
        end = text.rfind(b"\n", 0, _SAMPLE) + 1 or text.find(b"\n") + 1
        text = text[:end] if end else text
    try:
        sample = text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + number
        raise InteractionError(f"{file}:{line}: {_not_utf8(encoding)}") from None
    if "\r" in sample and "\n" not in sample:
        raise InteractionError(f"{file}: lines end in bare carriage returns; convert the file to newlines")
    plain = Layout(file, "json", separator, skipped, number, encoding)
    if format == "json" or (format is None and separator is None and re.match(r'\s*(?:\{\s*"|\[\s*[\[{])', sample)):
        return plain
    return lay_out(plain, sample, columns, format)


def _not_utf8(encoding: str | None) -> str:
    return "not UTF-8 text; encoding= says what it is in, often 'latin-1' or 'cp1252'"


def _blocks(layout: Layout) -> Iterator[bytes]:
    """The data of a file in portions of whole lines, each ending in a newline; no cut inside quotes."""
    skip, rest, inside = layout.start, [], 0
    for piece in _stream(layout.file, layout.encoding):
        if skip:
            piece, skip = piece[skip:], max(0, skip - len(piece))
        cut = piece.rfind(b"\n") + 1
        if layout.quoted and (inside or b'"' in piece):
            data = np.frombuffer(piece, dtype=np.uint8)
            open_quotes = (np.cumsum(data == 34, dtype=np.uint8) + np.uint8(inside)) & 1
            ends = np.flatnonzero((data == 10) & (open_quotes == 0))
            cut = int(ends[-1]) + 1 if len(ends) else 0
            inside = int(open_quotes[-1]) if len(data) else inside
        if cut:
            yield b"".join([*rest, piece[:cut]])
            rest = []
        rest.append(piece[cut:])
    last = b"".join(rest)
    if last:
        yield last if last.endswith(b"\n") else last + b"\n"


# ---------------------------------------------------------------------------------------------------------------------
# Parsing


def _tidy(block: bytes, layout: Layout) -> tuple[bytes, bytes]:
    """A block with one single separator between two fields and no blank lines, and that separator."""
    if b"\0" in block:
        raise _Wrong
    if not block.isascii():
        _checked(block)
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


def _checked(block: bytes) -> str:
    try:
        return block.decode()
    except UnicodeDecodeError:
        raise _Wrong from None


def _unquoted(block: bytes, mark: bytes) -> bytes | None:
    """The block without its quotes, if they only stand around whole fields that need none."""
    data = np.frombuffer(b"\n" + block + b"\n", dtype=np.uint8)
    quotes = np.flatnonzero(data == 34)
    border = (data == mark[0]) | (data == 10)
    closed = len(quotes) % 2 == 0 and border[quotes[::2] - 1].all() and border[quotes[1::2] + 1].all()
    if not closed or (quotes[1::2] - quotes[::2] > _LONGEST).any():
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
    data = np.frombuffer(block, dtype=np.uint8)
    fields = np.diff(np.searchsorted(np.flatnonzero(data == mark[0]), np.flatnonzero(data == 10)), prepend=0) + 1
    if (fields != layout.width).any():
        raise _Wrong
    frame = pl.read_csv(
        block, has_header=False, separator=mark.decode(), quote_char=None, infer_schema=False,
        columns=sorted(set(positions)), raise_if_empty=False,
    )  # fmt: skip
    if len(frame) != len(fields):
        raise _Wrong
    place = {at: name for at, name in zip(sorted(set(positions)), frame.columns, strict=True)}
    frame = frame.select(pl.col(place[at]).alias(str(n)) for n, at in enumerate(positions))
    padded = mark != b" " and (b" " in block or (mark != b"\t" and b"\t" in block) or not block.isascii())
    yield frame.with_columns(pl.all().str.strip_chars()) if padded else frame


def _quoted_frames(block: bytes, layout: Layout, positions: Sequence[int]) -> list[pl.DataFrame]:
    """The same where separators, line ends or quotes stand inside quotes: row by row."""
    if b"\0" in block:
        raise _Wrong
    for strict in (True, False):
        lines = io.StringIO(_checked(block), newline="")
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
        for block in _blocks(layout):
            for frame in _frame(block, layout, at):
                for key, column in zip(position, frame.get_columns(), strict=True):
                    found = portion(column)
                    if found.words is not None and (found.words.str.len_chars().max() or 0) > _LONGEST:  # type: ignore[operator]
                        raise _Wrong
                    parts[key].append(found)
    except (_Wrong, pl.exceptions.PolarsError) as error:
        otherwise = "cannot be parsed" if isinstance(error, _Wrong) else f"cannot be parsed ({one_line(error)})"
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
    return _converted(parts, str(layout.file), named, integers_only, time_format, failing)


def _converted(
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
    return values


def read_adjacency(layout: Layout) -> tuple[Ids, Ids]:
    """``user item item ...`` a line, integers: users and items of the pairs."""
    users: list[np.ndarray] = []
    items: list[np.ndarray] = []
    childless = 0
    for block in _blocks(layout):
        try:
            tidy, mark = _tidy(block, layout)
            if not tidy:
                continue
            data = np.frombuffer(tidy, dtype=np.uint8)
            per_line = (
                np.diff(np.searchsorted(np.flatnonzero(data == mark[0]), np.flatnonzero(data == 10)), prepend=0) + 1
            )
            flat = tidy.replace(mark, b"\n")
            column = pl.read_csv(
                flat, has_header=False, separator="\x1f", quote_char=None, infer_schema=False
            ).to_series()
            found = portion(column.str.strip_chars(" ") if b" " in flat else column)
        except (_Wrong, pl.exceptions.PolarsError):
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
# JSON


def json_rows(layout: Layout) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every row: JSON lines, or one array of objects."""
    decoder, number, head = json.JSONDecoder(), layout.first_line, True
    for block in _blocks(layout):
        if head and block.lstrip()[:1] == b"[":
            yield from _json_array(layout, decoder)
            return
        head = False
        for line in block.split(b"\n"):
            if line.strip():
                yield number, _json_object(layout, number, line)
            number += 1
        number -= 1


def _json_object(layout: Layout, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        raise InteractionError(f"{layout.file}:{number}: {_not_utf8(None)}") from None
    except (ValueError, RecursionError) as error:
        hint = "; not JSON lines (one object a line)" if number == layout.first_line else ""
        raise InteractionError(f"{layout.file}:{number}: not JSON ({one_line(error)}){hint}") from None
    if not isinstance(row, dict) or all(isinstance(v, (dict, list)) for v in row.values()):
        raise InteractionError(f"{layout.file}:{number}: not an object with one interaction; give JSON lines")
    return row


def _json_array(layout: Layout, decoder: json.JSONDecoder) -> Iterator[tuple[int, dict[str, Any]]]:
    text = b"".join(_blocks(layout)).decode(errors="replace")
    at, row = text.index("[") + 1, 0
    try:
        while True:
            at = re.compile(r"[\s,]*").match(text, at).end()  # type: ignore[union-attr]
            if text[at : at + 1] == "]":
                return
            value, at = decoder.raw_decode(text, at)
            if not isinstance(value, dict):
                raise ValueError("an array of something other than objects")
            yield text.count("\n", 0, at) + layout.first_line if row == 0 else layout.first_line, value
            row += 1
    except (ValueError, RecursionError) as error:
        raise InteractionError(
            f"{layout.file}: not an array of JSON objects, at row {row} ({one_line(error)})"
        ) from None


def read_json(
    layout: Layout, find: Any, *, time_format: str | None = None
) -> tuple[dict[str, Any], list[str], dict[str, int]]:
    """The columns of JSON objects: values, names of the first object, and the positions that ``find`` chose."""
    rows = json_rows(layout)
    number, first = next(rows, (0, None))
    if first is None:
        raise InteractionError(f"{layout.file}: empty, no interactions")
    names = list(first)
    position: dict[str, int] = find(names)
    keys = [names[at] for at in position.values()]
    parts: dict[str, list[Words]] = {key: [] for key in position}
    portions: list[list[str]] = [[] for _ in keys]

    def keep() -> None:
        for key, values in zip(position, portions, strict=True):
            parts[key].append(portion(pl.Series(values, dtype=pl.String)))
            values.clear()

    row: dict[str, Any] | None = first
    while row is not None:
        for role, name, values in zip(position, keys, portions, strict=True):
            value = row.get(name)
            if value is None or isinstance(value, (dict, list, bool)) or value == "":
                raise InteractionError(f"{layout.file}:{number}: {role} is missing ({name!r}: {one_line(value)!r})")
            text = str(value).strip(" ")
            if len(text) > _LONGEST or re.search(r"[\ud800-\udfff]", text):
                raise InteractionError(f"{layout.file}:{number}: {role} of {len(text)} characters, or no valid text")
            values.append(text)
        if len(portions[0]) == _ROWS:
            keep()
        number, row = next(rows, (0, None))
    keep()

    def failing(key: str) -> Fail:
        def fail(wrong: Any, message: str) -> NoReturn:
            for line, found in json_rows(layout):
                value = str(found.get(names[position[key]])).strip(" ")
                if (isinstance(wrong, set) and value in wrong) or value in MISSING or re.fullmatch(r"-\d+", value):
                    raise InteractionError(f"{layout.file}:{line}: {key} {value[:80]!r} {message}") from None
            raise InteractionError(f"{layout.file}: {key} {message}") from None

        return fail

    named = {key: names[at] for key, at in position.items()}
    return _converted(parts, str(layout.file), named, False, time_format, failing), names, position


# ---------------------------------------------------------------------------------------------------------------------
# Finding what is wrong, line by line, once it is known that something is


def lines_of(layout: Layout) -> Iterator[tuple[int, str]]:
    """Number and text of every line."""
    number = layout.first_line
    for block in _blocks(replace(layout, known=None, format="adjacency")):
        for raw in block[:-1].split(b"\n"):
            try:
                yield number, raw.decode() + "\n"
            except UnicodeDecodeError:
                raise InteractionError(f"{layout.file}:{number}: {_not_utf8(layout.encoding)}") from None
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
        if len(token) > _LONGEST:
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


DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)
