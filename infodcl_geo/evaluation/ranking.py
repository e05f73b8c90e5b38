r"""All-ranking evaluation: every item is ranked for every user, in chunks of users and items.

**The order.** A user's items are ordered by descending score, and items of equal score by ascending
:func:`~infodcl_geo.kernels.ties.tie_order` of (user row, item row): a fixed shuffle of the items, another one for each
user. So a list depends on the scores alone, whatever the cut-off, the chunks, the threads and the device, and the first
three of a list of five are the list of three. The score of an
:class:`~infodcl_geo.models.scoring.ExactScorer` is its exact one; that of any other scorer is what it returns.

**Without a training interaction.** A model knows nothing of such a user: :func:`evaluate` ranks by the items' numbers
of training interactions instead (:func:`~infodcl_geo.models.scoring.with_popular_fallback`), as the lists that are
served do, and so do all numbers of training and validation. An item without one is ranked by the score that the model
gives it, like all others: a model that reads features may know it, for others it is where it started. Both are counted
beside the metrics, and are groups of their own (:mod:`~infodcl_geo.evaluation.groups`).

**What it costs.** Fast scores are taken a chunk at a time, and of them the k largest and a few more. With
:math:`|\text{fast} - \text{exact}| \le e_u` the k best items are among those of fast scores
:math:`\ge t_u - 2 e_u`, :math:`t_u` the k-th largest: k of them have exact scores of at least :math:`t_u - e_u`, and
what is not among them has less. Where the few more reach below that, which nearly always holds, only neighbours closer
than :math:`2 e_u` are scored exactly. Users for whom they do not (ties at the cut) are done again over all items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError, ScoreError
from ..kernels.ties import tie_order
from ..models.scoring import ExactScorer, FactorScorer, Scorer, UserRows, with_popular_fallback
from .metrics import accuracy, beyond_accuracy
from .ordering import SPARE, HiddenRows, by_factors, ordered, sorted_by_score

_STRIPE = 8
"""Columns of which the largest is taken first, to look for candidates among the few stripes with large ones."""
_TOGETHER = 1 << 14
"""Users whose candidates are taken at a time, where that takes no matrix of scores."""
_TIED_SCORES = 1 << 21
"""Scores of users with ties at the cut that are looked at together."""


@dataclass(frozen=True)
class Ranking:
    """Metrics of each evaluated user; :meth:`mean` gives the exact averages that papers report."""

    users: Tensor
    """``[n]`` users with at least one held-out item"""
    per_user: dict[str, Tensor]
    """``"recall@20"`` and the like, float64 ``[n]`` each; see :func:`~infodcl_geo.evaluation.metrics.accuracy`"""
    ks: tuple[int, ...]
    """cut-offs of the metrics"""
    pairs: Tensor
    """held-out pairs ``[2, E]``, sorted by (user, item)"""
    place: Tensor
    """place of each held-out pair's item in its user's list, 1 for the best and 0 for none up to the largest cut-off,
    int64 ``[E]``"""
    cold: Tensor | None = None
    """which of ``users`` have no training interaction, bool ``[n]``; ``None`` where that was not known"""
    cold_items: int = 0
    """distinct held-out items without a training interaction"""
    beyond: dict[str, float] = field(default_factory=dict)
    """``"coverage@20"`` and the like, see :func:`~infodcl_geo.evaluation.metrics.beyond_accuracy`; empty unless the
    counts of the items were given"""

    @property
    def cold_users(self) -> int:
        """Number of evaluated users without a training interaction."""
        return 0 if self.cold is None else int(self.cold.sum())

    def mean(self) -> dict[str, float]:
        """Average of each metric over the evaluated users, cold ones included (NaN if there are none)."""
        return {name: float(values.mean()) for name, values in self.per_user.items()}

    def mean_of(self, mask: Tensor) -> dict[str, float]:
        """Average of each metric over the evaluated users in ``mask`` (bool ``[n]``; NaN if there are none)."""
        return {name: float(values[mask].mean()) for name, values in self.per_user.items()}


@torch.no_grad()
def rank_items(
    scorer: Scorer,
    users: Tensor,
    k: int,
    *,
    num_users: int,
    num_items: int,
    seen: Sequence[Tensor] | HiddenRows = (),
    chunk_size: int = 512,
    item_chunk_size: int = 65536,
    name: str = "the model",
) -> tuple[Tensor, Tensor]:
    """The ``k`` best items of each user, seen items left out; equal scores are ordered as this module says.

    Args:
        scorer: see :data:`~infodcl_geo.models.scoring.Scorer` and
            :class:`~infodcl_geo.models.scoring.ExactScorer`.
        users: distinct users ``[n]``.
        seen: pairs ``[2, E]`` that must not be recommended (training interactions, say), or such rows made before.
        chunk_size: users scored at a time.
        item_chunk_size: items scored at a time; never more than ``chunk_size * item_chunk_size`` scores are held.
        name: of the model, for messages.

    Returns:
        Items ``[n, k]`` and scores ``[n, k]``, best first. Where fewer than ``k`` items are left the item is -1 and
        the score ``-inf``; a list longer than the catalogue is cut to its length.

    Raises:
        ScoreError: if a score is NaN or infinite.
    """
    return _rank(scorer, users, k, num_users, num_items, seen, chunk_size, item_chunk_size, name, all_exact=True)


@torch.no_grad()
def evaluate(
    scorer: Scorer,
    held_out: Tensor,
    *,
    num_users: int,
    num_items: int,
    seen: Sequence[Tensor] = (),
    ks: Sequence[int] = (10, 20, 50),
    chunk_size: int = 512,
    item_chunk_size: int = 65536,
    train: Tensor | None = None,
    item_counts: Tensor | None = None,
    name: str = "the model",
) -> Ranking:
    r"""Metrics at every ``k`` over the users with held-out items, whose lists :func:`rank_items` makes.

    The formulas are those of :func:`~infodcl_geo.evaluation.metrics.accuracy` and, with ``item_counts``, of
    :func:`~infodcl_geo.evaluation.metrics.beyond_accuracy`.

    Args:
        scorer: see :data:`~infodcl_geo.models.scoring.Scorer`; propagate before, not inside.
        held_out: pairs ``[2, E]`` of the validation or the test split.
        seen: pairs left out of the ranking (training interactions; also validation ones where that is wanted).
        ks: cut-offs.
        chunk_size, item_chunk_size: users and items scored at a time, see :func:`rank_items`.
        train: training interactions ``[2, E]``, by which users and items are cold; the first of ``seen`` if missing.
            Without either no one counts as cold. Cold users are ranked by popularity, see above.
        item_counts: training interactions of every item ``[num_items]``, for the metrics beyond accuracy.
        name: of the model, for messages.

    Raises:
        OptionError: if a cut-off is not positive.
        ScoreError: if a score is NaN or infinite.
    """
    if not ks or min(ks) < 1:
        raise OptionError(f"cut-offs must be positive, not {tuple(ks)}")
    users = held_out[0].unique()
    train = seen[0] if train is None and len(seen) else train
    if train is not None and train.numel():
        degree, counts = (
            torch.bincount(part, minlength=n) for part, n in zip(train, (num_users, num_items), strict=True)
        )
        scorer = with_popular_fallback(scorer, degree, counts)
    ranked, _ = _rank(
        scorer, users, max(ks), num_users, num_items, seen, chunk_size, item_chunk_size, name, all_exact=False
    )
    sizes = {"num_users": num_users, "num_items": num_items}
    return of_lists(users, ranked, held_out, **sizes, ks=ks, train=train, item_counts=item_counts)


def of_lists(
    users: Tensor,
    ranked: Tensor,
    held_out: Tensor,
    *,
    num_users: int,
    num_items: int,
    ks: Sequence[int],
    train: Tensor | None = None,
    item_counts: Tensor | None = None,
) -> Ranking:
    """What :func:`evaluate` makes of the lists of its users.

    Args:
        users: users ``[n]``, ascending: all that have held-out items.
        ranked: their items ``[n, width]``, best first, -1 where there is none; distinct for each user.
        held_out, num_users, num_items, ks, train, item_counts: as there.
    """
    targets = torch.bincount(held_out[0], minlength=num_users)[users].to(torch.float64)
    keys = (held_out[0] * num_items + held_out[1]).sort().values
    wanted = users[:, None] * num_items + ranked
    found = torch.searchsorted(keys, wanted).clamp(max=max(keys.numel() - 1, 0))
    hits = (keys[found] == wanted) & (ranked >= 0) if keys.numel() else torch.zeros_like(ranked, dtype=torch.bool)
    place = torch.zeros_like(keys)
    place[found[hits]] = hits.nonzero()[:, 1] + 1
    pairs = torch.stack([keys // num_items, keys % num_items])
    cold, cold_items = None, 0
    if train is not None:
        cold = torch.bincount(train[0], minlength=num_users)[users] == 0
        cold_items = int((torch.bincount(train[1], minlength=num_items)[pairs[1].unique()] == 0).sum())
    beyond = beyond_accuracy(ranked, item_counts, num_users, ks) if item_counts is not None else {}
    metrics = accuracy(hits.to(torch.float64), targets, ks)
    return Ranking(users, metrics, tuple(ks), pairs, place, cold, cold_items, beyond)


def _rank(
    scorer: Scorer,
    users: Tensor,
    k: int,
    num_users: int,
    num_items: int,
    seen: Sequence[Tensor] | HiddenRows,
    chunk_size: int,
    item_chunk_size: int,
    name: str,
    *,
    all_exact: bool,
) -> tuple[Tensor, Tensor]:
    """:func:`rank_items`; without ``all_exact`` only scores that decide on the order are exact ones."""
    known: HiddenRows | None = None
    if not isinstance(seen, Sequence):
        known = seen
    elif len(seen):
        known = UserRows(torch.cat(list(seen), dim=1), num_users, num_items)
    k = min(k, num_items)
    if not users.numel() or not num_items:
        return users.new_empty(users.numel(), k), torch.empty(users.numel(), k, device=users.device)
    if isinstance(scorer, FactorScorer):
        together = _TOGETHER if known is None or isinstance(known, UserRows) else chunk_size
        parts = [by_factors(scorer, some, k, num_items, known, all_exact) for some in users.split(together)]
        items, values, uncertain = (torch.cat(part) for part in zip(*parts, strict=True))
        left = uncertain.nonzero()[:, 0]
    else:
        left, items, values = torch.arange(users.numel(), device=users.device), users.new_empty(0), torch.empty(0)
    chunks = [
        _Chunk(scorer, users[rows], num_items, item_chunk_size, known, name).best(k, all_exact)
        for rows in left.split(chunk_size)
        if rows.numel()
    ]
    if chunks:
        found = [torch.cat(part) for part in zip(*chunks, strict=True)]
        if items.size(0):
            items[left], values[left] = found
        else:
            items, values = found
    return items.masked_fill_(values == -torch.inf, -1), values


class _Chunk:
    """Users that are scored together."""

    def __init__(
        self, scorer: Scorer, users: Tensor, num_items: int, item_chunk_size: int, known: HiddenRows | None, name: str
    ) -> None:
        self.scorer, self.users, self.num_items, self.name = scorer, users, num_items, name
        self.starts = range(0, num_items, item_chunk_size)
        self.size = item_chunk_size
        self.hidden = known.pairs(users) if known is not None else None
        self.held: tuple[int, Tensor] | None = None
        """the last scores and where they start, not to be asked for twice"""

    def scores(self, start: int) -> Tensor:
        """Fast scores ``[B, n]`` from item ``start`` on, ``-inf`` where an item is hidden."""
        if self.held is not None and self.held[0] == start:
            return self.held[1]
        self.held = None  # before the new ones are made, so that never two are held
        window = slice(start, min(start + self.size, self.num_items))
        scores = self.scorer(self.users, window)
        # One number says whether all are finite, if the sum itself does not overflow.
        if not bool(scores.sum().isfinite()):
            self._refuse_infinite(scores, start)
        if self.hidden is not None:
            position, item = self.hidden
            inside = (item >= start) & (item < window.stop)
            scores[position[inside], item[inside] - start] = -torch.inf
        self.held = (start, scores)
        return scores

    def _refuse_infinite(self, scores: Tensor, start: int) -> None:
        wrong = (~scores.isfinite()).nonzero()
        if wrong.size(0):
            row, column = wrong[0].tolist()
            raise ScoreError(
                f"{self.name} scores item row {column + start} for user row {int(self.users[row])} as "
                f"{float(scores[row, column])}, and {wrong.size(0) - 1} more pairs of this chunk as no finite number: "
                "nothing can be ranked by that; look for infinite parameters, or train with a smaller lr"
            )

    def best(self, k: int, all_exact: bool) -> tuple[Tensor, Tensor]:
        """Items ``[B, k]`` and scores ``[B, k]``, best first."""
        width = min(k + SPARE, self.num_items)
        value, item = self._candidates(width)
        slack = self.users.new_zeros(self.users.numel(), dtype=torch.float64)
        if isinstance(self.scorer, ExactScorer):
            slack = 2 * self.scorer.rounding(self.users)
        # From this score on an item may be among the best.
        bound = value[:, k - 1] - slack
        again = (value[:, -1] >= bound) & (value[:, -1] > -torch.inf)
        item, value = ordered(self.scorer, self.users, value, item, slack, all_exact)
        item, value = item[:, :k], value[:, :k]
        if width < self.num_items and bool(again.any()):
            rows = again.nonzero()[:, 0]
            item[rows], value[rows] = self._among_all(rows, bound[rows], slack[rows] > 0, k)
        return item, value

    def _candidates(self, width: int) -> tuple[Tensor, Tensor]:
        """The ``width`` largest fast scores ``[B, width]``, descending, and their items."""
        values, items = [], []
        for start in self.starts:
            value, item = _largest(self.scores(start), width)
            values.append(value)
            items.append(item + start)
            if len(values) == 2:
                value, item = torch.cat(values, 1), torch.cat(items, 1)
                value, place = value.topk(min(width, value.size(1)), dim=1)
                values, items = [value], [item.gather(1, place)]
        value, place = values[0].sort(dim=1, descending=True)
        return value, items[0].gather(1, place)

    def _among_all(self, rows: Tensor, bound: Tensor, inexact: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """What :meth:`best` returns for some rows, from all items with fast scores of at least ``bound``."""
        items = rows.new_empty(rows.numel(), 0)
        values = torch.empty(0)
        for start in self.starts:
            scores = self.scores(start)
            new_items, new_values = [], []
            for part in torch.arange(rows.numel(), device=rows.device).split(max(1, _TIED_SCORES // scores.size(1))):
                users, own = self.users[rows[part]], scores[rows[part]]
                if isinstance(self.scorer, ExactScorer) and bool(inexact[part].any()):
                    own = self._exact(users, own, bound[part], inexact[part], start)
                item, value = _best_of_ties(users, own, start, k)
                new_items.append(item)
                new_values.append(value)
            item, value = torch.cat(new_items), torch.cat(new_values)
            if items.size(1):
                item, value = torch.cat([items, item], 1), torch.cat([values, value], 1)
            item, value = sorted_by_score(self.users[rows], item, value)
            items, values = item[:, :k], value[:, :k]
        return items, values

    def _exact(self, users: Tensor, scores: Tensor, bound: Tensor, inexact: Tensor, start: int) -> Tensor:
        """``scores`` with exact ones where the user's are ``inexact``, and none below the ``bound`` there."""
        assert isinstance(self.scorer, ExactScorer)
        low = torch.nextafter(bound.to(scores.dtype), bound.new_full((), -torch.inf, dtype=scores.dtype))
        row, column = ((scores >= low[:, None]) & (scores > -torch.inf) & inexact[:, None]).nonzero().unbind(1)
        exact = torch.where(inexact[:, None], -torch.inf, scores)
        exact[row, column] = self.scorer.exact(users[row], column + start).to(scores.dtype)
        return exact


def _largest(scores: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The ``width`` largest of each row, in any order, and their columns; of equal ones any.

    The columns are laid in stripes. Outside the ``width`` stripes with the largest maxima nothing is larger than
    ``width`` of these maxima: so the largest are looked for in there.
    """
    columns = scores.size(1)
    stripes = columns // _STRIPE
    if columns <= width:
        return scores, torch.arange(columns, device=scores.device).expand(scores.size(0), -1)
    if stripes < 2 * width:
        chosen = _top(scores, width)
        return scores.gather(1, chosen), chosen
    # Stripe s is columns s, s + stripes, s + 2 * stripes, ...: so that the maxima are those of whole slices.
    rest = columns - stripes * _STRIPE
    maxima = scores[:, : columns - rest].unflatten(1, (_STRIPE, stripes)).amax(1)
    step = torch.arange(0, columns - rest, stripes, device=scores.device)
    inside = (_top(maxima, width)[:, None, :] + step[:, None]).flatten(1)
    if rest:
        last = torch.arange(columns - rest, columns, device=scores.device).expand(scores.size(0), -1)
        inside = torch.cat([inside, last], 1)
    value = scores.gather(1, inside)
    chosen = _top(value, width)
    return value.gather(1, chosen), inside.gather(1, chosen)


def _top(scores: Tensor, width: int) -> Tensor:
    """Columns of the ``width`` largest of each row, in any order."""
    # NumPy's selection takes a quarter of the time of torch's, but knows one thread only.
    if scores.device.type == "cpu" and scores.dtype == torch.float32 and torch.get_num_threads() < 4:
        chosen = np.argpartition(scores.detach().numpy(), scores.size(1) - width, axis=1)[:, -width:]
        return torch.from_numpy(np.ascontiguousarray(chosen))
    return scores.topk(width, dim=1, sorted=False).indices


def _best_of_ties(users: Tensor, scores: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` best of ``scores`` ``[B, n]``, in any order: of those equal to the k-th the first by the tie rule."""
    width = min(k, scores.size(1))
    last = _largest(scores, width)[0].amin(1, keepdim=True)
    # All that are larger, then the equal ones in their order, then the rest.
    key = torch.where(scores > last, -1, 2**32)
    row, column = (scores == last).nonzero().unbind(1)
    key[row, column] = tie_order(users[row], column + start)
    chosen = key.topk(width, dim=1, largest=False).indices
    return chosen + start, scores.gather(1, chosen)
