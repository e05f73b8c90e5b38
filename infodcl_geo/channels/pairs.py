"""Held-out pairs and random ones of the same popularity, which diagnostics of channels compare."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data.ids import IntArray
from .base import ChannelError


def deal_pairs(
    valid: IntArray, taken: Any, max_pairs: int, rng: np.random.Generator, draws: int = 4
) -> tuple[IntArray, IntArray, list[IntArray]]:
    """Validation pairs, and for each the items of as many pairs that are not, dealt by popularity.

    Each item is drawn as often as those who lack it in training hold it out. A user who has in training nearly all that
    anybody holds out is left out.

    Args:
        valid: validation pairs ``[2, E]``.
        taken: training interactions, scipy CSR ``[M, N]``.
        max_pairs: pairs at most; a random part of them if there are more.
        rng: source of randomness.
        draws: items dealt to each pair, none of which its user has in training.

    Returns:
        Users ``[P]``, items ``[P]`` and ``draws`` times the items dealt, ``[P]`` each.

    Raises:
        ChannelError: if no user lacks an item that others hold out.
    """
    if valid.shape[1] > max_pairs:
        chosen = np.sort(rng.choice(valid.shape[1], max_pairs, replace=False))
        users, items = valid[:, chosen]
    else:
        users, items = valid
    # As often as those who lack an item hold it out, not as anybody does: the most popular are rare in validation
    # because nearly all have them in training, and somebody who has not is the likelier to hold them out.
    lacking = taken.shape[0] - np.bincount(taken.indices, minlength=taken.shape[1])
    rate = np.bincount(valid[1], minlength=taken.shape[1]) / np.maximum(lacking, 1)
    rate /= rate.sum()
    dealt = rng.choice(len(rate), (draws, len(users)), p=rate)
    known = np.ones(dealt.shape, dtype=bool)
    for _ in range(200):
        deal, pair = np.nonzero(known)
        known[deal, pair] = np.asarray(taken[users[pair], dealt[deal, pair]]).ravel() > 0
        deal, pair = np.nonzero(known)
        if not deal.size:
            break
        dealt[deal, pair] = rng.choice(len(rate), deal.size, p=rate)
    else:
        # A user who has in training nearly all that anybody holds out says nothing.
        kept = ~known.any(0)
        users, items, dealt = users[kept], items[kept], dealt[:, kept]
    if not len(users):
        raise ChannelError("no user lacks an item that others hold out, so nothing can be compared")
    return users, items, list(dealt)
