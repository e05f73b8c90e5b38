"""How models give scores: a function of users and a slice of the items, so that no M x N matrix is needed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Scorer = Callable[[Tensor, slice], Tensor]
"""Scores ``[B, n]`` of a slice of n items for a tensor of users ``[B]``, in a tensor of its own; higher is better."""


def dot_scorer(users: Tensor, items: Tensor) -> Scorer:
    """Inner products of user embeddings ``[M, d]`` with item embeddings ``[N, d]``."""
    return lambda rows, window: users[rows] @ items[window].T
