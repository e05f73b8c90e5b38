"""Items that came after training: a vector for each from the trained items whose features are most like its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .data.ids import IdMap
from .errors import OptionError
from .recommender import Recommender
from .serving import plain_ids
from .text import escape


def with_new_items(
    recommender: Recommender, ids: Sequence[Any], features: Tensor, new_features: Tensor, *, similar: int = 20
) -> Recommender:
    r"""A recommender that has items more, which nobody took; it is trained no further, and the first stays as it is.

    The vector of a new item with features x is the mean over the items whose features are most like its own,

    .. math:: v_x = \frac{1}{k} \sum_{i \in S_k(x)} v_i, \qquad
        S_k(x) = \text{the } k \text{ trained items of the largest } \cos(x - \bar x, x_i - \bar x)

    where :math:`\bar x` is the mean of the trained items' features. On hidden items of TikTok this mean found more than
    what InfoDCL's generator makes of the features alone (benchmarks/studies/cold_items).

    Args:
        recommender: of a model that ranks by embeddings alone.
        ids: raw ids of the new items, ``n`` of them.
        features: of the model's items ``[N, f]``, in the order of its rows.
        new_features: of the new items, ``[n, f]``.
        similar: k.

    Raises:
        OptionError: if the model has no embeddings, an id is not new, or the features do not fit.
    """
    name, tables = escape(recommender.name), recommender.tables
    if tables is None:
        raise OptionError(f"{name} does not rank by embeddings alone: it has no place for new items")
    raw, old = plain_ids(ids), recommender.item_ids
    if len(set(raw)) < len(raw) or bool((old.encode(raw, missing=-1) >= 0).any()):
        raise OptionError("an id of a new item is that of another item")
    shapes = tuple(features.shape), tuple(new_features.shape)
    if features.dim() != 2 or shapes != ((len(old), features.size(1)), (len(raw), features.size(1))):
        raise OptionError(f"features must be [{len(old)}, f] and [{len(raw)}, f], not {shapes[0]} and {shapes[1]}")
    if not bool(features.isfinite().all() and new_features.isfinite().all()):
        raise OptionError("the features of items must be finite")
    trained = torch.bincount(recommender.train[1], minlength=len(old)) > 0
    count = min(similar, int(trained.sum()))
    if similar < 1 or count < 1:
        raise OptionError(f"similar must be at least 1, not {similar}, and an item must have training interactions")
    known, asked = features[trained].double(), new_features.double()
    center = known.mean(0)
    unit, wanted = (torch.nn.functional.normalize(part - center, dim=1) for part in (known, asked))
    near = (wanted @ unit.T).topk(count, dim=1).indices
    users, items = tables
    vectors = items[trained][near].mean(1)
    every = IdMap(sorted([*plain_ids(old.raw), *raw]))
    place = torch.from_numpy(every.encode(plain_ids(old.raw)))
    table = items.new_empty(len(every), items.size(1))
    table[place] = items
    table[torch.from_numpy(np.asarray(every.encode(raw)))] = vectors
    train, valid = (torch.stack([pairs[0], place[pairs[1]]]) for pairs in (recommender.train, recommender.valid))
    state = {**recommender.state, "users": users, "items": table}
    return replace(recommender, state=state, item_ids=every, train=train, valid=valid)
