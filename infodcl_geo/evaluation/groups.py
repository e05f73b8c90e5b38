"""Metrics of users and items that the model knows much or little about."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import OptionError
from .ranking import Ranking

DEGREES = (5, 10, 15, 20, 25)
"""Bounds of the groups by training degree: none, 1 to 5 interactions, 6 to 10, ..., 21 to 25, more."""


def by_user_degree(ranking: Ranking, degree: Tensor, edges: Sequence[int] = DEGREES) -> dict[str, dict[str, float]]:
    r"""Metrics of the users of each activity: how a model serves users it knows little about.

    The mean of every metric of :func:`~infodcl_geo.evaluation.metrics.accuracy` over the evaluated users :math:`u` with
    :math:`e_{g-1} < \text{degree}_u \le e_g`. Users without a training interaction are a group of their own.

    Args:
        ranking: what :func:`~infodcl_geo.evaluation.ranking.evaluate` returned.
        degree: training interactions of every user, int64 ``[num_users]``.
        edges: ascending upper bounds :math:`e_g`; one more group holds what is above the last.

    Returns:
        For each group, named ``"0"``, ``"1-5"``, ``"6-10"``, ... and ``"26+"``, the number of its ``users`` and, where
        there are any, the metrics.

    Raises:
        OptionError: if ``edges`` do not ascend from zero or more.
    """
    names, group = _groups(degree[ranking.users.to(degree.device)], edges)
    result: dict[str, dict[str, float]] = {}
    for number, name in enumerate(names):
        inside = (group == number).to(ranking.users.device)
        result[name] = {"users": int(inside.sum())}
        if result[name]["users"]:
            result[name] |= ranking.mean_of(inside)
    return result


def by_item_degree(ranking: Ranking, degree: Tensor, edges: Sequence[int] = DEGREES) -> dict[str, dict[str, float]]:
    r"""Recall of held-out pairs by the popularity of their item: whether a model finds items it knows little about.

    .. math:: \text{recall@}k(g) = \frac{|\{(u, i) \in T_g : i \text{ is among the first } k \text{ of } u\}|}{|T_g|}

    over the held-out pairs :math:`T_g` with :math:`e_{g-1} < \text{degree}_i \le e_g`; every pair counts the same.

    Args:
        ranking: what :func:`~infodcl_geo.evaluation.ranking.evaluate` returned.
        degree: training interactions of every item, int64 ``[num_items]``.
        edges: as in :func:`by_user_degree`.

    Returns:
        For each group, named as in :func:`by_user_degree`, the number of its distinct held-out ``items`` and of the
        held-out ``pairs`` and, where there are any, recall at every cut-off.

    Raises:
        OptionError: if ``edges`` do not ascend from zero or more.
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


def without_training(train: Tensor, held_out: Tensor) -> str:
    """How many of the held-out users and items have no training interaction, in words; nothing if there are none.

    Args:
        train, held_out: pairs ``[2, E]``.
    """
    users, items = (part.unique() for part in held_out)
    cold = [int((~torch.isin(part, known)).sum()) for part, known in zip((users, items), train, strict=True)]
    if not any(cold):
        return ""
    popular = " (they get popular items)" if cold[0] else ""
    return (
        f"{users.numel()} users, {cold[0]} of them without a training interaction{popular}; "
        f"{cold[1]} of {items.numel()} held-out items without one"
    )


def _groups(degree: Tensor, edges: Sequence[int]) -> tuple[list[str], Tensor]:
    """Names of the groups between ``edges``, those of zero apart, and the group of each degree."""
    if not edges or edges[0] < 0 or any(low >= high for low, high in itertools.pairwise(edges)):
        raise OptionError(f"bounds of degrees must ascend from zero or more, not {tuple(edges)}")
    edges = edges if edges[0] == 0 else (0, *edges)
    bounds = [-1, *edges]
    names = [str(high) if high == low + 1 else f"{low + 1}-{high}" for low, high in itertools.pairwise(bounds)]
    return [*names, f"{edges[-1] + 1}+"], torch.bucketize(degree, torch.tensor(edges, device=degree.device))
