"""Schedules and the forward process by hand; the denoiser's formula."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from infodcl_geo.nn.diffusion import (
    Denoiser,
    ForwardDiffusion,
    LinearNoise,
    alpha_bar,
    reverse_process,
    time_encoding,
)


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


@pytest.mark.parametrize("time_dim", [1, 4, 7])
def test_encodings_computed_once_are_those_of_every_call(time_dim: int) -> None:
    one, table = Denoiser(4, time_dim=time_dim), Denoiser(4, time_dim=time_dim, steps=200)
    table.load_state_dict(one.state_dict())  # no weight more
    z, t = torch.randn(201, 4), torch.randperm(201)
    assert torch.equal(table(z, t), one(z, t))
    assert torch.equal(table.double()(z.double(), t), one.double()(z.double(), t))


def test_unknown_schedule_and_no_steps() -> None:
    with pytest.raises(ValueError, match="schedule must be"):
        alpha_bar("quadratic", 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one step"):
        alpha_bar("exp", 0)


def test_linear_noise_by_hand() -> None:
    levels = alpha_bar(LinearNoise(0.1, 0.2, 0.8), 4)
    assert levels.tolist() == pytest.approx([1 - 0.02, 1 - 0.04, 1 - 0.06, 1 - 0.08], abs=1e-12)
    assert alpha_bar(LinearNoise(0.1, 0.2, 0.8), 1).tolist() == pytest.approx([1 - 0.02])
    for bad in ((0.0, 0.1, 0.2), (1.0, 0.3, 0.2), (2.0, 0.1, 0.5)):
        with pytest.raises(ValueError, match="must ascend between 0 and 1"):
            LinearNoise(*bad)


def test_a_guided_denoiser_by_hand() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(4, hidden=6, guide_dim=3)
    torch.nn.init.normal_(denoiser.unguided)
    z, t, guide = torch.randn(2, 4), torch.tensor([1, 5]), torch.randn(2, 3)

    def by_hand(guide: Tensor) -> Tensor:
        inside = torch.cat([z, guide, time_encoding(t, 4)], 1) @ denoiser.hidden.weight.T + denoiser.hidden.bias
        return (inside * torch.sigmoid(inside)) @ denoiser.output.weight.T + denoiser.output.bias

    with_guide, without = by_hand(guide), by_hand(denoiser.unguided.expand(2, 3))
    torch.testing.assert_close(denoiser(z, t, guide), with_guide)
    torch.testing.assert_close(denoiser(z, t), without)
    torch.testing.assert_close(denoiser.guided(z, t, guide, 0.0), with_guide)
    torch.testing.assert_close(denoiser.guided(z, t, guide, 1.5), 2.5 * with_guide - 1.5 * without)


SCHEDULES = ["linear", "exp", "cosine", "sqrt", LinearNoise(0.1, 0.1, 0.9)]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("total", "count"), [(6, None), (6, 4), (6, 1), (1, None), (200, 7)])
def test_ddim_with_a_perfect_network_walks_back_along_the_forward_process(schedule, total, count) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)
    e, noise = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    diffusion = ForwardDiffusion(schedule, total).double()
    seen = []

    def predict(x: Tensor, t: Tensor) -> Tensor:
        seen.append(int(t[0]))
        torch.testing.assert_close(x, diffusion(e, noise, t), rtol=1e-5, atol=1e-5)
        return e

    start = diffusion(e, noise, torch.full((3,), total))
    torch.testing.assert_close(reverse_process(predict, start, diffusion, count=count, sampler="ddim"), e)
    assert len(seen) == (total if count is None else count)
    assert seen[0] == total
    assert seen == sorted(set(seen), reverse=True)


@pytest.mark.parametrize("schedule", ["exp", LinearNoise(0.1, 0.1, 0.9)])
def test_posterior_mean_by_hand(schedule) -> None:  # type: ignore[no-untyped-def]
    """Three steps of DDPM eq. 7, written with betas as there, for a network that halves its input."""
    levels = [1.0, *alpha_bar(schedule, 3).tolist()]
    x = 2.0
    for t in (3, 2, 1):
        alpha = levels[t] / levels[t - 1]
        clean = 0.5 * x
        of_clean = math.sqrt(levels[t - 1]) * (1 - alpha) / (1 - levels[t])
        of_noised = math.sqrt(alpha) * (1 - levels[t - 1]) / (1 - levels[t])
        x = of_clean * clean + of_noised * x
    got = reverse_process(lambda z, t: 0.5 * z, torch.full((2, 2), 2.0), ForwardDiffusion(schedule, 3))
    torch.testing.assert_close(got, torch.full((2, 2), x))


@pytest.mark.parametrize("count", [None, 3])
def test_ddpm_samples_the_forward_process_backwards(count: int | None) -> None:
    """With a perfect network every x_s has the forward process's mean and variance given e, at any steps visited."""
    diffusion, e = ForwardDiffusion("exp", 12), torch.full((40_000, 1), 1.5)
    generator = torch.Generator().manual_seed(0)
    start = diffusion(e, torch.randn(e.shape, generator=generator), torch.full((len(e),), 12))

    def predict(x: Tensor, t: Tensor) -> Tensor:
        level = diffusion.alpha_bar[t[0] - 1].item()
        assert x.mean().item() == pytest.approx(1.5 * math.sqrt(level), abs=0.03)
        assert x.var().item() == pytest.approx(1 - level, rel=0.05)
        return e

    end = reverse_process(predict, start, diffusion, count=count, sampler="ddpm", generator=generator)
    torch.testing.assert_close(end, e)


def test_gradient_flows_through_the_reverse_process() -> None:
    diffusion = ForwardDiffusion(LinearNoise(0.1, 0.1, 0.9), 3).double()
    weight = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x, w: reverse_process(lambda z, t: torch.tanh(z @ w), x, diffusion), (x, weight))


def test_the_reverse_process_checks_its_arguments() -> None:
    diffusion, x = ForwardDiffusion("exp", 3), torch.zeros(1, 2)
    for count in (0, 4):
        with pytest.raises(ValueError, match=f"of 3 steps, {count} cannot"):
            reverse_process(lambda z, t: z, x, diffusion, count=count)
    with pytest.raises(ValueError, match="sampler must be"):
        reverse_process(lambda z, t: z, x, diffusion, sampler="euler")  # type: ignore[arg-type]
