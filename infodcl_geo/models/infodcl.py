"""InfoDCL: informative noise, one diffusion step as contrastive view, propagation only at inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..channels.agreement import row_agreement
from ..errors import OptionError
from ..graph.graph import Graph
from ..nn.diffusion import Denoiser, ForwardDiffusion, Schedule
from ..nn.losses import balance_loss, reconstruction_loss
from ..nn.psnet import Basis, PSNet
from .base import Anchors, Batch, BprRows, EmbeddingModel
from .options import ChannelModelOptions, Init, check
from .ranks import Reduction, Traffic
from .recipe import Inputs, Recipe, Space, search_contrast, search_embeddings


@dataclass(frozen=True)
class InfoDCLOptions(ChannelModelOptions):
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
        spectral: False is the ablation "w/o SR".
        contextual: False is the ablation "w/o CR".
        psnet: False is the ablation "w/o PSNet": plain Gaussian noise.
        gate: PSNet's residual gate: 'paper' or 'signed'.
        metadata_scale: root mean square of the metadata's entries; the noise has 1.
        candidates: size of the sample that InfoNCE contrasts with, beside the anchors' own items, where there are
            more items than both together (:func:`sample_candidates`); otherwise, and for 0, it contrasts with all
            items. The relative error of the partition function falls with the root of the sample: for unit vectors of
            64 dimensions in random directions and tau = 0.2, 16384 leave half a percent.
        channel_weights: how the terms of several channels are summed: 'equal' as in section 3.3, or 'learned', which
            listens less to channels whose views do not tell the items apart, see :class:`InfoDCL`.
        row_weights: how much the items of a channel weigh: by 'agreement' of their metadata with the training
            interactions (:func:`~infodcl_geo.channels.row_agreement`), where a channel is made of more than these, or
            'equal'.
        anchors: items that are diffused in a step: 'items' (each item once an epoch), 'positives' (the batch's
            positive items) or 'unique' (those without repeats).
        anchor_batch: items diffused at once, for anchors 'items'.
        channel_temperature: of the learned weights: the difference in InfoNCE, in nats, that makes one channel weigh
            e times another.
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


def sample_candidates(
    items: Tensor, num_items: int, count: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""Candidates that stand for all items in the partition function of eq. 11: the anchors' items and a sample.

    With A the set of the anchors' items, R the n others, and every term divided by the number of times q that its
    item is expected among the candidates,

    .. math::
        \hat Z_b = \sum_{j \in A} \exp \frac{s_{bj}}{\tau} + \sum_{k=1}^{S} \frac{n}{S} \exp \frac{s_{b j_k}}{\tau}
        \qquad E[\hat Z_b] = \sum_{j=1}^{N} \exp \frac{s_{bj}}{\tau}

    The S draws are stratified: R in order is cut into S parts of equal length n / S, and :math:`j_k` lies uniformly in
    part k, so every item of R is expected S / n times. No item of A is among them, an item of R at most twice
    (on the border of two parts), and the variance is at most that of independent draws. The work is
    O((A + S) log A) whatever N, shapes do not depend on the draws, and nothing waits for the device.

    Args:
        items: the anchors' items ``[A]``, int64; an item of several anchors is listed as often and each copy carries
            its share of the term.
        num_items: N, more than A.
        count: S.
        generator: source of the draws, on the items' device.

    Returns:
        The candidates' items ``[A + S]``, the anchors' first, and :math:`\log q` of each, for ``log_q`` of
        :func:`~infodcl_geo.kernels.infonce`.
    """
    ordered = items.sort().values
    copies = torch.searchsorted(ordered, items, right=True) - torch.searchsorted(ordered, items)
    new = torch.ones_like(ordered)
    new[1:] = (ordered[1:] != ordered[:-1]).to(new.dtype)
    distinct = F.pad(new.cumsum(0), (1, 0))
    others = num_items - distinct[-1]
    part = torch.arange(count, device=items.device, dtype=torch.float64)
    part += torch.rand(count, generator=generator, device=items.device, dtype=torch.float64)
    rank = torch.minimum((part * (others / count)).long(), others - 1)
    # An item is its rank among the others plus the number of anchors' items before it.
    before = torch.searchsorted(ordered - distinct[1:] + 1, rank, right=True)
    drawn = rank + distinct[before]
    log_q = torch.cat([copies.double().log(), (count / others).log().expand(count)])
    return torch.cat([items, drawn]), log_q.float()


class _Channel(nn.Module):
    """One channel of metadata with its own PSNet and denoiser."""

    metadata: Tensor
    row_weights: Tensor | None

    def __init__(self, metadata: Tensor, options: InfoDCLOptions, row_weights: Tensor | None) -> None:
        super().__init__()
        rms = metadata.square().mean().sqrt().clamp(min=torch.finfo(metadata.dtype).tiny)
        metadata = metadata * (options.metadata_scale / rms)
        # Rebuilt from the data, so a checkpoint of the weights need not carry it.
        self.register_buffer("metadata", metadata, persistent=False)
        self.register_buffer("row_weights", row_weights, persistent=False)
        self.psnet: PSNet | None = None
        if options.psnet:
            self.psnet = PSNet(
                metadata.size(1),
                basis=options.basis,
                spectral=options.spectral,
                contextual=options.contextual,
                gate=options.gate,
            ).fit(metadata)
        self.denoiser = Denoiser(metadata.size(1))

    def forward(self, e: Tensor, items: Tensor, t: Tensor, noise: Tensor, diffusion: ForwardDiffusion) -> Tensor:
        if self.psnet is None:
            z = diffusion(e, noise, t)
        else:
            _, z = self.psnet.diffuse(noise, self.metadata[items], e, diffusion.alpha_bar[t - 1])
        return self.denoiser(z, t)


_DECAY = 0.9
"""Of the moving average behind learned channel weights, a step with anchors."""


class InfoDCL(EmbeddingModel):
    r"""InfoDCL (KDD '26), eq. 14:

    .. math::
        \mathcal L = (1-\lambda_b)\,\mathcal L_r + \lambda_b\,\mathcal L_{bpr} + \lambda_c\,\mathcal L_{con}
            + \lambda_l\,\mathcal L_c + \lambda_g\,\mathcal L_{reg}

    For each anchor item of the batch and each channel, Gaussian noise and the channel's metadata become informative
    noise, the item embedding is noised to a random step t and denoised at once; the generated embedding must
    reconstruct the item's (eq. 10) and be closest to it among all items (eq. 11; a large catalogue is sampled, see
    ``candidates`` of the options). The channels' terms are summed (section 3.3). Inference is LightGCN propagation of
    the embeddings, without diffusion (section 3.4).

    With ``channel_weights='learned'`` (not in the paper) the terms of channel c of C weigh

    .. math:: w_c = C\, \frac{\exp(-\bar\ell_c / T)}{\sum_{c'} \exp(-\bar\ell_{c'} / T)}

    with :math:`\bar\ell_c` the moving average of its InfoNCE and T the ``channel_temperature``: the minimum of
    :math:`\sum_c w_c \bar\ell_c + T \sum_c w_c \log w_c` over weights that sum to C. :math:`\exp(-\bar\ell_c)` is the
    (geometric) mean probability with which a view finds its item among all items, which is low for a channel of noise.

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

    channel_loss: Tensor

    Options = InfoDCLOptions

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
        shapes = {tuple(metadata.shape) for metadata in channels.values()}
        if len(shapes) != 1:
            raise ValueError(f"InfoDCL needs channels of one shape, got {sorted(shapes) or 'none'}")
        rows, dim = shapes.pop()
        if rows != num_items:
            raise ValueError(f"channels have {rows} rows for {num_items} items")
        super().__init__(graph, num_users, num_items, options=options, **{**changes, "dim": dim})
        options = self.options
        self.bpr_weight = 1 - options.reconstruction
        self.anchors, self.anchor_batch = options.anchors, options.anchor_batch
        self.diffusion = ForwardDiffusion(options.schedule, options.steps)
        rows_of = row_weights or {}
        self.channels = nn.ModuleDict(
            {name: _Channel(metadata, options, rows_of.get(name)) for name, metadata in channels.items()}
        )
        if options.channel_weights == "learned":
            self.register_buffer("channel_loss", torch.zeros(len(channels)))

    def keep_rows(self, users: slice, items: slice) -> None:
        super().keep_rows(users, items)
        for channel in self.channels.values():
            assert isinstance(channel, _Channel)
            channel.metadata = channel.metadata[items].clone()
            channel.row_weights = None if channel.row_weights is None else channel.row_weights[items].clone()

    def channel_weights(self) -> Tensor:
        """Weights ``[C]`` of the channels' terms."""
        if self.options.channel_weights == "equal":
            return self.item_embedding.weight.new_ones(len(self.channels))
        return len(self.channels) * torch.softmax(-self.channel_loss / self.options.channel_temperature, 0)

    def notes(self) -> dict[str, dict[str, float]]:
        rows = self.mean_row_weights()
        weights = zip(rows, self.channel_weights().tolist(), strict=True)
        return {name: {"weight": weight, "mean_row_weight": rows[name]} for name, weight in weights}

    def mean_row_weights(self) -> dict[str, float]:
        """Mean weight of the items in each channel, by its name; 1 where they are not weighed."""
        found = {}
        for name, channel in self.channels.items():
            assert isinstance(channel, _Channel)
            found[name] = 1.0 if channel.row_weights is None else float(channel.row_weights.mean())
        return found

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        options, items = self.options, batch.anchors
        terms = self.row_terms(batch)
        if items.numel() == 0:
            return terms
        e = self.item_embedding(items)
        count, share = items.numel(), batch.anchor_share
        t = self.ranks.part(lambda n: self.diffusion.sample_steps(n, generator), count, share)
        noise = self.ranks.part(
            lambda n: torch.randn(n, self.dim, generator=generator, device=e.device, dtype=e.dtype), count, share
        )
        contrast = self._contrast(batch, e, generator) if options.contrast else None
        own, _ = self.ranks.held(items)
        found = []
        for channel, weight in zip(self.channels.values(), self.channel_weights(), strict=True):
            assert isinstance(channel, _Channel)
            generated = channel(e, own, t, noise, self.diffusion)
            rows = None if channel.row_weights is None else channel.row_weights[own]
            parts = {"recon": options.reconstruction * reconstruction_loss(e, generated, rows)}
            if contrast is not None:
                nce = contrast(generated, "mean" if rows is None else "none")
                parts["nce"] = options.contrast * (nce if rows is None else (rows * nce).mean())
                found.append(self.ranks.mean(nce.detach().mean(), share))
            if options.balance:
                mean = 1.0 if rows is None else self.ranks.mean(rows.mean(), share)
                parts["balance"] = options.balance * mean * balance_loss(generated, options.balance_kind)
            scale = batch.anchor_weight * weight
            for name, value in parts.items():
                value = scale * value
                terms[name] = terms[name] + value if name in terms else value
        if options.channel_weights == "learned":
            now, before = torch.stack(found), self.channel_loss
            # In place, so that a step can be captured in a CUDA graph.
            before.copy_(torch.where(before == 0, now, _DECAY * before + (1 - _DECAY) * now))
        return terms

    def bpr_rows(self) -> BprRows:
        return BprRows(self.user_embedding, self.item_embedding, self.bpr_weight, self.l2, always=False)

    def is_plain(self, batch: Batch) -> bool:
        return batch.anchors.numel() == 0

    def row_tables(self, anchors: int) -> list[nn.Embedding]:
        rows = self.options.contrast == 0 or self._samples_candidates(anchors)
        return [self.user_embedding, self.item_embedding] if rows else []

    def _samples_candidates(self, anchors: int) -> bool:
        return 0 < self.options.candidates < self.ranks.total("items", self.num_items) - anchors

    def _contrast(
        self, batch: Batch, e: Tensor, generator: torch.Generator | None
    ) -> Callable[[Tensor, Reduction], Tensor]:
        """InfoNCE of vectors generated for the anchors; all channels of a step share one sample of candidates."""
        items = batch.anchors
        table, temperature, count = self.item_embedding.weight, self.options.temperature, self.options.candidates
        contrast, everyone = self.ranks.contrast, self.ranks.gathered(items, batch.anchor_share)
        if not self._samples_candidates(everyone.numel()):
            return lambda generated, how: contrast(generated, table, items, temperature, own=e, reduction=how)
        rows, log_q = sample_candidates(everyone, self.ranks.total("items", self.num_items), count, generator)
        # The positive is no sample: what the correction adds to its logit, where an item has several anchors, goes.
        correction = log_q[: everyone.numel()].mean()
        _, held = self.ranks.held(rows)
        if held is not None:
            rows, log_q = rows[held], log_q[held]
        candidates, own = self.item_embedding(rows), torch.arange(items.numel(), device=items.device)
        return lambda generated, how: (
            contrast(generated, candidates, own, temperature, own=e, log_q=log_q, reduction=how) - correction
        )


def _build(inputs: Inputs, options: InfoDCLOptions) -> InfoDCL:
    rows = None
    if options.row_weights == "agreement":
        told = inputs.new_metadata.items()
        rows = {name: row_agreement(metadata, inputs.train, *inputs.sizes) for name, metadata in told}
    return InfoDCL(inputs.graph, *inputs.sizes, inputs.metadata, row_weights=rows, options=options)


def _splits(options: InfoDCLOptions) -> str:
    """What is a function of whole batches."""
    if options.psnet and options.spectral and options.basis == "batch":
        return "basis=batch is of whole batches"
    if options.balance and options.balance_kind == "norm":
        return "balance_kind=norm is of whole batches"
    return "" if options.anchors == "items" else f"anchors={options.anchors} are of whole batches"


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
    starts={
        "normal": {"contrast": 0.005, "l2": 0.01, "num_layers": 1, "init_std": 0.02, "lr": 0.005},
    },
    search=_search,
    reads_channels=True,
    propagates_afterwards=True,
    studied=True,
    splits=_splits,
    traffic=lambda options: Traffic(item_rows=2, channels=len(options.channel_names)),
)
