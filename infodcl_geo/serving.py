"""What a served model holds ready: its scorer, what each user has seen, and vectors for users it was not trained on.

All of it is made once and never changed, so that any number of threads may ask at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import OptionError
from .evaluation.ordering import HiddenRows
from .evaluation.ranking import rank_items
from .models.scoring import ExactScorer, Factors, FactorScorer, Scorer, UserRows, dot_scorer, with_popular_fallback

_CHUNK = 64
"""Users scored together: their scores stay in the cache."""
_HIDDEN = 1 << 22
"""Pairs of a user and an item hidden from everybody that are listed at a time."""


@dataclass(frozen=True)
class Recommendation:
    """The best items of one user, or the rows most similar to one, best first."""

    user: Any
    """raw id that was asked for, or the position of the history"""
    items: np.ndarray
    """raw ids"""
    scores: np.ndarray
    """what the model ranks by, such as inner products; float32"""
    known: bool = True
    """False where the model knows nothing of the user (unknown, or without a training interaction): the items are then
    the popular ones, and the scores their numbers of training interactions"""


class Server:
    r"""Lists for rows of users, and popular items for users without a training interaction.

    One row beyond those of the model's users, M, is nobody's: it gets what is popular, too.

    Args:
        scorer: ranks the model's users.
        train: training pairs ``[2, E]``.
        seen: pairs that are not recommended again.
        sizes: M and N.
        name: of the model, for messages.
    """

    def __init__(self, scorer: Scorer, train: Tensor, seen: Tensor, sizes: tuple[int, int], name: str) -> None:
        self.num_users, self.num_items = sizes
        self.name = name
        self.degree = torch.bincount(train[0], minlength=sizes[0] + 1)
        self.item_counts = torch.bincount(train[1], minlength=sizes[1])
        self.seen = UserRows(seen, sizes[0] + 1, sizes[1])
        self.train = UserRows(train, *sizes)
        self.scorer = with_popular_fallback(scorer, self.degree, self.item_counts)

    def top(
        self, rows: Tensor, k: int, *, exclude_seen: bool = True, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The best items ``[n, k]`` of distinct users ``[n]`` and their scores, see :func:`rank_items`.

        Args:
            hidden: items ``[h]`` that nobody gets.
        """
        return _top(self.scorer, rows, k, self.num_items, self.seen if exclude_seen else None, hidden, self.name)

    def top_of_histories(
        self, scorer: Scorer, histories: UserRows, k: int, *, exclude_seen: bool = True, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The best items ``[B, k]`` of the users whose histories these are, ranked by ``scorer``.

        Equal scores are shuffled by the history, so that a user gets one list whoever else is asked for.
        """
        scorer = with_popular_fallback(scorer, histories.degree, self.item_counts)
        contents = [part.numpy().tobytes() for part in histories.items.split(histories.degree.tolist())]
        firsts: dict[bytes, int] = {}
        for row, content in enumerate(contents):
            firsts.setdefault(content, row)
        order = {content: number for number, content in enumerate(firsts)}
        place = torch.tensor([order[content] for content in contents], dtype=torch.int64)
        first = torch.tensor(list(firsts.values()), dtype=torch.int64)
        numbers = torch.tensor([zlib.crc32(content) for content in firsts], dtype=torch.int64)
        width = min(k, self.num_items)
        items, scores = torch.empty(len(firsts), width, dtype=torch.int64), torch.empty(len(firsts), width)
        left = torch.arange(len(firsts))
        while left.numel():
            # One number may be that of two histories: these are ranked in different rounds.
            _, inverse = np.unique(numbers[left].numpy(), return_index=True)
            now = left[torch.from_numpy(inverse)]
            view = Renumbered(numbers[now], first[now])
            seen = view.hidden(histories) if exclude_seen else None
            items[now], found = _top(view.scorer(scorer), numbers[now], k, self.num_items, seen, hidden, self.name)
            scores[now] = found.to(scores.dtype)
            left = left[~torch.isin(left, now)]
        return items[place], scores[place]


class Renumbered:
    """Users under numbers of their own.

    Args:
        numbers: distinct and ascending, ``[n]``.
        rows: whose they are, ``[n]``.
    """

    def __init__(self, numbers: Tensor, rows: Tensor) -> None:
        self.numbers, self.rows = numbers, rows

    def row(self, users: Tensor) -> Tensor:
        return self.rows[torch.searchsorted(self.numbers, users)]

    def hidden(self, rows: UserRows) -> _RenumberedRows:
        return _RenumberedRows(self, rows)

    def scorer(self, scorer: Scorer) -> Scorer:
        if isinstance(scorer, FactorScorer):
            return _RenumberedFactors(self, scorer)
        if isinstance(scorer, ExactScorer):
            return _RenumberedScorer(self, scorer)
        return lambda users, window: scorer(self.row(users), window)


class _RenumberedRows:
    def __init__(self, view: Renumbered, rows: UserRows) -> None:
        self.view, self.rows = view, rows

    def pairs(self, users: Tensor) -> tuple[Tensor, Tensor]:
        return self.rows.pairs(self.view.row(users))


class _RenumberedScorer:
    def __init__(self, view: Renumbered, scorer: ExactScorer) -> None:
        self.view, self.inner = view, scorer

    def __call__(self, users: Tensor, window: slice) -> Tensor:
        return self.inner(self.view.row(users), window)

    def rounding(self, users: Tensor) -> Tensor:
        return self.inner.rounding(self.view.row(users))

    def exact(self, users: Tensor, items: Tensor) -> Tensor:
        return self.inner.exact(self.view.row(users), items)


class _RenumberedFactors(_RenumberedScorer):
    def __init__(self, view: Renumbered, scorer: FactorScorer) -> None:
        super().__init__(view, scorer)
        self.by_factors = scorer

    def factors(self, users: Tensor) -> Factors:
        return self.by_factors.factors(self.view.row(users))


class _HiddenFromAll:
    """Items that nobody gets, beside those that single users do not."""

    def __init__(self, rows: HiddenRows | None, items: Tensor) -> None:
        self.rows, self.items = rows, items

    def pairs(self, users: Tensor) -> tuple[Tensor, Tensor]:
        position = torch.arange(users.numel()).repeat_interleave(self.items.numel())
        item = self.items.repeat(users.numel())
        if self.rows is None:
            return position, item
        own_position, own_item = self.rows.pairs(users)
        return torch.cat([own_position, position]), torch.cat([own_item, item])


def _top(
    scorer: Scorer,
    rows: Tensor,
    k: int,
    num_items: int,
    seen: HiddenRows | None,
    hidden: Tensor | None,
    name: str,
) -> tuple[Tensor, Tensor]:
    chunk = _CHUNK
    if hidden is not None and hidden.numel():
        chunk = max(1, min(chunk, _HIDDEN // hidden.numel()))
        seen = _HiddenFromAll(seen, hidden)
    return rank_items(
        scorer,
        rows,
        k,
        num_users=0,  # read for pairs only
        num_items=num_items,
        seen=() if seen is None else seen,
        chunk_size=chunk,
        name=name,
    )


class Neighbours:
    r"""Rows most similar to others, by the cosine :math:`x_i^\top x_j / (\|x_i\| \|x_j\|)`.

    Args:
        rows: vectors ``[n, d]``, or sets of items, which are vectors of zeros and ones; zero is similar to nothing.
    """

    def __init__(self, rows: Tensor | UserRows) -> None:
        if isinstance(rows, UserRows):
            self.scorer, self.size = _set_cosines(rows), rows.degree.numel()
            return
        table = rows if rows.dtype == torch.float64 else rows.to(torch.float32)
        lengths = torch.linalg.vector_norm(table, dim=1, keepdim=True)
        unit = table / lengths.clamp(min=torch.finfo(table.dtype).tiny)
        self.scorer, self.size = dot_scorer(unit, unit), rows.size(0)

    scorer: Scorer

    def top(self, rows: Tensor, k: int, name: str) -> tuple[Tensor, Tensor]:
        """The most similar rows ``[n, k]`` of distinct ``rows`` ``[n]``, never themselves, and their cosines."""
        return _top(self.scorer, rows, k, self.size, _Itself(), None, name)


def _set_cosines(rows: UserRows) -> Scorer:
    import scipy.sparse as sp

    pointers = np.concatenate([[0], rows.end.numpy()])
    ones = np.ones(rows.items.numel(), dtype=np.float32)
    matrix = sp.csr_array((ones, rows.items.numpy(), pointers), shape=(rows.degree.numel(), rows.num_items))
    scale = rows.degree.clamp(min=1).to(torch.float32).rsqrt()

    def scorer(users: Tensor, window: slice) -> Tensor:
        shared = (matrix[users.numpy()] @ matrix[window].T).toarray()
        return torch.from_numpy(shared) * scale[users].unsqueeze(1) * scale[window]

    return scorer


class _Itself:
    def pairs(self, users: Tensor) -> tuple[Tensor, Tensor]:
        return torch.arange(users.numel()), users


def histories_of(rows: Sequence[Sequence[int] | np.ndarray], num_items: int) -> UserRows:
    """Rows of items as the histories of users 0, 1, ...; each item counts once."""
    items = [np.unique(np.asarray(row, dtype=np.int64)) for row in rows]
    users = np.repeat(np.arange(len(items)), [len(row) for row in items])
    pairs = np.stack([users, np.concatenate(items) if items else users.astype(np.int64)])
    return UserRows(torch.from_numpy(pairs), len(items), num_items)


def mean_vectors(histories: UserRows, items: Tensor) -> Tensor:
    """Means ``[B, d]`` of the vectors of each history's items, float64; zero for an empty one."""
    everyone = torch.arange(histories.degree.numel())
    return histories.product(everyone, items.to(torch.float64)) / histories.degree.clamp(min=1).unsqueeze(1)


def fold_in_map(train: UserRows, users: Tensor, items: Tensor) -> Tensor:
    r"""C ``[d, d]``, the ridge regression of user vectors on the means of their items' vectors, float64.

    .. math:: C = (A^\top A + \lambda I)^{-1} A^\top U, \qquad \lambda = \frac{1}{10 d} \text{tr}(A^\top A)

    over the users with training interactions, whose means are the rows of A.

    Args:
        train: the users' histories.
        users, items: what ranks, ``[M, d]`` and ``[N, d]``.
    """
    trained = train.degree > 0
    means, wanted = mean_vectors(train, items)[trained], users[trained].to(torch.float64)
    gram = means.T @ means
    size = gram.size(0)
    ridge = 0.1 * gram.trace() / size
    if not bool(ridge > 0):  # no history, or nothing but zeros: no vector tells anything
        return torch.zeros_like(gram)
    return torch.linalg.solve(gram + ridge * torch.eye(size, dtype=torch.float64), means.T @ wanted)


def plain_ids(values: Collection[Any]) -> list[Any]:
    """Raw ids as Python's own numbers and strings."""
    return values.tolist() if hasattr(values, "tolist") else list(values)  # type: ignore[no-any-return]


def check_length(k: int) -> None:
    """Refuse what is no length of a list."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise OptionError(f"k must be at least 1, a whole number, not {k!r}")
