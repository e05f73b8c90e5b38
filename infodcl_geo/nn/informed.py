"""A diffusion step with noise that metadata inform, and its way back; weights of several such channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .diffusion import Denoiser, ForwardDiffusion
from .psnet import PSNet

_DECAY = 0.9
"""Of the moving average behind learned weights, a step with anchors."""


class InformedDiffusion(nn.Module):
    r"""One diffusion step whose noise is informed by metadata, undone at once (InfoDCL sections 3.1.2 to 3.2).

    Gaussian noise and the metadata of an item become informative noise by a
    :class:`~infodcl_geo.nn.psnet.PSNet`; the embedding, noised by it to step t, goes through a
    :class:`~infodcl_geo.nn.diffusion.Denoiser`.

    Args:
        metadata: ``[N, d]``, brought to one scale.
        scale: root mean square of its entries; the noise has 1.
        psnet: False for plain Gaussian noise.
        row_weights: weights ``[N]`` of the items, which travel along for the loss.
        steps: T of the diffusion, see :class:`~infodcl_geo.nn.diffusion.Denoiser`.
        parts: ``basis``, ``spectral``, ``contextual`` and ``gate`` of the PSNet.
    """

    metadata: Tensor
    row_weights: Tensor | None

    def __init__(
        self,
        metadata: Tensor,
        scale: float,
        *,
        psnet: bool = True,
        row_weights: Tensor | None = None,
        steps: int | None = None,
        **parts: Any,
    ) -> None:
        super().__init__()
        rms = metadata.square().mean().sqrt().clamp(min=torch.finfo(metadata.dtype).tiny)
        metadata = metadata * (scale / rms)
        # Rebuilt from the data, so a checkpoint of the weights need not carry it.
        self.register_buffer("metadata", metadata, persistent=False)
        self.register_buffer("row_weights", row_weights, persistent=False)
        self.psnet: PSNet | None = None
        if psnet:
            self.psnet = PSNet(metadata.size(1), **parts).fit(metadata)
        self.denoiser = Denoiser(metadata.size(1), steps=steps)

    def forward(self, e: Tensor, items: Tensor, t: Tensor, noise: Tensor, diffusion: ForwardDiffusion) -> Tensor:
        """Generated embeddings ``[B, d]`` of those of ``items`` ``[B]``, ``e`` ``[B, d]``, at steps ``t`` ``[B]``."""
        if self.psnet is None:
            z = diffusion(e, noise, t)
        else:
            _, z = self.psnet.diffuse(noise, self.metadata[items], e, diffusion.alpha_bar[t - 1])
        return self.denoiser(z, t)

    @property
    def mean_row_weight(self) -> float:
        """Mean weight of the items; 1 where they are not weighed."""
        return 1.0 if self.row_weights is None else float(self.row_weights.mean())

    def keep(self, items: slice) -> None:
        """Keep the metadata and weights of these items alone."""
        self.metadata = self.metadata[items].clone()
        self.row_weights = None if self.row_weights is None else self.row_weights[items].clone()


def common_width(channels: Mapping[str, Tensor], num_items: int, name: str) -> int:
    """The width d of metadata ``[num_items, d]`` by channel, of which there is at least one.

    Raises:
        ValueError: if their shapes differ or do not fit ``num_items``; it says ``name``.
    """
    shapes = {tuple(metadata.shape) for metadata in channels.values()}
    if len(shapes) != 1:
        raise ValueError(f"{name} needs channels of one shape, got {sorted(shapes) or 'none'}")
    rows, width = shapes.pop()
    if rows != num_items:
        raise ValueError(f"channels have {rows} rows for {num_items} items")
    return int(width)


class LearnedWeights(nn.Module):
    r"""Weights of C channels that listen less to those whose views do not tell the items apart:

    .. math:: w_c = C\, \frac{\exp(-\bar\ell_c / T)}{\sum_{c'} \exp(-\bar\ell_{c'} / T)}

    with :math:`\bar\ell_c` the moving average of the channel's InfoNCE: the minimum of
    :math:`\sum_c w_c \bar\ell_c + T \sum_c w_c \log w_c` over weights that sum to C. :math:`\exp(-\bar\ell_c)` is the
    (geometric) mean probability with which a view finds its item among all items, which is low for a channel of noise.

    Args:
        count: C.
        temperature: T.
    """

    loss: Tensor

    def __init__(self, count: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.register_buffer("loss", torch.zeros(count))

    def forward(self) -> Tensor:
        """The weights ``[C]``."""
        return self.loss.numel() * torch.softmax(-self.loss / self.temperature, 0)

    def take(self, now: Tensor) -> None:
        """Move the averages towards the losses of a step ``[C]``, in place, so that a CUDA graph can capture it."""
        self.loss.copy_(torch.where(self.loss == 0, now, _DECAY * self.loss + (1 - _DECAY) * now))
