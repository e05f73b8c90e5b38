"""SGCL: contrast of two augmented graphs by a symmetric loss that forgives noisy views."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.kernels import logsumexp_similarity

from ..graph.graph import Graph
from .base import Batch
from .options import check
from .recipe import Recipe, Space, search_contrast, search_embeddings
from .sgl import SGL, SGLOptions


@dataclass(frozen=True)
class SGCLOptions(SGLOptions):
    """Options of :class:`SGCL`: those of SGL, and the loss's.

    Args:
        symmetry: q; at 1 the loss is symmetric, towards 0 it becomes InfoNCE.
        negative_share: beta, weight of the sum; the authors' value.
        negatives: how many negatives the sum stands for; the authors draw 40.
        mixing: a view's positive is mixed with the unperturbed embedding of its node, whose share is drawn evenly from
            0 to this; 0 does not mix.
    """

    symmetry: float = 0.5
    negative_share: float = 0.01
    negatives: int = 40
    mixing: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, at_least_1=["negatives"], positive=["symmetry", "negative_share"], shares=["symmetry", "mixing"])


def symmetric_infonce(
    anchors: Tensor, positives: Tensor, candidates: Tensor, ids: Tensor, temperature: float, options: SGCLOptions
) -> Tensor:
    r"""Robust InfoNCE (Chuang et al., Robust contrastive learning against noisy views, CVPR 2022, eq. 5):

    .. math::
        \operatorname{mean}_b \frac{e^{-q/\tau}}{q} \Big({-e^{q s_b/\tau}}
            + \beta^q \Big(e^{s_b/\tau} + n \operatorname{mean}_{j \neq b} e^{s_{bj}/\tau}\Big)^q\Big)

    with s the cosine. The mean over all other nodes is the fused kernel's, in place of n drawn ones, of which it is
    the expectation. The constant in front keeps the numbers near one.

    Args:
        anchors, positives: embeddings ``[B, d]``.
        candidates: embeddings of all nodes of the kind; the row of the anchor's own node is no negative.
        ids: the anchors' own rows in ``candidates`` ``[B]``.
        temperature: tau.
        options: q, beta and n.
    """
    q, top = options.symmetry, 1 / temperature
    anchors, positives, candidates = F.normalize(anchors), F.normalize(positives), F.normalize(candidates)
    own = (anchors * positives).sum(1) / temperature
    total = own
    if candidates.size(0) > 1:
        rows = torch.arange(candidates.size(0), device=ids.device)
        others = logsumexp_similarity(
            anchors, candidates, temperature, normalize=False, anchor_ids=ids, candidate_ids=rows
        )
        total = torch.logaddexp(own, others + math.log(options.negatives / (candidates.size(0) - 1)))
    pushed = (q * (total + math.log(options.negative_share) - top)).exp()
    return ((pushed - (q * (own - top)).exp()) / q).mean()


class SGCL(SGL):
    r"""SGCL (Zhao et al., Symmetric graph contrastive learning against noisy views, TOIS 2024).

    SGL's objective (:class:`~infodcl_geo.models.sgl.SGL`) with :func:`symmetric_infonce` in place of InfoNCE, and
    mixed positives :math:`(1 - m) z'' + m z`, :math:`m \sim U(0, \text{mixing})`, z the embedding on the whole graph.
    How a positive is mixed is this library's reading; in the authors' program a condition that always holds decides
    over it.

    Args:
        graph, num_users, num_items, changes: as in :class:`~infodcl_geo.models.base.EmbeddingModel`.
        options: see :class:`SGCLOptions`.
    """

    Options = SGCLOptions

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, *, options: SGCLOptions | None = None, **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        options, clean = self.options, self.propagated()
        one, other = self._view(generator), self._view(generator)
        nce = clean[0].new_zeros(())
        for side, chosen in enumerate((batch.users, batch.positives)):
            positives = F.embedding(chosen, other[side])
            if options.mixing:
                drawn = torch.rand(chosen.numel(), 1, generator=generator, device=chosen.device)
                positives = torch.lerp(positives, F.embedding(chosen, clean[side]), options.mixing * drawn)
            anchors = F.embedding(chosen, one[side])
            nce = nce + symmetric_infonce(anchors, positives, other[side], chosen, options.temperature, options)
        return {**self.ranking(batch, *clean, generator), "nce": options.contrast * nce}


def _search(space: Space) -> None:
    search_embeddings(space)
    search_contrast(space)
    space.number("drop", 0.05, 0.5)
    space.number("symmetry", 0.01, 1.0)


recipe = Recipe(
    name="sgcl",
    summary="LightGCN and a symmetric contrast of two augmented graphs",
    paper="Zhao et al., SGCL, TOIS 2024",
    options=SGCLOptions,
    build=lambda inputs, options: SGCL(inputs.graph, *inputs.sizes, options=options),
    search=_search,
)
