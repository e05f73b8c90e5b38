"""One BPR step with lazily caught-up Adam in plain PyTorch: the truth of the tests, and what runs without Numba."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .bpr_common import Decay, RowAdamOptions, RowAdamTable

__all__ = ["bpr_step_reference", "catch_up_reference"]


def catch_up_reference(table: RowAdamTable, rows: Tensor, step: int, options: RowAdamOptions, decay: Decay) -> None:
    """Bring distinct ``rows`` to Adam step ``step``: all their skipped moves at once, the moments decayed."""
    weight, exp_avg, exp_avg_sq, last = table
    since = last[rows].long()
    gap = step - since
    dtype = weight.dtype
    moves = (options.lr * (decay.tail[since] - decay.ratio[gap] * decay.tail[step]))[:, None].to(dtype)
    epsilon = (options.eps * decay.root[since])[:, None].to(dtype)
    mean, square = exp_avg[rows], exp_avg_sq[rows]
    # A row that never had a gradient has zero moments, and stays.
    size = (square.sqrt() + epsilon).clamp(min=torch.finfo(dtype).tiny)
    weight[rows] -= moves * mean / size
    exp_avg[rows] = mean * decay.first[gap][:, None].to(dtype)
    exp_avg_sq[rows] = square * decay.second[gap][:, None].to(dtype)
    last[rows] = step


def bpr_step_reference(
    users: RowAdamTable,
    items: RowAdamTable,
    batch: tuple[Tensor, Tensor, Tensor],
    step: int,
    options: RowAdamOptions,
    decay: Decay,
    bpr_weight: float,
    penalty: float,
) -> Tensor:
    """Adam step number ``step`` (1 is the first) on one batch; returns the two weighted terms, float64 ``[2]``."""
    user, positive, negative = batch
    size = user.numel()
    user_rows, user_slot = user.unique(return_inverse=True)
    item_rows, item_slot = torch.cat([positive, negative]).unique(return_inverse=True)
    catch_up_reference(users, user_rows, step - 1, options, decay)
    catch_up_reference(items, item_rows, step - 1, options, decay)
    u, p, n = users.weight[user], items.weight[positive], items.weight[negative]
    difference = (u * (n - p)).sum(1)
    slope = (bpr_weight / size) * torch.sigmoid(difference)[:, None]
    shrink = 2 * penalty / size
    to_users = torch.zeros_like(users.weight[user_rows]).index_add_(0, user_slot, slope * (n - p) + shrink * u)
    to_items = torch.zeros_like(items.weight[item_rows])
    to_items.index_add_(0, item_slot, torch.cat([shrink * p - slope * u, shrink * n + slope * u]))
    terms = (
        bpr_weight * F.softplus(difference).double().mean(),
        penalty * torch.cat([u, p, n]).double().square().sum() / size,
    )
    for table, rows, gradient in ((users, user_rows, to_users), (items, item_rows, to_items)):
        _update(table, rows, gradient, step, options, decay)
    return torch.stack(terms)


def _update(
    table: RowAdamTable, rows: Tensor, gradient: Tensor, step: int, options: RowAdamOptions, decay: Decay
) -> None:
    """Adam on rows that are up to date, each listed once."""
    (beta1, beta2), dtype = options.betas, gradient.dtype
    mean = table.exp_avg[rows].lerp(gradient, 1 - beta1)
    square = table.exp_avg_sq[rows] * beta2 + (1 - beta2) * gradient.square()
    size = square.sqrt() / decay.root[step].to(dtype) + options.eps
    table.weight[rows] -= (options.lr / (1 - decay.first[step])).to(dtype) * mean / size
    table.exp_avg[rows], table.exp_avg_sq[rows] = mean, square
    table.last[rows] = step
