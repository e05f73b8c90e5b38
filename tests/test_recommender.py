"""Recommendations for raw ids, checkpoints that come back whole, damaged ones that say so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from test_ease import blocks

from infodcl_geo.configuration import configure
from infodcl_geo.data.ids import IdMap, UnknownIdError
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.experiment import Config, ModelName, ModelOptions, run
from infodcl_geo.recommender import CheckpointError, Recommender
from infodcl_geo.training.options import TrainOptions

NAMES = np.array(["ann", "bob", "cat"])


@pytest.fixture
def recommender() -> Recommender:
    users = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    items = torch.tensor([[4.0, 0.0], [3.0, 1.0], [2.0, 5.0], [1.0, 2.0]])
    seen = torch.tensor([[0, 0, 2, 2, 2], [0, 3, 0, 1, 2]])
    return Recommender(users, items, IdMap(NAMES), IdMap([10, 20, 30, 40]), seen)


def test_by_hand(recommender: Recommender) -> None:
    ann, bob, cat = recommender.recommend(["ann", "bob", "cat"], k=2)
    assert (ann.user, ann.items.tolist(), ann.scores.tolist()) == ("ann", [20, 30], [3.0, 2.0])
    assert bob.items.tolist() == [30, 40]
    assert cat.items.tolist() == [40]  # all that is left
    everything = recommender.recommend(["ann"], k=9, exclude_seen=False)[0]
    assert everything.items.tolist() == [10, 20, 30, 40]


def test_one_user_at_a_time_gives_the_same(recommender: Recommender) -> None:
    together = recommender.recommend(["cat", "ann", "cat", "bob"], k=3)
    for answer in together:
        alone = recommender.recommend([answer.user], k=3)[0]
        assert alone.items.tolist() == answer.items.tolist()
        assert alone.scores.tolist() == answer.scores.tolist()


def test_unknown_users_and_bad_k(recommender: Recommender) -> None:
    with pytest.raises(UnknownIdError, match="dora"):
        recommender.recommend(["ann", "dora"])
    with pytest.raises(ValueError, match="k must be at least 1"):
        recommender.recommend(["ann"], k=0)
    assert recommender.recommend([]) == []


@pytest.fixture
def trained() -> tuple[Recommender, Interactions]:
    generator = torch.Generator().manual_seed(0)
    pairs = (torch.rand(12, 15, generator=generator) < 0.5).nonzero().T
    part = torch.arange(pairs.size(1)) % 5
    names = IdMap(np.array([f"u{k:02}" for k in range(12)]))
    data = Interactions(
        pairs[:, part > 1], pairs[:, part == 0], pairs[:, part == 1], 12, 15, names, IdMap(range(100, 115)), "small"
    )
    outcome = run(data, Config(ModelOptions(dim=8), TrainOptions(epochs=3, eval_every=1)), progress=False)
    return Recommender.from_run(outcome, data), data


def test_checkpoint_round_trip(trained: tuple[Recommender, Interactions], tmp_path: Path) -> None:
    recommender, data = trained
    recommender.save(tmp_path / "new" / "folder")
    again = Recommender.load(tmp_path / "new" / "folder")
    assert torch.equal(again.users, recommender.users)
    assert again.user_ids == recommender.user_ids
    assert again.config == json.loads(json.dumps(recommender.config))
    assert again.weights.keys() == recommender.weights.keys()
    assert "user_embedding.weight" in again.weights
    first, second = (r.recommend(["u03", "u11"], k=5) for r in (recommender, again))
    assert [a.items.tolist() for a in first] == [a.items.tolist() for a in second]
    held = {int(i) for i in data.item_ids.decode(data.train[1][data.train[0] == 3].numpy())}
    assert not held & set(first[0].items.tolist())


@pytest.mark.parametrize("model", get_args(ModelName))
def test_every_model_ranks_from_its_checkpoint_as_it_did(model: ModelName, tmp_path: Path) -> None:
    data = blocks()
    config = configure(model, epochs=2, eval_every=1, batch_size=128)
    outcome = run(data, replace(config, model=replace(config.model, dim=8)), ks=(5, 20), progress=False)
    Recommender.from_run(outcome, data).save(tmp_path)
    again = Recommender.load(tmp_path)
    metrics, unknown = again.evaluate(data, ks=(5, 20))
    assert metrics == outcome.test
    assert unknown == 0
    (answer,) = again.recommend([3], k=4)
    seen = torch.cat([data.train, data.valid], 1)
    assert len(answer.items) == 4
    assert not set(answer.items.tolist()) & set(seen[1, seen[0] == 3].tolist())
    expected = outcome.scorer(torch.tensor([3]), slice(0, data.num_items))[0, torch.as_tensor(answer.items)]
    np.testing.assert_allclose(answer.scores, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_checkpoint_without_what_it_ranks_by_says_so(recommender: Recommender) -> None:
    with pytest.raises(ValueError, match="nothing to rank by"):
        replace(recommender, users=None).recommend(["ann"])


def test_saved_model_scores_as_it_did_in_training(trained: tuple[Recommender, Interactions]) -> None:
    recommender, data = trained
    outcome = run(data, Config(ModelOptions(dim=8), TrainOptions(epochs=3, eval_every=1)), progress=False)
    metrics, unknown = recommender.evaluate(data)
    assert metrics == outcome.test
    assert unknown == 0
    masked, _ = recommender.evaluate(data, mask_validation=True)
    assert masked != metrics


def test_evaluation_matches_ids_not_rows(trained: tuple[Recommender, Interactions]) -> None:
    recommender, data = trained
    # The same interactions beside an item the model never saw, which moves every row by one.
    shift = torch.tensor([[0], [1]])
    other = replace(
        data,
        train=data.train + shift,
        valid=data.valid + shift,
        test=torch.cat([torch.tensor([[0], [0]]), data.test + shift], 1),
        num_items=16,
        item_ids=IdMap(range(99, 115)),
    )
    metrics, unknown = recommender.evaluate(other)
    assert unknown == 1
    assert metrics == pytest.approx(recommender.evaluate(data)[0])


@pytest.mark.parametrize("damage", ["cut", "missing weights", "missing json", "not json", "newer"])
def test_damaged_checkpoints_give_one_line(recommender: Recommender, tmp_path: Path, damage: str) -> None:
    recommender.save(tmp_path)
    weights, description = tmp_path / "model.safetensors", tmp_path / "model.json"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:40])
    elif damage == "missing weights":
        weights.unlink()
    elif damage == "missing json":
        description.unlink()
    elif damage == "not json":
        description.write_text("{")
    else:
        description.write_text(description.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(CheckpointError) as caught:
        Recommender.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
