"""The order of a user's list: exact scores where fast ones are close, then the rule for ties."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..kernels.ties import tie_order
from ..kernels.topk import top_k
from ..models.scoring import ExactScorer, FactorScorer, Scorer, UserRows

SPARE = 14
"""Candidates beyond the cut-off."""


class HiddenRows(Protocol):
    """Items that users must not get, made once, such as :class:`~infodcl_geo.models.scoring.UserRows`."""

    def pairs(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """For ``users`` ``[B]``: position in ``users`` and item of each of their hidden pairs."""


def by_factors(
    scorer: FactorScorer, users: Tensor, k: int, num_items: int, known: HiddenRows | None, all_exact: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Items ``[B, k]`` and scores, best first, of users ``[B]``, and for whom that is uncertain."""
    width = min(k + SPARE, num_items)
    factors = scorer.factors(users)
    fits = factors.items.fits(factors.items.reach(factors.users))
    if not fits.is_cuda and not bool(fits):
        nothing = users.new_zeros(users.numel(), k), factors.users.new_zeros(users.numel(), k)
        return *nothing, torch.ones_like(users, dtype=torch.bool)
    item, value = top_k(factors.users, factors.items, width, rows=users, seen=_lists(known, users))
    item, slack = item.clamp_(min=0), 2 * scorer.rounding(users)
    # Items that are not among these may be among the best, where the last of these may be.
    last = value[:, -1]
    uncertain = (last >= value[:, k - 1] - slack) & (last > -torch.inf) if width < num_items else last.isnan()
    uncertain |= ~fits
    if factors.valid is not None:
        uncertain |= ~factors.valid
    if users.is_cuda:  # scores anew those that are not close, too: no number of pairs has to be known here
        exact = scorer.exact(users.repeat_interleave(width), item.flatten()).view_as(value)
        item, value = sorted_by_score(users, item, torch.where(value > -torch.inf, exact, value))
    else:
        item, value = ordered(scorer, users, value, item, slack, all_exact)
    return item[:, :k], value[:, :k], uncertain


def _lists(known: HiddenRows | None, users: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Start and end ``[B]`` of each user's hidden items in a list of items."""
    if known is None:
        return None
    if isinstance(known, UserRows):
        end = known.end[users]
        return end - known.degree[users], end, known.items
    position, item = known.pairs(users)
    order = item.argsort(stable=True)
    order = order[position[order].argsort(stable=True)]
    degree = torch.bincount(position, minlength=users.numel())
    end = degree.cumsum(0)
    return end - degree, end, item[order]


def ordered(
    scorer: Scorer, users: Tensor, value: Tensor, item: Tensor, slack: Tensor, all_exact: bool
) -> tuple[Tensor, Tensor]:
    """The same items, ``[B, width]`` by descending fast score, in the order of exact scores and ties."""
    finite = value > -torch.inf
    wide = value.double()
    close = (wide[:, :-1] - wide[:, 1:] <= slack[:, None]) & finite[:, 1:]
    # Farther apart than the rounding of both, items are in their order, also beside those that are scored anew.
    rows = close.any(1).nonzero()[:, 0]
    if isinstance(scorer, ExactScorer) and (all_exact or rows.numel()):
        inexact = finite if all_exact else _either_side(close)
        row, column = (inexact & (slack > 0)[:, None]).nonzero().unbind(1)
        value[row, column] = scorer.exact(users[row], item[row, column]).to(value.dtype)
    if rows.numel():
        item[rows], value[rows] = sorted_by_score(users[rows], item[rows], value[rows])
    return item, value


def _either_side(close: Tensor) -> Tensor:
    """From which neighbours are close ``[B, w - 1]``: which have a close one on either side ``[B, w]``."""
    none = torch.zeros_like(close[:, :1])
    return torch.cat([close, none], 1) | torch.cat([none, close], 1)


def sorted_by_score(users: Tensor, item: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Items and scores ``[B, w]`` by descending score, equal ones by :func:`tie_order`."""
    order = tie_order(users[:, None], item).argsort(dim=1)
    item, value = item.gather(1, order), value.gather(1, order)
    value, order = (value + 0.0).sort(dim=1, descending=True, stable=True)  # of the two zeros only one is left
    return item.gather(1, order), value
