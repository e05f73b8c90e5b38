"""What items look and sound like, brought to the size of their embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import OptionError


class ModalEncoder(nn.Module):
    r"""Features of any width to vectors of size d, :math:`\hat g_i = \mathrm{MLP}(\hat f_i)` (SimDiff eq. 2).

    Two linear layers of width 2d and d with SiLU between them. The features of each modality are centred and divided by
    the root mean square of what is left, so that pixels, sentence vectors and the metadata of a channel enter at one
    scale; those of several modalities stand side by side.

    Args:
        features: ``[num_items, f]`` by the modality's name, of any widths; not trained.
        num_items: N.
        dim: d.

    Raises:
        ValueError: without features, or if one has not a row for each item.
    """

    features: Tensor

    def __init__(self, features: Mapping[str, Tensor], num_items: int, dim: int) -> None:
        super().__init__()
        if not features:
            raise ValueError("features of the items are needed, got none")
        scaled = []
        for name, given in features.items():
            if given.dim() != 2 or given.size(0) != num_items:
                raise ValueError(f"features {name!r} are {list(given.shape)}, not a row for each of {num_items} items")
            centred = given.float() - given.float().mean(0)
            rms = centred.square().mean().sqrt()
            scaled.append(centred / rms.clamp(min=torch.finfo(torch.float32).tiny))
        # Rebuilt from the data, so a checkpoint of the weights need not carry it.
        self.register_buffer("features", torch.cat(scaled, dim=1), persistent=False)
        self.hidden = nn.Linear(self.features.size(1), 2 * dim)
        self.output = nn.Linear(2 * dim, dim)

    def reset_parameters(self) -> None:
        """Draw the initial weights, in place."""
        self.hidden.reset_parameters()
        self.output.reset_parameters()

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Vectors ``[B, d]`` of ``items`` ``[B]``, by default of all."""
        features = self.features if items is None else self.features[items]
        return self.output(nn.functional.silu(self.hidden(features)))


class ModalProjection(nn.Module):
    r"""A modality's vectors :math:`W f_i + b`, of features that are not trained.

    The features are centred and divided by the root mean square of what is left, so that pixels, sentence vectors and
    the metadata of a channel enter at one scale.

    Args:
        features: ``[N, f]``.
        dim: d, size of the vectors.
        bias: whether there is a b.
    """

    features: Tensor

    def __init__(self, features: Tensor, dim: int, *, bias: bool = True) -> None:
        super().__init__()
        centred = features.float() - features.float().mean(0)
        scale = centred.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        # Rebuilt from the data, so a checkpoint of the weights need not carry it.
        self.register_buffer("features", centred / scale, persistent=False)
        self.linear = nn.Linear(features.size(1), dim, bias=bias)
        nn.init.xavier_uniform_(self.linear.weight)
        if bias:
            nn.init.zeros_(self.linear.bias)

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Vectors ``[B, d]`` of ``items`` ``[B]``, by default of all."""
        return self.linear(self.features if items is None else self.features[items])


def checked_features(features: Mapping[str, Tensor], num_items: int) -> list[Tensor]:
    """The modalities' features ``[N, f]`` in their order.

    Raises:
        OptionError: without any, or if one has not a row for each item.
    """
    if not features:
        raise OptionError("features of the items are needed, got none: give the model channels")
    for name, given in features.items():
        if given.dim() != 2 or given.size(0) != num_items:
            raise OptionError(f"features {name!r} are {list(given.shape)}, not a row for each of {num_items} items")
    return list(features.values())


class CrossModalAttention(nn.Module):
    r"""What modalities tell of one another (MMSSL eq. 7), for each node and each head of d / H columns:

    .. math::
        \bar z^m = \sum_{m'} \operatorname{softmax}_{m'} \Big(
            \frac{(z^m W_Q)^\top (z^{m'} W_K)}{\sqrt{d / H}} \Big) z^{m'}

    Keys have a matrix of their own, as in the paper; in the authors' program they are the queries again.

    Args:
        dim: d.
        heads: H.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        for layer in (self.query, self.key):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, z: Tensor) -> Tensor:
        """Embeddings ``[|M|, n, d]`` of modalities, each looked at by all."""
        q, k, v = (x.unflatten(2, (self.heads, -1)) for x in (self.query(z), self.key(z), z))
        logits = torch.einsum("anhc,bnhc->abnh", q, k) / math.sqrt(q.size(3))
        return torch.einsum("abnh,bnhc->anhc", logits.softmax(1), v).flatten(2)
