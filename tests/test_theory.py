"""The theorems behind informative noise: what holds of them exactly, how their error grows, and where they fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import ModuleType

import pytest
import torch

pytest.importorskip("matplotlib", reason="the extra plot is not installed")


def test_a_round_with_a_constant_predictor_is_the_theorem(example: Callable[[str], ModuleType]) -> None:
    """Where the predicted noise depends neither on v nor on t, nothing is dropped: eq. 20 is exact for every k."""
    a11 = example("theory_renoising")
    a, s = a11.levels("exp", 50)
    v, with_condition, without = torch.randn(3, 7, 4, dtype=torch.float64)
    for k in (1, 10, 40):
        exact, theorem, _ = a11.renoise(v, lambda x, t: (with_condition, without), a, s, k, (2.0, 0.5))
        assert torch.allclose(exact, theorem, rtol=0, atol=1e-10)
        assert not torch.allclose(exact, v)


def test_a_round_is_what_eq_24_says(example: Callable[[str], ModuleType]) -> None:
    """By hand, with the noise of both ends: v + (a_T s_{T-k} - a_{T-k} s_T) / a_{T-k} (eps_T - eps_{T-k})."""
    a11 = example("theory_renoising")
    a, s = a11.levels("linear", 40)
    v, k = torch.randn(5, 3, dtype=torch.float64), 8

    def predict(x: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tanh(x) * t / 40, torch.sin(x)

    exact, _, back = a11.renoise(v, predict, a, s, k, (1.0, 0.0))
    start, end = 2 * predict(v, 40)[0] - predict(v, 40)[1], predict(back, 40 - k)[0]
    by_hand = v + (a[40] * s[40 - k] - a[40 - k] * s[40]) / a[40 - k] * (start - end)
    assert torch.allclose(exact, by_hand, rtol=0, atol=1e-9)


def test_the_dropped_error_is_quadratic_in_k(example: Callable[[str], ModuleType]) -> None:
    a11 = example("theory_renoising")
    a, s = a11.levels("exp", 1000)
    v = torch.randn(300, 16, dtype=torch.float64)
    rows = a11.errors(a11.gaussian(a, s), v, a, s, (2.0, 0.0))
    doublings = [later[2] / before[2] for before, later in itertools.pairwise(rows)]
    assert all(abs(ratio - 4) < 0.2 for ratio in doublings)
    moved = [later[1] / before[1] for before, later in itertools.pairwise(rows)]
    assert all(abs(ratio - 2) < 0.1 for ratio in moved)


def test_with_equal_guidance_the_round_still_moves(example: Callable[[str], ModuleType]) -> None:
    a11 = example("theory_renoising")
    a, s = a11.levels("exp", 200)
    v = torch.randn(50, 16, dtype=torch.float64)
    exact, theorem, _ = a11.renoise(v, a11.gaussian(a, s), a, s, 20, (2.0, 2.0))
    assert torch.equal(theorem, v)
    assert (exact - v).norm(dim=1).mean() > 1e-5


def test_more_guidance_forth_than_back_makes_kappa_negative(example: Callable[[str], ModuleType]) -> None:
    """Theorem B.1 wants kappa above 0; eq. 20 gives the sign of w_w - w_l, as noise grows with the step."""
    a11 = example("theory_renoising")
    ones = torch.ones(1, 1, dtype=torch.float64)
    for schedule in ("linear", "exp", "cosine", "sqrt"):
        a, s = a11.levels(schedule, 100)
        moved = a11.renoise(0 * ones, lambda x, t: (ones, 0 * ones), a, s, 10, (2.0, 0.0))[1]
        assert moved < 0


def test_the_jacobian_bounds_a_linear_map(example: Callable[[str], ModuleType]) -> None:
    weight = torch.diag(torch.tensor([3.0, 0.5]))
    found = example("theory_renoising").lipschitz(lambda x: weight @ x, torch.randn(4, 2))
    assert found == pytest.approx(3.0)


def test_the_best_kappa_is_where_eq_33_says(example: Callable[[str], ModuleType]) -> None:
    b1 = example("theory_preference")
    u, g, v = torch.randn(3, 200, 6, dtype=torch.float64)
    u, g = u[0], g[0] + 2 * u[0]
    told = b1.bound(u, g, 0.6)
    kappas = torch.linspace(0, 2 * told.best(), 201, dtype=torch.float64)
    found = b1.gains(b1.curved(u, g, 0.6), u, g, v, kappas)
    assert torch.allclose(found, told.at(kappas), rtol=0, atol=1e-9)
    assert float(kappas[found.argmax()]) == pytest.approx(told.best(), rel=1e-2)
    assert float(found.max()) == pytest.approx(told.delta**2 / (4 * told.cost), rel=1e-3)  # eq. 34


def test_the_bound_needs_a_generator_that_keeps_the_user(example: Callable[[str], ModuleType]) -> None:
    """A linear generator that shrinks meets every stated assumption, and gains less than eq. 27 allows."""
    b1 = example("theory_preference")
    u = g = torch.ones(4, dtype=torch.float64)
    told, kappa = b1.bound(u, g, 0.5), torch.tensor([0.1], dtype=torch.float64)
    gain = b1.gains(lambda x: 0.5 * x, u, g, torch.randn(10, 4, dtype=torch.float64), kappa)
    assert float(gain) == pytest.approx(0.1 * 0.5 * 4)
    assert float(gain) < float(told.at(kappa))
