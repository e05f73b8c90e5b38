"""A full-rank item-item term beside embeddings, which knows what their few dimensions cannot hold."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import OptionError
from ..graph.entries import entries, row_sums
from ..graph.graph import Graph, csr_parts, sparse_matrix
from ..graph.item_item import ItemWeights
from .scoring import Scorer, UserRows, chunk_scorer, in_double

_WINDOW = 65536
"""Items scored at a time where moments are taken; the scores of catalogues up to this size are made once a chunk."""


class Moments(NamedTuple):
    """Mean and standard deviation of each user's scores over all items, float32 ``[B]`` each."""

    mean: Tensor
    std: Tensor


class ItemTerm:
    r"""Scores :math:`b_{ui} = \sum_{j \in N_u} B_{ji}` of item-item weights, standardised user by user.

    .. math::
        z_{ui} = \frac{b_{ui} - \mu_u}{\sigma_u}, \qquad \mu_u = \frac1N \sum_i b_{ui}, \qquad
        \sigma_u^2 = \frac1N \sum_i (b_{ui} - \mu_u)^2

    over all N items, those in the user's history included; :math:`z_{ui} = 0` for users whose scores are all the same
    (those without a history). It is added to the scores of embeddings, see :func:`combined_scorer`, or to the logits
    while these are trained, see :meth:`offsets`. The term needs nothing of a user but the history.

    Args:
        rows: the users' histories (the training interactions).
        weights: B, dense or as a graph, see :data:`~infodcl_geo.graph.item_item.ItemWeights`; where ``rows`` are.
        l2: the penalty with which they were made, where that is known; for the record.

    Raises:
        OptionError: if the weights are not of N items.
    """

    def __init__(self, rows: UserRows, weights: ItemWeights, l2: float | None = None) -> None:
        if tuple(weights.shape) != (rows.num_items, rows.num_items):
            raise OptionError(
                f"an item term of {rows.num_items} items needs weights of as many rows and columns, "
                f"not {tuple(weights.shape)}"
            )
        self.rows = rows
        self.weights = weights
        self.l2 = l2
        self._moments: Moments | None = None

    @property
    def num_items(self) -> int:
        return self.rows.num_items

    @property
    def num_users(self) -> int:
        return self.rows.degree.numel()

    @property
    def device(self) -> torch.device:
        return self.rows.items.device

    def to(self, device: torch.device | str) -> ItemTerm:
        """The same term on another device."""
        return ItemTerm(self.rows.to(device), self.weights.to(device), self.l2)

    def of_histories(self, histories: Sequence[Tensor]) -> ItemTerm:
        """The same term for other users, whose item rows these are (each item counts once); nothing is fitted."""
        items = [history.to(self.device, torch.int64).unique() for history in histories]
        lengths = torch.tensor([len(history) for history in items], dtype=torch.int64, device=self.device)
        users = torch.repeat_interleave(torch.arange(len(items), device=self.device), lengths)
        chosen = torch.cat(items) if items else users
        if chosen.numel() and (int(chosen.min()) < 0 or int(chosen.max()) >= self.num_items):
            raise OptionError(
                f"histories reach from {int(chosen.min())} to {int(chosen.max())}, of items 0 to {self.num_items - 1}"
            )
        term = copy.copy(self)
        term.rows, term._moments = UserRows(torch.stack([users, chosen]), len(items), self.num_items), None
        return term

    def scores(self, users: Tensor, window: slice) -> Tensor:
        """Scores :math:`b` of a slice of n items, not standardised, for users ``[B]``: a scorer, ``[B, n]``."""
        # In double precision and then rounded, as a chunk_scorer: the same whatever is scored together.
        if isinstance(self.weights, Tensor):
            return self.rows.product(users, self.weights[:, window], torch.float64).float()
        position, history = self.rows.pairs(users)
        start, stop, _ = window.indices(self.num_items)
        return row_sums(self.weights.t(), history, position, users.numel(), start, stop, torch.float64).float()

    def scores_of_history(self, histories: Sequence[Tensor], window: slice = slice(None)) -> Tensor:
        """:meth:`scores` of users of whom nothing but the item rows of their histories is known, ``[B, n]``."""
        term = self.of_histories(histories)
        return term.scores(torch.arange(term.num_users, device=self.device), window)

    def moments(self, *, chunk_size: int = 1024) -> Moments:
        """Mean and standard deviation of all users' scores ``[M]``, found once: one pass over M x N scores."""
        if self._moments is None:
            users = torch.arange(self.num_users, device=self.device)
            found = [score_moments(self.scores, chunk, self.num_items) for chunk in users.split(chunk_size)]
            self._moments = Moments(torch.cat([part.mean for part in found]), torch.cat([part.std for part in found]))
        return self._moments

    def offsets(self, users: Tensor, items: Tensor) -> Tensor:
        """Standardised scores :math:`z_{ui}` of pairs ``[B]``, to be added to the logits while embeddings are trained.

        The cost is that of the pairs' histories: a look-up for each item in them, beside :meth:`moments` at the first
        call. No gradient flows.

        Args:
            users: user rows, int64 ``[B]``.
            items: item rows, of the same shape.
        """
        position, history = self.rows.pairs(users)
        mean, std = (moment[users] for moment in self.moments())
        values = entries(self.weights, items[position], history)
        total = torch.zeros(users.numel(), device=self.device).index_add_(0, position, values)
        return (total - mean) * _inverse(mean, std)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint needs to keep of the term, beside the histories: see :meth:`from_tensors`."""
        if isinstance(self.weights, Tensor):
            return {"item_term.weights": self.weights}
        pointers, columns, values, _ = csr_parts(self.weights.matrix)
        return {"item_term.pointers": pointers, "item_term.columns": columns, "item_term.values": values}

    @classmethod
    def from_tensors(cls, rows: UserRows, tensors: Mapping[str, Tensor]) -> ItemTerm:
        """The term of which :meth:`tensors` were kept, for the same or other users.

        Raises:
            OptionError: if they are no weights of N items.
        """
        size = rows.num_items
        if "item_term.weights" in tensors:
            weights = tensors["item_term.weights"]
            if not weights.is_floating_point() or tuple(weights.shape) != (size, size):
                raise OptionError(f"the weights of the item term are no numbers [{size}, {size}]")
            return cls(rows, weights)
        pointers, columns, values = (tensors.get(f"item_term.{name}") for name in ("pointers", "columns", "values"))
        if pointers is None or columns is None or values is None:
            raise OptionError("the weights of the item term are missing")
        good = pointers.dtype == columns.dtype == torch.int64 and values.is_floating_point()
        good &= tuple(pointers.shape) == (size + 1,) and columns.dim() == 1 and columns.shape == values.shape
        good = good and int(pointers[0]) == 0 and int(pointers[-1]) == columns.numel()
        good = good and not bool((pointers.diff() < 0).any())
        if not good or (columns.numel() and not 0 <= int(columns.min()) <= int(columns.max()) < size):
            raise OptionError(f"the weights of the item term are no graph of {size} items")
        row = torch.repeat_interleave(torch.arange(size, device=pointers.device), pointers.diff())
        return cls(rows, Graph(sparse_matrix(row, columns, values, (size, size))))


def score_moments(scorer: Scorer, users: Tensor, num_items: int) -> Moments:
    """Mean and standard deviation over all items of the scores of users ``[B]``, some items at a time."""
    total = torch.zeros(users.numel(), dtype=torch.float64, device=users.device)
    squares = torch.zeros_like(total)
    for start in range(0, num_items, _WINDOW):
        part = scorer(users, slice(start, min(start + _WINDOW, num_items)))
        # Of slices the squared distances from their own means: those from zero would lose the digits that count.
        variance, mean = torch.var_mean(part.double(), dim=1, correction=0)
        count = part.size(1)
        seen = start + count
        squares += count * variance + (mean - total) ** 2 * (start * count / seen)
        total += (mean - total) * (count / seen)
    return Moments(total.float(), (squares / max(num_items, 1)).sqrt().float())


def _inverse(mean: Tensor, std: Tensor) -> Tensor:
    """:math:`1 / \\sigma`, and 0 where the scores are all the same but for rounding."""
    return torch.where(std > 1e-6 * mean.abs(), 1 / std.clamp(min=torch.finfo(std.dtype).tiny), 0.0)


class Combination:
    r"""Scores of embeddings and of an item term, of which the weights can be tried without scoring again.

    .. math:: s_{ui} = \frac{a_{ui} - \mu_u(a)}{\sigma_u(a)} + w\, z_{ui}

    with the scores :math:`a_{ui} = u^\top i` of embeddings, or of any other scorer, mean and standard deviation over
    all N items, and z as in :class:`ItemTerm`. Both parts are made and standardised once for a chunk of users, which is
    kept for all slices and all weights; above 65,536 items only the moments are kept.

    Args:
        base: the other scorer.
        term: for the same users.
        num_items: N.
    """

    def __init__(self, base: Scorer, term: ItemTerm, num_items: int) -> None:
        self.num_items = num_items
        self._base, self._standard = base, [self._standardised(base), self._standardised(term.scores)]

    def scorer(self, weight: float) -> Scorer:
        """Scores with weight w; with 0 those of ``base`` as they are."""
        if weight == 0:
            return self._base
        base, term = self._standard
        return lambda users, window: base(users, window) + weight * term(users, window)

    def _standardised(self, scorer: Scorer) -> Scorer:
        num_items, everything = self.num_items, slice(0, self.num_items)
        scorer = in_double(scorer)

        def prepare(users: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
            if num_items > _WINDOW:
                mean, std = score_moments(scorer, users, num_items)
                return users.clone(), mean, _inverse(mean, std), None
            scores = scorer(users, everything)
            mean, std = score_moments(lambda _, __: scores, users, num_items)
            factor = _inverse(mean, std)
            return users, mean, factor, scores.sub_(mean.unsqueeze(1)).mul_(factor.unsqueeze(1)).float()

        def score(prepared: tuple[Tensor, Tensor, Tensor, Tensor | None], window: slice) -> Tensor:
            users, mean, factor, ready = prepared
            if ready is not None:
                return ready[:, window]
            return scorer(users, window).sub_(mean.unsqueeze(1)).mul_(factor.unsqueeze(1))

        return chunk_scorer(prepare, score)


def combined_scorer(base: Scorer, term: ItemTerm, weight: float, num_items: int) -> Scorer:
    """Standardised scores of ``base`` plus ``weight`` times those of ``term``, see :class:`Combination`."""
    return Combination(base, term, num_items).scorer(weight)


def restored_scorer(base: Scorer, rows: UserRows, tensors: Mapping[str, Tensor], weight: Any) -> Scorer:
    """:func:`combined_scorer` of a term of which :meth:`ItemTerm.tensors` were kept, for the users of ``rows``.

    Args:
        base: for the same users.
        rows: their histories.
        tensors: with those of the term among them.
        weight: of the term, as it was written down.

    Raises:
        OptionError: if the tensors are no weights of the catalogue, or the weight is no number from zero.
    """
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise OptionError(f"the weight of the item term is no number from zero: {weight!r}")
    return combined_scorer(base, ItemTerm.from_tensors(rows, tensors), weight, rows.num_items)
