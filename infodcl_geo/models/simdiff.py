"""SimDiff: item embeddings generated from modal signals instead of noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import OptionError
from ..graph.graph import Graph, propagate
from ..nn.diffusion import Denoiser, ForwardDiffusion, Sampler, Schedule, reverse_process
from ..nn.losses import balance_loss, embedding_penalty, reconstruction_loss
from ..nn.modal import ModalEncoder
from .base import Batch
from .objective import ChannelRankingOptions
from .options import check
from .ranked import RankingModel, Rows
from .recipe import Inputs, Recipe, Space, search_embeddings

_CHUNK = 8192


@dataclass(frozen=True)
class SimDiffOptions(ChannelRankingOptions):
    """Options of :class:`SimDiff`.

    The defaults are what validation preferred on Amazon-Office with the user channel. The paper's, found with text and
    image features, are injection 0.6 to 0.7, reconstruction 0.3, the norm of eq. 8 with weight 1, the posterior's means
    and all steps.

    Args:
        injection: psi, share of the item embedding in the latent variable; the modal signal has the rest (eq. 3).
        reconstruction: weight 1 - alpha_1 of the reconstruction loss; BPR weighs 1 minus it (eq. 10).
        collaboration: weight of the collaboration loss (1 in eq. 10); 0 is the ablation "w/o CTO".
        collaboration_kind: 'norm' as in eq. 8, or 'squared', whose gradient eq. 19 is.
        schedule: noise schedule that the reverse process undoes: 'linear', 'exp', 'cosine' or 'sqrt'.
        steps: T.
        inference_steps: steps of the reverse process, evenly spaced; 0, or more than T, visits all T.
        sampler: 'ddim' keeps the share of a signal that, unlike noise, is the same in every step; 'mean' follows the
            means of the posterior (eq. 5), 'ddpm' samples it.
        guidance: weight w of the classifier-free guidance at inference.
        time_dim: size d_t of the encoding of the step.
        unguided: share of training rows whose guide is left out, so that the denoiser can do without.
        source: the latent variable: 'both', or in the ablations 'signal' (G, .) or 'item' (I, .).
        target: what is reconstructed: 'item', or in the ablations 'both' (., I+G) or 'pretrained', vectors that stay.
        modal: False is the ablation "w/o modal": Gaussian noise instead of the signal, and no guide.
    """

    init_std: float = 0.1
    injection: float = 0.9
    reconstruction: float = 0.1
    collaboration: float = 0.01
    collaboration_kind: Literal["norm", "squared"] = "squared"
    schedule: Schedule = "exp"
    steps: int = 200
    inference_steps: int = 10
    sampler: Sampler = "ddim"
    guidance: float = 2.0
    time_dim: int = 8
    unguided: float = 0.1
    source: Literal["both", "signal", "item"] = "both"
    target: Literal["item", "both", "pretrained"] = "item"
    modal: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ["dim", "similar_items", "steps", "time_dim"]
        check(self, at_least_1=counts, shares=["injection", "reconstruction", "unguided"])
        if not self.modal and (self.source != "both" or self.target == "both"):
            raise OptionError("without modal there is no signal to be source or target")


class SimDiff(RankingModel):
    r"""SimDiff: a modal signal takes the place of the diffusion's noise.

    The features of an item become its signal :math:`\hat g_i = \mathrm{MLP}(\hat f_i)` (eq. 2; features of several
    modalities side by side), which the item embedding is mixed with (eq. 3). The mixture stands where the noise of a
    diffusion stands, and a denoiser guided by the signal generates the item at a random step t (eq. 4):

    .. math::
        x_{i,T} = \psi\, e_i + (1 - \psi)\, \hat g_i, \qquad
        x_{i,t} = \sqrt{\bar\alpha_t}\, e_i + \sqrt{1-\bar\alpha_t}\, x_{i,T}, \qquad
        \hat x_i = f_\theta(x_{i,t}, \hat g_i, t)

    The paper gives :math:`x_{i,T}` and trains at :math:`x_{i,t}` (eq. 6) without saying what it is; trained at
    :math:`x_{i,T}` for every t, the denoiser loses its way over many steps of the reverse process. The objective is

    .. math::
        \mathcal L = \alpha_1 \mathcal L_{bpr} + (1-\alpha_1)\,\mathcal L_r + \alpha_2 \mathcal L_{reg} + \mathcal L_c

    (eq. 10), with BPR on users' embeddings and generated items, :math:`\mathcal L_r` the mean squared distance from
    :math:`e_i` (eq. 6) and :math:`\mathcal L_c` the norm of what is generated (eq. 8), over the batch's positives and
    negatives. At inference the reverse process starts from the same latent variable as :math:`x_T` (eq. 5), once for
    all items, and LightGCN propagation over users' embeddings and generated items ends it (eq. 11).

    Without modal signal, :math:`x_t = \sqrt{\bar\alpha_t}\, e + \sqrt{1-\bar\alpha_t}\,\epsilon` in training; at
    inference the reverse process starts from e itself, since from noise alone no item could be told from another.

    Args:
        graph, num_users, num_items, changes: as in :class:`~infodcl_geo.models.base.EmbeddingModel`.
        features: ``[num_items, f]`` by the modality's name, of any widths.
        options: see :class:`SimDiffOptions`.
        pretrained: user vectors ``[M, d]`` and item vectors ``[N, d]`` for ``target='pretrained'``.

    Raises:
        ValueError: without features where they are needed, if their rows are not the items, or if ``pretrained`` is
            given exactly where it is not asked for.
    """

    Options = SimDiffOptions

    def __init__(
        self,
        graph: Graph,
        num_users: int,
        num_items: int,
        features: Mapping[str, Tensor],
        *,
        options: SimDiffOptions | None = None,
        pretrained: tuple[Tensor, Tensor] | None = None,
        **changes: Any,
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)
        options = self.options
        self.bpr_weight = 1 - options.reconstruction
        self.diffusion = ForwardDiffusion(options.schedule, options.steps)
        self.signal: ModalEncoder | None = None
        if options.modal:
            self.signal = ModalEncoder(features, num_items, self.dim)
        self.denoiser = Denoiser(self.dim, time_dim=options.time_dim, guide_dim=self.dim if options.modal else 0)
        if (options.target == "pretrained") != (pretrained is not None):
            raise ValueError("target 'pretrained' and pretrained vectors belong together")
        if pretrained is not None:
            for embedding, vectors in zip((self.user_embedding, self.item_embedding), pretrained, strict=True):
                if vectors.shape != (shape := embedding.weight.shape):
                    raise ValueError(f"pretrained vectors are {list(vectors.shape)}, not {list(shape)}")
                embedding.weight.requires_grad_(False).copy_(vectors)

    def _latent(self, e: Tensor, signal: Tensor) -> Tensor:
        if self.options.source == "both":
            return self._mixed(e, signal)
        return e if self.options.source == "item" else signal

    def _mixed(self, e: Tensor, signal: Tensor) -> Tensor:
        """Eq. 3."""
        return self.options.injection * e + (1 - self.options.injection) * signal

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        options, users = self.options, Rows(self.user_embedding)
        of_batch = [batch.positives, batch.negatives] if self.objective is None else [batch.positives]
        e, target, generated = self._generated(torch.cat(of_batch), generator)
        made = dict(zip(map(id, of_batch), generated.chunk(len(of_batch)), strict=True))

        def items(rows: Tensor | None) -> Tensor:
            if id(rows) in made:
                return made[id(rows)]
            return self._generated(torch.arange(self.num_items, device=e.device) if rows is None else rows, generator)[
                2
            ]

        terms = {
            **self.ranked(batch, users, Rows(items), generator),
            "recon": options.reconstruction * reconstruction_loss(target, generated),
            "reg": self.l2 * embedding_penalty(users(batch.users), *e.chunk(len(of_batch))),
        }
        if options.collaboration:
            terms["balance"] = options.collaboration * balance_loss(generated, options.collaboration_kind)
        return terms

    def _generated(self, items: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of items ``[B]``, what the denoiser shall find, and what it finds at random steps."""
        options = self.options
        e = target = self.item_embedding(items)
        t = self.diffusion.sample_steps(items.numel(), generator)
        if self.signal is None:
            noise = torch.randn(e.shape, generator=generator, device=e.device, dtype=e.dtype)
            generated = self.denoiser(self.diffusion(e, noise, t), t)
        else:
            signal = self.signal(items)
            if options.target == "both":
                target = self._mixed(e, signal)
            left_out = torch.rand(items.numel(), 1, generator=generator, device=e.device) < options.unguided
            guide = torch.where(left_out, self.denoiser.unguided, signal)
            generated = self.denoiser(self.diffusion(target, self._latent(e, signal), t), t, guide)
        return e, target, generated

    def row_tables(self, anchors: int) -> list[nn.Embedding]:
        rows = self.options.target != "pretrained" and self.ranks_by_rows
        return [self.user_embedding, self.item_embedding] if rows else []

    @torch.no_grad()
    def generate(self, generator: torch.Generator | None = None) -> Tensor:
        """Item embeddings ``[N, d]`` at the end of the reverse process; only the sampler 'ddpm' draws anything."""
        options = self.options

        def generated(items: Tensor) -> Tensor:
            x = F.embedding(items, self.item_embedding.weight)
            predict: Callable[[Tensor, Tensor], Tensor] = self.denoiser
            if self.signal is not None:
                signal = self.signal(items)
                x = self._latent(x, signal)
                predict = lambda z, t: self.denoiser.guided(z, t, signal, options.guidance)  # noqa: E731
            count = min(options.inference_steps or options.steps, options.steps)
            return reverse_process(
                predict, x, self.diffusion, count=count, sampler=options.sampler, generator=generator
            )

        items = torch.arange(self.num_items, device=self.item_embedding.weight.device)
        return torch.cat([generated(chunk) for chunk in items.split(_CHUNK)])

    @torch.no_grad()
    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Users and generated items after propagation, ``[M, d]`` and ``[N, d]``, scored by inner product (eq. 11)."""
        device = self.item_embedding.weight.device
        nodes = torch.cat([self.user_embedding.weight, self.generate(torch.Generator(device).manual_seed(0))])
        return self.split(propagate(self.graph, F.normalize(nodes) if self.cosine else nodes, self.num_layers))


def _build(inputs: Inputs, options: SimDiffOptions) -> SimDiff:
    pretrained = None
    if options.target == "pretrained":
        vectors = inputs.of_size(options.dim)
        pretrained = vectors.users, vectors.items
    return SimDiff(inputs.graph, *inputs.sizes, inputs.metadata, options=options, pretrained=pretrained)


def _search(space: Space) -> None:
    search_embeddings(space)
    space.number("injection", 0.1, 0.99, log=False)
    space.number("reconstruction", 0.01, 0.9)
    space.number("collaboration", 1e-4, 1)
    space.number("guidance", 0, 3, log=False)


recipe = Recipe(
    name="simdiff",
    summary="items generated from modal signals that take the place of noise",
    paper="SimDiff, 2025",
    options=SimDiffOptions,
    build=_build,
    training={"lr": 0.01},
    search=_search,
    reads_channels=True,
    propagates_afterwards=True,
    studied=True,
)
