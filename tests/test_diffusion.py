"""Schedules and the forward process by hand; the denoiser's formula."""

from __future__ import annotations

import math

import pytest
import torch

from infodcl_geo.nn.diffusion import Denoiser, ForwardDiffusion, alpha_bar, time_encoding


@pytest.mark.parametrize("schedule", ["linear", "exp", "cosine", "sqrt"])
@pytest.mark.parametrize("steps", [1, 2, 200])
def test_the_signal_falls_and_never_dies(schedule: str, steps: int) -> None:
    level = alpha_bar(schedule, steps)  # type: ignore[arg-type]
    assert level.shape == (steps,)
    assert bool((level > 0).all())
    assert bool((level < 1).all())
    assert bool((level.diff() < 0).all())


def test_schedules_by_hand() -> None:
    linear = alpha_bar("linear", 2)
    assert linear.tolist() == pytest.approx([1 - 0.05, (1 - 0.05) * (1 - 0.999)])
    exp = alpha_bar("exp", 2)
    first, second = math.exp(-0.05 - 9.9 / 8), math.exp(-0.05 - 3 * 9.9 / 8)
    assert exp.tolist() == pytest.approx([first, first * second])
    cosine = alpha_bar("cosine", 4)
    f = [math.cos((t / 4 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(5)]
    assert cosine[1].item() == pytest.approx(f[2] / f[0])
    assert alpha_bar("sqrt", 4)[0].item() == pytest.approx(1 - math.sqrt(0.25 + 1e-4))
    # The variance-preserving SDE ends where its integral does, at any number of steps.
    assert alpha_bar("exp", 200)[-1].item() == pytest.approx(math.exp(-(0.1 + 9.9 / 2)))


def test_forward_process_by_hand() -> None:
    diffusion = ForwardDiffusion("exp", 4)
    e, noise = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[10.0, 0.0], [10.0, 0.0]])
    z = diffusion(e, noise, torch.tensor([1, 4]))
    for row, t in enumerate((1, 4)):
        level = alpha_bar("exp", 4)[t - 1].item()
        expected = [math.sqrt(level) + 10 * math.sqrt(1 - level), 2 * math.sqrt(level)]
        assert z[row].tolist() == pytest.approx(expected, rel=1e-6)


def test_steps_are_drawn_from_one_to_t() -> None:
    drawn = ForwardDiffusion("linear", 3).sample_steps(500, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 2, 3}


def test_time_encoding_by_hand() -> None:
    got = time_encoding(torch.tensor([3]), 5)[0].tolist()
    assert got == pytest.approx([math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03), 0.0], abs=1e-6)


def test_denoiser_formula() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(4, hidden=6)
    z, t = torch.randn(3, 4), torch.tensor([1, 5, 9])
    inside = torch.cat([z, time_encoding(t, 4)], 1) @ denoiser.hidden.weight.T + denoiser.hidden.bias
    expected = (inside * torch.sigmoid(inside)) @ denoiser.output.weight.T + denoiser.output.bias
    torch.testing.assert_close(denoiser(z, t), expected)


def test_unknown_schedule_and_no_steps() -> None:
    with pytest.raises(ValueError, match="schedule must be"):
        alpha_bar("quadratic", 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one step"):
        alpha_bar("exp", 0)
