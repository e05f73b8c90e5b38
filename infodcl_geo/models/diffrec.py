"""DiffRec: diffusion of each user's row of interactions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, OptionError
from ..nn.diffusion import ForwardDiffusion, LinearNoise, alpha_bar, reverse_process, time_encoding
from .base import Batch, Model
from .options import ModelOptions, check
from .recipe import Recipe, Sizes, Space, ranks_rows
from .scoring import Scorer, UserRows, chunk_scorer, double_copy

_DECAY = 0.9
_FLOOR = 1e-3


@dataclass(frozen=True)
class DiffRecOptions(ModelOptions):
    """Options of :class:`DiffRec`.

    Args:
        hidden: width of the denoiser's hidden layer.
        steps: T, steps of the forward and of the reverse process.
        noise_scale: s, which scales the noise of all steps.
        noise_min: share of s that is the noise variance of step 1.
        noise_max: share of s that is the noise variance of step T.
        time_dim: size of the encoding of the step.
        dropout: share of the denoiser's inputs that training sets to zero.
        reweight: weigh the steps by their signal-to-noise ratios, as the bound of the likelihood does; False weighs
            them alike.
        importance: draw the steps with large losses more often, instead of all alike.
    """

    hidden: int = 200
    steps: int = 5
    noise_scale: float = 0.01
    noise_min: float = 0.05
    noise_max: float = 0.5
    time_dim: int = 10
    dropout: float = 0.5
    reweight: bool = True
    importance: bool = True

    def __post_init__(self) -> None:
        check(self, at_least_1=["hidden", "steps", "time_dim"], shares=["dropout"])
        if self.dropout == 1:
            raise OptionError("dropout is a share below 1: nothing would be left")
        LinearNoise(self.noise_scale, self.noise_min, self.noise_max)


class DiffRec(Model):
    r"""DiffRec (Wang et al., SIGIR 2023): a diffusion model of users' interactions.

    The row :math:`x_0 \in \{0, 1\}^N` of a user is noised and an MLP predicts it from what is left:

    .. math::
        x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon

    with the levels of :class:`~infodcl_geo.nn.diffusion.LinearNoise`, trained by

    .. math::
        \mathcal L_t = w_t \|x_0 - \hat x_\theta(x_t, t)\|_2^2, \quad w_1 = 1, \quad
        w_t = \tfrac12 \left(\frac{\bar\alpha_{t-1}}{1-\bar\alpha_{t-1}} - \frac{\bar\alpha_t}{1-\bar\alpha_t}\right)

    (the bound of the likelihood; here divided by the mean of :math:`w`, to which Adam is blind). Inference starts at
    :math:`\hat x_T = x_0` (T' = 0 steps of corruption) and takes T reverse steps along the means of the posterior
    (:func:`~infodcl_geo.nn.diffusion.reverse_process`), without noise.

    A batch of the training loop holds interactions, a step of DiffRec users: those whose first item (of the smallest
    number) is in the batch with them. So each user is diffused once an epoch, as in the authors' program, where all
    users of the batch would come up again with each of their items. A batch may have no such user; its loss is zero.

    With ``importance`` the step t is drawn with probability :math:`p_t \propto \sqrt{E[\mathcal L_t^2]}` and the loss
    divided by :math:`T p_t`; the expectation is a moving average over batches (the authors': over the
    last ten rows), until all steps were seen all are as likely.

    Args:
        interactions: training pairs, int64 ``[2, E]``.
        num_users, num_items: M and N.
        options: see :class:`DiffRecOptions`.
    """

    step_weight: Tensor
    squared_loss: Tensor

    def __init__(
        self, interactions: Tensor, num_users: int, num_items: int, *, options: DiffRecOptions = DiffRecOptions()
    ) -> None:
        super().__init__()
        self.options = options
        self.rows = UserRows(interactions, num_users, num_items)
        schedule = LinearNoise(options.noise_scale, options.noise_min, options.noise_max)
        self.diffusion = ForwardDiffusion(schedule, options.steps)
        weight = torch.ones(options.steps, dtype=torch.float64)
        if options.reweight:
            level = alpha_bar(schedule, options.steps)
            ratio = level / (1 - level)
            weight[1:] = 0.5 * (ratio[:-1] - ratio[1:])
            weight /= weight.mean()
        self.register_buffer("step_weight", weight.float(), persistent=False)
        self.register_buffer("squared_loss", torch.zeros(options.steps), persistent=False)
        self.time = nn.Linear(options.time_dim, options.time_dim)
        self.encoder = nn.Linear(num_items + options.time_dim, options.hidden)
        self.decoder = nn.Linear(options.hidden, num_items)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights, in place."""
        for layer in (self.time, self.encoder, self.decoder):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.rows = self.rows.to(self.step_weight.device)
        return self

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predicted rows ``[B, N]`` from noised ones ``[B, N]`` at steps ``t`` ``[B]`` in ``1..T``."""
        encoding = self.time(time_encoding(t, self.options.time_dim).to(x.dtype))
        return self.decoder(torch.tanh(self.encoder(torch.cat([x, encoding], dim=1))))

    def denoised(self, z: Tensor, t: Tensor, history: Tensor) -> Tensor:
        """Predicted rows ``[B, N]`` from noised ones ``z``; the users' own rows ``history`` may guide a subclass."""
        return self(z, t)

    def step_probability(self) -> Tensor:
        """Probabilities ``[T]`` with which the steps are drawn."""
        uniform = torch.full_like(self.squared_loss, 1 / self.options.steps)
        if not self.options.importance:
            return uniform
        share = self.squared_loss.sqrt()
        share = (1 - _FLOOR) * share / share.sum() + _FLOOR * uniform
        return torch.where((self.squared_loss > 0).all(), share, uniform)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        first = self.rows.items[self.rows.end[batch.users] - self.rows.degree[batch.users]]
        x = self.rows.dense(batch.users[batch.positives == first])
        probability = self.step_probability()
        count = x.size(0)
        k = torch.zeros(0, dtype=torch.int64, device=x.device)
        if count:
            k = torch.multinomial(probability, count, replacement=True, generator=generator)
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        noised = self.diffusion(x, noise, k + 1)
        if self.options.dropout:
            kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.options.dropout
            noised = noised * kept / (1 - self.options.dropout)
        losses = self.step_weight[k] * (x - self.denoised(noised, k + 1, x)).square().sum(1)
        if self.options.importance:
            self._remember(k, losses.detach())
            losses = losses / (self.options.steps * probability[k])
        return {"recon": losses.sum() / max(count, 1)}

    def _remember(self, k: Tensor, losses: Tensor) -> None:
        """Move the mean squared loss of the steps ``k`` that were drawn towards that of the batch."""
        sums = torch.zeros_like(self.squared_loss).index_add_(0, k, losses.square())
        counts = torch.bincount(k, minlength=self.options.steps)
        mean = sums / counts.clamp(min=1)
        moved = torch.where(self.squared_loss > 0, _DECAY * self.squared_loss + (1 - _DECAY) * mean, mean)
        self.squared_loss = torch.where(counts > 0, moved, self.squared_loss)

    @torch.no_grad()
    def predict(self, users: Tensor) -> Tensor:
        """Rows ``[B, N]`` at the end of the reverse process of ``users`` ``[B]``."""
        x = self.rows.dense(users, self.encoder.weight.dtype)
        return reverse_process(lambda z, t: self.denoised(z, t, x), x, self.diffusion)

    def shared(self) -> list[Any]:
        """What is neither weights nor changed, and so is not copied for the scorer."""
        return [self.rows]

    def scorer(self) -> Scorer:
        model = double_copy(self, *self.shared())
        return chunk_scorer(model.predict, lambda scores, window: scores[:, window])


_MOST_STEPS = 100_000
"""Steps beyond which options are not restored."""


def check_fit(state: Mapping[str, Tensor], options: DiffRecOptions, sizes: Sizes, name: str) -> None:
    """Refuse options that are not those of the weights, before anything of the sizes that they claim is made."""
    inputs, hidden = state["encoder.weight"].shape[1], state["encoder.weight"].shape[0]
    if (inputs, hidden) != (sizes[1] + options.time_dim, options.hidden) or options.steps > _MOST_STEPS:
        raise CheckpointError(f"the options of {name} do not fit its weights")


def _restored(state: Mapping[str, Tensor], options: DiffRecOptions, train: Tensor, sizes: Sizes) -> DiffRec:
    check_fit(state, options, sizes, "diffrec")
    model = DiffRec(train, *sizes, options=options)
    model.load_state_dict(dict(state))
    return model


def _search(space: Space) -> None:
    space.number("lr", 2e-4, 5e-3)
    space.whole("hidden", 50, 800, log=True)
    space.number("dropout", 0.1, 0.8, log=False)
    space.number("noise_scale", 1e-4, 0.1)


recipe = Recipe(
    name="diffrec",
    summary="diffusion of each user's row of interactions",
    paper="Wang et al., DiffRec, SIGIR 2023",
    options=DiffRecOptions,
    build=lambda inputs, options: DiffRec(inputs.train, *inputs.sizes, options=options),
    training={"lr": 0.001},
    search=_search,
    **ranks_rows(_restored),
)
