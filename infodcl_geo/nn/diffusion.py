"""Noise schedules, the forward process of the diffusion, the network that undoes it, and the reverse process."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Schedule = Literal["linear", "exp", "cosine", "sqrt"]
Sampler = Literal["mean", "ddpm", "ddim"]


@dataclass(frozen=True)
class LinearNoise:
    r"""The schedule whose noise rises evenly between two small levels (DiffRec eq. 8; DiffCL section 4.2.3):

    .. math::
        1 - \bar\alpha_t = s \left(\gamma_{min} + \tfrac{t-1}{T-1} (\gamma_{max} - \gamma_{min})\right)

    Args:
        scale: s, which scales the noise of all steps.
        low: :math:`\gamma_{min}`, share of s that is the noise variance of step 1.
        high: :math:`\gamma_{max}`, share of s that is the noise variance of step T.

    Raises:
        ValueError: unless ``0 < scale * low <= scale * high < 1``.
    """

    scale: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.scale * self.low <= self.scale * self.high < 1:
            raise ValueError(
                f"scale times low and times high must ascend between 0 and 1, not {self.scale} times {self.low} "
                f"and {self.high}"
            )


def alpha_bar(schedule: Schedule | LinearNoise, steps: int) -> Tensor:
    r"""Cumulative signal level :math:`\bar\alpha_t = \prod_{s=1}^{t} \alpha_s` of a noise schedule (InfoDCL eq. 9).

    With :math:`\beta_t = 1 - \alpha_t` and :math:`t = 1 \dots T`:

    - ``linear``: :math:`\beta_t` rises evenly from :math:`0.1/T` to :math:`20/T` (DDPM's range at any T);
    - ``exp``: :math:`\beta_t = 1 - \exp(-\tfrac{b_0}{T} - \tfrac{(2t-1)(b_1-b_0)}{2T^2})`, :math:`b_0 = 0.1`,
      :math:`b_1 = 10` (the variance-preserving SDE, sampled at T points);
    - ``cosine``: :math:`\bar\alpha_t = f(t)/f(0)`, :math:`f(t) = \cos^2(\tfrac{t/T + 0.008}{1.008}\tfrac{\pi}{2})`;
    - ``sqrt``: :math:`\bar\alpha_t = 1 - \sqrt{t/T + 10^{-4}}`;
    - a :class:`LinearNoise`: its formula.

    Every :math:`\beta_t` is at most 0.999, so :math:`\bar\alpha_t` stays positive.

    Args:
        schedule: name of the schedule, or its noise levels.
        steps: T, at least 1.

    Returns:
        :math:`\bar\alpha_1 \dots \bar\alpha_T` as float64 ``[T]``, falling strictly within (0, 1).

    Raises:
        ValueError: for an unknown schedule or ``steps < 1``.
    """
    if steps < 1:
        raise ValueError(f"a diffusion needs at least one step, not {steps}")
    if isinstance(schedule, LinearNoise):
        return 1 - schedule.scale * torch.linspace(schedule.low, schedule.high, steps, dtype=torch.float64)
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

    def __init__(self, schedule: Schedule | LinearNoise = "exp", steps: int = 200) -> None:
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
    return F.pad(encoding, (0, dim - 2 * half))


class Denoiser(nn.Module):
    r"""Predicts the clean embedding directly, :math:`\hat e = \mu_\theta(z_t, t)` (InfoDCL eq. 10).

    Two linear layers with SiLU between them on :math:`[z_t \,\|\, \text{time encoding of } t]`, or, with a guide g, on
    :math:`[z_t \,\|\, g \,\|\, \text{time encoding of } t]` (SimDiff eq. 4).

    Args:
        dim: embedding size d.
        hidden: width of the hidden layer; ``2 * dim`` by default.
        time_dim: size of the time encoding; ``dim`` by default.
        guide_dim: size of the guide; 0 for a denoiser without one. In the place of a guide that is left out stands a
            learned vector, ``unguided``.
        steps: T, if the encodings of all steps shall be computed once; if missing they are at every call.
    """

    encodings: Tensor | None

    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        *,
        time_dim: int | None = None,
        guide_dim: int = 0,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.guide_dim = dim, guide_dim
        self.time_dim = dim if time_dim is None else time_dim
        hidden = 2 * dim if hidden is None else hidden
        table = None if steps is None else time_encoding(torch.arange(steps + 1), self.time_dim)
        self.register_buffer("encodings", table, persistent=False)
        self.hidden = nn.Linear(dim + guide_dim + self.time_dim, hidden)
        self.output = nn.Linear(hidden, dim)
        if guide_dim:
            self.unguided = nn.Parameter(torch.zeros(guide_dim))

    def reset_parameters(self) -> None:
        """Draw the initial weights, in place."""
        self.hidden.reset_parameters()
        self.output.reset_parameters()
        if self.guide_dim:
            nn.init.zeros_(self.unguided)

    def forward(self, z: Tensor, t: Tensor, guide: Tensor | None = None) -> Tensor:
        """Denoised embeddings ``[B, d]`` from ``z`` ``[B, d]`` at steps ``t`` ``[B]``, guides ``[B, guide_dim]``."""
        encoding = time_encoding(t, self.time_dim) if self.encodings is None else F.embedding(t, self.encodings)
        encoding = encoding.to(z.dtype)
        inputs = [z, encoding]
        if self.guide_dim:
            inputs.insert(1, self.unguided.expand(z.size(0), -1) if guide is None else guide)
        return self.output(F.silu(self.hidden(torch.cat(inputs, dim=-1))))

    def guided(self, z: Tensor, t: Tensor, guide: Tensor, weight: float) -> Tensor:
        r"""Classifier-free guidance, :math:`(1 + w)\, \mu_\theta(z, g, t) - w\, \mu_\theta(z, t)`.

        Ho and Salimans, 2021, eq. 6. The second term is the denoiser without the guide, which it knows if the guide was
        left out now and then in training; with weight 0 it is not computed.
        """
        guided = self(z, t, guide)
        return guided if weight == 0 else (1 + weight) * guided - weight * self(z, t)


def reverse_process(
    predict: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    diffusion: ForwardDiffusion,
    *,
    count: int | None = None,
    sampler: Sampler = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""From :math:`x_T` back to :math:`x_0`, step by step, with a network that predicts the clean embedding.

    From step t to the next visited step s < t, with :math:`\hat e = \mu_\theta(x_t, t)` and
    :math:`\alpha = \bar\alpha_t / \bar\alpha_s`:

    - ``mean``: the mean of the posterior :math:`q(x_s \mid x_t, \hat e)` (DDPM eq. 7; SimDiff eq. 5),

      .. math::
          x_s = \frac{\sqrt{\bar\alpha_s}\,(1-\alpha)}{1-\bar\alpha_t}\, \hat e
              + \frac{\sqrt{\alpha}\,(1-\bar\alpha_s)}{1-\bar\alpha_t}\, x_t

    - ``ddpm``: a sample of it, with its variance :math:`\frac{1-\bar\alpha_s}{1-\bar\alpha_t} (1-\alpha)`;
    - ``ddim``: what the noise in :math:`x_t` leaves at step s (DDIM eq. 12 with eta = 0),

      .. math::
          x_s = \sqrt{\bar\alpha_s}\, \hat e
              + \sqrt{1-\bar\alpha_s}\, \frac{x_t - \sqrt{\bar\alpha_t}\, \hat e}{\sqrt{1-\bar\alpha_t}}

    With :math:`\bar\alpha_0 = 1` the last step returns :math:`\hat e` itself. Differentiable.

    Args:
        predict: clean embeddings ``[B, d]`` from noised ones ``[B, d]`` and their steps ``[B]``.
        x: :math:`x_T` ``[B, d]``.
        diffusion: the forward process that is undone.
        count: number of steps visited, evenly spaced from T; all T by default.
        sampler: see above.
        generator: of the noise of ``ddpm``.

    Raises:
        ValueError: for an unknown sampler, or a ``count`` outside ``1..T``.
    """
    total = diffusion.steps
    count = total if count is None else count
    if not 1 <= count <= total:
        raise ValueError(f"of {total} steps, {count} cannot be visited")
    if sampler not in ("mean", "ddpm", "ddim"):
        raise ValueError(f"sampler must be 'mean', 'ddpm' or 'ddim', not {sampler!r}")
    # In double precision: where the noise is small, its differences are smaller still.
    levels = [1.0, *alpha_bar(diffusion.schedule, total).tolist()]
    visited = [total * k // count for k in range(count, -1, -1)]
    for t, s in itertools.pairwise(visited):
        before, after = levels[s], levels[t]
        if sampler == "ddim":
            keep = math.sqrt((1 - before) / (1 - after))
            take = math.sqrt(before) - math.sqrt(after) * keep
        else:
            keep = math.sqrt(after / before) * (1 - before) / (1 - after)
            take = (before - after) / math.sqrt(before) / (1 - after)
        clean = predict(x, torch.full((x.size(0),), t, device=x.device))
        x = take * clean + keep * x
        if sampler == "ddpm" and s:
            noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            x = x + math.sqrt((1 - before) / (1 - after) * (1 - after / before)) * noise
    return x
