"""GiffCF: diffusion of users' rows of interactions by smoothing over the item-item graph, instead of by noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError, OptionError
from ..graph.graph import Graph, normalized_interactions
from ..nn.diffusion import time_encoding
from .base import Batch, Model
from .options import ModelOptions, check
from .recipe import Recipe, Sizes, Space, ranks_rows
from .scoring import Scorer, UserRows, chunk_scorer, double_copy


@dataclass(frozen=True)
class GiffCFOptions(ModelOptions):
    r"""Options of :class:`GiffCF`. The defaults are the authors', but for ``dim``
    (theirs is 200 on ML-1M), ``dropout`` (theirs is 0.5), for which validation on sparse data prefers these, and
    ``time_dim``.

    Args:
        dim: size of the items' embeddings in the denoiser, d.
        steps: T.
        smoothing_strength: alpha, how far step T smooths.
        noise_scale: :math:`\sigma`, standard deviation of the noise of every step; 0 in all settings of the authors.
        dropout: share of the history that the denoiser does not see in training.
        time_dim: size of the encoding of the step.
    """

    dim: int = 64
    steps: int = 3
    smoothing_strength: float = 1.5
    noise_scale: float = 0.0
    dropout: float = 0.8
    time_dim: int = 16

    def __post_init__(self) -> None:
        check(self, at_least_1=["dim", "steps", "time_dim"], shares=["dropout"])
        if self.dropout == 1:
            raise OptionError("dropout is a share below 1: nothing would be left")


class GiffCF(Model):
    r"""GiffCF (Zhu et al., SIGIR 2024): rows of interactions :math:`x \in \{0, 1\}^N` are smoothed and sharpened again.

    .. math::
        z_t = F_t x + \sigma \epsilon, \qquad F_t = I + \frac{\alpha t}{T} (A - I), \qquad
        A = \tilde R^\top \tilde R, \quad \tilde R = D_u^{-1/2} R D_i^{-1/2}

    The denoiser sees :math:`z_t`, the history c, from which training leaves out a share, its smoothed form Ac, and t:

    .. math::
        h = \operatorname{MLP}\Big(\frac{z_t E}{\sqrt{|c|}} \,\Big\|\, \frac{c E}{\sqrt{|c|}} \,\Big\|\, t\Big), \qquad
        \hat x = k_1(t)\, h E^\top + k_2(t)\, c + k_3(t)\, A c, \qquad
        \mathcal L = \operatorname{mean}_u \|x_u - \hat x_u\|^2

    Inference starts at :math:`z_T = F_T x` with c = x, and takes T steps of the deterministic sampler,
    :math:`z_{t-1} = F_{t-1} \hat x + (z_t - F_t \hat x) = z_t + \tfrac{\alpha}{T} (\hat x - A \hat x)`; the last
    :math:`\hat x` ranks. For a noise scale of 0 this is the limit of small noise.

    Where it differs from the authors' program: the last mixing of the three signals is linear with factors that depend
    on the step, where theirs is a small network for every entry; histories are scaled by the root of
    their length; the ideal low-pass part of A, of weight 0 in their settings, is left out. A is applied as two sparse
    products; memory grows with B N, never N x N. Each user is diffused once an epoch, in the batch with the first of
    their items, as in :class:`~infodcl_geo.models.diffrec.DiffRec`.

    Args:
        interactions: training pairs, int64 ``[2, E]``.
        num_users, num_items: M and N.
        options: see :class:`GiffCFOptions`.
    """

    graph: Graph

    def __init__(
        self, interactions: Tensor, num_users: int, num_items: int, *, options: GiffCFOptions = GiffCFOptions()
    ) -> None:
        super().__init__()
        self.options = options
        self.rows = UserRows(interactions, num_users, num_items)
        self.graph = normalized_interactions(interactions, num_users, num_items)
        self.items = nn.Parameter(torch.empty(num_items, options.dim))
        self.time = nn.Linear(options.time_dim, options.time_dim)
        self.hidden = nn.Linear(2 * options.dim + options.time_dim, options.dim)
        self.output = nn.Linear(options.dim, options.dim)
        self.mixing = nn.Linear(options.time_dim, 3)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial weights, in place."""
        for weight in (self.items, self.time.weight, self.hidden.weight, self.output.weight):
            nn.init.xavier_uniform_(weight)
        for layer in (self.time, self.hidden, self.output):
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.mixing.weight)
        with torch.no_grad():
            self.mixing.bias.copy_(torch.tensor([1.0, 0.0, 1.0]))

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.rows, self.graph = self.rows.to(self.items.device), self.graph.to(self.items.device)
        return self

    def smoothed(self, x: Tensor) -> Tensor:
        """:math:`A x` of rows ``[B, N]``."""
        return (self.graph.t() @ (self.graph @ x.T.contiguous())).T

    def forward(self, z: Tensor, history: Tensor, smooth: Tensor, t: Tensor) -> Tensor:
        """Predicted rows ``[B, N]``.

        Args:
            z, history, smooth: :math:`z_t`, c and A c ``[B, N]``.
            t: steps ``[B]`` in ``1..T``.
        """
        scale = history.sum(1, keepdim=True).clamp(min=1).rsqrt()
        time = F.silu(self.time(time_encoding(t, self.options.time_dim).to(z.dtype)))
        inputs = torch.cat([scale * (z @ self.items), scale * (history @ self.items), time], dim=1)
        h = self.output(F.silu(self.hidden(inputs)))
        latent, own, near = self.mixing(time).split(1, dim=1)
        return (latent * h) @ self.items.T + own * history + near * smooth

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        options = self.options
        first = self.rows.items[self.rows.end[batch.users] - self.rows.degree[batch.users]]
        x = self.rows.dense(batch.users[batch.positives == first])
        t = torch.randint(1, options.steps + 1, (x.size(0),), generator=generator, device=x.device)
        history = x
        if options.dropout:
            history = x * (torch.rand(x.shape, generator=generator, device=x.device) >= options.dropout)
        z = torch.lerp(x, self.smoothed(x), (options.smoothing_strength / options.steps * t).unsqueeze(1))
        if options.noise_scale:
            z = z + options.noise_scale * torch.randn(x.shape, generator=generator, device=x.device)
        found = self(z, history, self.smoothed(history), t)
        return {"recon": (x - found).square().sum() / max(x.size(0), 1)}

    @torch.no_grad()
    def predict(self, users: Tensor) -> Tensor:
        """Rows ``[B, N]`` at the end of the sharpening of ``users`` ``[B]``."""
        options = self.options
        x = self.rows.dense(users, self.items.dtype)
        smooth = self.smoothed(x)
        z = torch.lerp(x, smooth, options.smoothing_strength)
        found = x
        for t in range(options.steps, 0, -1):
            found = self(z, x, smooth, torch.full((x.size(0),), t, device=x.device))
            if t > 1:
                z = z + options.smoothing_strength / options.steps * (found - self.smoothed(found))
        return found

    def scorer(self) -> Scorer:
        model = double_copy(self, self.rows, self.graph)
        return chunk_scorer(model.predict, lambda scores, window: scores[:, window])


_MOST_STEPS = 100_000
"""Steps beyond which options are not restored."""


def _restored(state: Mapping[str, Tensor], options: GiffCFOptions, train: Tensor, sizes: Sizes) -> GiffCF:
    # Before anything of such sizes is made: the tensors are there, the options may say anything.
    longest = max(max(value.shape, default=0) for value in state.values())
    if max(options.dim, options.time_dim) > longest or options.steps > _MOST_STEPS:
        raise CheckpointError("the options of giffcf do not fit its weights")
    model = GiffCF(train, *sizes, options=options).to(train.device)
    model.load_state_dict(dict(state))
    return model


def _search(space: Space) -> None:
    space.number("lr", 2e-4, 5e-3)
    space.whole("dim", 32, 400, log=True)
    space.number("smoothing_strength", 0.1, 2.0, log=False)
    space.number("dropout", 0.1, 0.8, log=False)


recipe = Recipe(
    name="giffcf",
    summary="diffusion of each user's row of interactions by smoothing over items",
    paper="Zhu et al., GiffCF, SIGIR 2024",
    options=GiffCFOptions,
    build=lambda inputs, options: GiffCF(inputs.train, *inputs.sizes, options=options),
    training={"lr": 0.001},
    search=_search,
    **ranks_rows(_restored),
)
