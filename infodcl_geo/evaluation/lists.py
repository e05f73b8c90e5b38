"""Lists that another program made, scored under the protocol of every model here."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..data.ids import IntArray, InteractionError, one_line
from ..data.interactions import Interactions
from ..data.layouts import Columns
from ..data.readers import Reading, read
from ..data.tables import Table
from ..errors import OptionError
from ..kernels.ties import tie_order
from .ranking import Ranking, of_lists


@dataclass(frozen=True)
class Lists:
    """Lists of items, a row for each place: users ascending, the best item first.

    Args:
        users: rows of users ``[n]``.
        items: rows of items ``[n]``, -1 for items that the data set does not have.
        strangers: distinct users that the data set does not have, which are left out.
        source: where they come from.
    """

    users: IntArray
    items: IntArray
    strangers: int = 0
    source: str = "the lists"


@dataclass(frozen=True)
class ScoredLists:
    """How lists rank a held-out split, and what of them had no effect."""

    ranking: Ranking
    train: Tensor
    """training pairs ``[2, E]``"""
    missing: int = 0
    """users with held-out items who have no list: their metrics are zero"""
    of_others: int = 0
    """users who have a list but no held-out item, or are not in the data set"""
    seen: int = 0
    """items of the lists that are left out because training (or masked validation) has them"""
    repeated: int = 0
    """items that stand in a list again, further down"""
    strange: int = 0
    """items that the data set does not have: they keep their places, as misses"""
    unknown: int = 0
    trained: int = 0


def read_lists(path: str | PathLike[str], data: Interactions) -> Lists:
    """The lists of a file: a table of user, item and, where there is one, a rank or a score.

    Text with a header (comma, tab and the like), JSON lines or parquet. A column ``rank`` counts from the best on;
    otherwise the larger ``score`` (or ``rating``) comes first, equal ones as
    :mod:`~infodcl_geo.evaluation.ranking` says; otherwise the rows of a user stand in their order.

    Args:
        path: the file.
        data: the data set, whose raw ids are meant.

    Raises:
        InteractionError: if it cannot be read; one line that names the file.
    """
    file = Path(path)
    try:
        table, ascending = _read(file)
    except OSError as error:
        raise InteractionError(f"{file}: {error.strerror or one_line(error)}") from None
    users, items = table.users.encode(data.user_ids), table.items.encode(data.item_ids)
    strangers = len(np.unique(table.users.codes[users < 0]))
    place = np.arange(len(users), dtype=np.float64)
    if table.rating is not None:
        place = table.rating if ascending else -table.rating
    if not np.isfinite(place).all():
        raise InteractionError(f"{file}: a rank or score that is no finite number orders nothing")
    ties = tie_order(torch.from_numpy(users), torch.from_numpy(np.maximum(items, 0))).numpy()
    order = np.lexsort((np.arange(len(users)) if table.rating is None or ascending else ties, place, users))
    order = order[users[order] >= 0]
    return Lists(users[order], items[order], strangers, str(file))


def _read(file: Path) -> tuple[Table, bool]:
    """The table, whose rating is a rank, then true, or a score."""
    for name, ascending in (("rank", True), ("score", False), ("prediction", False)):
        try:
            return read(file, Reading(columns=Columns(rating=name)))[0], ascending
        except InteractionError as error:
            if f"no column {name!r}" not in str(error):
                raise
    return read(file, Reading())[0], False


def score_lists(
    lists: Lists,
    data: Interactions,
    split: Literal["valid", "test"] = "test",
    *,
    ks: tuple[int, ...] = (10, 20, 50),
    mask_validation: bool = False,
    beyond: bool = False,
) -> ScoredLists:
    """The metrics that a model with these lists would have.

    Training items are taken out of the lists, as no model may show them, and what follows moves up. Users with held-out
    items who have no list count as zero.

    Args:
        lists: what is scored.
        data: interactions with their split.
        split: the held-out one.
        ks: cut-offs; longer than the lists if need be.
        mask_validation: of test: validation items are taken out, too.
        beyond: also coverage, Gini, novelty and popularity of the lists.

    Raises:
        OptionError: if nothing is held out, or none of its users has a list.
    """
    held_out, num_items = getattr(data, split), data.num_items
    wanted = held_out[0].unique()
    users, items = lists.users, lists.items
    inside = np.isin(users, wanted.numpy())
    of_others = len(np.unique(users[~inside])) + lists.strangers
    users, items = users[inside], items[inside]
    if not len(users):
        raise OptionError(f"{lists.source}: no list is one of the {wanted.numel()} users in {split} of {data.name}")
    hidden = [data.train, data.valid] if mask_validation and split == "test" else [data.train]
    key = users * num_items + items
    seen = (items >= 0) & np.isin(key, np.concatenate([pairs[0] * num_items + pairs[1] for pairs in hidden]))
    users, items, key = users[~seen], items[~seen], key[~seen]
    first = np.zeros(len(key), dtype=bool)
    first[np.unique(key, return_index=True)[1]] = True
    first |= items < 0
    users, items = users[first], items[first]
    row = np.searchsorted(wanted.numpy(), users)
    length = np.bincount(row, minlength=wanted.numel())
    place = np.arange(len(row)) - (np.cumsum(length) - length)[row]
    ranked = torch.full((wanted.numel(), min(max(ks), max(1, int(length.max(initial=1))))), -1)
    shown = place < ranked.size(1)
    ranked[row[shown], place[shown]] = torch.from_numpy(items[shown])
    ranking = of_lists(
        wanted,
        ranked,
        held_out,
        num_users=data.num_users,
        num_items=num_items,
        ks=ks,
        train=data.train,
        item_counts=torch.bincount(data.train[1], minlength=num_items) if beyond else None,
    )
    return ScoredLists(
        ranking,
        data.train,
        missing=wanted.numel() - len(np.unique(lists.users[inside])),
        of_others=of_others,
        seen=int(seen.sum()),
        repeated=int((~first).sum()),
        strange=int((items < 0).sum()),
    )
