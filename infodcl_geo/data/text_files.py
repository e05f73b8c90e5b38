"""Text files to columns of raw ids: how a file is laid out, integers parsed in bulk, the rest through pandas."""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, NoReturn, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from .ids import IntArray, InteractionError, one_line, warn

Format = Literal["pairs", "adjacency", "table", "recbole", "parquet", "npy", "npz"]
Column = str | int


# ---------------------------------------------------------------------------------------------------------------------
# What readers hand on


@dataclass(frozen=True)
class Ids:
    """A column of raw ids: the id of row ``e`` is ``vocabulary[codes[e]]``, or ``codes[e]`` itself without one."""

    codes: IntArray
    vocabulary: np.ndarray | None = None

    def __getitem__(self, rows: np.ndarray) -> Ids:
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
class Table:
    """What one file holds: the ids, and the rating and time of every row where there are such columns."""

    source: str
    users: Ids
    items: Ids
    rating: np.ndarray | None = None
    time: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users.codes)

    def __getitem__(self, rows: np.ndarray) -> Table:
        return Table(
            self.source,
            self.users[rows],
            self.items[rows],
            None if self.rating is None else self.rating[rows],
            None if self.time is None else self.time[rows],
        )


@dataclass(frozen=True)
class Columns:
    """The columns a caller named: header names, or positions from 0 in a file without a header."""

    user: Column | None = None
    item: Column | None = None
    rating: Column | None = None
    time: Column | None = None

    @property
    def are_positions(self) -> bool:
        return any(isinstance(c, int) for c in (self.user, self.item, self.rating, self.time))


class Fail(Protocol):
    """Raise for the rows that are wrong; ``integers`` says that the column must hold integers."""

    def __call__(self, wrong: np.ndarray, message: str, integers: bool = ...) -> None: ...


# ---------------------------------------------------------------------------------------------------------------------
# Headers


# The usual names of each column without capitals and punctuation, the most telling first.
NAMES: dict[str, str] = {
    "user": "user userid uid u useridx userindex reviewerid reviewer customerid customer visitorid visitor memberid "
    "member accountid sessionid",
    "item": "item itemid iid i itemidx itemindex movieid movie parentasin asin productid product bookid book isbn "
    "artistid artist trackid track songid song gameid game businessid business venueid venue locationid poi poiid "
    "videoid video newsid articleid",
    "rating": "rating ratings score stars overall weight value click label",
    "time": "timestamp time ts date datetime unixreviewtime reviewtime createdat",
}


def plain_name(name: str) -> str:
    """A header field without its RecBole type, capitals and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.split(":")[0].lower())


def shown_header(header: Sequence[str]) -> str:
    return ", ".join(repr(h) for h in header[:8]) + (", ..." if len(header) > 8 else "")


# ---------------------------------------------------------------------------------------------------------------------
# How a file is laid out


_SAMPLE = 1 << 20
_BLOCK = 1 << 24
_ROWS = 1 << 20
_LONGEST = 1000  # characters of an id; more is a quote that never closed, and fixed-width arrays would be huge
NUMBERS = ("rating", "weight", "time")  # names of columns that are no ids
_MISSING = ("", "nan", "NaN", "NULL", "null", "<NA>")
_INTEGER = re.compile(r"0|[1-9]\d*")
_INTEGRAL = re.compile(r"(?:0|[1-9]\d*)(?:\.0*)?|\d\.\d+[eE][+-]?\d+")


@dataclass(frozen=True)
class Layout:
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


def lay_out(file: Path, format: Format | None, columns: Columns) -> Layout:
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
    plain = Layout(file, "table", separator, start, number, None, 0)
    fields = plain.fields(first)
    typed = [f for f in fields if re.fullmatch(r"[^:]+:(token|float|token_seq|float_seq)", f)]
    if format == "recbole" and len(typed) < len(fields):
        raise InteractionError(f"{file}:{number}: not a RecBole header (name:type), but {shown_header(fields)}")
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


def _names_its_columns(fields: list[str], columns: Columns) -> bool:
    """Whether a first line has, at the positions a caller gave, what such columns are usually called."""
    return any(
        isinstance(at := getattr(columns, key), int) and at < len(fields) and plain_name(fields[at]) in names.split()
        for key, names in NAMES.items()
    )


def _require_a_header(header: Sequence[str], where: str) -> None:
    """A first line that is neither numbers nor a header with known names might be data: do not swallow it."""
    plain = {plain_name(h) for h in header}
    if not plain & set(" ".join(NAMES.values()).split()):
        raise InteractionError(
            f"{where}: neither numbers nor a header with known column names: {shown_header(header)}; "
            "name the columns (user_column=, item_column=), by position if there is no header"
        )


def _pairs_or_adjacency(file: Path, rows: list[list[str]]) -> Format:
    """The rule of :func:`~infodcl_geo.data.interactions.load_interactions`."""
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
    warn(
        f"{file}: every line has {widest} integers and its own user; read as adjacency lists "
        "(format='pairs' if the third column is a rating)"
    )
    return "adjacency"


# ---------------------------------------------------------------------------------------------------------------------
# Parsing


def _blocks(layout: Layout) -> Iterator[npt.NDArray[np.uint8]]:
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


def read_adjacency(layout: Layout) -> Table:
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
    table = Table(str(layout.file), Ids(np.concatenate(users)), Ids(np.concatenate(items)))
    if childless:
        warn(f"{layout.file}: {childless} lines have a user and no item, left out")
    if len(table) == 0:
        raise InteractionError(f"{layout.file}: empty, no interactions")
    return table


def read_pairs(layout: Layout, position: dict[str, int], may_be_strings: bool) -> Table:
    """Text without a header; the plain case, integers only, does not go through pandas."""
    parts: list[IntArray] = []
    for block in _blocks(layout):
        parsed = _parse_integers(block, layout.separator)
        if parsed is None:
            return read_table(layout, position, integers_only=not may_be_strings)
        values, per_line = parsed
        if not np.isin(per_line, (0, layout.width)).all():
            _fail_at_line(layout, position, ("user", "item"))
        parts.append(values.reshape(-1, layout.width).T)
    column = {key: np.concatenate([p[at] for p in parts]) for key, at in position.items()}
    return Table(str(layout.file), Ids(column["user"]), Ids(column["item"]), column.get("rating"), column.get("time"))


def read_table(layout: Layout, position: dict[str, int], integers_only: bool = False) -> Table:
    found = text_columns(layout, position, integers_only)
    return Table(str(layout.file), found["user"], found["item"], found.get("rating"), found.get("time"))


def text_columns(layout: Layout, position: dict[str, int], integers_only: bool = False) -> dict[str, Any]:
    """Separated text through pandas, a million rows at a time, only the needed columns kept.

    The columns called as in :data:`NUMBERS` are numbers, all others are ids.
    """
    doubled = layout.separator == "::"  # pandas' fast parser takes one character: every second column is then empty
    scale = 2 if doubled else 1
    width = scale * (layout.width - 1) + 1
    need = tuple(key for key in position if key not in NUMBERS) if integers_only else ()
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
        _fail_at_line(layout, position, need, f"cannot be parsed ({one_line(error)})")

    def failing(key: str) -> Fail:
        def fail(wrong: np.ndarray, message: str, integers: bool = integers_only) -> NoReturn:
            also = (key,) if integers else ()
            _fail_at_line(layout, position, (*need, *also), f"{key} {message}")

        return fail

    values: dict[str, Any] = {}
    for key, parts in words.items():
        if key == "time":
            values[key] = _times_from_words(parts, failing(key))
        elif key in NUMBERS:
            values[key] = _numbers_from_words(parts, failing(key))
        else:
            values[key] = ids_from_words(parts, integers_only, failing(key))
    return values


def _check_widths(layout: Layout, fail: Callable[[], None]) -> None:
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
    for _, row in rows_of(layout):
        if len(row) != layout.width:
            fail()


def rows_of(layout: Layout, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
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


def _decoded(layout: Layout, stream: IO[bytes]) -> Iterator[str]:
    for number, raw in enumerate(stream, layout.first_line):
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError:
            raise InteractionError(f"{layout.file}:{number}: not UTF-8 text") from None


def _fail_at_line(
    layout: Layout, position: dict[str, int], integers: Collection[str], otherwise: str = "cannot be parsed"
) -> NoReturn:
    """Raise for the first line that is wrong, by the rules that the vectorised readers check in bulk.

    ``integers`` are the columns that must hold integers; ``otherwise`` is said if no line by itself is wrong.
    """
    for number, row in rows_of(layout):
        problem = _problem_of(row, layout, position, integers)
        if problem:
            raise InteractionError(f"{layout.file}:{number}: {problem}") from None
    # Each row is well formed by itself: an open quote, or a character that no row should have.
    for _ in rows_of(layout, strict=True):
        pass
    with _open(layout.file) as stream:
        stream.seek(layout.start)
        for number, line in enumerate(_decoded(layout, stream), layout.first_line):
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
        named = [(key, row[at].strip()) for key, at in position.items()]
    for key, token in named:
        if len(token) > _LONGEST:
            return f"{key} of {len(token)} characters (an open quote?)"
        if key not in NUMBERS:
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


def ids_from_words(parts: list[tuple[IntArray, np.ndarray]], integers_only: bool, fail: Fail) -> Ids:
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
        return Ids(codes)
    if integers_only:
        fail(np.ones(1, dtype=bool), "id is not an integer")
    vocabulary, position = np.unique(np.concatenate([w for _, w in parts]), return_inverse=True)
    offset = np.cumsum([0] + [len(w) for _, w in parts])
    codes = np.concatenate([position[offset[i] + c] for i, (c, _) in enumerate(parts)])
    return Ids(codes, vocabulary)


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


def _numbers_from_words(parts: list[tuple[IntArray, np.ndarray]], fail: Fail) -> npt.NDArray[np.float64]:
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


def _times_from_words(parts: list[tuple[IntArray, np.ndarray]], fail: Fail) -> np.ndarray:
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
