"""Metrics of users that lie on several ranks: each ranks all items for its own users."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ..data.interactions import Interactions
from ..evaluation.ordering import HiddenRows
from ..evaluation.ranking import Ranking, of_lists, rank_items
from ..models.base import EmbeddingModel, Model
from ..models.scoring import Scorer, UserRows, dot_scorer, with_popular_fallback
from ..serving import Renumbered
from .group import Group
from .input import OwnInteractions
from .partition import Partition, Rows

Split: TypeAlias = Literal["valid", "test"]


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
    split: Split,
    part: Partition,
    group: Group,
    *,
    sharded: bool,
    ks: tuple[int, ...],
    mask_validation: bool = False,
    name: str = "the model",
) -> dict[str, float]:
    """Averages over all users with held-out items, exactly those of one process but for the last bit of a sum."""
    how: Any = {"sharded": sharded, "mask_validation": mask_validation, "name": name}
    ranked, held_out = _own_lists(model, data, split, part, group, max(ks), **how)
    users = held_out[0].unique()
    return reduced(of_lists(users, ranked, held_out, num_users=data.num_users, num_items=data.num_items, ks=ks), group)


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
    split: Split,
    part: Partition,
    group: Group,
    *,
    sharded: bool,
    ks: tuple[int, ...],
    mask_validation: bool = False,
    name: str = "the model",
) -> Ranking | None:
    """The ranking of all users as one process makes it, on rank 0, where the lists of all are; ``None`` elsewhere."""
    how: Any = {"sharded": sharded, "mask_validation": mask_validation, "name": name}
    ranked, _ = _own_lists(model, data, split, part, group, max(ks), **how)
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


def _own_lists(
    model: Model,
    data: Interactions | OwnInteractions,
    split: Split,
    part: Partition,
    group: Group,
    k: int,
    *,
    sharded: bool,
    mask_validation: bool,
    name: str,
) -> tuple[Tensor, Tensor]:
    """The lists ``[n, k]`` of this rank's users with held-out items, and the held-out pairs ``[2, E]`` of these."""
    rows, first = part.users, part.users.start if sharded else 0
    hidden = [data.train] if split == "valid" or not mask_validation else [data.train, data.valid]
    held_out, *seen = (own_pairs(pairs, rows) for pairs in (getattr(data, split), *hidden))
    num_users = len(rows) if sharded else data.num_users
    shift = torch.tensor([[first], [0]], device=held_out.device)
    seen = [pairs - shift for pairs in seen]
    # What is popular is so among the users of all ranks.
    counts = group.sum_(torch.bincount(seen[0][1], minlength=data.num_items), "evaluation")
    degree = torch.bincount(seen[0][0], minlength=num_users)
    scorer = with_popular_fallback(scorer_of(model, part, group, sharded=sharded), degree, counts)
    seen_rows = UserRows(torch.cat(seen, dim=1), num_users, data.num_items)
    known: HiddenRows = seen_rows
    if sharded:  # equal scores are shuffled by the user's row among all
        own = torch.arange(len(rows), device=held_out.device)
        view = Renumbered(own + first, own)
        scorer, known = view.scorer(scorer), view.hidden(seen_rows)
    sizes = {"num_users": data.num_users, "num_items": data.num_items}
    ranked, _ = rank_items(scorer, held_out[0].unique(), k, **sizes, seen=known, name=name)
    return ranked, held_out
