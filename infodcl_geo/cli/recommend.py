"""``infodcl-geo recommend``: the best items of users of a saved model, or of users it was not trained on."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ..errors import FileError, OptionError
from . import parsing
from .parsing import Parser
from .show import table

DESCRIPTION = "Recommend items to users of a saved model, or to users it was not trained on by the items they took."

_COLUMNS = ("user", "rank", "item", "score", "known")
_LARGEST = 1 << 30
"""Bytes that a file of users may have."""


def make_parser() -> Parser:
    parser = Parser("recommend", DESCRIPTION)
    parser.add("checkpoint", str, None, "folder that train wrote", required=True)
    parser.add("model", str | None, None, "file.py:recipe of a model that is not the library's; the file is run")
    parser.add_list("users", (), "raw user ids, such as: 3 17")
    parser.add("users_file", str | None, None, "file with one raw user id a line")
    parser.add_list("history", (), "instead of users: raw ids of the items that a new user took")
    parser.add("k", int, 10, "items for each user")
    parser.add("include_seen", bool, False, "also items the user already has")
    parser.add_list("allowed", (), "raw ids of the only items that may be recommended")
    parser.add_list("excluded", (), "raw ids of items that may not be recommended")
    parser.add(
        "unknown",
        Literal["error", "popular", "skip"],
        "error",
        "what unknown users get: an error, popular items, or nothing",
    )
    kinds = Literal["table", "csv", "jsonl", "parquet"]
    parser.add("format", kinds | None, None, "of the output; by default as --out ends, or a table")
    parser.add("out", str | None, None, "file to write instead of printing; an existing one is not overwritten")
    parser.add("overwrite", bool, False, "overwrite the file of --out")
    parser.add("json", bool, False, "print one JSON array instead of a table")
    return parser


def main(argv: Sequence[str]) -> int:
    from ..files import write_atomically
    from ..recommender import Recommender

    parser = make_parser()
    options = parser.parse_args(parsing.with_flags(parsing.words_of(argv), parser))
    kind = _format(options)
    if options.out is not None and Path(options.out).exists() and not options.overwrite:
        raise FileError(f"{options.out} is there already: give another --out, or --overwrite true")
    asked = sum(map(bool, (options.users, options.users_file, options.history)))
    if asked != 1:
        raise OptionError("recommend takes one of --users, --users_file and --history")
    recommender = Recommender.load(options.checkpoint, recipe=options.model)
    how: dict[str, Any] = {
        "exclude_seen": not options.include_seen,
        "allowed": parsing.listed(options.allowed) or None,
        "excluded": parsing.listed(options.excluded),
    }
    if options.history:
        unknown: Any = "error" if options.unknown == "error" else "skip"
        answers = recommender.recommend_for([parsing.listed(options.history)], options.k, unknown=unknown, **how)
    else:
        users = _users_of(options.users_file) if options.users_file else parsing.listed(options.users)
        answers = recommender.recommend(users, options.k, unknown=options.unknown, **how)
    if options.json:
        text = _json_array(answers)
    elif kind == "parquet":
        write_atomically(options.out, _parquet(answers))
        text = ""
    else:
        text = {"table": _table, "csv": _csv, "jsonl": _jsonl}[kind](answers)
    if options.out is not None and kind != "parquet":
        write_atomically(options.out, text.encode())
    print(text if options.out is None else f"{len(answers)} lists in {options.out}", end="\n" if options.out else "")
    return 0


def _format(options: Any) -> str:
    ending = {".csv": "csv", ".jsonl": "jsonl", ".parquet": "parquet"}
    kind = options.format or ending.get(Path(options.out or "").suffix.lower(), "table")
    if kind == "parquet" and options.out is None:
        raise OptionError("parquet is no text to print: give --out FILE")
    return str(kind)


def _users_of(path: str) -> list[str]:
    """The ids of a file, one a line."""
    from ..files import read_file

    try:
        text = read_file(path, limit=_LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 text at byte {error.start}") from None
    return [line for line in text.splitlines() if line.strip()]


def _rows(answers: Sequence[Any]) -> list[list[Any]]:
    return [
        [answer.user, place, item, score, answer.known]
        for answer in answers
        for place, (item, score) in enumerate(zip(answer.items.tolist(), answer.scores.tolist(), strict=True), 1)
    ]


def _table(answers: Sequence[Any]) -> str:
    from ..text import markdown_cell

    lines = [
        [markdown_cell(user), place, markdown_cell(item), f"{score:.4f}"]
        for user, place, item, score, _ in _rows(answers)
    ]
    found = table(lines, ["user", "rank", "item", "score"]) + "\n"
    strangers = sum(not answer.known for answer in answers)
    if strangers:
        found += f"{strangers} of {len(answers)} users are not known to the model and get popular items\n"
    return found


def _csv(answers: Sequence[Any]) -> str:
    from ..text import csv_cell, csv_lines

    rows = ([*map(csv_cell, row[:4]), str(row[4]).lower()] for row in _rows(answers))
    return csv_lines([_COLUMNS, *rows])


def _content(answer: Any) -> dict[str, Any]:
    from ..text import json_ready

    found: dict[str, Any] = json_ready(
        {"user": answer.user, "items": answer.items, "scores": answer.scores, "known": answer.known}
    )
    return found


def _jsonl(answers: Sequence[Any]) -> str:
    return "".join(json.dumps(_content(answer)) + "\n" for answer in answers)


def _json_array(answers: Sequence[Any]) -> str:
    return json.dumps([_content(answer) for answer in answers]) + "\n"


def _parquet(answers: Sequence[Any]) -> bytes:
    import polars as pl

    rows = _rows(answers)
    columns = {name: [row[place] for row in rows] for place, name in enumerate(_COLUMNS)}
    buffer = io.BytesIO()
    pl.DataFrame(columns, schema_overrides={"score": pl.Float32}, strict=False).write_parquet(buffer)
    return buffer.getvalue()
