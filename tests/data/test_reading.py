"""A source is read as what it is, or refused in one line that says what it looks like and which option reads it."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import warnings
import zipfile
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infodcl_geo.data.ids import IdMap, InteractionError, InteractionWarning, UnknownIdError
from infodcl_geo.data.interactions import Interactions, Split, load_interactions, split_interactions
from infodcl_geo.data.readers import read_columns

ALL = Split("ratio", 0.0, 0.0)
LAST = Split("leave-one-out")


def load(source: Any, split: Split = ALL, **options: Any) -> Interactions:
    """Load, and fail on any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_interactions(source, split=split, **options)


def raw(data: Interactions, part: str = "train") -> set[tuple[Any, Any]]:
    users, items = getattr(data, part)
    return set(zip(data.user_ids.decode(users).tolist(), data.item_ids.decode(items).tolist(), strict=True))


def refused(source: Any, **options: Any) -> str:
    with pytest.raises(InteractionError) as caught:
        load_interactions(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# Objects


ROWS = [("b", 7, 2.0, 30), ("a", 7, 5.0, 10), ("b", 9, 4.0, 20), ("b", 3, 1.0, 40)]


def objects() -> dict[str, Any]:
    frame = pd.DataFrame(ROWS, columns=["user", "item", "rating", "time"])
    pa = pytest.importorskip("pyarrow")
    return {
        "pandas": frame,
        "pandas, index": frame.set_index(pd.Index([5, 5, 1, 2])),
        "pandas, categories and dates": frame.assign(
            user=frame.user.astype("category"),
            time=pd.to_datetime(frame.time, unit="D"),
            item=frame.item.astype("Int64"),
        ),
        "polars": pl.from_dicts(frame.to_dict("records")),
        "lazy": pl.from_dicts(frame.to_dict("records")).lazy(),
        "categories": pl.from_dicts(frame.to_dict("records")).with_columns(pl.col("user").cast(pl.Categorical)),
        "pyarrow": pa.table(frame.to_dict("list")),
    }


@pytest.mark.parametrize(
    "kind", ["pandas", "pandas, index", "pandas, categories and dates", "polars", "lazy", "categories", "pyarrow"]
)
def test_frames(kind: str) -> None:
    data = load(objects()[kind], min_rating=2)
    assert raw(data) == {("b", 7), ("a", 7), ("b", 9)}
    last = load(objects()[kind], LAST)
    assert (raw(last, "test"), raw(last, "valid")) == ({("b", 3)}, {("b", 7)})
    assert data.name == "interactions"


def test_matrices_tensors_and_arrays() -> None:
    pairs = [(3, 1), (0, 2), (3, 2)]
    for source in (
        torch.tensor(pairs).T,
        np.array(pairs, dtype=np.uint8),
        pairs,
        sp.csr_matrix((np.ones(3), tuple(zip(*pairs, strict=True)))),
        sp.coo_array((np.ones(3), tuple(zip(*pairs, strict=True)))),
    ):
        assert raw(load(source)) == set(pairs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InteractionWarning)
        both = load_interactions(torch.tensor(pairs).T, test=torch.tensor([[0], [1]]), split=ALL)
    assert (raw(both), raw(both, "test")) == (set(pairs), {(0, 1)})
    assert "from_hetero_data" in refused(object())
    assert "not pairs" in refused([[1, 2], [3]])
    assert "empty" in refused(pl.DataFrame({"user": [], "item": []}))
    assert "train= is a file" in refused(np.array(pairs), train="x")


def test_pandas_is_not_imported_for_files(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user,item,date\na,1,2020-01-01\nb,2,2020-02-01\n")
    code = (
        "import sys; from infodcl_geo.data.interactions import load_interactions as load; "
        f"load({str(tmp_path / 'x.csv')!r}); print('pandas' in sys.modules, 'pyarrow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# ---------------------------------------------------------------------------------------------------------------------
# Columns


def test_columns_by_position_as_the_command_line_has_them(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("s1,u1,pv,i7\ns2,u1,buy,i8\ns3,u2,pv,i7\n")
    data = load(file, user_column="1", item_column="3")
    assert raw(data) == {("u1", "i7"), ("u1", "i8"), ("u2", "i7")}
    # A header above the given columns is none of the rows; a header that is called 1 is taken by its name.
    file.write_text("who,what\n5,7\n6,8\n")
    assert raw(load(file, user_column="0", item_column="1")) == {(5, 7), (6, 8)}
    file.write_text("1,x,0\n5,6,7\n")
    assert raw(load(file, format="table", user_column="1", item_column="0")) == {(5, 7)}


@pytest.mark.parametrize("rows", [3, 40])
def test_five_columns_without_a_header_are_not_lists(tmp_path: Path, rows: int) -> None:
    lines = [f"{u}\t{i}\t{i % 7}\t{i * 3}\t{1_400_000_000 + i}" for i in range(rows) for u in (1, 2)]
    (tmp_path / "x.txt").write_text("\n".join(lines))
    assert "5 fields a line and no header; give user_column=" in refused(tmp_path / "x.txt")
    data = load(tmp_path / "x.txt", user_column="0", item_column=3)
    assert (data.num_users, data.num_items, data.num_interactions) == (2, rows, 2 * rows)
    assert data.origin is not None
    assert data.origin.columns == (("user", "0"), ("item", "3"))
    # Without a user twice, the times say that these are no lists of items.
    (tmp_path / "x.txt").write_text("\n".join(lines[::2][:1] + [line.replace("1\t", "2\t", 1) for line in lines[2:3]]))
    assert "5 fields a line" in refused(tmp_path / "x.txt")


def test_lists_that_might_be_columns_are_said_to_be_read_as_lists(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("1 5 6 7 8\n2 6 7 8 9\n3 1 2 3 4\n")
    with pytest.warns(InteractionWarning, match="read as adjacency lists"):
        assert load_interactions(tmp_path / "x.txt", split=ALL).num_interactions == 12


def test_separator_and_encoding(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    for separator in ("^", "||", "#-#", "::", " ", "\t"):
        file.write_text(separator.join("12") + "\n" + separator.join("34") + "\n")
        assert raw(load(file, separator=separator)) == {(1, 2), (3, 4)}
    assert "separator=''" in refused(file, separator="")
    text = "user,item\né,1\nü,2\n"
    for encoding in ("latin-1", "utf-16", "utf-16-be", "utf-32", "cp1252"):
        file.write_bytes(text.encode(encoding))
        assert raw(load(file, encoding=encoding)) == {("é", 1), ("ü", 2)}
        assert "encoding=" in refused(file)
    for wrong in ("klingon", "hex", "rot13", "a\0b"):
        assert "no text encoding" in refused(file, encoding=wrong)
    file.write_bytes(text.encode("latin-1"))
    assert "not text in ascii" in refused(file, encoding="ascii")


# ---------------------------------------------------------------------------------------------------------------------
# Times


def last_item(tmp_path: Path, dates: list[str], **options: Any) -> int:
    """The item of the last time, by a user's leave-one-out; items are 10, 11, ... in the order of the dates."""
    rows = "".join(f'1;{10 + n};"{when}"\n' for n, when in enumerate(dates))
    (tmp_path / "x.csv").write_text("user;item;date\n" + rows)
    return int(raw(load(tmp_path / "x.csv", LAST, **options), "test").pop()[1])


@pytest.mark.parametrize(
    ("dates", "last"),
    [
        (["28.01.2020 10:00", "05.02.2020 10:00", "14.02.2020 10:00", "01.02.2020 09:00"], 12),
        (["03/25/2020", "04/02/2020", "01/05/2021"], 12),
        (["25/03/2020", "04/02/2020", "05/01/2021"], 12),
        (["1/13/2020 1:05 PM", "1/13/2020 11:05 AM", "1/12/2020 11:00 PM"], 10),
        (["2020-01-02", "2020-01-02T00:00:01", "2020-01-01 23:59:59.5"], 11),
        (["2020-01-01T10:00:00+02:00", "2020-01-01T09:00:00Z", "2020-01-01T08:30:00-01:00"], 12),
        (["2020/1/2", "2020/1/10", "2020/1/9"], 11),
        (["Tue Apr 03 18:00:09 +0000 2012", "Mon Apr 02 18:00:09 +0000 2012", "Sun Apr 01 18:00:09 +0000 2012"], 10),
        (["09 13, 2009", "09 12, 2010", "12 13, 2009"], 11),
        (["1500000000", "1.6e9", "1550000000.5"], 11),
    ],
)
def test_dates_are_read_in_one_way(tmp_path: Path, dates: list[str], last: int) -> None:
    assert last_item(tmp_path, dates) == last


def test_dates_of_two_meanings_are_said_and_chosen(tmp_path: Path) -> None:
    dates = ["01/02/2020", "03/02/2020", "02/03/2020"]
    (tmp_path / "y.csv").write_text("user,item,date\n" + "".join(f"1,{n},{d}\n" for n, d in enumerate(dates)))
    with pytest.warns(InteractionWarning, match=r"day first or month first; .*time_format='%m/%d/%Y'"):
        load_interactions(tmp_path / "y.csv", split=LAST)
    assert last_item(tmp_path, dates, time_format="%d/%m/%Y") == 12
    assert last_item(tmp_path, dates, time_format="%m/%d/%Y") == 11


@pytest.mark.parametrize(
    ("dates", "line", "options"),
    [
        (["13/02/2020", "02/23/2020"], 3, {}),
        (["01/02/20", "03/02/20"], 2, {}),
        (["2020-01-01", "soon"], 3, {}),
        (["2020-02-28", "2020-02-30"], 3, {}),
        (["2020-01-01", "1500000000"], 3, {}),
        (["01.02.2020", "1.2.20 5 Uhr"], 3, {"time_format": "%d.%m.%Y"}),
    ],
)
@pytest.mark.filterwarnings("ignore::infodcl_geo.data.ids.InteractionWarning")
def test_dates_that_cannot_be_read_name_their_line(tmp_path: Path, dates: list[str], line: int, options: Any) -> None:
    (tmp_path / "x.csv").write_text("user,item,date\n" + "".join(f"1,{n},{d}\n" for n, d in enumerate(dates)))
    message = refused(tmp_path / "x.csv", **options)
    assert f"x.csv:{line}: time {dates[line - 2]!r}" in message


# ---------------------------------------------------------------------------------------------------------------------
# Splits


def test_a_split_column_is_kept_and_other_columns_of_that_name_are_not(tmp_path: Path) -> None:
    rows = [("a", 1), ("a", 2), ("b", 1), ("b", 3)]
    for name, values in (
        ("split", ["train", "Test", "TRAIN", "val"]),
        ("x_label", [0, 2, 0, 1]),
        ("fold", [0, 2, 0, 1]),
        ("subset", ["training", "testing", "training", "dev"]),
    ):
        frame = pl.DataFrame(rows, schema=["user", "item"], orient="row").with_columns(pl.Series(name, values))
        frame.write_csv(tmp_path / "x.csv")
        frame.write_parquet(tmp_path / "x.parquet")
        frame.write_ndjson(tmp_path / "x.json")
        for source in (tmp_path / "x.csv", tmp_path / "x.parquet", tmp_path / "x.json", frame):
            data = load(source)
            assert (raw(data), raw(data, "valid"), raw(data, "test")) == ({("a", 1), ("b", 1)}, {("b", 3)}, {("a", 2)})
            assert data.origin is not None
            assert (data.origin.split, data.origin.how) == (None, f"as column {name} says")
    for name, values in (("fold", [0, 1, 0, 1]), ("split", ["x", "y", "x", "y"]), ("fold", [0, 1, 2, 4])):
        frame = pl.DataFrame(rows, schema=["user", "item"], orient="row").with_columns(pl.Series(name, values))
        with pytest.warns(InteractionWarning, match=f"column {name} holds .*ignored"):
            data = load_interactions(frame, split=ALL)
        assert data.train.size(1) == 4
        assert name in data.origin.ignored  # type: ignore[union-attr]


def test_files_of_a_folder_can_be_named(tmp_path: Path) -> None:
    for name, row in (("a.txt", "1 1\n"), ("b.txt", "1 2\n"), ("c.txt", "1 3\n"), ("train.txt", "1 9\n")):
        (tmp_path / name).write_text(row)
    data = load(tmp_path, train="a.txt", valid="b.txt", test=tmp_path / "c.txt")
    assert (raw(data), raw(data, "valid"), raw(data, "test")) == ({(1, 1)}, {(1, 2)}, {(1, 3)})
    data = load(tmp_path, valid="b.txt", test="c.txt")
    assert (raw(data), raw(data, "valid"), raw(data, "test")) == ({(1, 9)}, {(1, 2)}, {(1, 3)})


@settings(max_examples=80, deadline=None)
@given(
    times=st.lists(st.integers(0, 6), min_size=1, max_size=60),
    shares=st.sampled_from([(0.1, 0.2), (0.0, 0.3), (0.4, 0.4)]),
)
@pytest.mark.filterwarnings("ignore::infodcl_geo.data.ids.InteractionWarning")
def test_equal_times_never_straddle_a_temporal_cut(times: list[int], shares: tuple[float, float]) -> None:
    pairs = torch.stack([torch.arange(len(times)) % 5, torch.arange(len(times))])
    parts = split_interactions(pairs, Split("temporal", *shares), time=torch.tensor(times))
    found = [[times[i] for i in part[1].tolist()] for part in parts]
    assert sorted(t for part in found for t in part) == sorted(times)
    assert found[0] or len(times) < 5
    latest = -1
    for part in found:
        if part:
            assert min(part) > latest
            latest = max(part)


@pytest.mark.filterwarnings("error")
def test_leave_one_out_says_when_it_is_random() -> None:
    pairs = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]])
    with pytest.warns(InteractionWarning, match="no times; leave-one-out holds out random"):
        split_interactions(pairs, LAST)
    with pytest.warns(InteractionWarning, match="1 users have equal times at the end"):
        split_interactions(pairs, LAST, time=torch.tensor([1, 2, 2, 1, 2, 3]))
    with pytest.warns(InteractionWarning, match="2 users have equal times"):
        split_interactions(pairs, LAST, time=torch.tensor([1, 1, 2, 2, 2, 3]))
    # Equal times that do not decide what is held out are no matter.
    more = torch.stack([torch.zeros(5, dtype=torch.int64), torch.arange(5)])
    split_interactions(more, LAST, time=torch.tensor([1, 1, 1, 2, 3]))


def test_users_taken_in_portions_are_split_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from infodcl_geo.data import split as module

    pairs = torch.cartesian_prod(torch.arange(40), torch.arange(11)).T
    whole = [split_interactions(pairs, s, seed=3) for s in (Split(), Split("ratio", 0.3, 0.3))]
    monkeypatch.setattr(module, "_DRAWN", 7)
    for split, expected in zip((Split(), Split("ratio", 0.3, 0.3)), whole, strict=True):
        found = split_interactions(pairs, split, seed=3)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_explicit_negatives_are_said(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user,item,label\na,1,1\na,2,0\nb,1,0\n")
    with pytest.warns(InteractionWarning, match="2 of 3 ratings are 0 or less .*min_rating="):
        assert load_interactions(tmp_path / "x.csv", split=ALL).num_interactions == 3
    assert raw(load(tmp_path / "x.csv", min_rating=1)) == {("a", 1)}


# ---------------------------------------------------------------------------------------------------------------------
# Types of columns


def arrow_columns() -> dict[str, tuple[Any, list[Any] | str]]:
    pa = pytest.importorskip("pyarrow")
    return {
        "dictionary": (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        "large string": (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        "string view": (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        "binary": (pa.array([b"a", b"b"]), ["a", "b"]),
        "no text": (pa.array([b"\xff", b"b"]), "does not hold text"),
        "uint8": (pa.array([1, 2], pa.uint8()), [1, 2]),
        "uint64": (pa.array([1, 2**64 - 1], pa.uint64()), ["1", str(2**64 - 1)]),
        "float": (pa.array([1.0, 2.0]), [1, 2]),
        "fraction": (pa.array([1.0, 2.5]), r"row 1 .*not an integer"),
        "decimal": (pa.array([Decimal(1), Decimal(2)]), [1, 2]),
        "nullable": (pa.array([1, None]), "row 1 .*is missing"),
        "null": (pa.nulls(2), "row 0 .*is missing"),
        "list": (pa.array([[1], [2]]), "type List"),
        "struct": (pa.array([{"a": 1}, {"a": 2}]), "type Struct"),
        "date": (pa.array([date(2020, 1, 1)] * 2), "type Date"),
        "bool": (pa.array([True, False]), "bool"),
    }


@pytest.mark.parametrize("kind", [
    "dictionary", "large string", "string view", "binary", "no text", "uint8", "uint64", "float", "fraction", "decimal",
    "nullable", "null", "list", "struct", "date", "bool",
])  # fmt: skip
def test_ids_of_every_type(tmp_path: Path, kind: str) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    column, expected = arrow_columns()[kind]
    table = pa.table({"user": column, "item": [1, 2]})
    pq.write_table(table, tmp_path / "x.parquet")
    for source in (tmp_path / "x.parquet", table):
        if isinstance(expected, str):
            with pytest.raises(InteractionError, match=expected):
                load_interactions(source)
        else:
            assert load(source).user_ids.raw.tolist() == expected


def test_times_and_ratings_of_every_type() -> None:
    for times in (
        pl.Series([date(2020, 1, 3), date(2020, 1, 2), date(2020, 1, 1)]),
        pl.Series([datetime(2020, 1, 3), datetime(2020, 1, 2), datetime(2020, 1, 1)]).dt.replace_time_zone(
            "Europe/Berlin"
        ),
        pl.Series([datetime(2020, 1, 3), datetime(2020, 1, 2), datetime(2020, 1, 1)], dtype=pl.Datetime("ns")),
        pl.Series(["2020-01-03", "2020-01-02", "2020-01-01"]),
        pl.Series([3, 2, 1], dtype=pl.UInt8),
        pl.Series([3.5, 2.5, 1.5]),
        pl.Series([Decimal(3), Decimal(2), Decimal(1)]),
    ):
        frame = pl.DataFrame({"user": ["a"] * 3, "item": [1, 2, 3], "time": times})
        assert raw(load(frame, LAST), "test") == {("a", 1)}
    for ratings in (
        pl.Series(["1", "5"]),
        pl.Series([Decimal("1.5"), Decimal("4.5")]),
        pl.Series([1, 5], dtype=pl.Int8),
    ):
        assert raw(load(pl.DataFrame({"user": [1, 2], "item": [1, 2], "rating": ratings}), min_rating=4)) == {(2, 2)}
    with pytest.raises(InteractionError, match="rating column of type List"):
        load_interactions(pl.DataFrame({"user": [1], "item": [1], "rating": [[1]]}))


# ---------------------------------------------------------------------------------------------------------------------
# JSON


def test_json_lines_and_arrays(tmp_path: Path) -> None:
    rows = [{"user": "a", "item": 10, "text": 'x"\\u00e9'}, {"item": 9, "user": "b", "n": None}]
    for name, text in (
        ("x.jsonl", "\n".join(map(json.dumps, rows))),
        ("x.json", json.dumps(rows, indent=1)),
        ("x.txt", json.dumps(rows)),
    ):
        (tmp_path / name).write_text(text)
        assert raw(load(tmp_path / name)) == {("a", 10), ("b", 9)}
        found = read_columns(tmp_path / name, {"user": "user", "item": "item"}) if name != "x.txt" else None
        assert found is None or found["item"].encode(IdMap([9, 10])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"user": 1, "item": 2}\n{"user": 1\n', "x.json:2: not JSON"),
        ('{"user": 1, "item": 2}\n\n{"user": 1}\n', "x.json:3: item is missing"),
        ('{"user": 1, "item": 2}\n[1, 2]\n', "x.json:2: not an object"),
        ('{"user": 1, "item": 2}\n{"user": [1], "item": 2}\n', "x.json:2: user is missing"),
        ('{"user": {"0": 1}, "item": {"0": 2}}', "give JSON lines"),
        ('{"user": 1, "item": -5}\n', "x.json:1: item '-5' id is negative"),
        ('{"user": 1, "item": 2, "rating": "good"}\n', "x.json:1: rating 'good' is not a number"),
        ('{"a": ' + "[" * 100_000, "x.json:1: not JSON"),
        ("[" * 100_000, "x.json: not an array of JSON objects"),
        ('[{"user": 1, "item": 2}, 5]', "not an array of JSON objects, at row 1"),
        ('[{"user": 1, "item": 2}, {"user"', "not an array of JSON objects, at row 1"),
        ('{"a": 1, "b": 2}\n', "cannot tell the user column among 'a', 'b'"),
        ("[]", "empty"),
    ],
)
def test_bad_json(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    assert message in refused(tmp_path / "x.json")


# ---------------------------------------------------------------------------------------------------------------------
# What is no table, and small files that ask for much


def test_archives_databases_and_pickles_are_refused(tmp_path: Path) -> None:
    inside = io.BytesIO()
    with zipfile.ZipFile(inside, "w") as archive:
        archive.writestr("ratings.csv", "user,item\n1,2\n")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("ratings.csv"))
    for name, content, message in (
        ("x.zip", inside.getvalue(), "a zip archive; unpack it"),
        ("x.csv", inside.getvalue(), "a zip archive; unpack it"),
        ("x.tar", packed.getvalue(), "a tar archive; unpack it"),
        ("x.tar.gz", gzip.compress(packed.getvalue()), "a tar archive; unpack it"),
        ("x.csv", pickle.dumps([1, 2]), "a pickle"),
        ("x.pkl", b"", "a pickle"),
        ("x.db", b"SQLite format 3\0" + bytes(100), "SQLite"),
        ("x.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    ):
        (tmp_path / name).write_bytes(content)
        assert message in refused(tmp_path / name)
    (tmp_path / "x.csv").write_bytes(gzip.compress(b"user,item\n1,2\n"))  # gzip without the ending
    assert raw(load(tmp_path / "x.csv")) == {(1, 2)}
    pl.DataFrame({"user": [1], "item": [2]}).write_parquet(tmp_path / "x.bin")  # and parquet
    assert raw(load(tmp_path / "x.bin")) == {(1, 2)}


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        assert "not a regular file" in refused(source)
        with pytest.raises(InteractionError, match="not a regular file"):
            read_columns(source, {"user": "user", "item": "item"})


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    bomb = gzip.compress(b"1 2\n" * 25_000_000)
    (tmp_path / "x.txt.gz").write_bytes(bomb)
    assert "over 200 times as many" in refused(tmp_path / "x.txt.gz")
    (tmp_path / "x.txt.gz").write_bytes(bomb[:-4] + (5).to_bytes(4, "little"))  # also where it claims to be small
    assert "over 200 times as many" in refused(tmp_path / "x.txt.gz")
    matrix = sp.coo_matrix((np.ones(1), ([0], [1])))
    sp.save_npz(tmp_path / "x.npz", matrix)
    with zipfile.ZipFile(tmp_path / "x.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("row2.npy", bytes(1 << 27))
    assert "over 200 times as many" in refused(tmp_path / "x.npz")
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (100000000000, 2), }"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert "not an array of numbers" in refused(tmp_path / "x.npy")


def test_many_blank_lines_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("\n" * 1_000_000)
    assert "empty" in refused(tmp_path / "x.txt")
    (tmp_path / "x.txt").write_text("#\n" + "\n" * 1_500_000 + "1 2\n" + " \n" * 500_000 + "1 3\nx 4\n")
    assert "x.txt:2000004: user id 'x' is not an integer" in refused(tmp_path / "x.txt")


def test_a_nul_anywhere_is_named_and_other_control_characters_stay(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user,item\n" + "1,2\n" * 300_000 + "a\0b,2\n")
    assert "x.csv:300002: user holds a NUL" in refused(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("user,item\n\x1b[31mred,2\nb,3\n")
    data = load(tmp_path / "x.csv")
    assert data.user_ids.raw.tolist() == ["\x1b[31mred", "b"]
    assert repr(data.user_ids) == r"IdMap(2 strings: \x1b[31mred, b)"
    with pytest.raises(UnknownIdError, match=r"\\x1b\]0;x"):
        data.user_ids.encode(["\x1b]0;x"])
    (tmp_path / "y.csv").write_text("user,th\x1bing\n1,2\n")
    assert "\x1b" not in refused(tmp_path / "y.csv")


def test_id_maps_allocate_no_more_than_they_hold() -> None:
    for text in (
        '{"kind": "range", "start": 0, "stop": 1000000000000}',
        '{"kind": "range", "start": -9223372036854775808, "stop": 9223372036854775807}',
        '{"kind": "range", "start": 5, "stop": 1}',
        '{"kind": "range", "start": 0.5, "stop": 3}',
        '{"kind": "range", "start": true, "stop": 3}',
        '{"kind": "integers", "ids": [1, 2.5]}',
        '{"kind": "integers", "ids": [99999999999999999999]}',
        '{"kind": "strings", "ids": ["a", null]}',
        '{"kind": "strings", "ids": "ab"}',
        '{"kind": ["range"]}',
        '["range"]',
        "[" * 100_000,
    ):
        with pytest.raises(InteractionError, match=r"not an id map|ascending"):
            IdMap.from_json(text)
    with pytest.raises(InteractionError, match="3 ids where 4 are expected"):
        IdMap.from_json('{"kind": "range", "start": 0, "stop": 3}', size=4)
    assert len(IdMap.from_json('{"kind": "range", "start": 0, "stop": 3}', size=3)) == 3


def test_memory_is_bounded_by_the_bytes_of_the_file(tmp_path: Path) -> None:
    def long_id(file: Path) -> None:
        file.write_text("user,item\n" + "".join(f"{k % 100},{k}\n" for k in range(100_000)) + f"{'u' * 894},7\n")

    def many_columns(file: Path) -> None:
        file.write_text(
            "user,item," + ",".join(f"c{k}" for k in range(3000)) + "\n" + ("1,2" + ",9" * 3000 + "\n") * 1500
        )

    def long_lines(file: Path) -> None:
        file.write_text("".join(f"{u} {' '.join(map(str, range(u, 800_000)))}\n" for u in range(3)))

    def strings(file: Path) -> None:
        file.write_text("user,item\n" + "".join(f"u{k % 9},i{k}\n" for k in range(500_000)))

    code = (
        "import resource, sys; from infodcl_geo.data.interactions import load_interactions as load\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for file in sys.argv[1:]:\n    before = peak(); load(file); print(peak() - before)"
    )
    for make in (long_id, many_columns, long_lines, strings):
        file = tmp_path / f"{make.__name__}.csv"
        make(file)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, str(file)], capture_output=True, text=True, check=True
        )
        assert int(done.stdout) <= 6 * file.stat().st_size / 1024 + 200 * 1024, make.__name__


# ---------------------------------------------------------------------------------------------------------------------
# Origin and fingerprint


def test_the_summary_says_what_was_read_and_the_fingerprint_tells_data_and_splits_apart(tmp_path: Path) -> None:
    rows = "".join(f"{u},{i},{i % 5 + 1},x\n" for u in range(6) for i in range(10))
    (tmp_path / "x.csv").write_text("userId,movieId,rating,tag\n" + rows)
    data = load(tmp_path / "x.csv", Split(), min_rating=2, seed=3)
    text = data.summary()
    for part in (
        "user: userId, item: movieId, rating: rating",
        "tag",
        "ratio, 0.1 for validation, 0.2 for test, seed 3",
    ):
        assert part in text
    assert "min_rating 2" in text
    assert data.fingerprint[:16] in text
    again = load(tmp_path / "x.csv", Split(), min_rating=2, seed=3)
    assert again.fingerprint == data.fingerprint
    assert len(data.fingerprint) == 64
    others = [
        load(tmp_path / "x.csv", Split(), min_rating=2, seed=4),
        load(tmp_path / "x.csv", Split(), min_rating=3, seed=3),
        load(tmp_path / "x.csv", Split("ratio", 0.1, 0.1), min_rating=2, seed=3),
    ]
    (tmp_path / "y.csv").write_text("userId,movieId,rating,tag\n" + rows.replace("5,", "50,"))
    others.append(load(tmp_path / "y.csv", Split(), min_rating=2, seed=3))
    assert len({data.fingerprint, *(o.fingerprint for o in others)}) == 5
    assert IdMap(["ab", "c"]).digest() != IdMap(["a", "bc"]).digest()
    assert IdMap([1, 2]).digest() != IdMap(["1", "2"]).digest()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), unique=True, max_size=12),
    asked=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=6),
)
def test_string_ids_go_there_and_back(ids: list[str], asked: list[str]) -> None:
    ascending = sorted(ids)
    made = IdMap(np.array([*ascending, None], dtype=object)[:-1]) if ascending else IdMap(np.array([], dtype=np.str_))
    assert made.raw.tolist() == ascending
    assert made.encode(ids).tolist() == [ascending.index(i) for i in ids]
    wanted = [ascending.index(a) if a in ascending else -1 for a in asked]
    assert made.encode(asked, missing=-1).tolist() == wanted
    assert [made.encode([a], missing=-1).item() for a in asked] == wanted
    assert IdMap.from_json(made.to_json()) == made
