"""A page that claims what cannot be is refused before a reader believes it, and ends the process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from infodcl_geo.data.ids import InteractionError
from infodcl_geo.data.interactions import load_interactions
from infodcl_geo.data.panics import quiet_panics
from infodcl_geo.data.parquet_pages import _columns, _struct, check_pages, read_pages


def frame(rows: int) -> pl.DataFrame:
    items = np.arange(rows) * 7 % 1000
    return pl.DataFrame({"user": [f"u{n % 97}" for n in range(rows)], "item": items, "rating": items / 3})


@pytest.mark.parametrize("compression", ["zstd", "snappy", "uncompressed"])
@pytest.mark.parametrize("group", [50, 5000])
def test_files_of_polars_pass_and_all_their_values_are_counted(compression: str, group: int, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    frame(3000).write_parquet(path, compression=compression, row_group_size=group, data_page_size=2000)
    check_pages(path)
    assert [column.values >= 3000 for column in _columns(path, path.stat().st_size)] == [True] * 3


def test_files_of_arrow_pass(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    for version in ("1.0", "2.0"):
        table = pa.table(frame(3000).to_dict(as_series=False))
        pq.write_table(table, path, data_page_version=version, data_page_size=2000, row_group_size=700)
        check_pages(path)
        assert [column.values >= 3000 for column in _columns(path, path.stat().st_size)] == [True] * 3


def test_a_page_of_a_negative_number_of_values_is_refused(tmp_path: Path) -> None:
    """Polars would ask for 2^61 bytes, and the process would be gone."""
    path = tmp_path / "x.parquet"
    pl.DataFrame({"user": list(range(14)), "item": list(range(14))}).write_parquet(path, statistics=False)
    content = bytearray(path.read_bytes())
    refused = 0
    for at in range(4, len(content) // 2):
        if content[at] == 28:  # 14 as the format writes it; 37 is -19
            path.write_bytes(content[:at] + b"\x25" + content[at + 1 :])
            said = ""
            try:
                check_pages(path)
            except InteractionError as error:
                said = str(error)
            if "claims -19 values" in said:
                with pytest.raises(InteractionError):
                    load_interactions(path)
                refused += 1
    assert refused > 0


def damaged_files(folder: Path) -> Iterator[Path]:
    """A small file with another byte in the headers of its pages, one after the other."""
    path = folder / "x.parquet"
    frame(60).write_parquet(path, statistics=False)
    content = path.read_bytes()
    for at in (*range(4, 40), *range(len(content) // 4, len(content) // 4 + 400)):
        for byte in (content[at] ^ 1, content[at] ^ 16, 5):
            path.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
            yield path


@pytest.mark.filterwarnings("ignore")
def test_polars_prints_no_trace_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refused = 0
    for path in damaged_files(tmp_path):
        try:
            load_interactions(path)
        except InteractionError:
            refused += 1
    assert refused > 10
    assert capfd.readouterr().err == ""


TRACE = (
    "\nthread 'polars-1' (8119) panicked at crates/x.rs:329:9:\n"
    "assertion `left == right` failed\n  left: 1\n right: 2\n"
    "stack backtrace:\n   0: core::panicking::panic\n             at ./x.rs:1:2\n  10: other\n"
    "note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.\n"
)


def test_what_is_no_trace_of_a_panic_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    def say(text: str) -> None:
        os.write(2, text.encode())

    with quiet_panics():
        say("before\n")
        with quiet_panics():
            say(TRACE)
            say("between, a thread that panicked is told of\n  0: like this\n")
        say(TRACE.replace("\nstack backtrace:", "\nnote: run with `RUST_BACKTRACE=1` to see more\nno backtrace:"))
        assert capfd.readouterr().err == ""
    shown = capfd.readouterr().err
    assert shown.startswith("before\nbetween, a thread that panicked is told of\n  0: like this\nno backtrace:")
    with contextlib.suppress(KeyError), quiet_panics():
        say("also where it fails\n")
        raise KeyError
    say("and after\n")
    assert capfd.readouterr().err == "also where it fails\nand after\n"


def test_threads_share_the_silence(capfd: pytest.CaptureFixture[str]) -> None:
    def read(_: int) -> None:
        with quiet_panics():
            os.write(2, TRACE.encode() + b"kept\n")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, range(200)))
    assert capfd.readouterr().err == "kept\n" * 200


def bomb(folder: Path, kind: str) -> Path:
    """Some kilobytes that take a gigabyte or more."""
    path = folder / f"{kind}.parquet"
    rows = 2000
    items = pl.Series("item", [0] * rows)
    if kind == "pages":  # texts beside each other that are nearly the same
        texts = pl.Series("user", ["a" * 100_000 + str(n) for n in range(rows)])
        pl.DataFrame([texts, items]).write_parquet(path, compression="zstd", data_page_size=1 << 30)
        return path
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    if kind == "beginnings":
        table = pa.table({"user": ["a" * 100_000] * rows, "item": items.to_list()})
        how = {"user": "DELTA_BYTE_ARRAY"}
        pq.write_table(table, path, compression="zstd", use_dictionary=False, column_encoding=how)
        return path
    # One text in a dictionary, and its number in each row.
    rows = 100_000
    coded = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["a" * 100_000]))
    table = pa.table({"user": coded, "item": np.zeros(rows, np.int64)})
    pq.write_table(table, path, compression="zstd", store_schema=kind == "categories")
    return path


@pytest.mark.parametrize("kind", ["pages", "beginnings", "dictionary", "categories"])
def test_a_small_file_that_unpacks_to_gigabytes_is_refused_and_says_how_to_go_on(kind: str, tmp_path: Path) -> None:
    path = bomb(tmp_path, kind)
    assert path.stat().st_size < 1 << 17
    with pytest.raises(InteractionError, match="if that is no mistake, write it again with") as refused:
        load_interactions(path)
    assert len(str(refused.value).splitlines()) == 1


def test_a_page_cannot_unpack_to_more_than_its_header_says(tmp_path: Path) -> None:
    """So a lie in the header does not go round the bound."""
    path = tmp_path / "x.parquet"
    texts = ["a" * 4000 + str(n) for n in range(4000)]
    pl.DataFrame({"user": texts, "item": range(4000)}).write_parquet(path, statistics=False, data_page_size=1 << 30)
    content = path.read_bytes()
    header, _ = _struct(content[4 : 4 + 4096], 0)
    claim = _zigzag(header[2])
    assert header[2] > 1 << 20
    assert content[4:40].count(claim) == 1
    path.write_bytes(content[:4] + content[4:40].replace(claim, _zigzag(1 << 20)) + content[40:])
    with pytest.raises(InteractionError, match="not readable as parquet"):
        load_interactions(path)


def _zigzag(number: int) -> bytes:
    value, found = 2 * number, bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def test_categories_are_read_as_the_texts_they_stand_for(tmp_path: Path) -> None:
    texts = frame(300).with_columns(pl.col("item").cast(pl.String))
    kinds = {"user": pl.Categorical, "item": pl.Enum(texts["item"].unique().to_list())}
    texts.write_parquet(tmp_path / "texts.parquet")
    texts.cast(kinds).write_parquet(tmp_path / "coded.parquet")  # type: ignore[arg-type]
    plain, coded = (load_interactions(tmp_path / name) for name in ("texts.parquet", "coded.parquet"))
    assert coded.user_ids == plain.user_ids
    assert coded.item_ids == plain.item_ids
    assert coded.train.equal(plain.train)
    columns = read_pages(tmp_path / "coded.parquet", ["item", "rating", "user"])
    assert columns.equals(texts.select("item", "rating", "user"))
