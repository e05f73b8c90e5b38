"""Tables of raw ids to interactions: filters, repairs, dense ids and the split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import torch

from .container import Interactions, Origin
from .ids import IdMap, IntArray, InteractionError, warn
from .split import Split, assign
from .tables import Table, all_ids

_PARTS = ("train", "valid", "test")


def assemble(
    tables: dict[str, Table],
    *,
    name: str,
    source: str,
    format: str,
    split: Split,
    min_rating: float | None,
    k_core: int,
    seed: int,
) -> Interactions:
    """Tables of raw ids, one for each part or one to be split, to interactions; ``tables`` is used up."""
    of_training = tables["train"]
    _filter(tables, min_rating)
    declared = "the files say" if len(tables) > 1 else ""
    if of_training.part is not None:
        column = dict(of_training.taken).get("part", "part")
        if len(tables) > 1:
            warn(f"{source}: column {column} is ignored: there are files for the parts")
        else:
            table = tables.pop("train")
            assert table.part is not None
            tables |= {p: table[table.part == n] for n, p in enumerate(_PARTS) if (table.part == n).any()}
            declared = f"column {column} says"
            if "train" not in tables:
                raise InteractionError(f"{source}: column {column} leaves no pairs for training")
    if split.kind == "temporal" and "valid" not in tables and tables["train"].time is None:
        raise InteractionError(f"{source}: a temporal split needs a time column, and there is none (time_column=)")

    _check_units(of_training)
    user_raw = all_ids([t.users for t in tables.values()])
    item_raw = all_ids([t.items for t in tables.values()])
    num_items = len(item_raw)
    # One integer for each pair, so that duplicates and overlaps are plain set operations.
    keys: dict[str, IntArray] = {}
    time = None
    sources = {part: table.source for part, table in tables.items()}
    for part in list(tables):
        table = tables.pop(part)
        key = table.users.rows_in(user_raw).astype(np.int64)
        key *= num_items
        key += table.items.rows_in(item_raw)
        when = table.time if part == "train" else None
        del table
        keys[part], kept = _without_duplicates(key, when, sources[part])
        if when is not None and kept is not None:
            time = when[kept]
        del key, when, kept
    keys = _without_overlaps(keys, sources)

    if k_core > 1:
        every = np.concatenate(list(keys.values()))
        core = _in_core(every // num_items, every % num_items, k_core)
        if not core.any():
            raise InteractionError(f"{source}: no user and item is left in the {k_core}-core")
        ends = np.cumsum([len(k) for k in keys.values()])[:-1]
        masks = dict(zip(keys, np.split(core, ends), strict=True))
        keys = {p: k[masks[p]] for p, k in keys.items()}
        time = None if time is None else time[masks["train"]]

    how = f"as {declared}"
    if len(keys) == 1:
        shares = "" if split.kind == "leave-one-out" else f", {split.valid:g} for validation, {split.test:g} for test"
        how = f"{split.kind}{shares}, seed {seed}"
        part_of = assign(keys["train"] // num_items, time, split, seed, source)
        whole = keys.pop("train")
        keys = {p: whole[part_of == i] for i, p in enumerate(_PARTS)}
        del whole, part_of
    elif "valid" not in keys and split.valid > 0:
        # What the split would give to test is taken for validation: a test part is there already.
        part_of_training = replace(split, valid=0.0, test=split.valid / (1 - split.test))
        held_out = assign(keys["train"] // num_items, time, part_of_training, seed, source) == 2
        keys["valid"], keys["train"] = keys["train"][held_out], keys["train"][~held_out]
        warn(f"{source}: no validation split; {len(keys['valid'])} training interactions were held out for it")
        how += f"; validation held out of training ({split.kind}, seed {seed})"
    elif split.kind != Split().kind:
        warn(f"{source}: no {split.kind} split is made: {declared} what is validation and test")
    if "test" not in keys:
        warn(f"{source}: no test split; nothing can be measured on test")

    pairs: dict[str, np.ndarray] = {}
    for part in list(keys):
        key = keys.pop(part)
        pairs[part] = np.empty((2, len(key)), dtype=np.int64)
        np.floor_divide(key, num_items, out=pairs[part][0])
        np.remainder(key, num_items, out=pairs[part][1])
    user_raw, item_raw = _compact(pairs, user_raw, 0), _compact(pairs, item_raw, 1)
    trained = np.zeros(len(user_raw), dtype=bool)
    trained[pairs["train"][0]] = True
    if not trained.all():
        warn(f"{source}: {int((~trained).sum())} of {len(user_raw)} users have no training item (kept)")
    empty = torch.empty(2, 0, dtype=torch.int64)
    train, valid, test = (torch.from_numpy(pairs[p]) if p in pairs else empty for p in _PARTS)
    filters = (("min_rating", min_rating), ("k_core", k_core if k_core > 1 else None))
    origin = Origin(
        source,
        format,
        of_training.taken,
        of_training.ignored,
        how,
        None if declared else split,
        seed,
        tuple((key, value) for key, value in filters if value is not None),
    )
    return Interactions(
        train,
        valid,
        test,
        num_users=len(user_raw),
        num_items=len(item_raw),
        user_ids=IdMap(user_raw),
        item_ids=IdMap(item_raw),
        name=name,
        origin=origin,
    )


def _check_units(table: Table) -> None:
    """Say where some times look like seconds since 1970 and others like milliseconds."""
    if table.time is not None and len(table.time) and table.time.max() >= 10**11:
        seconds = int(((table.time >= 10**8) & (table.time < 10**10)).sum())
        if seconds:
            warn(
                f"{table.source}: {seconds} of {len(table)} times look like seconds and the rest does not: mixed units?"
            )


def _filter(tables: dict[str, Table], min_rating: float | None) -> None:
    """Leave out what is rated below the threshold; without one, say that there are explicit negatives."""
    source = tables["train"].source
    if min_rating is not None and tables["train"].rating is None:
        raise InteractionError(f"{source}: min_rating needs a rating column, and there is none (rating_column=)")
    for part, table in tables.items():
        if min_rating is None:
            negative = 0 if table.rating is None else int((table.rating <= 0).sum())
            if negative:
                warn(
                    f"{table.source}: {negative} of {len(table)} ratings are 0 or less and count as interactions; "
                    "min_rating= leaves them out"
                )
        elif table.rating is None:
            warn(f"{table.source}: no rating column; all its {len(table)} rows are kept")
        else:
            tables[part] = table[table.rating >= min_rating]
    if min_rating is not None and len(tables["train"]) == 0:
        raise InteractionError(f"{source}: no rating is at least {min_rating:g}")


def _without_duplicates(key: IntArray, time: np.ndarray | None, source: str) -> tuple[IntArray, IntArray | None]:
    """Ascending distinct keys and, where there is a time, the row of each in the table: the earliest."""
    order = None
    if time is not None:
        order = np.lexsort((time, key))
        key = key[order]
    elif bool((key[1:] < key[:-1]).any()):
        key.sort()
    first = np.ones(len(key), dtype=bool)
    np.not_equal(key[1:], key[:-1], out=first[1:])
    repeated = len(key) - int(first.sum())
    if repeated:
        warn(f"{source}: {repeated} duplicate pairs, kept once")
        key, order = key[first], None if order is None else order[first]
    return key, order


def _without_overlaps(keys: dict[str, IntArray], sources: dict[str, str]) -> dict[str, IntArray]:
    """Every pair only in the first of train, valid, test that has it."""
    kept = dict(keys)
    parts = list(keys)
    for i, part in enumerate(parts):
        for earlier in parts[:i]:
            shared = np.isin(kept[part], kept[earlier], assume_unique=True)
            if shared.any():
                count = int(shared.sum())
                warn(f"{sources[part]}: {count} pairs are also in {earlier}, removed from {part}")
                kept[part] = kept[part][~shared]
    return kept


def _in_core(users: IntArray, items: IntArray, k: int) -> np.ndarray:
    """Which pairs are in the k-core of the bipartite graph."""
    inside = np.ones(len(users), dtype=bool)
    while True:
        user_degree = np.bincount(users[inside], minlength=int(users.max()) + 1)
        item_degree = np.bincount(items[inside], minlength=int(items.max()) + 1)
        keep = inside & (user_degree[users] >= k) & (item_degree[items] >= k)
        if keep.sum() == inside.sum() or not keep.any():
            return keep
        inside = keep


def _compact(pairs: dict[str, np.ndarray], raw: pl.Series, row: int) -> pl.Series:
    """Renumber one row of the pairs, in place, to the ids that still occur; returns those ids."""
    used = np.zeros(len(raw), dtype=bool)
    for p in pairs.values():
        used[p[row]] = True
    if used.all():
        return raw
    new = np.cumsum(used) - 1
    for p in pairs.values():
        p[row] = new[p[row]]
    return raw.filter(pl.Series(used))
