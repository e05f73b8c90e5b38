"""DDRM: denoising of the users' and items' embeddings of a backbone, each guided by the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graph.graph import Graph, csr_parts, sparse_matrix
from ..nn.diffusion import Denoiser, ForwardDiffusion, LinearNoise, reverse_process
from ..nn.losses import bpr_loss, embedding_penalty, reconstruction_loss
from .base import Batch, EmbeddingModel
from .options import EmbeddingOptions, Init, check
from .recipe import Recipe, Space, search_embeddings

_CHUNK = 8192


@dataclass(frozen=True)
class DDRMOptions(EmbeddingOptions):
    """Options of :class:`DDRM`.

    Args:
        steps: T, steps of the diffusion.
        noise_scale: s, which scales the noise of all steps.
        noise_min, noise_max: shares of s that are the noise variances of steps 1 and T.
        reconstruction: alpha, weight of the reconstruction; BPR has the rest.
        time_dim: size of the encoding of the step.
    """

    num_layers: int | None = 2
    l2: float = 0.001
    init: Init = "pretrained"
    init_std: float = 0.2
    steps: int = 2
    noise_scale: float = 5e-3
    noise_min: float = 0.1
    noise_max: float = 1.0
    reconstruction: float = 0.1
    time_dim: int = 16

    def __post_init__(self) -> None:
        check(self, at_least_1=["dim", "steps", "time_dim"], shares=["reconstruction"])
        LinearNoise(self.noise_scale, self.noise_min, self.noise_max)


class DDRM(EmbeddingModel):
    r"""DDRM (Zhao et al., SIGIR 2024): diffusion of a backbone's embeddings.

    With u and i the propagated embeddings of a pair, noised to a random step t,

    .. math::
        \hat u = f(u_t, i, t), \quad \hat\imath = g(i_t, u, t), \qquad
        \mathcal L = \alpha (\|u - \hat u\|^2 + \|i - \hat\imath\|^2)
            + (1 - \alpha) \mathcal L_{bpr}(\hat u, \hat\imath, j) + \lambda \mathcal L_{reg}

    (j the negative's embedding as it is). A user is ranked by what the reverse process guided by u makes of the mean of
    the user's items, :math:`\bar\imath_u \to \hat\imath_u`, with scores :math:`\hat\imath_u^\top j`.

    The backbone is LightGCN from the pretrained vectors, which goes on training, where the authors load trained
    weights of a backbone. The networks predict what is to be added to their input and start from zero, so that the
    first epoch ranks by the mean of the history. Users without one have zeros.

    Args:
        graph, num_users, num_items, changes: as in :class:`~infodcl_geo.models.base.EmbeddingModel`.
        options: see :class:`DDRMOptions`.
    """

    Options = DDRMOptions

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, *, options: DDRMOptions | None = None, **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)
        o = self.options
        self.diffusion = ForwardDiffusion(LinearNoise(o.noise_scale, o.noise_min, o.noise_max), o.steps)
        self.of_users = Denoiser(self.dim, time_dim=o.time_dim, guide_dim=self.dim)
        self.of_items = Denoiser(self.dim, time_dim=o.time_dim, guide_dim=self.dim)
        for network in (self.of_users, self.of_items):
            torch.nn.init.zeros_(network.output.weight)
            torch.nn.init.zeros_(network.output.bias)
        pointers, col, _, _ = csr_parts(graph.matrix)
        degree = pointers.diff()[:num_users]
        users = torch.repeat_interleave(torch.arange(num_users, device=col.device), degree)
        items = col[: users.numel()] - num_users
        self.mean = Graph(sparse_matrix(users, items, 1 / degree[users].float(), (num_users, num_items)))

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.mean = self.mean.to(self.user_embedding.weight.device)
        return self

    @staticmethod
    def denoised(network: Denoiser, z: Tensor, t: Tensor, guide: Tensor) -> Tensor:
        """What a network makes of noised embeddings ``[B, d]`` at steps ``t`` ``[B]``, guided by ``[B, d]``."""
        return z + network(z, t, guide)

    def _denoised_item(self, guide: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return self.denoised(self.of_items, z, t, guide)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        vectors, others = self.propagated()
        u, i = F.embedding(batch.users, vectors), F.embedding(batch.positives, others)
        j = F.embedding(batch.negatives, others)
        t = self.diffusion.sample_steps(u.size(0), generator)
        found = []
        for network, own, guide in ((self.of_users, u, i), (self.of_items, i, u)):
            noise = torch.randn(own.shape, generator=generator, device=own.device)
            found.append(self.denoised(network, self.diffusion(own, noise, t), t, guide))
        share = self.options.reconstruction
        users, items = self.user_embedding, self.item_embedding
        penalty = embedding_penalty(users(batch.users), items(batch.positives), items(batch.negatives))
        return {
            "bpr": (1 - share) * bpr_loss(found[0], found[1], j),
            "recon": share * (reconstruction_loss(u, found[0]) + reconstruction_loss(i, found[1])),
            "reg": self.l2 * penalty,
        }

    @torch.no_grad()
    def embeddings(self) -> tuple[Tensor, Tensor]:
        users, items = self.propagated()
        history = self.mean @ items
        found = []
        for start, guide in zip(history.split(_CHUNK), users.split(_CHUNK), strict=True):
            predict = partial(self._denoised_item, guide)
            found.append(reverse_process(predict, start, self.diffusion))
        return torch.cat(found), items


def _search(space: Space) -> None:
    search_embeddings(space)
    space.number("noise_scale", 1e-4, 0.3)
    space.number("reconstruction", 0.01, 0.9, log=False)


recipe = Recipe(
    name="ddrm",
    summary="denoising of the embeddings of users and items, each guided by the other",
    paper="Zhao et al., DDRM, SIGIR 2024",
    options=DDRMOptions,
    build=lambda inputs, options: DDRM(inputs.graph, *inputs.sizes, options=options),
    training={"lr": 0.0005},
    starts={"normal": {"init_std": 0.03, "lr": 0.005}},
    search=_search,
)
