"""Values as text that others can read: JSON, CSV, Markdown, and terminals that obey no data."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Beginnings that spreadsheets take for a formula, or that hide one behind white space."""
_ENDS_OR_TURNS = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Signs beyond the control characters that end a line or turn the direction of what follows."""


def json_ready(value: Any) -> Any:
    """The same content in what JSON has: NaN and infinities, which it does not have, become ``None``.

    Args:
        value: mappings, sequences, sets, tensors and arrays, numbers of any library, texts and paths, nested.

    Returns:
        Dictionaries with text keys, lists, texts, booleans, integers, finite floats and ``None``.

    Raises:
        TypeError: for anything else, which JSON has no form for.
    """
    if value is None or isinstance(value, (bool, str, int)):
        # A subclass, such as an enumeration, is written as what it is.
        return (
            value if value is None or isinstance(value, bool) else str(value) if isinstance(value, str) else int(value)
        )
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_key(key): json_ready(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return [json_ready(part) for part in sorted(value)]
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):  # tensors, arrays and their scalars
        return json_ready(value.tolist())
    raise TypeError(f"JSON has no form for a {type(value).__name__}")


def _key(key: Any) -> str:
    if isinstance(key, str):
        return str(key)
    key = json_ready(key)
    if key is None or isinstance(key, (bool, list, dict)):
        raise TypeError(f"a key of JSON is a text or a number, not {key!r}")
    return str(key)


def escape(text: object) -> str:
    r"""``text`` with what a terminal would obey instead of showing as escapes: ``\x1b``, ``\n``, ``\u202e``.

    Control characters (C0, DEL and C1), line and paragraph separators, marks and overrides of direction, and lone
    surrogates are escaped as in Python; a backslash stays as it is.
    """
    return "".join(_escaped(sign) if _is_obeyed(sign) else sign for sign in str(text))


def _is_obeyed(sign: str) -> bool:
    code = ord(sign)
    return code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 or sign in _ENDS_OR_TURNS


def _escaped(sign: str) -> str:
    return (
        sign.encode("unicode_escape", "surrogatepass").decode("ascii") if ord(sign) < 0xD800 else f"\\u{ord(sign):04x}"
    )


def shortened(text: str, most: int = 800) -> str:
    """``text`` without its middle where it is longer than ``most`` signs, such as a message that names a long path."""
    return text if len(text) <= most else f"{text[: most - 200]} ... {text[-190:]}"


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet runs: text that begins like a formula gets an apostrophe before it.

    Such beginnings are ``=``, ``+``, ``-``, ``@``, a tabulator and the ends of lines. Numbers, also negative ones, and
    everything else that is no text stay as they are. Quoting is left to the writer of the file.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def csv_text(value: str) -> str:
    """The text that :func:`csv_cell` made a cell of."""
    return value[1:] if value[:1] == "'" and value[1:].startswith(_FORMULA) else value


def csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    r"""Rows as CSV with lines that end in ``\n``; a cell with a carriage return is quoted, which Python leaves out."""
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        (quoted if any(isinstance(cell, str) and "\r" in cell for cell in row) else plain).writerow(row)
    return text.getvalue()


def markdown_cell(value: object) -> str:
    """Text for a cell of a Markdown table: one line, bars and backslashes before bars escaped.

    What is between two bars would be a column of its own, and a line break ends the row.
    """
    return escape(value).replace("\\", "\\\\").replace("|", "\\|")
