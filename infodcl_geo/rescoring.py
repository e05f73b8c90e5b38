"""A saved model scored on a held-out split: of the data it was trained on, or, when that is meant, of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .data.ids import IdMap
from .data.interactions import Interactions
from .errors import OptionError
from .evaluation.ranking import Ranking, evaluate
from .models.scoring import Scorer
from .saved import Record, digest_of
from .text import escape


@dataclass(frozen=True)
class Scored:
    """How a model ranks a held-out split."""

    ranking: Ranking
    train: Tensor
    """training pairs ``[2, E]`` of the model, in its rows"""
    unknown: int = 0
    """held-out pairs that are left out because the model has no such user or item"""
    trained: int = 0
    """held-out pairs that are left out because the model was trained on them"""


def score_split(
    name: str,
    scorer: Scorer,
    ids: tuple[IdMap, IdMap],
    pairs: tuple[Tensor, Tensor],
    record: Record,
    data: Interactions,
    split: Literal["valid", "test"],
    *,
    ks: tuple[int, ...],
    mask_validation: bool,
    other_data: bool,
    beyond: bool,
) -> Scored:
    """See :meth:`~infodcl_geo.recommender.Recommender.score`.

    Args:
        name: of the model, for messages.
        scorer: of the model, for its rows.
        ids: raw ids of its users and items.
        pairs: its training and validation pairs.
        record: what it remembers of its data.
        data, split, ks, mask_validation, other_data, beyond: as there.
    """
    if split not in ("valid", "test"):
        raise OptionError(f"the split to score is valid or test, not {split!r}")
    train, sizes = pairs[0], (len(ids[0]), len(ids[1]))
    difference = None if other_data else _difference(ids, pairs, record, data)
    if difference is not None:
        raise OptionError(
            f"{name} was trained on other data: {difference}; give its data and split (--data, --split and the like), "
            "or other_data (--other_data true) to score it on these without the pairs that it was trained on"
        )
    known = {part: _rows_of(data, getattr(data, part), ids) for part in ("train", "valid", "test")}
    held_out = known[split]
    unknown = getattr(data, split).size(1) - held_out.size(1)
    of_training = torch.isin(held_out[0] * sizes[1] + held_out[1], train[0] * sizes[1] + train[1])
    trained = int(of_training.sum())
    held_out = held_out[:, ~of_training]
    if not held_out.size(1):
        left_out = f", {unknown} of users or items it does not know and {trained} that it was trained on are left out"
        raise OptionError(
            f"{data.name}: {split} has no interaction to score {name} on{left_out if unknown or trained else ''}: "
            "give data with such a split (--data, --on)"
        )
    seen = [train, _without(known["train"], train, sizes[1])]
    if mask_validation and split == "test":
        seen.append(_without(known["valid"], torch.cat(seen, 1), sizes[1]))
    ranking = evaluate(
        scorer,
        held_out,
        num_users=sizes[0],
        num_items=sizes[1],
        seen=seen,
        ks=ks,
        train=train,
        item_counts=torch.bincount(train[1], minlength=sizes[1]) if beyond else None,
        name=name,
    )
    return Scored(ranking, train, unknown, trained)


def _difference(
    ids: tuple[IdMap, IdMap], pairs: tuple[Tensor, Tensor], record: Record, data: Interactions
) -> str | None:
    """In what ``data`` are not what the model was trained on, in words; ``None`` if they are the same."""
    if record.fingerprint:
        if record.fingerprint == data.fingerprint:
            return None
        if record.interactions == digest_of(data):
            how = "" if data.origin is None else f" ({escape(data.origin.how)})"
            before = f" ({escape(record.split)})" if record.split else ""
            return f"the interactions are the same but split otherwise{how}, where training had another split{before}"
        counts = (data.train.size(1), data.valid.size(1), data.test.size(1))
        these, those = (" + ".join(map(str, found)) for found in (counts, record.counts))
        return (
            f"these are {data.num_users} users, {data.num_items} items and {these} pairs of {escape(data.name)}, "
            f"those were {len(ids[0])}, {len(ids[1])} and {those} of {escape(record.name)}"
            + (", as many but not the same" if counts == record.counts else "")
        )
    # Older checkpoints know no more than these; what is neither is then the test split.
    if ids != (data.user_ids, data.item_ids):
        return "the users or items are others"
    for part, own in zip(("train", "valid"), pairs, strict=True):
        if not torch.equal(own, getattr(data, part)):
            return f"the {part} pairs are others"
    return None


def _rows_of(data: Interactions, pairs: Tensor, ids: tuple[IdMap, IdMap]) -> Tensor:
    """Pairs of ``data`` in the model's rows ``[2, E]``, without those of users or items it does not know."""
    rows = []
    for own, other, part in zip(ids, (data.user_ids, data.item_ids), pairs.cpu(), strict=True):
        if own == other:
            rows.append(part.numpy())
        else:
            rows.append(own.encode(other.values, missing=-1)[part.numpy()])
    found = np.stack(rows)
    return torch.from_numpy(found[:, (found >= 0).all(0)])


def _without(pairs: Tensor, others: Tensor, num_items: int) -> Tensor:
    return pairs[:, ~torch.isin(pairs[0] * num_items + pairs[1], others[0] * num_items + others[1])]
