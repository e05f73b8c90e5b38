"""RecDCL: contrast across the dimensions of users' and items' embeddings, and with their past; no negatives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph.graph import Graph
from ..nn.losses import embedding_penalty
from .base import Batch, EmbeddingModel
from .options import EmbeddingOptions, check
from .recipe import Recipe, Space, search_embeddings

_EPSILON = 1e-7


@dataclass(frozen=True)
class RecDCLOptions(EmbeddingOptions):
    """Options of :class:`RecDCL`.

    The authors take 2048 dimensions where other models have 64: set ``dim`` for that, and compare at both.

    Args:
        redundancy: gamma, weight of the entries off the diagonal; the authors search 0.005 to 0.1.
        feature_uniformity: alpha, weight of the uniformity of the dimensions; the authors search 0.2 to 10.
        history: beta, weight of the contrast with the past; the authors search 1 to 20.
        momentum: share of the past that stays when a row is seen.
        kernel_offset: c of the polynomial kernel.
    """

    num_layers: int | None = 2
    l2: float = 0.0
    init_std: float = 0.1
    redundancy: float = 0.01
    feature_uniformity: float = 0.2
    history: float = 1.0
    momentum: float = 0.3
    kernel_offset: float = 1.0

    def __post_init__(self) -> None:
        check(self, at_least_1=["dim"], shares=["momentum"])


def cross_correlation_loss(users: Tensor, items: Tensor, redundancy: float) -> Tensor:
    r"""Barlow twins between the users and the items of the pairs (RecDCL eq. 5 and 6):

    .. math::
        \frac1d \sum_m (1 - C_{mm})^2 + \frac{\gamma}{d} \sum_{m \neq n} C_{mn}^2, \qquad
        C_{mn} = \frac1B \sum_b \hat u_{bm} \hat i_{bn}

    with columns standardised over the batch.

    Args:
        users, items: embeddings ``[B, d]`` of the pairs.
        redundancy: gamma.
    """
    correlation = _standardised(users).T @ _standardised(items) / users.size(0)
    diagonal = correlation.diagonal()
    off = correlation.square().sum() - diagonal.square().sum()
    return ((1 - diagonal).square().sum() + redundancy * off) / users.size(1)


def dimension_uniformity(x: Tensor, offset: float) -> Tensor:
    r"""Uniformity of the dimensions, :math:`\log \operatorname{mean}_{m \neq n} (\tilde x_m^\top \tilde x_n + c)^4`.

    (RecDCL eq. 8, with columns :math:`\tilde x_m` of length one, so that c means the same for every batch.)

    Args:
        x: embeddings ``[B, d]``, d at least 2.
        offset: c.
    """
    columns = F.normalize(x, dim=0)
    kernel = (columns.T @ columns + offset).pow(4)
    size = x.size(1)
    return ((kernel.sum() - kernel.diagonal().sum()) / (size * (size - 1)) + _EPSILON).log()


def _standardised(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred / (centred.square().mean(0) + _EPSILON).sqrt()


class RecDCL(EmbeddingModel):
    r"""RecDCL (Zhang et al., WWW 2024): dual contrastive learning on LightGCN embeddings.

    .. math::
        \mathcal L = \mathcal L_{UIBT} + \frac\alpha2 (\mathcal L_{UU} + \mathcal L_{II}) + \beta \mathcal L_{BCL}
            + \lambda \mathcal L_{reg}

    with :func:`cross_correlation_loss`, :func:`dimension_uniformity`, and the contrast over the batch with the past,

    .. math::
        \mathcal L_{BCL} = \operatorname{mean}_b 1 - \tfrac12 \cos(h(u), \bar\imath) - \tfrac12 \cos(h(i), \bar u),
        \qquad \bar u \leftarrow \mu \bar u + (1 - \mu) u

    where h is linear and no gradient flows into the past. Ranks by inner products of the propagated embeddings.

    Args:
        graph, num_users, num_items, changes: as in :class:`~infodcl_geo.models.base.EmbeddingModel`.
        options: see :class:`RecDCLOptions`.
    """

    Options = RecDCLOptions
    past_users: Tensor
    past_items: Tensor

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, *, options: RecDCLOptions | None = None, **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)
        self.predictor = nn.Linear(self.dim, self.dim)
        nn.init.eye_(self.predictor.weight)
        nn.init.zeros_(self.predictor.bias)
        # Of training alone: a checkpoint has them, a file of weights does not.
        self.register_buffer("past_users", torch.zeros(num_users, self.dim), persistent=False)
        self.register_buffer("past_items", torch.zeros(num_items, self.dim), persistent=False)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        options = self.options
        users, items = self.propagated()
        users, items = F.embedding(batch.users, users), F.embedding(batch.positives, items)
        terms = {"barlow": cross_correlation_loss(users, items, options.redundancy)}
        if self.dim > 1:
            both = dimension_uniformity(users, options.kernel_offset) + dimension_uniformity(
                items, options.kernel_offset
            )
            terms["uniformity"] = options.feature_uniformity / 2 * both
        past_users = self._past(self.past_users, batch.users, users)
        past_items = self._past(self.past_items, batch.positives, items)
        cosine = F.cosine_similarity(self.predictor(users), past_items, dim=1) + F.cosine_similarity(
            self.predictor(items), past_users, dim=1
        )
        terms["history"] = options.history * (1 - cosine.mean() / 2)
        rows = self.user_embedding(batch.users), self.item_embedding(batch.positives)
        terms["reg"] = self.l2 * embedding_penalty(*rows)
        return terms

    @torch.no_grad()
    def _past(self, table: Tensor, rows: Tensor, now: Tensor) -> Tensor:
        """Past embeddings of ``rows``, moved towards ``now`` ``[B, d]``; a row that is new has none but that."""
        before = table[rows]
        known = before.square().sum(1, keepdim=True) > 0
        moved = torch.where(known, torch.lerp(now, before, self.options.momentum), now)
        table[rows] = moved
        return moved


def _search(space: Space) -> None:
    search_embeddings(space, held=False)
    space.number("redundancy", 1e-3, 0.1)
    space.number("feature_uniformity", 0.01, 10)
    space.number("history", 0.1, 20)


recipe = Recipe(
    name="recdcl",
    summary="contrast across the dimensions of embeddings, and with their past",
    paper="Zhang et al., RecDCL, WWW 2024",
    options=RecDCLOptions,
    build=lambda inputs, options: RecDCL(inputs.graph, *inputs.sizes, options=options),
    training={"lr": 0.001},
    search=_search,
)
