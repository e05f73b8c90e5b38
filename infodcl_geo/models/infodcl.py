"""InfoDCL: informative noise, one diffusion step as contrastive view, propagation only at inference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ..channels.agreement import row_agreement
from ..errors import OptionError
from ..graph.graph import Graph
from ..nn.candidates import contrast, samples
from ..nn.diffusion import ForwardDiffusion, Schedule
from ..nn.informed import InformedDiffusion, LearnedWeights, common_width
from ..nn.losses import balance_loss, reconstruction_loss
from ..nn.psnet import Basis
from ..nn.ranks import Traffic
from .base import Anchors, Batch, BprRows
from .objective import ChannelRankingOptions
from .options import Init, check
from .ranked import RankingModel, splits
from .recipe import Inputs, Recipe, Space, search_contrast, search_embeddings


@dataclass(frozen=True)
class InfoDCLOptions(ChannelRankingOptions):
    """Options of :class:`InfoDCL`.

    Args:
        basis: which SVD PSNet uses: 'population', 'batch' or 'item'.
        reconstruction: weight 1 - lambda_b of the reconstruction loss; BPR weighs 1 minus it (eq. 14).
        contrast: weight lambda_c of the mean InfoNCE over the anchors (eq. 11).
        balance: weight lambda_l of the collaboration balance loss (eq. 13); 0 is the ablation "w/o CBL".
        balance_kind: 'norm' as in the paper or 'squared' as in the authors' program.
        temperature: tau of InfoNCE.
        schedule: noise schedule: 'linear', 'exp', 'cosine' or 'sqrt'.
        steps: diffusion steps T.
        spectral, contextual, psnet: False are the ablations "w/o SR", "w/o CR" and "w/o PSNet" (plain Gaussian noise).
        gate: PSNet's residual gate: 'paper' or 'signed'.
        metadata_scale: root mean square of the metadata's entries; the noise has 1.
        candidates: size of the sample that stands for all items in InfoNCE, or 0 for all of them, see
            :func:`~infodcl_geo.nn.candidates.contrast`.
        channel_weights: how the terms of several channels are summed: 'equal' as in section 3.3, or 'learned'
            (:class:`~infodcl_geo.nn.informed.LearnedWeights`).
        row_weights: how much the items of a channel weigh: by 'agreement' of their metadata with the training
            interactions (:func:`~infodcl_geo.channels.row_agreement`), where a channel is made of more than these, or
            'equal'.
        anchors: items that are diffused in a step: 'items' (each item once an epoch), 'positives' (the batch's
            positive items) or 'unique' (those without repeats).
        anchor_batch: items diffused at once, for anchors 'items'.
        channel_temperature: of the learned weights: the nats of InfoNCE that make one channel weigh e times another.
    """

    num_layers: int | None = None
    l2: float = 0.001
    init: Init = "pretrained"
    init_std: float = 0.2
    basis: Basis = "population"
    reconstruction: float = 0.005
    contrast: float = 0.1
    balance: float = 5e-5
    balance_kind: Literal["norm", "squared"] = "squared"
    temperature: float = 0.2
    schedule: Schedule = "sqrt"
    steps: int = 200
    spectral: bool = True
    contextual: bool = True
    psnet: bool = True
    gate: Literal["paper", "signed"] = "paper"
    metadata_scale: float = 2.0
    candidates: int = 16384
    channel_weights: Literal["equal", "learned"] = "equal"
    row_weights: Literal["agreement", "equal"] = "agreement"
    channel_temperature: float = 0.5
    anchors: Anchors = "items"
    anchor_batch: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self,
            at_least_1=["dim", "similar_items", "steps", "anchor_batch"],
            positive=["temperature", "metadata_scale", "channel_temperature"],
            shares=["reconstruction"],
        )
        if self.channel_weights == "learned" and not self.contrast:
            raise OptionError("learned channel_weights are read off InfoNCE: contrast must be positive")


class InfoDCL(RankingModel):
    r"""InfoDCL (KDD '26), eq. 14:

    .. math::
        \mathcal L = (1-\lambda_b)\,\mathcal L_r + \lambda_b\,\mathcal L_{bpr} + \lambda_c\,\mathcal L_{con}
            + \lambda_l\,\mathcal L_c + \lambda_g\,\mathcal L_{reg}

    For each anchor item of the batch and each channel, Gaussian noise and the channel's metadata become informative
    noise, the item embedding is noised to a random step t and denoised at once; the generated embedding must
    reconstruct the item's (eq. 10) and be closest to it among all items (eq. 11). The channels' terms are summed
    (section 3.3). Inference is LightGCN propagation of the embeddings, without diffusion (section 3.4).

    With ``row_weights`` (not in the paper) the reconstruction and the InfoNCE of item i in a channel weigh
    :math:`w_i`, the balance loss their mean over the batch: items whose metadata are noise are left to the other terms.

    Args:
        graph, num_users, num_items, changes: as in :class:`~infodcl_geo.models.base.EmbeddingModel`.
        channels: metadata ``[num_items, d]`` by the channel's name; its width is the embedding size.
        row_weights: weights ``[num_items]`` of the items' terms in a channel, by its name; ones where missing.
        options: see :class:`InfoDCLOptions`.

    Raises:
        ValueError: without channels, or if their shapes differ or do not fit ``num_items``.
    """

    Options = InfoDCLOptions
    propagates_afterwards = True

    def __init__(
        self,
        graph: Graph,
        num_users: int,
        num_items: int,
        channels: Mapping[str, Tensor],
        *,
        row_weights: Mapping[str, Tensor] | None = None,
        options: InfoDCLOptions | None = None,
        **changes: Any,
    ) -> None:
        dim = common_width(channels, num_items, "InfoDCL")
        super().__init__(graph, num_users, num_items, options=options, **{**changes, "dim": dim})
        options = self.options
        self.bpr_weight = 1 - options.reconstruction
        self.anchors, self.anchor_batch = options.anchors, options.anchor_batch
        self.diffusion = ForwardDiffusion(options.schedule, options.steps)
        parts = {name: getattr(options, name) for name in ("psnet", "basis", "spectral", "contextual", "gate", "steps")}
        self.channels = nn.ModuleDict()
        for name, metadata in channels.items():
            rows = (row_weights or {}).get(name)
            self.channels[name] = InformedDiffusion(metadata, options.metadata_scale, row_weights=rows, **parts)
        learned = options.channel_weights == "learned"
        self.learned_weights = LearnedWeights(len(channels), options.channel_temperature) if learned else None

    def keep_rows(self, users: slice, items: slice) -> None:
        super().keep_rows(users, items)
        for channel in self.channels.values():
            cast(InformedDiffusion, channel).keep(items)

    def channel_weights(self) -> Tensor:
        """Weights ``[C]`` of the channels' terms."""
        if self.learned_weights is None:
            return self.item_embedding.weight.new_ones(len(self.channels))
        return self.learned_weights()

    def notes(self) -> dict[str, dict[str, float]]:
        weights = dict(zip(self.channels, self.channel_weights().tolist(), strict=True))
        rows = {name: cast(InformedDiffusion, channel).mean_row_weight for name, channel in self.channels.items()}
        return {name: {"weight": weights[name], "mean_row_weight": rows[name]} for name in weights}

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        options, items = self.options, batch.anchors
        terms = self.row_terms(batch, generator)
        if items.numel() == 0:
            return terms
        e = self.item_embedding(items)
        count, share, like = items.numel(), batch.anchor_share, {"device": e.device, "dtype": e.dtype}
        t = self.ranks.part(lambda n: self.diffusion.sample_steps(n, generator), count, share)
        noise = self.ranks.part(lambda n: torch.randn(n, self.dim, generator=generator, **like), count, share)
        against = None
        if options.contrast:
            sampled = options.temperature, options.candidates, generator
            against = contrast(self.item_embedding, items, *sampled, own=e, share=share, ranks=self.ranks)
        own, _ = self.ranks.held(items)
        found = []
        for channel, weight in zip(self.channels.values(), self.channel_weights(), strict=True):
            assert isinstance(channel, InformedDiffusion)
            generated = channel(e, own, t, noise, self.diffusion)
            rows = None if channel.row_weights is None else channel.row_weights[own]
            parts = {"recon": options.reconstruction * reconstruction_loss(e, generated, rows)}
            if against is not None:
                nce = against(generated, "mean" if rows is None else "none")
                parts["nce"] = options.contrast * (nce if rows is None else (rows * nce).mean())
                found.append(self.ranks.mean(nce.detach().mean(), share))
            if options.balance:
                mean = 1.0 if rows is None else self.ranks.mean(rows.mean(), share)
                parts["balance"] = options.balance * mean * balance_loss(generated, options.balance_kind)
            scale = batch.anchor_weight * weight
            for name, value in parts.items():
                value = scale * value
                terms[name] = terms[name] + value if name in terms else value
        if self.learned_weights is not None:
            self.learned_weights.take(torch.stack(found))
        return terms

    def bpr_rows(self) -> BprRows | None:
        if self.objective is not None:
            return None
        return BprRows(self.user_embedding, self.item_embedding, self.bpr_weight, self.l2, always=False)

    def is_plain(self, batch: Batch) -> bool:
        return batch.anchors.numel() == 0

    def row_tables(self, anchors: int) -> list[nn.Embedding]:
        sampled = samples(self.options.candidates, self.ranks.total("items", self.num_items), anchors)
        rows = self.ranks_by_rows and (self.options.contrast == 0 or sampled)
        return [self.user_embedding, self.item_embedding] if rows else []


def _build(inputs: Inputs, options: InfoDCLOptions) -> InfoDCL:
    weighed = inputs.new_metadata.items() if options.row_weights == "agreement" else ()
    rows = {name: row_agreement(metadata, inputs.train, *inputs.sizes) for name, metadata in weighed}
    return InfoDCL(inputs.graph, *inputs.sizes, inputs.metadata, row_weights=rows, options=options)


def _splits(options: InfoDCLOptions) -> str:
    """What is a function of whole batches."""
    of_batches = {
        "basis=batch": options.psnet and options.spectral and options.basis == "batch",
        "balance_kind=norm": options.balance and options.balance_kind == "norm",
        f"anchors={options.anchors}": options.anchors != "items",
    }
    return next((f"{name} is of whole batches" for name, given in of_batches.items() if given), splits(options))


def _search(space: Space) -> None:
    search_embeddings(space)
    search_contrast(space, 1e-3, 1.0)
    space.number("reconstruction", 1e-3, 0.6)
    space.number("metadata_scale", 0.3, 10)
    space.choice("schedule", ["exp", "linear", "cosine", "sqrt"])
    space.choice("channels", ["item", "user", "both"])


recipe = Recipe(
    name="infodcl",
    summary="informative noise, one diffusion step as a contrastive view, propagation at inference",
    paper="InfoDCL, KDD 2026",
    options=InfoDCLOptions,
    build=_build,
    training={"lr": 0.0005},
    starts={"normal": {"contrast": 0.005, "l2": 0.01, "num_layers": 1, "init_std": 0.02, "lr": 0.005}},
    search=_search,
    reads_channels=True,
    propagates_afterwards=True,
    studied=True,
    splits=_splits,
    traffic=lambda options: Traffic(item_rows=2, channels=len(options.channel_names)),
)
