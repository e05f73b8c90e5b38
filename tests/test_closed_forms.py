"""iALS, SLIM and Turbo-CF: hand-computed cases, naive twins, and what they must find."""

from __future__ import annotations

import pytest
import torch
from test_ease import blocks, dense, random_pairs
from torch import Tensor

from infodcl_geo.configuration import configure
from infodcl_geo.experiment import run
from infodcl_geo.graph.graph import Graph, interaction_graph, to_scipy
from infodcl_geo.models import ials
from infodcl_geo.models.ials import IALSOptions, solve_side
from infodcl_geo.models.scoring import UserRows
from infodcl_geo.models.turbocf import TurboCFOptions, item_graph, turbocf_scorer

USERS, ITEMS = 9, 7
PAIRS = random_pairs(5, USERS, ITEMS)


def array(graph: Graph) -> Tensor:
    return torch.from_numpy(to_scipy(graph.matrix).toarray()).double()


def test_ials_of_one_user_by_hand() -> None:
    # One user with item 0 of two items h = 1 and h = 2, d = 1: ((1 + a (1 + 4) + l (1 + a 2)) w = 1.
    graph = interaction_graph(torch.tensor([[0], [0]]), 1, 2)
    options = IALSOptions(dim=1, missing_weight=0.5, l2=0.25, frequency=1.0)
    found = solve_side(graph, torch.tensor([[1.0], [2.0]]), options)
    assert found.item() == pytest.approx(1 / (1 + 0.5 * 5 + 0.25 * (1 + 0.5 * 2)))


@pytest.mark.parametrize("floats", [1, 1 << 24])
def test_ials_solves_for_the_minimum(floats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ials, "_FLOATS", floats)
    options = IALSOptions(dim=3, missing_weight=0.2, l2=0.05, frequency=0.7)
    fixed = torch.randn(ITEMS, 3)
    w = solve_side(interaction_graph(PAIRS, USERS, ITEMS), fixed, options).double().requires_grad_()
    x = dense(PAIRS, USERS, ITEMS)
    scores = w @ fixed.double().T
    ridge = 0.05 * (x.sum(1) + 0.2 * ITEMS) ** 0.7
    objective = (x * (scores - 1).square()).sum() + 0.2 * scores.square().sum() + (ridge * w.square().sum(1)).sum()
    (gradient,) = torch.autograd.grad(objective, w)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-4, rtol=0)


def test_ials_leaves_nodes_without_interactions_at_zero() -> None:
    users, items = ials.ials(torch.tensor([[0, 1], [0, 0]]), 3, 2, IALSOptions(dim=2))
    assert users[2].tolist() == items[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["linear", "second", "third"])
@pytest.mark.parametrize(("alpha", "power"), [(0.5, 1.0), (0.3, 0.7)])
def test_turbocf_against_dense_matrices(kind: str, alpha: float, power: float) -> None:
    options = TurboCFOptions(normalization=alpha, hadamard=power, filter=kind)  # type: ignore[arg-type]
    x = dense(PAIRS, USERS, ITEMS)
    normal = x.sum(1).clamp(min=1)[:, None] ** -alpha * x * x.sum(0).clamp(min=1) ** (alpha - 1)
    p = (normal.T @ normal) ** power
    both = {"linear": p, "second": 2 * p - p @ p, "third": p + 0.01 * (-p @ p @ p + 10 * p @ p - 29 * p)}[kind]
    graph = item_graph(PAIRS, USERS, ITEMS, options)
    scorer = turbocf_scorer(UserRows(PAIRS, USERS, ITEMS), graph, options.filter)
    users = torch.tensor([4, 1, 8])
    found = torch.cat([scorer(users, slice(0, 3)), scorer(users, slice(3, ITEMS))], 1)
    torch.testing.assert_close(found.double(), (x @ both)[users], atol=1e-5, rtol=1e-4)


def test_turbocf_by_hand() -> None:
    # Degrees of the users 2 and 1, of the items 2 and 1: R~ = [[1/2, 1/sqrt 2], [1/sqrt 2, 0]].
    graph = item_graph(torch.tensor([[0, 0, 1], [0, 1, 0]]), 2, 2, TurboCFOptions())
    torch.testing.assert_close(array(graph), torch.tensor([[0.75, 8**-0.5], [8**-0.5, 0.5]]).double())


@pytest.mark.parametrize("model", ["ials", "slim", "turbocf"])
def test_they_find_the_tastes_whatever_the_seed(model: str) -> None:
    data = blocks()
    found = run(data, configure(model, seed=1), ks=(5,))
    assert found.test["ndcg@5"] > 1.3 * run(data, configure("popularity"), ks=(5,)).test["ndcg@5"]
    assert found.test == run(data, configure(model, seed=2), ks=(5,)).test
