"""A page that claims what cannot be is refused before a reader believes it, and ends the process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from infodcl_geo.data.ids import InteractionError
from infodcl_geo.data.interactions import load_interactions
from infodcl_geo.data.parquet_pages import _claims, check_pages


def frame(rows: int) -> pl.DataFrame:
    items = np.arange(rows) * 7 % 1000
    return pl.DataFrame({"user": [f"u{n % 97}" for n in range(rows)], "item": items, "rating": items / 3})


@pytest.mark.parametrize("compression", ["zstd", "snappy", "uncompressed"])
@pytest.mark.parametrize("group", [50, 5000])
def test_files_of_polars_pass_and_all_their_values_are_counted(compression: str, group: int, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    frame(3000).write_parquet(path, compression=compression, row_group_size=group, data_page_size=2000)
    check_pages(path)
    assert sum(_claims(path, path.stat().st_size)) >= 3 * 3000


def test_files_of_arrow_pass(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    for version in ("1.0", "2.0"):
        table = pa.table(frame(3000).to_dict(as_series=False))
        pq.write_table(table, path, data_page_version=version, data_page_size=2000, row_group_size=700)
        check_pages(path)
        assert sum(_claims(path, path.stat().st_size)) >= 3 * 3000


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
