"""Noise schedules and the forward process of the diffusion, and the network that undoes it in one step."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Schedule = Literal["linear", "exp", "cosine", "sqrt"]


def alpha_bar(schedule: Schedule, steps: int) -> Tensor:
    r"""Cumulative signal level :math:`\bar\alpha_t = \prod_{s=1}^{t} \alpha_s` of a noise schedule (InfoDCL eq. 9).

    With :math:`\beta_t = 1 - \alpha_t` and :math:`t = 1 \dots T`:

    - ``linear``: :math:`\beta_t` rises evenly from :math:`0.1/T` to :math:`20/T` (DDPM's range at any T);
    - ``exp``: :math:`\beta_t = 1 - \exp(-\tfrac{b_0}{T} - \tfrac{(2t-1)(b_1-b_0)}{2T^2})`, :math:`b_0 = 0.1`,
      :math:`b_1 = 10` (the variance-preserving SDE, sampled at T points);
    - ``cosine``: :math:`\bar\alpha_t = f(t)/f(0)`, :math:`f(t) = \cos^2(\tfrac{t/T + 0.008}{1.008}\tfrac{\pi}{2})`;
    - ``sqrt``: :math:`\bar\alpha_t = 1 - \sqrt{t/T + 10^{-4}}`.

    Every :math:`\beta_t` is at most 0.999, so :math:`\bar\alpha_t` stays positive.

    Args:
        schedule: name of the schedule.
        steps: T, at least 1.

    Returns:
        :math:`\bar\alpha_1 \dots \bar\alpha_T` as float64 ``[T]``, falling strictly within (0, 1).

    Raises:
        ValueError: for an unknown schedule or ``steps < 1``.
    """
    if steps < 1:
        raise ValueError(f"a diffusion needs at least one step, not {steps}")
    t = torch.arange(steps + 1, dtype=torch.float64)
    if schedule == "linear":
        beta = torch.linspace(0.1 / steps, 20.0 / steps, steps, dtype=torch.float64)
    elif schedule == "exp":
        beta = 1 - torch.exp(-0.1 / steps - (2 * t[1:] - 1) * (10.0 - 0.1) / (2 * steps**2))
    elif schedule == "cosine":
        level = torch.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = 1 - level[1:] / level[:-1]
    elif schedule == "sqrt":
        level = 1 - torch.sqrt(t / steps + 1e-4)
        level[0] = 1.0
        beta = 1 - level[1:].clamp(min=0) / level[:-1].clamp(min=1e-12)
    else:
        raise ValueError(f"schedule must be 'linear', 'exp', 'cosine' or 'sqrt', not {schedule!r}")
    return torch.cumprod(1 - beta.clamp(max=0.999), 0)


class ForwardDiffusion(nn.Module):
    r"""The forward process :math:`z_t = \sqrt{\bar\alpha_t}\, e + \sqrt{1-\bar\alpha_t}\, \epsilon` (InfoDCL eq. 9).

    Args:
        schedule: see :func:`alpha_bar`.
        steps: T.
    """

    alpha_bar: Tensor

    def __init__(self, schedule: Schedule = "exp", steps: int = 200) -> None:
        super().__init__()
        self.schedule, self.steps = schedule, steps
        self.register_buffer("alpha_bar", alpha_bar(schedule, steps).float(), persistent=False)

    def sample_steps(self, size: int, generator: torch.Generator | None = None) -> Tensor:
        """Uniform steps ``[size]`` in ``1..T``, int64."""
        return torch.randint(1, self.steps + 1, (size,), generator=generator, device=self.alpha_bar.device)

    def forward(self, e: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noised embeddings ``[B, d]`` from ``e`` and ``noise`` ``[B, d]`` at steps ``t`` ``[B]`` in ``1..T``."""
        level = self.alpha_bar[t - 1].unsqueeze(-1).to(e.dtype)
        return level.sqrt() * e + (1 - level).sqrt() * noise

    def extra_repr(self) -> str:
        return f"schedule={self.schedule!r}, steps={self.steps}"


def time_encoding(t: Tensor, dim: int) -> Tensor:
    r"""Sinusoidal encoding ``[B, dim]`` of steps ``t`` ``[B]``: cosines and sines of :math:`t\,10000^{-2k/dim}`."""
    half = dim // 2
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / max(half, 1))
    angle = t.unsqueeze(-1).float() * frequency
    encoding = torch.cat([angle.cos(), angle.sin()], dim=-1)
    return torch.nn.functional.pad(encoding, (0, dim - 2 * half))


class Denoiser(nn.Module):
    r"""Predicts the clean embedding directly, :math:`\hat e = \mu_\theta(z_t, t)` (InfoDCL eq. 10).

    Two linear layers with SiLU between them on :math:`[z_t \,\|\, \text{time encoding of } t]`.

    Args:
        dim: embedding size d.
        hidden: width of the hidden layer; ``2 * dim`` by default.
    """

    def __init__(self, dim: int, hidden: int | None = None) -> None:
        super().__init__()
        self.dim = dim
        hidden = 2 * dim if hidden is None else hidden
        self.hidden = nn.Linear(2 * dim, hidden)
        self.output = nn.Linear(hidden, dim)

    def reset_parameters(self) -> None:
        self.hidden.reset_parameters()
        self.output.reset_parameters()

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Denoised embeddings ``[B, d]`` from ``z`` ``[B, d]`` at steps ``t`` ``[B]``."""
        encoding = time_encoding(t, self.dim).to(z.dtype)
        return self.output(torch.nn.functional.silu(self.hidden(torch.cat([z, encoding], dim=-1))))
