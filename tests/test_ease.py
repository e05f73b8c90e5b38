"""EASE: the closed form against its own optimality conditions, and against a plain computation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from infodcl_geo.cli import main
from infodcl_geo.configuration import configure
from infodcl_geo.data.ids import IdMap
from infodcl_geo.data.interactions import Interactions, load_interactions
from infodcl_geo.experiment import run
from infodcl_geo.graph import item_item
from infodcl_geo.models.ease import EASEOptions, ease_weights
from infodcl_geo.models.scoring import UserRows, item_scorer
from infodcl_geo.recommender import Recommender


def dense(pairs: Tensor, num_users: int, num_items: int) -> Tensor:
    x = torch.zeros(num_users, num_items, dtype=torch.float64)
    x[pairs[0], pairs[1]] = 1
    return x


def random_pairs(seed: int, num_users: int, num_items: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(num_users, num_items, generator=generator) < 0.4).nonzero().T


def test_two_items_by_hand() -> None:
    # One user with both items, one with the first: X'X = [[2, 1], [1, 1]]; with lambda = 1 the weight of item 0 for
    # item 1 minimises (1 - b)^2 + b^2 + b^2 (user 0, user 1, penalty), the other way (1 - b)^2 + b^2.
    pairs = torch.tensor([[0, 0, 1], [0, 1, 0]])
    weights = ease_weights(pairs, 2, 2, 1.0)
    torch.testing.assert_close(weights, torch.tensor([[0.0, 1 / 3], [1 / 2, 0.0]]))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    users=st.integers(2, 30),
    items=st.integers(2, 20),
    l2=st.sampled_from([0.5, 10.0, 300.0]),
)
def test_each_column_is_a_ridge_regression_on_the_other_items(seed: int, users: int, items: int, l2: float) -> None:
    pairs = random_pairs(seed, users, items)
    weights = ease_weights(pairs, users, items, l2).double()
    x = dense(pairs, users, items)
    for j in range(items):
        others = [i for i in range(items) if i != j]
        a = x[:, others]
        expected = torch.linalg.solve(a.T @ a + l2 * torch.eye(items - 1, dtype=torch.float64), a.T @ x[:, j])
        torch.testing.assert_close(weights[others, j], expected, atol=1e-4, rtol=1e-3)
    assert (weights.diagonal() == 0).all()


def test_scores_are_the_rows_times_the_weights_in_any_slices() -> None:
    pairs = random_pairs(1, 12, 9)
    weights = ease_weights(pairs, 12, 9, 2.0)
    scorer = item_scorer(UserRows(pairs, 12, 9), weights)
    users = torch.tensor([7, 0, 3])
    expected = dense(pairs, 12, 9).float()[users] @ weights
    torch.testing.assert_close(scorer(users, slice(0, 9)), expected)
    torch.testing.assert_close(scorer(users, slice(4, 7)), expected[:, 4:7])


def test_too_many_items_say_how_much_memory_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_item, "_free_bytes", lambda device: 2**30)
    pairs = torch.tensor([[0], [0]])
    with pytest.raises(ValueError, match=r"20,000 x 20,000 items, for which 4\.5 GiB are needed and 1\.0 GiB are free"):
        ease_weights(pairs, 1, 20_000)


def test_free_memory_is_a_plausible_number() -> None:
    assert 2**20 < item_item._free_bytes(torch.device("cpu")) < 2**50


@pytest.mark.parametrize("l2", [0.0, -1.0])
def test_l2_must_be_positive(l2: float) -> None:
    with pytest.raises(ValueError, match="l2 must be positive"):
        EASEOptions(l2)


def blocks() -> Interactions:
    """Forty users and forty items of two tastes."""
    same = torch.arange(40)[:, None] % 2 == torch.arange(40)[None] % 2
    generator = torch.Generator().manual_seed(0)
    pairs = (same & (torch.rand(40, 40, generator=generator) < 0.7)).nonzero().T
    part = torch.rand(pairs.size(1), generator=generator)
    ids = IdMap(range(40))
    return Interactions(
        pairs[:, part > 0.3], pairs[:, part < 0.1], pairs[:, (part >= 0.1) & (part <= 0.3)], 40, 40, ids, ids, "blocks"
    )


def test_run_finds_the_tastes_whatever_the_seed() -> None:
    data = blocks()
    found = run(data, configure("ease", seed=1), ks=(5,))
    again = run(data, configure("ease", seed=2), ks=(5,))
    popular = run(data, configure("popularity"), ks=(5,))
    assert found.test == again.test
    assert found.test["ndcg@5"] > 1.3 * popular.test["ndcg@5"]
    assert found.result.validation["ndcg@5"] > 0
    assert found.preparation_seconds["fit"] > 0


def test_scores_are_sums_of_weights() -> None:
    data = blocks()
    outcome = run(data, configure("ease"), ks=(5,))
    (answer,) = Recommender.from_run(outcome, data).recommend([3], k=4)
    expected = outcome.model.state()["item_weights"][data.train[1, data.train[0] == 3]].sum(0)
    np.testing.assert_allclose(answer.scores, expected[torch.as_tensor(answer.items)].numpy(), rtol=1e-5)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ratings.csv"
    lines = [f"user{u},{i}" for u in range(30) for i in range(60) if i % 3 == u % 3 and (u + i) % 5]
    file.write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    out = tmp_path / "run"
    assert main(["train", "--data", str(file), "--model", "ease", "--ease.l2", "20", "--out", str(out)]) == 0
    assert (out / "metrics.json").exists()
    assert list(out.glob("*.safetensors"))
    capsys.readouterr()
    assert main(["recommend", "--checkpoint", str(out), "--users", "user4", "--k", "3"]) == 0
    assert capsys.readouterr().out.count("user4") == 3


@pytest.mark.real_data
def test_office_gives_the_known_numbers(data_root: Path) -> None:
    data = load_interactions(data_root / "office")
    test = run(data, configure("ease"), ks=(20,)).test
    assert test["recall@20"] == pytest.approx(0.1220, abs=1e-4)
    assert test["ndcg@20"] == pytest.approx(0.0620, abs=1e-4)
