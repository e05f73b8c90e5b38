"""Files read by several ranks, and pretraining of what they hold, against one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from ranks import run_ranks

from infodcl_geo import configure
from infodcl_geo.data.generated import demo
from infodcl_geo.data.interactions import load_interactions
from infodcl_geo.data.options import DataOptions
from infodcl_geo.distributed.group import Group
from infodcl_geo.distributed.input import collected, is_sharded, load_sharded
from infodcl_geo.distributed.run import run_several
from infodcl_geo.distributed.spectral import sharded_spectral_embeddings
from infodcl_geo.graph.spectral import SVDOptions, spectral_embeddings


def write_parts(folder: Path, kind: str, declared: bool) -> None:
    """Portions in any order, with a repeated pair, ids with gaps or words."""
    data = demo(2, num_users=90, num_items=61, num_interests=6).interactions
    names = np.array([f"ü{i * 7919 % 1000}" for i in range(1000)]) if kind == "text" else np.arange(1000) * 3 + 5
    parts = [("train", data.train), ("valid", data.valid), ("test", data.test)]
    if not declared:
        parts = [("", torch.cat([pairs for _, pairs in parts], dim=1))]
    random = np.random.default_rng(0)
    for part, pairs in parts:
        users, items = pairs.numpy()
        order = random.permutation(np.append(np.arange(len(users)), [0, 1, 1]))
        (folder / part).mkdir(parents=True, exist_ok=True)
        for number, rows in enumerate(np.array_split(order, 5)):
            frame = pl.DataFrame({"user_id": names[users[rows]], "item_id": names[::-1][items[rows]]})
            frame.write_parquet(folder / part / f"part-{number}.parquet")


def read_all(group: Group, folders: list[str]) -> Any:
    found = []
    for folder in folders:
        data = load_sharded(DataOptions(folder), group)
        whole = collected(data, group)
        own = (data.part.users.start, data.part.users.stop, data.train[0].unique().tolist(), data.train.size(1))
        splits = None
        if whole is not None:
            splits = [*(x.clone() for x in (whole.train, whole.valid, whole.test)), *(
                ids.values.to_list() for ids in (whole.user_ids, whole.item_ids))]  # fmt: skip
        found.append((own, splits, data.fingerprint, data.totals))
    return found


def test_files_give_what_one_process_reads(tmp_path: Path) -> None:
    folders = [str(tmp_path / f"{kind}-{declared}") for kind in ("whole", "text") for declared in (True, False)]
    for folder in folders:
        write_parts(Path(folder), *(lambda a, b: (a, b == "True"))(*Path(folder).name.split("-")))
        assert is_sharded(folder)
    three = run_ranks(read_all, 3, tmp_path / "three", folders)
    one = read_all(Group(0, 1, None, 1.0), folders)
    for place, folder in enumerate(folders):
        expected = load_interactions(folder)
        for rank in range(3):
            start, stop, users, count = three[rank][place][0]
            assert all(start <= user < stop for user in users)
            assert count < one[place][0][3]
        splits = three[0][place][1]
        assert three[1][place][1] is None
        assert splits[3] == expected.user_ids.values.to_list()
        assert splits[4] == expected.item_ids.values.to_list()
        assert {three[rank][place][2] for rank in range(3)} == {one[place][2]}
        for got, alone in zip(splits[:3], one[place][1][:3], strict=True):
            assert torch.equal(got, alone), "the split does not depend on the number of ranks"
        sizes = [expected.train.size(1), expected.valid.size(1), expected.test.size(1)]
        assert list(three[0][place][3]) == sizes
        if folder.endswith("True"):
            assert torch.equal(splits[0], expected.train)
            assert torch.equal(splits[2], expected.test)


def vectors(group: Group, folder: str) -> Any:
    data = load_sharded(DataOptions(folder), group)
    return sharded_spectral_embeddings(data.train, data.part, group, 6, SVDOptions(0.75, 1.0), iterations=12)


@pytest.mark.parametrize("size", [1, 2])
def test_pretraining_as_the_exact_decomposition(size: int, tmp_path: Path) -> None:
    write_parts(tmp_path / "data", "whole", True)
    data = load_interactions(tmp_path / "data")
    expected = spectral_embeddings(
        data.train, data.num_users, data.num_items, 6, SVDOptions(0.75, 1.0), method="exact"
    )  # fmt: skip
    folder = str(tmp_path / "data")
    found = run_ranks(vectors, size, tmp_path, folder) if size > 1 else [vectors(Group(0, 1, None, 1.0), folder)]
    for side in (0, 1):
        got = torch.cat([part[side] for part in found])
        torch.testing.assert_close(got, expected[side], rtol=0.02, atol=2e-3)


def trained(group: Group, folder: str, init: str) -> Any:
    config = configure("lightgcn", init=init, dim=8, batch_size=200, epochs=2, eval_every=1, seed=4, smoothing=0.75)
    data: Any = load_sharded(DataOptions(folder), group)
    found = []
    for of in (data, load_interactions(folder)):
        run = run_several(of, config, group, tables="sharded", progress=False)
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in run.result.history]
        found.append((rows, run.test, run.model.state()["items"]))
    return found


@pytest.mark.parametrize("init", ["normal", "pretrained"])
def test_a_model_of_parts_is_that_of_the_whole(init: str, tmp_path: Path) -> None:
    """The same start, the same batches: built of its own rows alone, or cut out of the model of all."""
    write_parts(tmp_path / "data", "text", True)
    parts, whole = run_ranks(trained, 2, tmp_path / "ranks", str(tmp_path / "data"), init)[0]
    # Random starts are the same numbers; the exact decomposition and the randomized one differ a little.
    close = 1e-3 if init == "normal" else 0.1
    for row, wanted in zip(parts[0], whole[0], strict=True):
        assert row["bpr"] == pytest.approx(wanted["bpr"], rel=close)
    assert parts[1]["recall@20"] == pytest.approx(whole[1]["recall@20"], abs=0.01 + close)
    if init == "normal":
        assert parts[0][-1] == pytest.approx(whole[0][-1], abs=5e-3)
        torch.testing.assert_close(parts[2], whole[2], rtol=1e-3, atol=1e-5)
