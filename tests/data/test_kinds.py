"""Inputs that are easily read as something else: each gives the right table, a warning, or one line that helps."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infodcl_geo.data.interactions import InteractionError, Interactions, Split, load_interactions
from infodcl_geo.data.options import DataOptions

ALL, LAST = Split("ratio", 0.0, 0.0), Split("leave-one-out")
ROWS = "".join(f"{k % 4},{k % 7},{k % 5 + 1},{1_600_000_000 + k}\n" for k in range(20))
TABLE = f"user,item,rating,timestamp\n{ROWS}"


def load(source: Path, **options: Any) -> tuple[Interactions, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_interactions(source, **{"split": ALL, **options})
    return data, [str(w.message) for w in caught]


def held_out(folder: Path, dates: list[str], **options: Any) -> tuple[list[Any], list[str]]:
    file = folder / "dates.csv"
    rows = "".join(f'u,{10 + n},"{date}"\n' for n, date in enumerate(dates))
    file.write_text(f"user,item,date\n{rows}")
    data, said = load(file, split=LAST, **options)
    return data.item_ids.decode(data.test[1]).tolist(), said


@pytest.mark.parametrize(
    ("dates", "last"),
    [
        (["01-Feb-2021", "03-Jan-2021", "05-Mar-2021"], 12),
        (["01/02/2021", "03/01/2021", "25/12/2020"], 10),
        (["2021/02/01", "2021/01/03", "2021/03/05"], 12),
        (["2021-01-01T00:30:00+02:00", "2021-01-01T00:00:00Z", "2020-12-31T23:50:00-01:00"], 12),
        # Closer than a microsecond.
        ([f"2021-01-01T00:00:00.00000000{n}Z" for n in (1, 3, 2)], 11),
        (["2021-01-01T00:00:00.5Z", "2021-01-01T00:00:00.49999999Z", "2021-01-01T00:00:00Z"], 10),
    ],
)
def test_dates_that_say_one_thing(tmp_path: Path, dates: list[str], last: int) -> None:
    assert held_out(tmp_path, dates) == ([last], [])


@pytest.mark.parametrize(
    ("dates", "last", "form"),
    [
        (["1/2/2021 11:00 PM", "1/2/2021 1:00 AM", "1/2/2021 12:30 PM"], 10, "%m/%d/%Y"),
        (["01.02.2021", "03.01.2021", "05.03.2021"], 12, "%d.%m.%Y"),
        (["02-01-2021", "01-03-2021", "01-02-2021"], 11, "%d-%m-%Y"),
    ],
)
def test_dates_of_two_readings_are_said(tmp_path: Path, dates: list[str], last: int, form: str) -> None:
    items, said = held_out(tmp_path, dates)
    assert items == [last]
    assert any(form in message for message in said)


@pytest.mark.parametrize(
    "dates",
    [
        ["01.02.21", "03.01.21", "05.03.21"],  # a year that could stand anywhere
        ["2021-13-01", "2021-14-02", "2021-15-03"],
        ["2021-W05", "2021-W01", "2021-W10"],
        ["25/12/2020", "12/25/2020", "01/01/2021"],
        ["11:00", "09:00", "10:00"],  # a time of the day is no point in time
        ["2021-02-29", "2021-02-27", "2021-02-26"],
        ["1. Februar 2021", "3. Januar 2021", "5. März 2021"],
    ],
)
def test_dates_that_cannot_be_known_are_refused_with_the_option(tmp_path: Path, dates: list[str]) -> None:
    with pytest.raises(InteractionError, match=r"dates\.csv:\d+: time .* time_format="):
        held_out(tmp_path, dates)


def test_a_time_of_the_day_is_no_point_in_time(tmp_path: Path) -> None:
    times = pa.array([5, 1, 2], pa.time32("s"))
    pq.write_table(pa.table({"user": [1, 1, 1], "item": [1, 2, 3], "timestamp": times}), tmp_path / "t.parquet")
    with pytest.raises(InteractionError, match="column of type Time"):
        load(tmp_path / "t.parquet")


def test_seconds_beside_milliseconds_are_said(tmp_path: Path) -> None:
    _, said = held_out(tmp_path, ["1612137600000", "1609632000", "1614902400"])
    assert any("2 of 3 times look like seconds" in message for message in said)
    assert held_out(tmp_path, ["1612137600000", "1609632000000", "1614902400000"]) == ([12], [])


# ---------------------------------------------------------------------------------------------------------------------
# Columns by position


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("ab0ff,cd0\nab1ff,cd1\nab0ff,cd1\n", (2, 2, 3)),
        ("1,a\n2,3\nx,4\n", (3, 3, 3)),  # no header: 1 is no name of a column
        ("007,01\n007,1\n7,1\n", (2, 2, 3)),
        ('"Doe, J.","Say ""hi"""\n"Doe, K.",x\n', (2, 2, 2)),
        ("user,item\nalice,x\nbob,y\n", (2, 2, 2)),
    ],
)
def test_strings_by_position(tmp_path: Path, text: str, counts: tuple[int, int, int]) -> None:
    (tmp_path / "s.csv").write_text(text)
    data, said = load(tmp_path / "s.csv", user_column="0", item_column="1")
    assert (data.num_users, data.num_items, data.num_interactions) == counts
    assert not said


@pytest.mark.parametrize("separator", ["\t", ",", ";", " ", "|"])
def test_more_columns_than_pairs_have_ask_for_positions(tmp_path: Path, separator: str) -> None:
    rows = [[k % 4, k % 7, k, k * 3 % 11, 5, 1_600_000_000 + k] for k in range(20)]
    file = tmp_path / "wide.txt"
    file.write_text("".join(separator.join(map(str, row)) + "\n" for row in rows))
    with pytest.raises(InteractionError, match="6 fields a line and no header; give user_column="):
        load(file)
    data, said = load(file, user_column=0, item_column=3, time_column=5)
    assert (data.num_users, data.num_items) == (4, 11)
    assert not said


def test_a_declared_split_is_named_or_ignored(tmp_path: Path) -> None:
    parts = ["train", "train", "valid", "test"]
    pairs = [(u, i, parts[(u + i) % 4]) for u in range(6) for i in range(5)]
    count = [sum(part == name for *_, part in pairs) for name in ("train", "valid", "test")]
    for column in ("split", "phase"):
        (tmp_path / f"{column}.csv").write_text(
            f"user,item,{column}\n" + "".join(f"{u},{i},{p}\n" for u, i, p in pairs)
        )
    (tmp_path / "bare.csv").write_text("".join(f"{u},{i},{p}\n" for u, i, p in pairs))
    for name, options in (
        ("split", {}), ("split", {"split_column": "split"}), ("phase", {"split_column": "phase"}),
        ("bare", {"user_column": "0", "item_column": "1", "split_column": "2"}),
    ):  # fmt: skip
        data, said = load(tmp_path / f"{name}.csv", split=Split(), **options)
        assert [part.size(1) for part in (data.train, data.valid, data.test)] == count
        assert not said
    data, said = load(tmp_path / "split.csv", split=ALL, split_column="none")
    assert data.train.size(1) == len(pairs)
    assert dict(data.origin.columns) == {"user": "user", "item": "item"}  # type: ignore[union-attr]
    assert not said
    (tmp_path / "word.csv").write_text("user,item,phase\n1,1,a\n1,2,b\n")
    with pytest.raises(InteractionError, match="column phase does not say train, valid or test"):
        load(tmp_path / "word.csv", split_column="phase")
    with pytest.raises(InteractionError, match="no column 'nowhere'"):
        load_interactions(tmp_path / "split.csv", split_column="nowhere")


# ---------------------------------------------------------------------------------------------------------------------
# What is no table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("%%MatrixMarket matrix coordinate real general\n4 7 2\n1 1 5\n2 3 4\n", "a Matrix Market file"),
        ("{'reviewerID': 'A1', 'asin': 'B1'}\n{'reviewerID': 'A2', 'asin': 'B1'}\n", "dictionaries of Python"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n", "a pointer of Git LFS"),
        ("<html><table><tr><td>user</td></tr></table></html>\n", "a page of HTML"),
        ('\ufeff<?xml version="1.0"?><rows/>\n', "XML"),
        ("1 1:1 5:1\n0 2:1 3:1\n", "separator= splits them|neither numbers nor a header"),
        ("INSERT INTO r VALUES (1,2,3);\n", "neither numbers nor a header"),
        ("@relation r\n@attribute user numeric\n@data\n1,2\n", "neither numbers nor a header"),
        ('[{"user":1,"item":2}] {"user":3,"item":4}\n', "something follows the array"),
        ('{"user":[1,2],"item":[3,4]}\n', "not an object with one interaction"),
        ("[[1,2],[2,3]]\n", "not an array of JSON objects"),
    ],
)
def test_what_is_no_table_is_called_by_its_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "ratings.csv").write_text(text)
    with pytest.raises(InteractionError, match=message) as caught:
        load(tmp_path / "ratings.csv")
    assert "\n" not in str(caught.value)


def test_the_content_says_what_is_packed(tmp_path: Path) -> None:
    (tmp_path / "packed.csv").write_bytes(gzip.compress(TABLE.encode()))
    (tmp_path / "two.csv.gz").write_bytes(gzip.compress(TABLE.encode()) + gzip.compress(b"9,9,1,1\n"))
    counts = [load(tmp_path / name)[0].num_interactions for name in ("packed.csv", "two.csv.gz")]
    assert counts == [20, 21]
    (tmp_path / "plain.csv.gz").write_text(TABLE)
    with pytest.raises(InteractionError, match="not of gzip"):
        load(tmp_path / "plain.csv.gz")


@pytest.mark.parametrize("column", ["label", "is_click", "liked", "purchased", "rating"])
@pytest.mark.parametrize("values", [("1", "0"), ("True", "False"), ("1.0", "-1")])
def test_explicit_negatives_are_said_and_left_out_on_request(
    tmp_path: Path, column: str, values: tuple[str, str]
) -> None:
    rows = "".join(f"{u},{i},{values[(u * i) % 2]}\n" for u in range(4) for i in range(5))
    (tmp_path / "n.csv").write_text(f"user,item,{column}\n{rows}")
    negative = sum((u * i) % 2 for u in range(4) for i in range(5))
    data, said = load(tmp_path / "n.csv")
    assert data.num_interactions == 20
    assert any(f"{negative} of 20 ratings are 0 or less" in message for message in said)
    data, said = load(tmp_path / "n.csv", min_rating=1)
    assert data.num_interactions == 20 - negative
    assert not said


# ---------------------------------------------------------------------------------------------------------------------
# Folders


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".").replace("_is_", "=")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_partitions_are_one_table(tmp_path: Path) -> None:
    half = ROWS.splitlines(keepends=True)
    head = TABLE.splitlines(keepends=True)[0]
    flat = write(
        tmp_path / "flat",
        day_is_1__data_dot_csv=head + "".join(half[:9]),
        day_is_2__data_dot_csv=head + "".join(half[9:]),
    )
    deep = write(
        tmp_path / "deep",
        year_is_1__month_is_1__part_0_dot_csv=head + "".join(half[:4]),
        year_is_1__month_is_2__part_0_dot_csv=head + "".join(half[4:8]),
        year_is_2__month_is_1__part_0_dot_csv=head + "".join(half[8:]),
        year_is_2__month_is_1___SUCCESS="",
    )
    assert load(flat)[0].fingerprint == load(deep)[0].fingerprint
    assert load(flat)[0].num_interactions == 20
    lost = write(
        tmp_path / "lost",
        rating_is_5__part_0_dot_csv="user,item\n1,2\n",
        rating_is_1__part_0_dot_csv="user,item\n1,3\n",
    )
    with pytest.raises(InteractionError, match="divided by rating, whose values are in the names of folders only"):
        load(lost)


def test_a_folder_for_each_part_holds_one_file(tmp_path: Path) -> None:
    folder = write(tmp_path, train__data_dot_csv="1 1\n1 2\n2 1\n", test__data_dot_csv="1 3\n2 2\n")
    data, _ = load(folder)
    assert (data.train.size(1), data.test.size(1)) == (3, 2)


def test_a_part_that_cannot_be_read_is_not_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path, train_dot_rating="0\t1\t1\t1\n0\t2\t1\t1\n1\t1\t1\t1\n", test_dot_negative="(0,3)\t5\n")
    with pytest.raises(InteractionError, match=r"test\.negative: its name says test"):
        load(folder)
    (folder / "test.rating").write_text("0\t3\t1\t2\n1\t2\t1\t2\n")
    data, _ = load(folder)
    assert (data.train.size(1), data.test.size(1)) == (3, 2)


def test_files_of_other_endings_are_read_as_the_training_file(tmp_path: Path) -> None:
    # A line for each user, as of lists; the training file says that they are pairs.
    folder = write(tmp_path, u1_dot_base="1\t1\t5\t8\n1\t2\t5\t9\n2\t1\t3\t4\n", u1_dot_test="1\t3\t5\t8\n2\t2\t4\t8\n")
    data, said = load(folder, train="u1.base", test="u1.test", split=Split(valid=0.0))
    assert data.test.size(1) == 2
    assert not said


def test_json_of_several_layouts(tmp_path: Path) -> None:
    rows = [{"user": f"u{k % 4}", "item": k % 7, "extra": {"a": [k]}} for k in range(20)]
    lines, array, pretty = (tmp_path / name for name in ("a.jsonl", "b.json", "c.json"))
    lines.write_text("\n\n".join(map(json.dumps, rows)))
    array.write_text(json.dumps(rows))
    pretty.write_text(json.dumps(rows, indent=1))
    assert len({load(file)[0].fingerprint for file in (lines, array, pretty)}) == 1


def test_a_negative_core_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(TABLE)
    with pytest.raises(InteractionError, match="k_core must be 0 or more"):
        load(tmp_path / "a.csv", k_core=-1)


def test_lines_longer_than_what_is_looked_at_first(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"user,item,text\n1,2,{'w' * 3_000_000}\n3,4,x\n")
    assert load(tmp_path / "a.csv")[0].num_interactions == 2
    (tmp_path / "b.csv").write_text(
        f"user,item,{','.join(f'column{n}' for n in range(200_000))}\n1,2{',7' * 200_000}\n"
    )
    assert load(tmp_path / "b.csv")[0].num_interactions == 1
    (tmp_path / "c.txt").write_text("".join(f"{u} {' '.join(map(str, range(u, 300_000)))}\n" for u in range(3)))
    assert load(tmp_path / "c.txt")[0].num_interactions == 900_000 - 3


def test_ratings_sorted_by_item_are_no_lists(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text(
        "".join(f"{u} {i} {(u * 7 + i) % 5 + 1}\n" for i in range(2) for u in range(150_000))
    )
    data, said = load(tmp_path / "r.txt")
    assert (data.num_users, data.num_items, data.num_interactions) == (150_000, 2, 300_000)
    assert any("read as user, item, rating" in message for message in said)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ("user,item", "user ids are strings because of 'user'; all the others are integers"),
        ("int,int", "item ids are strings because of 'int'"),
        ("NA,3", "1 rows have the user id 'NA'"),
        ("None,3", "1 rows have the user id 'None'"),
    ],
)
def test_rows_that_are_none_are_said(tmp_path: Path, odd: str, message: str) -> None:
    rows = "".join(f"{k % 12},{k}\n" for k in range(30))
    (tmp_path / "odd.csv").write_text(f"user,item\n{rows}{odd}\n{rows}")
    _, said = load(tmp_path / "odd.csv")
    assert any(message in line for line in said)


def test_ids_of_letters_and_digits_are_nothing_odd(tmp_path: Path) -> None:
    rows = "".join(f"A{k % 12},{k:010}\nB{k % 12},{k * 7:09}X\n" for k in range(30))
    (tmp_path / "ids.csv").write_text(f"user,item\n{rows}")
    assert load(tmp_path / "ids.csv")[1] == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("demo", {"k_core": 5}),
        ("demo", {"split": "temporal"}),
        ("ml-100k", {"separator": ","}),
        ("ml-1m", {"user_column": "0"}),
    ],
)
def test_options_without_an_effect_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(InteractionError, match=f"{next(iter(options))} has no effect on the data set {name}"):
        DataOptions(name, **options).load()


def test_nothing_is_no_source() -> None:
    with pytest.raises(InteractionError, match="interactions are a path"):
        load_interactions(None)


def test_a_split_that_is_asked_for_and_not_made_is_said(tmp_path: Path) -> None:
    folder = write(tmp_path, train_dot_csv="1,1\n1,2\n2,1\n", valid_dot_csv="2,2\n", test_dot_csv="1,3\n2,3\n")
    assert load(folder, split=Split())[1] == []
    data, said = load(folder, split=LAST)
    assert [part.size(1) for part in (data.train, data.valid, data.test)] == [3, 1, 2]
    assert any("no leave-one-out split is made: the files say" in message for message in said)
