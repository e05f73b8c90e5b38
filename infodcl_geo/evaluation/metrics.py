"""Metrics of ranked lists: accuracy user by user, and what all lists together do to the catalogue."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

METRICS = ("recall", "ndcg", "precision", "mrr", "hit", "map")
"""Accuracy of each user's list."""

BEYOND = ("coverage", "gini", "novelty", "popularity")
"""What the lists of all users share out, beyond accuracy."""


def accuracy(hits: Tensor, targets: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    r"""Recall, NDCG, precision, MRR, hit rate and MAP of each user at every ``k``.

    For a user with held-out items :math:`T_u` and ranked list :math:`r_1, r_2, \dots`, and with
    :math:`h_j = [r_j \in T_u]`:

    .. math::
        \text{recall@}k = \frac{\sum_{j \le k} h_j}{|T_u|}, \quad
        \text{precision@}k = \frac{\sum_{j \le k} h_j}{k}, \quad
        \text{hit@}k = [\textstyle\sum_{j \le k} h_j > 0], \quad
        \text{mrr@}k = \max_{j \le k} \frac{h_j}{j},

    .. math::
        \text{ndcg@}k = \frac{\sum_{j \le k} h_j / \log_2(j+1)}{\sum_{j \le \min(k, |T_u|)} 1 / \log_2(j+1)}, \quad
        \text{map@}k = \frac{1}{\min(k, |T_u|)} \sum_{j \le k} \frac{h_j}{j} \sum_{l \le j} h_l.

    NDCG is that of Järvelin and Kekäläinen (2002) with gains of 0 and 1. The mean of ``map`` over the users is MAP; as
    with NDCG a perfect list has 1 whatever k is (some programs divide by :math:`|T_u|` instead).

    Args:
        hits: :math:`h_j`, zeros and ones, float64 ``[n, width]``.
        targets: :math:`|T_u|`, positive, ``[n]``.
        ks: cut-offs.

    Returns:
        ``"recall@20"`` and the like, float64 ``[n]`` each.
    """
    width = hits.size(1)
    place = torch.arange(1, max(max(ks), width) + 1, device=hits.device, dtype=torch.float64)
    discount = 1.0 / torch.log2(place + 1)
    ideal = torch.cat([discount.new_zeros(1), discount.cumsum(0)])
    result: dict[str, Tensor] = {}
    for k in ks:
        # A copy: the last bit of a product depends on how far apart rows lie, and so on the other cut-offs.
        top = hits[:, :k].contiguous()
        count = top.sum(1)
        reachable = targets.long().clamp(max=k)
        result[f"recall@{k}"] = count / targets
        result[f"ndcg@{k}"] = (top @ discount[: top.size(1)]) / ideal[reachable]
        result[f"precision@{k}"] = count / k
        result[f"mrr@{k}"] = (top / place[: top.size(1)]).max(1).values if top.numel() else count
        result[f"hit@{k}"] = (count > 0).to(torch.float64)
        result[f"map@{k}"] = (top * top.cumsum(1) / place[: top.size(1)]).sum(1) / reachable
    return result


def beyond_accuracy(ranked: Tensor, item_counts: Tensor, num_users: int, ks: Sequence[int]) -> dict[str, float]:
    r"""Coverage, Gini coefficient, novelty and mean popularity of the lists at every ``k``.

    With :math:`e_i` the lists whose first k hold item i, in ascending order :math:`e_{(1)} \le \dots \le e_{(N)}`, and
    :math:`c_i` the item's training interactions:

    .. math::
        \text{coverage@}k = \frac{|\{i : e_i > 0\}|}{N}, \quad
        \text{gini@}k = \frac{\sum_{j=1}^N (2j - N - 1)\, e_{(j)}}{N \sum_i e_i},

    .. math::
        \text{novelty@}k = \frac{\sum_i e_i \log_2 (M / \max(c_i, 1))}{\sum_i e_i}, \quad
        \text{popularity@}k = \frac{\sum_i e_i c_i}{\sum_i e_i}.

    Gini is 0 where every item is shown as often and near 1 where a few are shown to everyone. Novelty is the mean
    self-information :math:`-\log_2` of the share of users who know the item (Zhou et al., 2010; bits), in which an item
    without training interactions counts like one with a single one.

    Args:
        ranked: items ``[n, width]``, best first, -1 where a list is shorter.
        item_counts: :math:`c_i`, ``[N]``.
        num_users: M, all users of the training split.
        ks: cut-offs.

    Returns:
        ``"coverage@20"`` and the like; NaN where nothing is recommended, but for the coverage.
    """
    num_items = item_counts.numel()
    counts = item_counts.to(ranked.device, torch.float64)
    information = torch.log2(num_users / counts.clamp(min=1))
    rank = torch.arange(1, num_items + 1, device=ranked.device, dtype=torch.float64)
    result: dict[str, float] = {}
    for k in ks:
        top = ranked[:, :k]
        shown = torch.bincount(top.flatten() + 1, minlength=num_items + 1)[1:].to(torch.float64)  # without -1
        total = shown.sum()
        result[f"coverage@{k}"] = float((shown > 0).sum()) / num_items
        weights = 2 * rank - num_items - 1
        result[f"gini@{k}"] = float((weights * shown.sort().values).sum() / (num_items * total))
        result[f"novelty@{k}"] = float((shown * information).sum() / total)
        result[f"popularity@{k}"] = float((shown * counts).sum() / total)
    return result
