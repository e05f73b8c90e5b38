r"""Ids of strangers from end to end: read, trained on, recommended in every format, compared and reported.

The rule. What is for people (a terminal, Markdown, HTML) shows signs that would be obeyed as escapes. A CSV is for
spreadsheets: text that begins like a formula has an apostrophe before it, everything else is quoted as CSV does. JSON
lines, parquet and the files of a model are data: every id comes back as it was.
"""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from infodcl_geo.cli import main
from infodcl_geo.comparison import TableFile
from infodcl_geo.recommender import Recommender
from infodcl_geo.text import csv_cell, csv_text

USERS = [
    "\x1b[31mred\x1b[0m", "a|b", "=1+1", "+cmd|' /C calc'!A0", "@SUM(A1)", "-2+3", "two\nlines", "carriage\rreturn",
    "tab\tbed", "\u202eright to left", "\u2066isolated\u2069", 'quo"te', "com,ma", "<script>alert(1)</script>", "a&b",
    "back\\slash", "{{x}}", "`code`", "'apostrophe", "sp ace", "u\u2028v", "\x9b31m", "%s", "1e5", "\U0001f98a",
]  # fmt: skip
OBEYED = "\x1b\x9b\x07\x08\r\u202e\u202d\u2066\u2067\u2028\u2029"


def items() -> list[str]:
    return [f"{user}." for user in USERS]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a folder whose ids, and whose own name, are hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = [
        {"user": user, "item": items()[(n * 3 + k * k) % len(USERS)]} for n, user in enumerate(USERS) for k in range(8)
    ]
    data = folder / "=da|ta\u202e<b>"
    data.mkdir()
    pl.DataFrame(rows).unique(maintain_order=True).write_parquet(data / "ratings.parquet")
    assert main(["train", "--data", str(data), "--model", "ease", "--out", str(folder / "runs" / "=a|b<i>")]) == 0
    words = ["compare", "--data", str(data), "--models", "popularity", "ease", "--out", str(folder / "runs/table.csv")]
    assert main(words) == 0
    return folder


def model_of(place: Path) -> str:
    return str(place / "runs" / "=a|b<i>")


def answered(place: Path, *words: str) -> int:
    (place / "users.txt").unlink(missing_ok=True)
    return main(["recommend", "--checkpoint", model_of(place), "--include_seen", "--k", "3", *words])


def asked(place: Path) -> Recommender:
    return Recommender.load(model_of(place))


def test_every_id_is_known_as_it_was(place: Path) -> None:
    found = asked(place)
    assert set(found.user_ids.raw) == set(USERS)
    assert set(found.item_ids.raw) <= set(items())
    assert [answer.user for answer in found.recommend(USERS, 3)] == USERS


@pytest.mark.parametrize("user", USERS)
def test_a_terminal_obeys_nothing(user: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = asked(place).item_ids.raw[0]
    answer = asked(place).recommend([user], 3, exclude_seen=False)[0]
    from infodcl_geo.cli.recommend import _table

    shown = _table([answer])
    assert not set(OBEYED) & set(shown)
    # Three rows of four columns below the two lines of the head: no id makes a row or a column.
    lines = shown.splitlines()
    assert len(lines) == 5
    assert all(line.replace("\\\\", "").replace("\\|", "").count("|") == 5 for line in lines)
    assert main(["recommend", "--checkpoint", model_of(place), f"--users={user}x", "--k", "1"]) in (1, 2)
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert not set(OBEYED) & set(said)
    assert history


def test_data_formats_give_every_id_back(place: Path, tmp_path: Path) -> None:
    from infodcl_geo.cli.recommend import _csv, _jsonl, _parquet

    answers = asked(place).recommend(USERS, 3, exclude_seen=False)
    wanted = [(a.user, item) for a in answers for item in a.items.tolist()]
    lines = [json.loads(line) for line in _jsonl(answers).split("\n") if line]
    assert [(line["user"], item) for line in lines for item in line["items"]] == wanted
    frame = pl.read_parquet(io.BytesIO(_parquet(answers)))
    assert list(zip(frame["user"], frame["item"], strict=True)) == wanted
    rows = list(csv.DictReader(io.StringIO(_csv(answers), newline="")))
    assert [(row["user"], row["item"]) for row in rows] == [(csv_cell(u), csv_cell(i)) for u, i in wanted]
    assert not any(row[name].startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for name in ("user", "item"))
    # What got an apostrophe is what begins like a formula, so the rule can be undone.
    assert [(csv_text(row["user"]), csv_text(row["item"])) for row in rows] == wanted


def test_lists_in_a_file_are_those_of_the_library(place: Path, tmp_path: Path) -> None:
    plain = [user for user in USERS if user.splitlines() == [user] and user.strip() == user and "\x1b" not in user]
    (tmp_path / "users.txt").write_text("\n".join(plain), encoding="utf-8")
    out = tmp_path / "lists.jsonl"
    assert answered(place, "--users_file", str(tmp_path / "users.txt"), "--out", str(out)) == 0
    found = [json.loads(line) for line in out.read_text().split("\n") if line]
    assert [line["user"] for line in found] == plain
    wanted = asked(place).recommend(plain, 3, exclude_seen=False)
    assert [line["items"] for line in found] == [answer.items.tolist() for answer in wanted]


def test_a_nul_in_an_id_is_refused_or_kept_whole(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["a\0b", "a", "c"] * 4, "item": [f"i{n}" for n in range(12)]})
    frame.write_parquet(tmp_path / "x.parquet")
    code = main(["train", "--data", str(tmp_path / "x.parquet"), "--model", "popularity", "--out", str(tmp_path / "m")])
    if code == 0:
        assert {"a\0b", "a", "c"} == set(Recommender.load(tmp_path / "m").user_ids.raw)


def test_the_table_of_a_comparison_keeps_its_columns(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (place / "runs" / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["popularity", "ease"]
    assert not any(value.startswith(("=", "@", "+")) for row in rows for value in row.values())
    assert {row["data"] for row in TableFile(place / "runs" / "table.csv").rows()} == {"=da|ta\u202e<b>"}
    words = ["compare", "--data", str(place / "=da|ta\u202e<b>"), "--models", "popularity", "ease"]
    capsys.readouterr()
    assert main(words) == 0
    out = capsys.readouterr().out
    assert not set(OBEYED) & set(out)
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def test_a_report_shows_names_as_text(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main(["report", "--runs", str(place / "runs"), "--out", str(tmp_path / "page.html")]) == 0
    (page,) = tmp_path.rglob("*.html")
    text = page.read_text(encoding="utf-8")
    found = Tags()
    found.feed(text)
    assert "b" not in found.tags
    assert "i" not in found.tags
    assert not any(name.startswith("on") for name in found.attributes)
    assert "=da|ta" in text or "=da" in text
    assert "\u202e" not in text
