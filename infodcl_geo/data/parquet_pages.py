"""What the pages of a parquet file claim, before a reader that takes them at their word allocates it.

A negative or a huge number of values in the header of a page makes the reader ask for more memory than there is, which
ends the process; and a page of a kilobyte may unpack to gigabytes. The headers are in Thrift's compact protocol, of
which this reads what is needed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import polars as pl

from .ids import InteractionError
from .streams import ALLOWANCE, RATIO

_HEADER = 1 << 12, 1 << 20  # bytes that the header of a page usually takes, and may take, with its statistics
_EMPTY_VALUES = 10_000_000  # of a column in a file of any size: runs of one value are packed to nothing
_DELTA_BYTE_ARRAY = 7  # texts as what each has in common with the one before, and the rest
_TYPES = b"ARROW:schema"
_HOW = "if that is no mistake, write it again without compression"


@dataclass
class _Column:
    """What the pages of one column claim, over all row groups."""

    numbers: list[int] = field(default_factory=list)  # all of them, to be looked at for negative ones
    values: int = 0
    unpacked: int = 0  # bytes of pages
    texts: int = 0  # bytes of texts that have beginnings in common, at most


def check_pages(file: Path, most: int | None = None) -> None:
    """Refuse a file whose pages claim what cannot be, or unpack to too much for its size.

    Args:
        file: a parquet file.
        most: bytes to which its pages may unpack together; by default 200 times its size and 64 MiB.

    Raises:
        InteractionError: if a number of values or a size is negative, too large for the file, or not to be read at all.
    """
    size = file.stat().st_size
    most = RATIO * size + ALLOWANCE if most is None else most
    try:
        columns = _columns(file, size)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise InteractionError(f"{file}: damaged parquet, the headers of its pages cannot be read") from None
    wrong = next((n for column in columns for n in column.numbers if n < 0), None)
    if wrong is not None:
        raise InteractionError(f"{file}: damaged parquet, a page claims {wrong} values or bytes")
    values = max((column.values for column in columns), default=0)
    if values > max(_EMPTY_VALUES + RATIO * size, most // 4):
        raise InteractionError(f"{file}: {size} bytes claim {values} values of a column; {_HOW}")
    unpacked = sum(column.unpacked for column in columns)
    if unpacked > most:
        raise InteractionError(f"{file}: its pages unpack to {unpacked} bytes, over {most} for {size}; {_HOW}")
    texts = max((column.texts for column in columns), default=0)
    if texts > most:
        raise InteractionError(
            f"{file}: its texts are packed by their common beginnings (DELTA_BYTE_ARRAY) and may unpack to {texts} "
            f"bytes, over {most} for {size}; if that is no mistake, write it again with another encoding"
        )


def read_pages(file: Path, columns: list[str], most: int | None = None) -> pl.DataFrame:
    """Some columns of a parquet file, of which the claims and the lengths of texts are checked.

    Categories come as texts, which are held once each: polars would look each of them up in each row, for hours if one
    is a megabyte long.

    Args:
        file, most: as for :func:`check_pages`.
        columns: names.

    Raises:
        InteractionError: as :func:`check_pages` does, or if the texts of a column are too long together.
    """
    check_pages(file, most)
    schema = pl.read_parquet_schema(file)
    coded = [name for name in columns if _is_coded(schema[name])]
    plain = pl.read_parquet(
        file, columns=[name for name in columns if name not in coded], use_statistics=False, glob=False
    )
    _check_texts(file, plain)
    if not coded:
        return plain
    content = file.read_bytes()
    at = content.rfind(_TYPES)  # which types of Arrow the columns were written from; without it texts are texts
    texts = pl.read_parquet(
        io.BytesIO(content[: max(at, 0)] + _TYPES.swapcase() + content[max(at, 0) + len(_TYPES) :]),
        columns=coded,
        use_statistics=False,
    )
    if any(_is_coded(kind) for kind in texts.dtypes):
        raise InteractionError(f"{file}: damaged parquet, it says twice of what types its columns are")
    _check_texts(file, texts)
    return (texts if plain.width == 0 else pl.concat([plain, texts], how="horizontal")).select(columns)


def _is_coded(kind: pl.DataType) -> bool:
    return isinstance(kind, pl.Categorical | pl.Enum)


def _check_texts(file: Path, frame: pl.DataFrame) -> None:
    """Refuse columns whose texts, which a dictionary holds once, are too long together for the file's size."""
    size = file.stat().st_size
    for column in frame.iter_columns():
        total: Any = 0
        if column.dtype == pl.String:
            total = column.str.len_bytes().cast(pl.Int64).sum()
        elif column.dtype == pl.Binary:
            total = column.bin.size().cast(pl.Int64).sum()
        if total > RATIO * size + ALLOWANCE:
            raise InteractionError(
                f"{file}: the texts of column {column.name!r} take {total} bytes, over {RATIO} times the file's size; "
                "if that is no mistake, write it again with numbers as ids"
            )


def _columns(file: Path, size: int) -> list[_Column]:
    """What the pages of each column claim."""
    found: dict[int, _Column] = {}
    with open(file, "rb") as stream:
        stream.seek(max(0, size - 8))
        length = int.from_bytes(stream.read(4), "little")
        if length > size - 8:
            raise ValueError("footer")
        stream.seek(size - 8 - length)
        groups = _struct(stream.read(length), 0)[0][4]
        for group in groups:
            for number, chunk in enumerate(group[1]):
                start = chunk[3].get(11) or chunk[3][9]  # of the dictionary, if there is one
                # Without a value there need be no data: the writer's place of them is then none.
                if start > chunk[3][9] and (chunk[3][5] or chunk[3][9]):  # readers differ in where they begin then
                    raise ValueError("a dictionary behind its data")
                _walk(stream, start, min(size, start + chunk[3][7]), found.setdefault(number, _Column()))
    return list(found.values())


def _walk(stream: IO[bytes], start: int, end: int, column: _Column) -> None:
    while 0 <= start < end:
        header, taken = _header(stream, start)
        of_kind = next((header[part] for part in (5, 7, 8) if part in header), {1: 0})
        column.numbers += header[2], header[3], of_kind[1]
        if min(column.numbers[-3:]) < 0:
            return
        column.values += of_kind[1] if 7 not in header else 0
        column.unpacked += header[2]
        if _DELTA_BYTE_ARRAY in (header[5][2] if 5 in header else None, header[8][4] if 8 in header else None):
            column.texts += header[2] * of_kind[1]
        start += taken + header[3]


def _header(stream: IO[bytes], start: int) -> tuple[dict[int, Any], int]:
    """The header of the page at ``start``, and its length."""
    for most in _HEADER:
        stream.seek(start)
        try:
            return _struct(stream.read(most), 0)
        except IndexError:
            if most == _HEADER[-1]:
                raise
    raise AssertionError


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 70:
            raise ValueError("varint")


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2):
        return kind == 1, at
    if kind == 3:
        return data[at], at + 1
    if kind in (4, 5, 6):
        value, at = _varint(data, at)
        return (value >> 1) ^ -(value & 1), at
    if kind == 7:
        return None, at + 8
    if kind == 8:
        length, at = _varint(data, at)
        return None, at + length
    if kind in (9, 10):
        head, at = data[at], at + 1
        count, inner = head >> 4, head & 15
        if count == 15:
            count, at = _varint(data, at)
        found = []
        for _ in range(min(count, len(data))):
            if inner in (1, 2):
                value, at = data[at] == 1, at + 1
            else:
                value, at = _value(data, at, inner)
            found.append(value)
        return found, at
    if kind == 12:
        return _struct(data, at)
    raise ValueError("kind")


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """The fields of a struct by their number, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head, at = data[at], at + 1
        if head == 0:
            return fields, at
        if head >> 4:
            number += head >> 4
        else:
            value, at = _varint(data, at)
            number = (value >> 1) ^ -(value & 1)
        fields[number], at = _value(data, at, head & 15)
