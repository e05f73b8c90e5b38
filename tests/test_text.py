"""Text that is read by other programs."""

from __future__ import annotations

import csv
import enum
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infodcl_geo.text import csv_cell, escape, json_ready, markdown_cell

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [without_nan(part) for part in value]
    if isinstance(value, dict):
        return {key: without_nan(part) for key, part in value.items()}
    return value


@given(values)
def test_json_is_valid_and_keeps_the_rest(value: Any) -> None:
    assert strict(json.dumps(json_ready(value), allow_nan=False)) == without_nan(value)


def test_json_of_numbers_of_other_libraries() -> None:
    class Colour(enum.IntEnum):
        RED = 3

    content = {
        "tensor": torch.tensor([1.0, math.nan]),
        "array": np.array([[1, 2]]),
        "scalar": np.float32(math.inf),
        "whole": np.int64(7),
        "path": Path("a") / "b",
        "set": {3, 1},
        5: (True, Colour.RED),
    }
    assert strict(json.dumps(json_ready(content))) == {
        "tensor": [1.0, None],
        "array": [[1, 2]],
        "scalar": None,
        "whole": 7,
        "path": str(Path("a") / "b"),
        "set": [1, 3],
        "5": [True, 3],
    }
    for wrong in (object(), {None: 1}, {(1, 2): 3}):
        with pytest.raises(TypeError):
            json_ready(wrong)


def test_escape_by_hand() -> None:
    assert escape("plain é 日本 \\ 😀") == "plain é 日本 \\ 😀"
    assert escape("\x1b[2Jgone\r\n\t\x7f\x9b") == "\\x1b[2Jgone\\r\\n\\t\\x7f\\x9b"
    assert escape("abc\u202etxt\u2028\ud800") == "abc\\u202etxt\\u2028\\ud800"
    assert escape(5) == "5"


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_what_is_escaped_is_one_printable_line(text: str) -> None:
    shown = escape(text)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in shown)
    shown.encode("utf-8")


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_formulas_become_text(text: str) -> None:
    assert csv_cell(text) == "'" + text
    file = io.StringIO(newline="")
    csv.writer(file).writerow([csv_cell(text), "next"])
    assert next(csv.reader(io.StringIO(file.getvalue(), newline=""))) == ["'" + text, "next"]


def test_other_cells_stay() -> None:
    for value in ("", "a=1", "item-3", -3, -0.5, None, "'quoted"):
        assert csv_cell(value) == value
        assert type(csv_cell(value)) is type(value)


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_markdown_row_keeps_its_columns(first: str, second: str) -> None:
    row = f"| {markdown_cell(first)} | {markdown_cell(second)} |"
    assert len(row.splitlines()) == 1
    bars, escaped = 0, False
    for sign in row:
        bars += sign == "|" and not escaped
        escaped = sign == "\\" and not escaped
    assert bars == 3
    assert markdown_cell("a|b\\|c") == "a\\|b\\\\\\|c"
