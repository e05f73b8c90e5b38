"""Tables for other programs give the library's scores, and a FAISS index its lists."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from test_recommender import tiny, trained

from infodcl_geo.cli import main
from infodcl_geo.data.ids import IdMap
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.errors import OptionError
from infodcl_geo.index import ItemIndex, build_index, export
from infodcl_geo.recommender import Recommender


@pytest.fixture(scope="module")
def model() -> tuple[Recommender, Interactions]:
    data = tiny(40, 200)
    return Recommender.from_run(trained("mf", data), data), data


@pytest.mark.parametrize("format", ["npz", "parquet", "safetensors"])
def test_tables_rank_as_the_library_does(format: str, model: tuple[Recommender, Interactions], tmp_path: Path) -> None:
    recommender, data = model
    export(recommender, tmp_path, format)  # type: ignore[arg-type]
    if format == "npz":
        with np.load(tmp_path / "tables.npz") as found:  # without pickles
            users, items = found["users"], found["items"]
            user_ids, item_ids, counts = found["user_ids"], found["item_ids"], found["item_interactions"]
    elif format == "parquet":
        frames = [pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("users", "items")]
        users, items = (frame["vector"].to_numpy() for frame in frames)
        user_ids, item_ids = (frame["id"].to_numpy() for frame in frames)
        counts = frames[1]["interactions"].to_numpy()
    else:
        with safe_open(tmp_path / "tables.safetensors", "numpy") as found:
            users, items, counts = (found.get_tensor(name) for name in ("users", "items", "item_interactions"))
            user_ids, item_ids = (json.loads(found.metadata()[name]) for name in ("user_ids", "item_ids"))
    assert list(user_ids) == data.user_ids.raw.tolist()
    assert counts.tolist() == torch.bincount(data.train[1], minlength=data.num_items).tolist()
    for answer in recommender.recommend(["u03", "u17"], k=20, exclude_seen=False):
        scores = items @ users[list(user_ids).index(answer.user)]
        best = np.argsort(-scores)[:20]
        assert np.asarray(item_ids)[best].tolist() == answer.items.tolist()


def test_models_without_tables_say_so(tmp_path: Path) -> None:
    data = tiny()
    with pytest.raises(OptionError, match="ease does not rank by embeddings"):
        export(Recommender.from_run(trained("ease", data), data), tmp_path)


def test_one_long_id_does_not_make_all_of_them_long(tmp_path: Path) -> None:
    ids = IdMap(sorted([f"{n:06}" for n in range(4000)] + ["z" * 9000]))
    recommender = Recommender(
        {"users": torch.ones(1, 1), "items": torch.ones(4001, 1)},
        IdMap([0]), ids, torch.tensor([[0], [0]]), torch.empty(2, 0, dtype=torch.int64),
    )  # fmt: skip
    with pytest.raises(OptionError, match="export parquet"):
        export(recommender, tmp_path, "npz")
    export(recommender, tmp_path, "parquet")


def same(first: Recommender, second: ItemIndex, users: list[object], k: int) -> None:
    for wanted, answer in zip(first.recommend(users, k), second.recommend(users, k), strict=True):
        assert (wanted.user, wanted.known) == (answer.user, answer.known)
        assert wanted.items.tolist() == answer.items.tolist()
        np.testing.assert_array_equal(wanted.scores, answer.scores)


def test_an_exact_index_gives_the_lists_of_the_library(model: tuple[Recommender, Interactions], tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    recommender, data = model
    export(recommender, tmp_path, "faiss")
    index = faiss.read_index(str(tmp_path / "items.faiss"))
    assert json.loads((tmp_path / "items.json").read_text())["ids"] == data.item_ids.raw.tolist()
    same(recommender, ItemIndex(recommender, index), data.user_ids.raw.tolist(), 20)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 150))
def test_equal_scores_come_in_the_order_of_the_library(seed: int, k: int) -> None:
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(seed)
    users = torch.randint(-1, 2, (6, 3), generator=generator).float()
    items = torch.randint(-1, 2, (120, 3), generator=generator).float()
    pairs = (torch.rand(6, 120, generator=generator) < 0.05).nonzero().T
    recommender = Recommender({"users": users, "items": items}, IdMap(range(6)), IdMap(range(120)), pairs, pairs[:, :0])
    same(recommender, ItemIndex(recommender, build_index(recommender)), list(range(6)), k)


def test_an_approximate_index_finds_nearly_all(model: tuple[Recommender, Interactions]) -> None:
    pytest.importorskip("faiss")
    recommender, data = model
    users = data.user_ids.raw.tolist()
    found = ItemIndex(recommender, build_index(recommender, "hnsw")).recommend(users, 20)
    wanted = recommender.recommend(users, 20)
    shared = [len(set(a.items.tolist()) & set(b.items.tolist())) / 20 for a, b in zip(found, wanted, strict=True)]
    assert np.mean(shared) > 0.9
    with pytest.raises(OptionError, match="flat or hnsw"):
        build_index(recommender, "ivf")  # type: ignore[arg-type]


def test_export_overwrites_nothing_in_silence(
    model: tuple[Recommender, Interactions], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model[0].save(tmp_path / "model")
    words = ["export", "--checkpoint", str(tmp_path / "model"), "--out", str(tmp_path / "tables")]
    assert main(words) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(words) == 1
    assert "--overwrite true" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
