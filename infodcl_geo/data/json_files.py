"""JSON lines, or one array of objects, to columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import polars as pl

from .ids import InteractionError, one_line
from .layouts import Layout
from .streams import blocks, not_utf8
from .text_files import LONGEST, converted
from .words import MISSING, Fail, Words, portion

_ROWS = 1 << 16  # rows at once


def json_rows(layout: Layout) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every row: JSON lines, or one array of objects."""
    decoder, number, head = json.JSONDecoder(), layout.first_line, True
    for block in blocks(layout):
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
        raise InteractionError(f"{layout.file}:{number}: {not_utf8(None)}") from None
    except (ValueError, RecursionError) as error:
        hint = "; not JSON lines (one object a line)" if number == layout.first_line else ""
        raise InteractionError(f"{layout.file}:{number}: not JSON ({one_line(error)}){hint}") from None
    if not isinstance(row, dict) or all(isinstance(v, (dict, list)) for v in row.values()):
        raise InteractionError(f"{layout.file}:{number}: not an object with one interaction; give JSON lines")
    return row


def _json_array(layout: Layout, decoder: json.JSONDecoder) -> Iterator[tuple[int, dict[str, Any]]]:
    text = b"".join(blocks(layout)).decode(errors="replace")
    at, row = text.index("[") + 1, 0
    try:
        while True:
            at = re.compile(r"[\s,]*").match(text, at).end()  # type: ignore[union-attr]
            if text[at : at + 1] == "]":
                if text[at + 1 :].strip():
                    raise ValueError("something follows the array")
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
            if len(text) > LONGEST or re.search(r"[\ud800-\udfff]", text):
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
    return converted(parts, str(layout.file), named, False, time_format, failing), names, position
