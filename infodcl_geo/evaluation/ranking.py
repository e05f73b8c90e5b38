"""All-ranking evaluation: every item is ranked for every user, in chunks of users and items."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.scoring import Scorer, UserRows

METRICS = ("recall", "ndcg", "precision", "mrr", "hit")
DEGREES = (5, 10, 15, 20, 25)
"""Bounds of the groups by training degree: up to 5 interactions, 6 to 10, ..., 21 to 25, more."""


@dataclass(frozen=True)
class Ranking:
    """Metrics of each evaluated user; :meth:`mean` gives the exact averages that papers report."""

    users: Tensor
    """``[n]`` users with at least one held-out item"""
    per_user: dict[str, Tensor]
    """``"recall@20"`` and the like, float64 ``[n]`` each"""
    ks: tuple[int, ...]
    """cut-offs of the metrics"""
    pairs: Tensor
    """held-out pairs ``[2, E]``, sorted by (user, item)"""
    place: Tensor
    """place of each held-out pair's item in its user's list, 1 for the best and 0 for none up to the largest cut-off,
    int64 ``[E]``"""

    def mean(self) -> dict[str, float]:
        """Average of each metric over the evaluated users (NaN if there are none)."""
        return {name: float(values.mean()) for name, values in self.per_user.items()}


@torch.no_grad()
def rank_items(
    scorer: Scorer,
    users: Tensor,
    k: int,
    *,
    num_users: int,
    num_items: int,
    seen: Sequence[Tensor] = (),
    chunk_size: int = 1024,
    item_chunk_size: int = 65536,
) -> tuple[Tensor, Tensor]:
    """The ``k`` best items of each user, seen items left out.

    Args:
        scorer: see :data:`~infodcl_geo.models.scoring.Scorer`.
        users: sorted distinct users ``[n]``.
        seen: pairs ``[2, E]`` that must not be recommended (training interactions, say).
        chunk_size: users scored at a time.
        item_chunk_size: items scored at a time; never more than ``chunk_size * item_chunk_size`` scores are held.

    Returns:
        Items ``[n, k]`` and scores ``[n, k]``, best first. Where fewer than ``k`` items are left the item is -1 and
        the score ``-inf``; a list longer than the catalogue is cut to its length.
    """
    known = UserRows(torch.cat(list(seen), dim=1), num_users, num_items) if len(seen) else None
    items, values = [], []
    for chunk in users.split(chunk_size):
        position, hidden = known.pairs(chunk) if known is not None else (None, None)
        value, item = torch.empty(0), torch.empty(0)
        for start in range(0, num_items, item_chunk_size):
            window = slice(start, min(start + item_chunk_size, num_items))
            scores = scorer(chunk, window)
            if position is not None and hidden is not None:
                inside = (hidden >= start) & (hidden < window.stop)
                scores[position[inside], hidden[inside] - start] = -torch.inf
            new_value, new_item = scores.topk(min(k, scores.size(1)), dim=1)
            new_item += start
            if start:
                new_value, new_item = torch.cat([value, new_value], 1), torch.cat([item, new_item], 1)
                new_value, place = new_value.topk(min(k, new_value.size(1)), dim=1)
                new_item = new_item.gather(1, place)
            value, item = new_value, new_item
        items.append(item.masked_fill(value == -torch.inf, -1))
        values.append(value)
    if not items:
        return users.new_empty(0, k), torch.empty(0, k, device=users.device)
    return torch.cat(items), torch.cat(values)


def evaluate(
    scorer: Scorer,
    held_out: Tensor,
    *,
    num_users: int,
    num_items: int,
    seen: Sequence[Tensor] = (),
    ks: Sequence[int] = (10, 20, 50),
    chunk_size: int = 1024,
    item_chunk_size: int = 65536,
) -> Ranking:
    r"""Recall, NDCG, precision, MRR and hit rate at every ``k`` over the users with held-out items.

    For a user with held-out items :math:`T_u` and ranked list :math:`r_1, r_2, \dots` without the seen items, with
    :math:`h_j = [r_j \in T_u]`:

    .. math::
        \text{recall@}k = \frac{\sum_{j \le k} h_j}{|T_u|}, \quad
        \text{precision@}k = \frac{\sum_{j \le k} h_j}{k}, \quad
        \text{hit@}k = [\textstyle\sum_{j \le k} h_j > 0], \quad
        \text{mrr@}k = \max_{j \le k} \frac{h_j}{j},

    .. math::
        \text{ndcg@}k = \frac{\sum_{j \le k} h_j / \log_2(j+1)}{\sum_{j \le \min(k, |T_u|)} 1 / \log_2(j+1)}.

    Args:
        scorer: see :data:`~infodcl_geo.models.scoring.Scorer`; propagate before, not inside.
        held_out: pairs ``[2, E]`` of the validation or the test split.
        seen: pairs left out of the ranking (training interactions; also validation ones where that is wanted).
        ks: cut-offs.
        chunk_size, item_chunk_size: users and items scored at a time, see :func:`rank_items`.

    Raises:
        ValueError: if a cut-off is not positive.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"cut-offs must be positive, not {tuple(ks)}")
    users = held_out[0].unique()
    ranked, _ = rank_items(
        scorer,
        users,
        max(ks),
        num_users=num_users,
        num_items=num_items,
        seen=seen,
        chunk_size=chunk_size,
        item_chunk_size=item_chunk_size,
    )
    targets = torch.bincount(held_out[0], minlength=num_users)[users].to(torch.float64)
    keys = (held_out[0] * num_items + held_out[1]).sort().values
    wanted = users[:, None] * num_items + ranked
    found = torch.searchsorted(keys, wanted).clamp(max=max(keys.numel() - 1, 0))
    hits = (keys[found] == wanted) & (ranked >= 0) if keys.numel() else torch.zeros_like(ranked, dtype=torch.bool)
    place = torch.zeros_like(keys)
    place[found[hits]] = hits.nonzero()[:, 1] + 1
    pairs = torch.stack([keys // num_items, keys % num_items])
    return Ranking(users, _metrics(hits.to(torch.float64), targets, ks), tuple(ks), pairs, place)


def by_user_degree(ranking: Ranking, degree: Tensor, edges: Sequence[int] = DEGREES) -> dict[str, dict[str, float]]:
    r"""Metrics of the users of each activity: how a model serves users it knows little about.

    The mean of every metric of :func:`evaluate` over the evaluated users :math:`u` with
    :math:`e_{g-1} < \text{degree}_u \le e_g`.

    Args:
        ranking: what :func:`evaluate` returned.
        degree: training interactions of every user, int64 ``[num_users]``.
        edges: ascending upper bounds :math:`e_g`; one more group holds what is above the last.

    Returns:
        For each group, named ``"0-5"``, ``"6-10"``, ... and ``"26+"``, the number of its ``users`` and, where there
        are any, the metrics.

    Raises:
        ValueError: if ``edges`` do not ascend from zero or more.
    """
    names, group = _groups(degree[ranking.users.to(degree.device)], edges)
    result: dict[str, dict[str, float]] = {}
    for number, name in enumerate(names):
        inside = (group == number).to(ranking.users.device)
        result[name] = {"users": int(inside.sum())}
        if result[name]["users"]:
            result[name] |= {metric: float(values[inside].mean()) for metric, values in ranking.per_user.items()}
    return result


def by_item_degree(ranking: Ranking, degree: Tensor, edges: Sequence[int] = DEGREES) -> dict[str, dict[str, float]]:
    r"""Recall of held-out pairs by the popularity of their item: whether a model finds items it knows little about.

    .. math:: \text{recall@}k(g) = \frac{|\{(u, i) \in T_g : i \text{ is among the first } k \text{ of } u\}|}{|T_g|}

    over the held-out pairs :math:`T_g` with :math:`e_{g-1} < \text{degree}_i \le e_g`; every pair counts the same.

    Args:
        ranking: what :func:`evaluate` returned.
        degree: training interactions of every item, int64 ``[num_items]``.
        edges: as in :func:`by_user_degree`.

    Returns:
        For each group, named as in :func:`by_user_degree`, the number of its distinct held-out ``items`` and of the
        held-out ``pairs`` and, where there are any, recall at every cut-off.

    Raises:
        ValueError: if ``edges`` do not ascend from zero or more.
    """
    items = ranking.pairs[1]
    names, group = _groups(degree[items.to(degree.device)], edges)
    result: dict[str, dict[str, float]] = {}
    for number, name in enumerate(names):
        inside = (group == number).to(items.device)
        place = ranking.place[inside]
        result[name] = {"items": items[inside].unique().numel(), "pairs": place.numel()}
        if place.numel():
            result[name] |= {f"recall@{k}": int(((place > 0) & (place <= k)).sum()) / place.numel() for k in ranking.ks}
    return result


def _groups(degree: Tensor, edges: Sequence[int]) -> tuple[list[str], Tensor]:
    """Names of the groups between ``edges``, and the group of each degree."""
    bounds = [-1, *edges]
    if not edges or any(low >= high for low, high in itertools.pairwise(bounds)):
        raise ValueError(f"bounds of degrees must ascend from zero or more, not {tuple(edges)}")
    names = [str(high) if high == low + 1 else f"{low + 1}-{high}" for low, high in itertools.pairwise(bounds)]
    return [*names, f"{edges[-1] + 1}+"], torch.bucketize(degree, torch.tensor(edges, device=degree.device))


def _metrics(hits: Tensor, targets: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    width = hits.size(1)
    place = torch.arange(1, max(max(ks), width) + 1, device=hits.device, dtype=torch.float64)
    discount = 1.0 / torch.log2(place + 1)
    ideal = torch.cat([discount.new_zeros(1), discount.cumsum(0)])
    result: dict[str, Tensor] = {}
    for k in ks:
        top = hits[:, :k]
        count = top.sum(1)
        result[f"recall@{k}"] = count / targets
        result[f"ndcg@{k}"] = (top @ discount[: top.size(1)]) / ideal[targets.long().clamp(max=k)]
        result[f"precision@{k}"] = count / k
        result[f"mrr@{k}"] = (top / place[: top.size(1)]).max(1).values if top.numel() else count
        result[f"hit@{k}"] = (count > 0).to(torch.float64)
    return result
