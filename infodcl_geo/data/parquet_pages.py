"""What the pages of a parquet file claim, before a reader that takes them at their word allocates it.

A negative or a huge number of values in the header of a page makes the reader ask for more memory than there is, which
ends the process. The headers are in Thrift's compact protocol, of which this reads what is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .ids import InteractionError

_HEADER = 1 << 20  # bytes that the header of a page may take, with its statistics
_VALUES_A_BYTE = 1 << 20  # of a page: runs of one value are packed to nothing


def check_pages(file: Path) -> None:
    """Refuse a file whose pages claim numbers that cannot be; what is not understood is left to the reader.

    Raises:
        InteractionError: if the number of values or the size of a page is negative, or too large for the file.
    """
    size = file.stat().st_size
    try:
        claims = _claims(file, size)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return
    wrong = next((n for n in claims if not 0 <= n <= _VALUES_A_BYTE * size), None)
    if wrong is not None:
        raise InteractionError(f"{file}: damaged parquet, a page claims {wrong} values or bytes")


def _claims(file: Path, size: int) -> list[int]:
    """Numbers of values and of bytes in the headers of all pages."""
    found: list[int] = []
    with open(file, "rb") as stream:
        stream.seek(max(0, size - 8))
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(max(0, size - 8 - length))
        groups = _struct(stream.read(length), 0)[0][4]
        for chunk in (column[3] for group in groups for column in group[1]):
            start = min(chunk[9], chunk.get(11) or chunk[9])
            end = min(size, start + chunk[7])
            while 0 <= start < end:
                stream.seek(start)
                header, taken = _struct(stream.read(_HEADER), 0)
                numbers = [header[2], header[3], *(header[part][1] for part in (5, 7, 8) if part in header)]
                found += numbers
                if min(numbers) < 0:
                    return found
                start += taken + header[3]
    return found


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
