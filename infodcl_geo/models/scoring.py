"""How models give scores: a function of users and a slice of the items, so that no M x N matrix is needed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from infodcl_geo.kernels import ItemTable
from infodcl_geo.kernels.topk_common import row_lengths, split_rounding

Scorer = Callable[[Tensor, slice], Tensor]
"""Scores ``[B, n]`` of a slice of n items for a tensor of users ``[B]``, in a tensor of its own; higher is better."""


@runtime_checkable
class ExactScorer(Protocol):
    """A :data:`Scorer` that can also say what the scores are without the rounding of fast products.

    The last bits of a product of matrices depend on its shapes, on the threads and on the device, and two items that
    nearly tie would swap with them. The ranking asks for the exact scores of such items, and goes by these.
    """

    def __call__(self, users: Tensor, window: slice) -> Tensor:
        """Fast scores, see :data:`Scorer`."""

    def rounding(self, users: Tensor) -> Tensor:
        """For ``users`` ``[B]``: bound ``[B]``, float64, of ``|fast - exact|`` over all items; 0 where none differ."""

    def exact(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores ``[P]`` of pairs of ``users`` ``[P]`` and ``items`` ``[P]``, the same bits however they are asked."""


class Factors(NamedTuple):
    """Embeddings whose inner products are the fast scores of some users."""

    users: Tensor
    """``[B, d]``"""
    items: ItemTable
    valid: Tensor | None
    """of which users that holds, bool ``[B]``; all, if ``None``"""


@runtime_checkable
class FactorScorer(ExactScorer, Protocol):
    """An :class:`ExactScorer` by inner products, whose best items are found without a matrix of scores."""

    def factors(self, users: Tensor) -> Factors:
        """Those of ``users`` ``[B]``."""


Prepared = TypeVar("Prepared")


class UserRows:
    r"""Rows of the binary user-item matrix :math:`X`, for any chunk of users at once.

    Args:
        pairs: interactions, int64 ``[2, E]``, users above items, in any order.
        num_users, num_items: M and N.
    """

    def __init__(self, pairs: Tensor, num_users: int, num_items: int) -> None:
        order = (pairs[0] * num_items + pairs[1]).argsort()
        self.items = pairs[1, order]
        self.degree = torch.bincount(pairs[0], minlength=num_users)
        self.end = self.degree.cumsum(0)
        self.num_items = num_items

    def to(self, device: torch.device | str) -> UserRows:
        """The same rows on another device."""
        moved = copy.copy(self)
        moved.items, moved.degree, moved.end = (x.to(device) for x in (self.items, self.degree, self.end))
        return moved

    def pairs(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """For ``users`` ``[B]``, in any order: position in ``users`` (ascending) and item of each of their pairs."""
        degree = self.degree[users]
        position = torch.repeat_interleave(torch.arange(users.numel(), device=users.device), degree)
        first = torch.repeat_interleave(self.end[users] - degree.cumsum(0), degree)
        return position, self.items[first + torch.arange(position.numel(), device=users.device)]

    def dense(self, users: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The rows of ``users`` as zeros and ones ``[B, N]``."""
        rows = torch.zeros(users.numel(), self.num_items, device=users.device, dtype=dtype)
        rows[self.pairs(users)] = 1.0
        return rows

    def product(self, users: Tensor, weights: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Sums ``[B, n]`` of the rows of ``weights`` ``[N, n]`` over each user's items, in ``dtype`` or theirs."""
        if dtype not in (None, weights.dtype):
            step = max(1, _BLOCK // max(1, weights.size(0)))  # columns of which a copy of that type is held at a time
            return torch.cat([self.product(users, part.to(dtype)) for part in weights.split(step, dim=1)], dim=1)
        _, items = self.pairs(users)
        pointers = torch.cat([self.degree.new_zeros(1), self.degree[users].cumsum(0)])
        ones = torch.ones(items.numel(), device=weights.device, dtype=weights.dtype)
        size = (users.numel(), self.num_items)
        return torch.sparse_csr_tensor(pointers, items, ones, size=size, check_invariants=False) @ weights


def dot_scorer(users: Tensor, items: Tensor) -> ExactScorer:
    r"""Inner products of user embeddings ``[M, d]`` with item embeddings ``[N, d]``.

    Exact scores are :math:`\sum_j u_j v_j` in double precision, rounded to that of the fast ones: float64 for float64
    embeddings, otherwise float32.
    """
    return _Dot(users, items)


def item_scorer(rows: UserRows, weights: Tensor) -> ExactScorer:
    r"""Sums of the rows of item-item weights ``[N, N]`` over each user's items: :math:`X_u B`.

    Exact scores are these sums in double precision, rounded to that of the weights.
    """
    return _ItemSums(rows, weights)


def with_popular_fallback(scorer: Scorer, degree: Tensor, item_counts: Tensor) -> Scorer:
    r"""A scorer that also serves users without a training interaction, by popularity:

    .. math::
        s_{ui} = \begin{cases} \text{scorer}(u, i) & \text{degree}_u > 0 \\ \text{count}_i & \text{otherwise}
        \end{cases}

    What a model learned says nothing of such users: their embeddings are where they started, their rows of the
    interactions are zero. Items that are as popular as each other come in the order of
    :func:`~infodcl_geo.kernels.ties.tie_order`.

    Args:
        scorer: never asked for users of degree 0, which it need not have rows for.
        degree: training interactions of every user ``[M]``.
        item_counts: training interactions of every item ``[N]``.
    """
    if isinstance(scorer, FactorScorer):
        return _FactorFallback(scorer, degree, item_counts)
    if isinstance(scorer, ExactScorer):
        return _ExactFallback(scorer, degree, item_counts)
    return _Fallback(scorer, degree, item_counts)


def chunk_scorer(prepare: Callable[[Tensor], Prepared], score: Callable[[Prepared, slice], Tensor]) -> Scorer:
    """A scorer for models with work that belongs to the users alone, and no cheap bound of its rounding.

    The ranking asks for the same users with one slice of items after another: what ``prepare`` makes of the last users
    is kept, so that the work is done once for all slices. Several threads may ask at once.

    Both functions compute in double precision, and what they give is rounded to float32 once. How double precision
    rounds depends on the shapes, the threads and the device as well, but by a part in 1e16, which that rounding hides:
    scores that are equal stay equal.

    Args:
        prepare: what ``score`` needs of users ``[B]``.
        score: scores ``[B, n]`` of a slice, float64.
    """
    return _Chunked(prepare, score)


def in_double(scorer: Scorer) -> Scorer:
    """The scores of a scorer before they were rounded, where it has such; else its own, as float64."""
    own: Scorer | None = getattr(scorer, "double", None)
    return own or (lambda users, window: scorer(users, window).double())


Part = TypeVar("Part", bound=nn.Module)


def double_copy(model: Part, *shared: Any) -> Part:
    """A copy of a model with weights of double precision; attributes that are ``shared`` are not copied."""
    return copy.deepcopy(model, {id(part): part for part in shared}).double().requires_grad_(False)


class _Chunked:
    def __init__(self, prepare: Callable[[Tensor], Any], score: Callable[[Any, slice], Tensor]) -> None:
        self.prepare, self.score = prepare, score
        self.last: tuple[Tensor, Any] | None = None

    def double(self, users: Tensor, window: slice) -> Tensor:
        held = self.last  # read once: another thread may put its own there meanwhile
        if held is None or not torch.equal(held[0], users):
            held = self.last = None  # before the new one is made, so that never two are held
            held = self.last = (users.clone(), self.prepare(users))
        return self.score(held[1], window)

    def __call__(self, users: Tensor, window: slice) -> Tensor:
        return self.double(users, window).to(torch.float32, copy=True)


def _unit(dtype: torch.dtype) -> float:
    """Unit roundoff of a type: the largest relative error of rounding to it."""
    return torch.finfo(dtype).eps / 2


def _gamma(terms: Tensor | int, dtype: torch.dtype) -> Tensor:
    r"""Relative error :math:`\gamma_n = nu / (1 - nu)` of a sum of n products in any order (Higham, 2002, section 3.1).

    Two terms more are for rounding the exact sum.
    """
    share = (torch.as_tensor(terms, dtype=torch.float64) + 2) * _unit(dtype)
    return share / (1 - share).clamp(min=0.5)


def _operand_rounding() -> float:
    """Relative error of a product of float32 numbers where torch is allowed to round them first."""
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # set in the newer way, for each backend
        precision = "medium"
    if precision == "highest":
        return 0.0
    operand = 2.0**-10 if precision == "high" else 2.0**-7  # TensorFloat-32, bfloat16, both cut off at worst
    return 2 * operand + operand**2


def _pairwise_sum(x: Tensor) -> Tensor:
    """Sums over dimension 1 by a tree of additions of neighbours: zeros at the end change no bit, nor a device."""
    while x.size(1) > 1:
        if x.size(1) % 2:
            x = torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)
        x = x[:, 0::2] + x[:, 1::2]
    return x[:, 0] if x.size(1) else x.sum(1)


_BLOCK = 1 << 18
"""Products that :meth:`ExactScorer.exact` holds at a time."""


class _Dot:
    def __init__(self, users: Tensor, items: Tensor) -> None:
        self.users, self.items = users, items
        self.dtype = torch.float64 if items.dtype == torch.float64 else torch.float32
        self.longest: Tensor | None = None
        self.table: ItemTable | None = None

    def factors(self, users: Tensor) -> Factors:
        if self.table is None:
            self.table = ItemTable(self.items.to(self.dtype))
        return Factors(self.users[users].to(self.dtype), self.table, None)

    def __call__(self, users: Tensor, window: slice) -> Tensor:
        return self.users[users].to(self.dtype) @ self.items[window].to(self.dtype).T

    def double(self, users: Tensor, window: slice) -> Tensor:
        return self.users[users].double() @ self.items[window].double().T

    def rounding(self, users: Tensor) -> Tensor:
        if self.longest is None:
            self.longest = row_lengths(self.items).max() if self.items.size(0) else self.items.new_zeros(()).double()
        length = row_lengths(self.users[users])
        dim = self.items.size(1)
        relative = float(_gamma(dim, self.dtype))  # no tensor, which would have to get to the device
        if self.dtype == torch.float32:
            relative = relative + _operand_rounding() + (split_rounding(dim) if length.is_cuda else 0.0)
        # Products below the smallest normal number may be lost altogether.
        lost = 2 * dim * torch.finfo(self.dtype).tiny
        return torch.where(length > 0, relative * length * self.longest + lost, 0.0)

    def exact(self, users: Tensor, items: Tensor) -> Tensor:
        parts = max(1, _BLOCK // max(1, self.items.size(1)))
        # Products of float32 numbers are exact in float64, and sums of two are rounded the same everywhere.
        scores = [
            _pairwise_sum(self.users[u].double() * self.items[i].double()).to(self.dtype)
            for u, i in zip(users.split(parts), items.split(parts), strict=True)
        ]
        return torch.cat(scores)


class _ItemSums:
    def __init__(self, rows: UserRows, weights: Tensor) -> None:
        self.rows, self.weights = rows, weights
        self.largest: Tensor | None = None

    def __call__(self, users: Tensor, window: slice) -> Tensor:
        return self.rows.product(users, self.weights[:, window])

    def double(self, users: Tensor, window: slice) -> Tensor:
        return self.rows.product(users, self.weights[:, window], torch.float64)

    def rounding(self, users: Tensor) -> Tensor:
        if self.largest is None:
            self.largest = torch.linalg.vector_norm(self.weights, float("inf"), dim=1).double()
        degree = self.rows.degree[users]
        total = self.rows.product(users, self.largest[:, None])[:, 0]
        # A sum of one weight is the weight.
        return torch.where(degree > 1, _gamma(degree, self.weights.dtype).to(total.device) * total, 0.0)

    def exact(self, users: Tensor, items: Tensor) -> Tensor:
        scores = torch.zeros(users.numel(), dtype=self.weights.dtype, device=self.weights.device)
        degree = self.rows.degree[users]
        order = degree.argsort(descending=True)  # so that the users of a block are padded little
        start = 0
        while start < order.numel():
            width = max(1, int(degree[order[start]]))
            chosen = order[start : start + max(1, _BLOCK // width)]
            start += chosen.numel()
            position, own = self.rows.pairs(users[chosen])
            first = degree[chosen].cumsum(0) - degree[chosen]
            place = torch.arange(position.numel(), device=position.device) - first[position]
            terms = torch.zeros(chosen.numel(), width, dtype=torch.float64, device=scores.device)
            terms[position, place] = self.weights[own, items[chosen][position]].double()
            scores[chosen] = _pairwise_sum(terms).to(scores.dtype)
        return scores


class _Fallback:
    def __init__(self, scorer: Scorer, degree: Tensor, item_counts: Tensor) -> None:
        self.scorer, self.degree, self.counts = scorer, degree, item_counts.to(torch.float32)
        # Whom a GPU asks about in place of users of whom nothing is known: how many those are the host never learns.
        self.anyone = degree.argmax() if degree.is_cuda and degree.numel() else None

    def known(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """Which of ``users`` have interactions; the users, on a GPU with someone in the place of those who have not."""
        known = self.degree[users] > 0
        return known, users if self.anyone is None else torch.where(known, users, self.anyone)

    def __call__(self, users: Tensor, window: slice) -> Tensor:
        known = self.degree[users] > 0
        if bool(known.all()):
            return self.scorer(users, window)
        popular = self.counts[window]
        if not bool(known.any()):
            return popular.repeat(users.numel(), 1)
        own = self.scorer(users[known], window)
        scores = popular.to(own.dtype).repeat(users.numel(), 1)
        scores[known] = own
        return scores


class _ExactFallback(_Fallback):
    def __init__(self, scorer: ExactScorer, degree: Tensor, item_counts: Tensor) -> None:
        super().__init__(scorer, degree, item_counts)
        self.inner = scorer

    def rounding(self, users: Tensor) -> Tensor:
        known, asked = self.known(users)
        if users.is_cuda:
            return torch.where(known, self.inner.rounding(asked), 0.0)
        bound = torch.zeros(users.numel(), dtype=torch.float64, device=users.device)
        bound[known] = self.inner.rounding(users[known])
        return bound

    def exact(self, users: Tensor, items: Tensor) -> Tensor:
        known, asked = self.known(users)
        if users.is_cuda:
            own = self.inner.exact(asked, items)
            return torch.where(known, own, self.counts[items].to(own.dtype))
        own = self.inner.exact(users[known], items[known])
        scores = self.counts[items].to(own.dtype)
        scores[known] = own
        return scores


class _FactorFallback(_ExactFallback):
    def __init__(self, scorer: FactorScorer, degree: Tensor, item_counts: Tensor) -> None:
        super().__init__(scorer, degree, item_counts)
        self.by_factors = scorer

    def factors(self, users: Tensor) -> Factors:
        known, asked = self.known(users)
        if users.is_cuda:
            return self.by_factors.factors(asked)._replace(valid=known)
        if bool(known.all()):
            return self.by_factors.factors(users)
        # Those of others need not be there: anyone's stand in for them.
        some = users[known][:1]
        found = self.by_factors.factors(torch.where(known, users, some if some.numel() else 0))
        return found._replace(valid=known)
