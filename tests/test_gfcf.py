"""GF-CF: scores against the dense formula, slices, and what a checkpoint of it can do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_ease import blocks, dense, random_pairs
from torch import Tensor

from infodcl_geo.cli import main
from infodcl_geo.configuration import configure
from infodcl_geo.data.interactions import load_interactions
from infodcl_geo.experiment import run
from infodcl_geo.models.gfcf import GFCFOptions, gfcf_factors, gfcf_scorer
from infodcl_geo.recommender import Recommender


def formula(pairs: Tensor, num_users: int, num_items: int, components: int, alpha: float) -> Tensor:
    """Scores of all users, from dense matrices in float64 alone."""
    r = dense(pairs, num_users, num_items)
    user, item = r.sum(1).clamp(min=1), r.sum(0).clamp(min=1)
    normal = r / user.sqrt()[:, None] / item.sqrt()
    _, values, right = torch.linalg.svd(normal, full_matrices=False)
    # Which vectors pass is decided by rounding where singular values are equal, as in a graph of several components.
    assume(alpha == 0 or values[components - 1] - values[components] > 0.02)
    v = right[:components].T
    low_pass = item.rsqrt()[:, None] * (v @ v.T) * item.sqrt()
    return r @ (normal.T @ normal + alpha * low_pass)


def scores(pairs: Tensor, num_users: int, num_items: int, options: GFCFOptions) -> Tensor:
    factors = gfcf_factors(pairs, num_users, num_items, options)
    scorer = gfcf_scorer(pairs, num_users, num_items, *factors)
    return scorer(torch.arange(num_users), slice(0, num_items))


def test_by_hand() -> None:
    # Users 0 and 1 share item 0; degrees 2, 1 of users, 2, 1 of items. The linear filter alone:
    # R~ = [[1/2, 1/sqrt 2], [1/sqrt 2, 0]], R~'R~ = [[3/4, 1/sqrt 8], [1/sqrt 8, 1/2]].
    pairs = torch.tensor([[0, 0, 1], [0, 1, 0]])
    linear = scores(pairs, 2, 2, GFCFOptions(1, alpha=0.0))
    root = 8**-0.5
    torch.testing.assert_close(linear, torch.tensor([[0.75 + root, root + 0.5], [0.75, root]]))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    users=st.integers(4, 25),
    items=st.integers(4, 20),
    components=st.integers(1, 3),
    alpha=st.sampled_from([0.0, 0.3, 2.0]),
)
def test_scores_are_those_of_the_formula(seed: int, users: int, items: int, components: int, alpha: float) -> None:
    pairs = random_pairs(seed, users, items)
    expected = formula(pairs, users, items, components, alpha)
    torch.testing.assert_close(
        scores(pairs, users, items, GFCFOptions(components, alpha)).double(), expected, atol=1e-4, rtol=1e-3
    )


def test_slices_and_chunks_are_parts_of_the_whole() -> None:
    pairs = random_pairs(3, 14, 11)
    whole = scores(pairs, 14, 11, GFCFOptions(4))
    scorer = gfcf_scorer(pairs, 14, 11, *gfcf_factors(pairs, 14, 11, GFCFOptions(4)))
    users = torch.tensor([9, 2, 5])
    for window in (slice(0, 4), slice(4, 11), slice(0, 11), slice(6, 7)):
        torch.testing.assert_close(scorer(users, window), whole[users, window])
    part = scorer(users, slice(0, 4))
    part.fill_(-torch.inf)
    torch.testing.assert_close(scorer(users, slice(0, 4)), whole[users, :4])
    torch.testing.assert_close(scorer(torch.tensor([1]), slice(2, 5)), whole[1:2, 2:5])


def test_more_components_than_there_are_change_nothing() -> None:
    same = (torch.arange(12)[:, None] % 2 == torch.arange(10)[None] % 2).nonzero().T  # of rank 2
    few = scores(same, 12, 10, GFCFOptions(2))
    many = scores(same, 12, 10, GFCFOptions(256))
    torch.testing.assert_close(few, many)
    assert torch.isfinite(many).all()


@pytest.mark.parametrize("bad", [{"components": 0}, {"alpha": -0.1}])
def test_bad_options(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        GFCFOptions(**bad)  # type: ignore[arg-type]


def test_run_finds_the_tastes_whatever_the_seed() -> None:
    data = blocks()
    found = run(data, configure("gfcf", seed=1), ks=(5,))
    assert found.test == run(data, configure("gfcf", seed=2), ks=(5,)).test
    assert found.test["ndcg@5"] > 1.3 * run(data, configure("popularity"), ks=(5,)).test["ndcg@5"]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "ratings.csv", tmp_path / "run"
    lines = [f"user{u},{i}" for u in range(30) for i in range(60) if i % 3 == u % 3 and (u + i) % 5]
    file.write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    words = ["train", "--data", str(file), "--model", "gfcf", "--gfcf.components", "8", "--out", str(out)]
    assert main(words) == 0
    assert (out / "metrics.json").exists()
    assert Recommender.load(out).state["items"].shape == (60, 8)
    capsys.readouterr()
    assert main(["recommend", "--checkpoint", str(out), "--users", "user4", "--k", "3"]) == 0
    assert capsys.readouterr().out.count("user4") == 3
    assert main(["evaluate", "--checkpoint", str(out), "--data", str(file)]) == 0


@pytest.mark.real_data
def test_office_is_between_popularity_and_the_best(data_root: Path) -> None:
    test = run(load_interactions(data_root / "office"), configure("gfcf"), ks=(20,)).test
    assert test["ndcg@20"] == pytest.approx(0.0534, abs=5e-4)
