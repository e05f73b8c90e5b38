"""Metrics of users that lie on several ranks: each ranks all items for its own users."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..data.interactions import Interactions
from ..evaluation.ranking import Ranking, evaluate, of_lists, rank_items
from ..models.base import EmbeddingModel, Model
from ..models.scoring import Scorer, dot_scorer
from .group import Group
from .input import OwnInteractions
from .partition import Partition, Rows


def own_pairs(pairs: Tensor, rows: Rows) -> Tensor:
    """Those of pairs ``[2, E]``, sorted by user, whose user is one of ``rows``."""
    bounds = torch.tensor([rows.start, rows.stop], device=pairs.device)
    first, last = torch.searchsorted(pairs[0].contiguous(), bounds).tolist()
    return pairs[:, first:last]


@torch.no_grad()
def scorer_of(model: Model, part: Partition, group: Group, *, sharded: bool) -> Scorer:
    """What ranks all items for this rank's users, which are rows among all.

    With tables in parts every rank gets the embeddings of all items, ``N d`` numbers.
    """
    if not sharded:
        return model.scorer()
    assert isinstance(model, EmbeddingModel)
    users, items = model.embeddings()
    everything, _ = group.gather(items, "evaluation")
    return dot_scorer(users, everything)


@torch.no_grad()
def mean_metrics(
    model: Model,
    data: Interactions | OwnInteractions,
    split: Literal["valid", "test"],
    part: Partition,
    group: Group,
    *,
    sharded: bool,
    ks: tuple[int, ...],
    mask_validation: bool = False,
) -> dict[str, float]:
    """Averages over all users with held-out items, exactly those of one process but for the last bit of a sum."""
    rows, first = part.users, part.users.start if sharded else 0
    scorer = scorer_of(model, part, group, sharded=sharded)
    held_out, *seen = (_shifted(own_pairs(pairs, rows), first) for pairs in _pairs(data, split, mask_validation))
    ranking = evaluate(
        scorer,
        held_out,
        num_users=len(rows) if sharded else data.num_users,
        num_items=data.num_items,
        seen=seen,
        ks=ks,
    )
    return reduced(ranking, group)


def reduced(ranking: Ranking, group: Group) -> dict[str, float]:
    """The average of each metric over the users of all ranks."""
    names = list(ranking.per_user)
    sums = [ranking.per_user[name].sum() for name in names]
    count = torch.tensor(float(ranking.users.numel()), dtype=torch.float64, device=group.device)
    total = group.sum_(torch.stack([*sums, count]), "agreement").tolist()
    return {name: value / total[-1] if total[-1] else float("nan") for name, value in zip(names, total, strict=False)}


@torch.no_grad()
def full_ranking(
    model: Model,
    data: Interactions,
    split: Literal["valid", "test"],
    part: Partition,
    group: Group,
    *,
    sharded: bool,
    ks: tuple[int, ...],
    mask_validation: bool = False,
    name: str = "the model",
) -> Ranking | None:
    """The ranking of all users as one process makes it, on rank 0, where the lists of all are; ``None`` elsewhere."""
    rows, first = part.users, part.users.start if sharded else 0
    scorer = scorer_of(model, part, group, sharded=sharded)
    held_out, *seen = (_shifted(own_pairs(pairs, rows), first) for pairs in _pairs(data, split, mask_validation))
    ranked, _ = rank_items(
        scorer,
        held_out[0].unique(),
        max(ks),
        num_users=len(rows) if sharded else data.num_users,
        num_items=data.num_items,
        seen=seen,
        name=name,
    )
    sizes = group.all_counts(ranked.size(0))
    give = [0] * group.size
    give[0] = ranked.size(0)
    lists = group.exchange(ranked, give, sizes if group.first else [0] * group.size, "evaluation")
    if not group.first:
        return None
    pairs = getattr(data, split)
    return of_lists(
        pairs[0].unique(),
        lists,
        pairs,
        num_users=data.num_users,
        num_items=data.num_items,
        ks=ks,
        train=data.train,
        item_counts=torch.bincount(data.train[1], minlength=data.num_items),
    )


def _pairs(
    data: Interactions | OwnInteractions, split: Literal["valid", "test"], mask_validation: bool
) -> list[Tensor]:
    """What is held out, and what is left out of the ranking."""
    seen = [data.train] if split == "valid" or not mask_validation else [data.train, data.valid]
    return [getattr(data, split), *seen]


def _shifted(pairs: Tensor, first: int) -> Tensor:
    return torch.stack([pairs[0] - first, pairs[1]])
