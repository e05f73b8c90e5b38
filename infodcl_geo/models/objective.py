"""The objective of a backbone as an option: BPR, or one of the losses of :mod:`infodcl_geo.nn.ranking_losses`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import OptionError
from ..nn.ranking_losses import (
    ccl_loss,
    cosines_with_shared,
    directau_loss,
    enmf_loss,
    sampled_softmax_loss,
    sccf_loss,
    softmax_loss,
    top_k_thresholds,
    top_k_weights,
)
from .base import Batch
from .options import ChannelModelOptions, EmbeddingOptions, check
from .recipe import Space

RankingLoss = Literal["bpr", "softmax", "slk", "directau", "ccl", "sccf", "enmf"]

Lookup = Callable[[Tensor | None], Tensor]
"""Embeddings of some rows ``[B]``, or of all for ``None``."""


def _of(*losses: str) -> dict[str, Any]:
    """Metadata of an option that only these losses read."""
    return {"of": ("ranking_loss", losses)}


@dataclass(frozen=True)
class RankingOptions(EmbeddingOptions):
    """Options of models whose objective can be chosen.

    Args:
        ranking_loss: the loss that ranks, with options of its own that ``--help`` shows once it is named. 'bpr';
            'softmax' over items; 'slk' (SL@K: softmax weighted by nearness to the user's K-th best
            score); 'directau' (alignment and uniformity); 'ccl' (cosine contrastive loss with margin); 'sccf'
            (two powers of the cosine over the batch's users x items); 'enmf' (squared loss over all pairs).
        ranking_similarity: of 'softmax' and 'slk': 'cosine' or 'dot'. Models trained by cosines rank by them; BPR and
            ENMF always have the inner product, the other losses the cosine.
        ranking_temperature: tau of 'softmax', 'slk' and 'sccf'.
        ranking_candidates: of 'softmax', 'slk' and 'ccl': size of the sample of items, drawn for each step and
            shared in the batch; ``None`` for all items.
        threshold_k: of 'slk': K.
        threshold_temperature: of 'slk': temperature of the weights.
        threshold_every: of 'slk': epochs between computations of the K-th best scores.
        uniformity: of 'directau': weight gamma of the uniformity; the authors take 0.2 to 10.
        margin: of 'ccl': m; the authors take 0.4 to 0.9.
        negative_weight: of 'ccl': w of the negatives' mean; the authors take 50 to 1000.
        missing_weight: of 'enmf': weight w of pairs that were not observed.
    """

    ranking_loss: RankingLoss = "bpr"
    ranking_similarity: Literal["cosine", "dot"] = field(default="cosine", metadata=_of("softmax", "slk"))
    ranking_temperature: float = field(default=0.2, metadata=_of("softmax", "slk", "sccf"))
    ranking_candidates: int | None = field(default=None, metadata=_of("softmax", "slk", "ccl"))
    threshold_k: int = field(default=20, metadata=_of("slk"))
    threshold_temperature: float = field(default=2.25, metadata=_of("slk"))
    threshold_every: int = field(default=5, metadata=_of("slk"))
    uniformity: float = field(default=1.0, metadata=_of("directau"))
    margin: float = field(default=0.4, metadata=_of("ccl"))
    negative_weight: float = field(default=150.0, metadata=_of("ccl"))
    missing_weight: float = field(default=0.05, metadata=_of("enmf"))

    def __post_init__(self) -> None:
        check(
            self,
            at_least_1=["dim", "ranking_candidates", "threshold_k", "threshold_every"],
            positive=["ranking_temperature", "threshold_temperature", "missing_weight"],
            shares=["missing_weight"],
        )
        if self.margin > 1:
            raise OptionError(f"margin is of a cosine, at most 1, not {self.margin}")


@dataclass(frozen=True)
class ChannelRankingOptions(ChannelModelOptions, RankingOptions):
    """Options of models whose objective can be chosen and that read channels of metadata."""

    def __post_init__(self) -> None:
        ChannelModelOptions.__post_init__(self)
        RankingOptions.__post_init__(self)


class RankingObjective(nn.Module):
    """The chosen loss of a batch, and what it keeps from step to step.

    Args:
        options: see :class:`RankingOptions`.
        degree: training interactions of each user ``[M]``.
        num_items: N.
    """

    degree: Tensor
    thresholds: Tensor
    progress: Tensor
    """interactions seen, and how many there are to be seen before the thresholds are computed again"""

    def __init__(self, options: RankingOptions, degree: Tensor, num_items: int) -> None:
        super().__init__()
        self.options, self.num_items = options, num_items
        self.edges = int(degree.sum())
        sample = options.ranking_candidates
        self.sample = None if sample is None or sample >= num_items else sample
        # Buffers that a checkpoint of training carries and a file of weights does not.
        self.register_buffer("degree", degree, persistent=False)
        if options.ranking_loss == "slk":
            self.register_buffer("thresholds", torch.zeros(degree.numel()), persistent=False)
            self.register_buffer("progress", torch.zeros(2, dtype=torch.int64), persistent=False)

    @property
    def cosine(self) -> bool:
        """Whether scores are cosines."""
        loss = self.options.ranking_loss
        return loss in ("directau", "ccl", "sccf") or (
            loss in ("softmax", "slk") and self.options.ranking_similarity == "cosine"
        )

    @property
    def reads_rows(self) -> bool:
        """Whether a step reads nothing but rows of the tables."""
        loss = self.options.ranking_loss
        return loss in ("bpr", "directau", "sccf") or (loss in ("softmax", "ccl") and self.sample is not None)

    def forward(self, batch: Batch, users: Lookup, items: Lookup, generator: torch.Generator | None = None) -> Tensor:
        """The loss, a mean over the batch's pairs.

        Args:
            users, items: embeddings by row, see :data:`Lookup`; all of them are asked for only where
                :attr:`reads_rows` is false.
            generator: of the sample of items.
        """
        options, loss = self.options, self.options.ranking_loss
        if loss in ("softmax", "slk"):
            return self._softmax(batch, users, items, generator)
        anchors, positives = users(batch.users), items(batch.positives)
        if loss == "directau":
            return directau_loss(anchors, positives, options.uniformity)
        if loss == "sccf":
            return sccf_loss(anchors, positives, options.ranking_temperature)
        if loss == "ccl":
            ids = self._drawn(batch.users.device, generator)
            scores = cosines_with_shared(anchors, items(None if self.sample is None else ids), ids, batch.positives)
            return ccl_loss(anchors, positives, scores, options.margin, options.negative_weight)
        if loss == "enmf":
            return enmf_loss(anchors, positives, self.degree[batch.users], items(None), options.missing_weight)
        raise OptionError(f"ranking_loss {loss!r} is no loss over items")

    def _drawn(self, device: torch.device, generator: torch.Generator | None) -> Tensor:
        """Items of a step, distinct: all, or a sample of ``ranking_candidates``."""
        if self.sample is None:
            return torch.arange(self.num_items, device=device)
        return torch.randperm(self.num_items, generator=generator, device=device)[: self.sample]

    def _softmax(self, batch: Batch, users: Lookup, items: Lookup, generator: torch.Generator | None) -> Tensor:
        tau, weights, anchors = self.options.ranking_temperature, None, users(batch.users)
        if self.options.ranking_loss == "slk":
            weights = self._weights(batch, anchors, users, items)
        if self.sample is None:
            return softmax_loss(anchors, items(None), batch.positives, tau, cosine=self.cosine, weights=weights)
        ids = self._drawn(anchors.device, generator)
        return sampled_softmax_loss(
            anchors,
            items(batch.positives),
            items(ids),
            tau,
            positive_ids=batch.positives,
            candidate_ids=ids,
            share=self.sample / self.num_items,
            cosine=self.cosine,
            weights=weights,
        )

    @torch.no_grad()
    def _weights(self, batch: Batch, anchors: Tensor, users: Lookup, items: Lookup) -> Tensor:
        """Weights of SL@K, with thresholds of some epochs ago at most."""
        seen, due = self.progress.tolist()
        if seen >= due:
            self.thresholds = top_k_thresholds(users(None), items(None), self.options.threshold_k, cosine=self.cosine)
            due += self.edges * self.options.threshold_every
        self.progress = torch.tensor([seen + batch.users.numel(), due])
        positives = items(batch.positives)
        if self.cosine:
            anchors, positives = F.normalize(anchors), F.normalize(positives)
        scores = (anchors * positives).sum(-1)
        return top_k_weights(scores, self.thresholds[batch.users], self.options.threshold_temperature)


def search_objective(space: Space, *names: str) -> None:
    """What is searched of a model with a fixed objective: its own options, by name."""
    ranges: dict[str, tuple[float, float]] = {
        "ranking_temperature": (0.05, 0.5),
        "uniformity": (0.1, 10.0),
        "negative_weight": (10.0, 1000.0),
        "missing_weight": (1e-3, 0.5),
    }
    for name in names:
        if name == "margin":
            space.number(name, 0.0, 0.9, log=False)
        else:
            space.number(name, *ranges[name])
