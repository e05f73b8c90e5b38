"""DiffCL: contrast of diffused views in each modality, aligned by the ID embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infodcl_geo.kernels import infonce

from ..graph.graph import Graph, propagate
from ..nn.diffusion import Denoiser, ForwardDiffusion, LinearNoise, reverse_process
from ..nn.item_graph import ItemGraph, similar_items_graph
from ..nn.losses import reconstruction_loss
from ..nn.modal import ModalEncoder
from .base import Batch
from .objective import ChannelRankingOptions
from .options import check
from .ranked import RankingModel, Rows
from .recipe import Recipe, Space, search_contrast, search_embeddings


@dataclass(frozen=True)
class DiffCLOptions(ChannelRankingOptions):
    """Options of :class:`DiffCL`.

    The variants of the paper's Table III: with ``contrast``, ``align`` and ``item_layers`` all 0 it is "baseline"; with
    one or two of them above 0, "diff", "align", "h" and their pairs.

    Args:
        contrast: weight lambda_cl of the contrastive losses; 0 leaves out the diffusion too. With 0.1 the validation
            Recall@20 is lower on Amazon-Office (0.1045, not 0.1110).
        align: weight lambda_align of the distances between the modalities' and the ID embeddings' distributions.
        item_layers: layers of propagation over the graphs of similar items.
        item_neighbours: K, neighbours of each item in these graphs, of which it is the first.
        temperature: tau of InfoNCE.
        candidates: what a view is contrasted with: 'batch', the other users (items) of the batch, or 'all'.
        steps: T, noise steps of a view and steps back.
        noise_scale: s, which scales the noise of all steps.
        noise_min: share of s that is the noise variance of step 1.
        noise_max: share of s that is the noise variance of step T.
        time_dim: size of the denoisers' encoding of the step.
        denoising: weight of the reconstruction by which the denoisers learn to denoise; it trains nothing else.
    """

    num_layers: int | None = 2
    l2: float = 0.001
    init_std: float = 0.03
    contrast: float = 0.01
    align: float = 0.1
    item_layers: int = 1
    item_neighbours: int = 10
    temperature: float = 0.4
    candidates: Literal["batch", "all"] = "batch"
    steps: int = 5
    noise_scale: float = 0.1
    noise_min: float = 0.01
    noise_max: float = 0.1
    time_dim: int = 8
    denoising: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ["dim", "item_neighbours", "similar_items", "steps", "time_dim"]
        check(self, at_least_1=counts, positive=["temperature"])
        LinearNoise(self.noise_scale, self.noise_min, self.noise_max)


class _Modality(nn.Module):
    """One modality: its users' preferences, its items' features, its graph of similar items, its denoiser."""

    def __init__(
        self, features: Mapping[str, Tensor], num_users: int, num_items: int, dim: int, options: DiffCLOptions
    ) -> None:
        super().__init__()
        self.users = nn.Embedding(num_users, dim)
        self.items = ModalEncoder(features, num_items, dim)
        self.similar: ItemGraph | None = None
        if options.item_layers:
            joined = torch.cat(list(features.values()), dim=1)
            self.similar = ItemGraph(similar_items_graph(joined, options.item_neighbours))
        self.denoiser = Denoiser(dim, time_dim=options.time_dim) if options.contrast else None

    def enhanced(self, items: Tensor, num_layers: int) -> Tensor:
        """Item embeddings ``[N, d]`` plus themselves after propagation over the graph of similar items."""
        return items if self.similar is None else items + self.similar(items, num_layers)


class DiffCL(RankingModel):
    r"""DiffCL, for any number of modalities:

    .. math::
        \mathcal L = \mathcal L_{bpr} + \lambda_{cl} \sum_m (\mathcal L_u^m + \mathcal L_i^m)
            + \lambda_{align} \sum_m \big(|\mu_{id} - \mu_m| + |\sigma_{id} - \sigma_m|\big)
            + \lambda_E \big(\|E_{id}\|_2^2 + \sum_m \|E_m\|_2^2\big)

    - Graph encoders: users' preferences in modality m, trained from scratch, and items' projected features propagate
      over the user-item graph, :math:`E_m = \sum_{l=0}^{L} \tilde{\mathcal A}^l E_m^{(0)}`; ID embeddings likewise.
    - Contrast: two views of :math:`E_m`, each noised to step T and denoised again step by step, contrasted by InfoNCE
      for the users and for the items of the batch. The denoiser learns from
      :math:`\|x_0 - \hat x_\theta(x_t, t)\|^2` at random steps t, which moves no embedding.
    - Enhancement: :math:`e_m^i + \hat S_m^l e_m^i` over :func:`~infodcl_geo.nn.item_graph.similar_items_graph`.
    - Fusion: :math:`E_f = \sum_m \mu_m E_m` with trained :math:`\mu_m` that sum to one, alike at the start (for two
      modalities :math:`\mu` and :math:`1 - \mu`). Scores are :math:`e_f^u \cdot e_f^i + e_{id}^u \cdot e_{id}^i`.
    - Alignment: :math:`\mu` and :math:`\sigma` are the means and standard deviations of the d columns over all users
      and items, their distances averaged over the columns.
    - Penalty: on the embeddings that are scored; the paper's leaves out those of the IDs.

    Args:
        graph, num_users, num_items, changes: as in :class:`~infodcl_geo.models.base.EmbeddingModel`; its ``l2`` is
            lambda_E, on the batch's users, positives and negatives.
        features: ``[num_items, f]`` by the modality's name, of any widths.
        options: see :class:`DiffCLOptions`.

    Raises:
        ValueError: without features, or if their rows are not the items.
    """

    Options = DiffCLOptions

    def __init__(
        self,
        graph: Graph,
        num_users: int,
        num_items: int,
        features: Mapping[str, Tensor],
        *,
        options: DiffCLOptions | None = None,
        **changes: Any,
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)
        if not features:
            raise ValueError("features of the items are needed, got none")
        options = self.options
        noise = LinearNoise(options.noise_scale, options.noise_min, options.noise_max)
        self.diffusion = ForwardDiffusion(noise, options.steps)
        self.modalities = nn.ModuleDict(
            {
                name: _Modality({name: values}, num_users, num_items, self.dim, options)
                for name, values in features.items()
            }
        )
        for modality in self._modalities:
            nn.init.normal_(modality.users.weight, std=self.init_std)
        # The last modality has the rest.
        self.mu = nn.Parameter(torch.full((len(features) - 1,), 1 / len(features)))

    @property
    def _modalities(self) -> list[_Modality]:
        return cast(list[_Modality], list(self.modalities.values()))

    def _encoded(self) -> tuple[list[Tensor], Tensor]:
        """Users and items ``[M + N, d]`` of each modality, and of the IDs, after the graph encoders."""
        tables = [(modality.users.weight, modality.items()) for modality in self._modalities]
        tables.append((self.user_embedding.weight, self.item_embedding.weight))
        # Side by side, so that the graph is read once a layer for all of them.
        first = torch.cat([torch.cat(table) for table in tables], dim=1)
        *modal, ids = ((self.num_layers + 1) * propagate(self.graph, first, self.num_layers)).split(self.dim, dim=1)
        return modal, ids

    def _enhanced(self, encoded: list[Tensor]) -> list[Tensor]:
        nodes = []
        for modality, x in zip(self._modalities, encoded, strict=True):
            users, items = self.split(x)
            nodes.append(torch.cat([users, modality.enhanced(items, self.options.item_layers)]))
        return nodes

    def _fused(self, modal: list[Tensor]) -> Tensor:
        share = torch.cat([self.mu, 1 - self.mu.sum(0, keepdim=True)])
        return torch.stack([mu * nodes for mu, nodes in zip(share, modal, strict=True)]).sum(0)

    def propagated(self) -> tuple[Tensor, Tensor]:
        """Fused and ID embeddings side by side, ``[M, 2d]`` and ``[N, 2d]``: their inner product is the score."""
        encoded, ids = self._encoded()
        return self.split(torch.cat([self._fused(self._enhanced(encoded)), ids], dim=1))

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        encoded, ids = self._encoded()
        modal = self._enhanced(encoded)
        users, items = self.split(torch.cat([self._fused(modal), ids], dim=1))
        terms = self.ranked(batch, Rows(users), Rows(items), generator)
        among = [rows + self.num_users for rows in (batch.positives, batch.negatives)]
        nodes = batch._replace(positives=among[0], negatives=among[1])
        penalty = torch.stack([self.penalty(nodes, x, x) for x in map(Rows, [*modal, ids])]).sum()
        terms["reg"] = self.l2 * penalty
        if self.options.contrast:
            terms |= self._contrast(encoded, batch, generator)
        if self.options.align:
            terms["align"] = self.options.align * torch.stack([_distance(ids, x) for x in modal]).sum()
        return terms

    def _contrast(self, encoded: list[Tensor], batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        contrast, denoising = self.mu.new_zeros(()), self.mu.new_zeros(())
        chosen = (batch.users.unique(), batch.positives.unique())
        for modality, nodes in zip(self._modalities, encoded, strict=True):
            denoiser = modality.denoiser
            assert denoiser is not None
            for rows, x in zip(chosen, self.split(nodes), strict=True):
                of_batch, positives = F.embedding(rows, x), rows
                if self.options.candidates == "batch":
                    x, positives = of_batch, torch.arange(rows.numel(), device=rows.device)
                one, other = self._view(of_batch, denoiser, generator), self._view(x, denoiser, generator)
                contrast = contrast + infonce(one, other, positives, self.options.temperature)
                clean = of_batch.detach()
                t = self.diffusion.sample_steps(rows.numel(), generator)
                predicted = denoiser(self.diffusion(clean, self._noise(clean, generator), t), t)
                denoising = denoising + reconstruction_loss(clean, predicted)
        return {"nce": self.options.contrast * contrast, "recon": self.options.denoising * denoising}

    def _noise(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    def _view(self, x: Tensor, denoiser: Denoiser, generator: torch.Generator | None) -> Tensor:
        """Embeddings ``[B, d]`` noised to step T and denoised again."""
        last = torch.full((x.size(0),), self.options.steps, device=x.device)
        return reverse_process(denoiser, self.diffusion(x, self._noise(x, generator), last), self.diffusion)


def _distance(ids: Tensor, modal: Tensor) -> Tensor:
    """Distance of the columns' means and standard deviations, averaged over the columns."""
    means = (ids.mean(0) - modal.mean(0)).abs().mean()
    return means + (ids.std(0, correction=0) - modal.std(0, correction=0)).abs().mean()


def _search(space: Space) -> None:
    search_embeddings(space)
    search_contrast(space)
    space.number("align", 1e-3, 1)
    space.number("noise_scale", 0.01, 1)


recipe = Recipe(
    name="diffcl",
    summary="diffused views of each modality, contrasted and aligned by the ID embeddings",
    paper="Song et al., DiffCL, 2025",
    options=DiffCLOptions,
    build=lambda inputs, options: DiffCL(inputs.graph, *inputs.sizes, inputs.metadata, options=options),
    training={"lr": 0.001},
    search=_search,
    reads_channels=True,
    studied=True,
)
