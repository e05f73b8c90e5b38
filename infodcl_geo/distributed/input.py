"""Interactions in many files, read by many ranks: none of them ever holds all.

Each rank reads its share of the files. Raw ids get their rows by a distributed sort: every rank sends the distinct ids
that it saw to the rank of their range, which sorts them and tells the rows; so row r is the r-th smallest id, as one
process has it. Then each interaction goes to the rank of its user.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from ..data.folders import find_files
from ..data.ids import IdMap, InteractionError
from ..data.interactions import Interactions
from ..data.layouts import Columns
from ..data.options import DataOptions
from ..data.readers import Reading, read
from ..data.split import Split
from ..data.tables import Ids, Table
from .batches import uniform_of
from .group import Group
from .partition import Partition, Rows, partition

_PARTS = ("train", "valid", "test")
_SAMPLES = 64


@dataclass(frozen=True, eq=False)
class OwnInteractions:
    """A rank's interactions: those of its users, as rows among all; otherwise as ``Interactions``.

    Args:
        train, valid, test: pairs ``[2, E]`` of this rank's users, distinct, sorted.
        part: which rows are whose.
        user_ids, item_ids: raw ids of this rank's rows.
        name: of the data.
        fingerprint: of all ranks' interactions.
        totals: pairs of each split on all ranks.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    part: Partition
    user_ids: IdMap = field(repr=False)
    item_ids: IdMap = field(repr=False)
    name: str
    fingerprint: str
    totals: tuple[int, int, int]

    @property
    def num_users(self) -> int:
        return self.part.users.total

    @property
    def num_items(self) -> int:
        return self.part.items.total


def is_sharded(source: str | Path) -> bool:
    """Whether a path is a folder of several parquet files, as Spark, Polars or DuckDB write them."""
    folder = Path(source)
    if not folder.is_dir():
        return False
    try:
        files = find_files(folder, {}, None)["train"]
    except InteractionError:
        return False
    return len(files) > 1 and all(file.suffix in (".parquet", ".pq") for file in files)


def load_sharded(options: DataOptions, group: Group) -> OwnInteractions:
    """Read this rank's share of a folder of files, and exchange ids and interactions with the others.

    Folders ``train``, ``valid`` and ``test`` of files (also ``split=train`` and so on) keep their split; files alone
    are split by the ``ratio`` rule, each user's random interactions by a hash of (seed, user, item).

    Args:
        options: the folder, which all ranks see, and how it is read.
        group: the ranks.

    Raises:
        InteractionError: if a file cannot be read, or an option needs all interactions in one place.
    """
    folder = Path(options.data)
    if options.k_core or options.split != "ratio":
        raise InteractionError(f"{folder}: k_core, and splits other than ratio, need all interactions on one process")
    columns = Columns(options.user_column, options.item_column, options.rating_column, options.time_column)
    how = Reading(options.format, columns, time_format=options.time_format)
    given = {"train": options.train_file, "valid": options.valid_file, "test": options.test_file}
    files = find_files(folder, given, options.format)
    tables = {
        part: [_rated(read(file, how)[0], options.min_rating) for file in of[group.rank :: group.size]]
        for part, of in files.items()
    }
    everything = [table for of in tables.values() for table in of]
    users, items = (_sorted_rows([getattr(table, role) for table in everything], group) for role in ("users", "items"))
    split = Split("ratio", options.valid_share, options.test_share)
    part = partition(users[3], items[3], group.size, group.rank)
    own = {name: _pairs(of, users, items, part, group) for name, of in tables.items()}
    if len(own) == 1:
        own = dict(zip(_PARTS, _split(own["train"], part, split, options.split_seed), strict=True))
    empty = torch.empty(2, 0, dtype=torch.int64)
    train, valid, test = (own.get(name, empty) for name in _PARTS)
    valid = _without(valid, train, part)
    test = _without(_without(test, train, part), valid, part)
    counts = torch.tensor([pairs.size(1) for pairs in (train, valid, test)])
    totals = group.sum_(counts, "counts").tolist()
    if not totals[0]:
        raise InteractionError(f"{folder}: no training interactions")
    return OwnInteractions(
        train,
        valid,
        test,
        part,
        users[2],
        items[2],
        folder.resolve().name,
        _fingerprint((train, valid, test), part, group),
        (totals[0], totals[1], totals[2]),
    )


def _rated(table: Table, least: float | None) -> Table:
    if least is None:
        return table
    if table.rating is None:
        raise InteractionError(f"{table.source}: has no ratings for min_rating={least:g}")
    return table[table.rating >= least]


def collected(data: OwnInteractions, group: Group) -> Interactions | None:
    """All interactions on rank 0, for a model that is saved with them; ``None`` elsewhere."""
    train, valid, test = (
        _to_first(own.T.contiguous(), group).T.contiguous() for own in (data.train, data.valid, data.test)
    )
    users, items = (_series_to_first(own.values, group) for own in (data.user_ids, data.item_ids))
    if not group.first:
        return None
    return Interactions(train, valid, test, data.num_users, data.num_items, IdMap(users), IdMap(items), name=data.name)


def _to_first(x: Tensor, group: Group) -> Tensor:
    sizes = group.all_counts(x.size(0))
    give = [x.size(0), *[0] * (group.size - 1)]
    return group.exchange(x, give, sizes if group.first else [0] * group.size, "export")


def _series_to_first(raw: pl.Series, group: Group) -> pl.Series:
    return pl.concat(_exchange_ids(raw, [len(raw), *[0] * (group.size - 1)], group))


# ---------------------------------------------------------------------------------------------------------------------
# Ids


def _sorted_rows(columns: list[Ids], group: Group) -> tuple[pl.Series, Tensor, IdMap, int]:
    """Distinct ids of this rank's columns, their rows among all, the ids of this rank's rows, and how many in all."""
    strings = torch.tensor([int(any(column.vocabulary is not None for column in columns))])
    as_strings = bool(group.max_(strings, "ids"))
    kind = pl.String if as_strings else pl.Int64
    found = [column.distinct(as_strings).cast(kind) for column in columns]
    raw = pl.concat([pl.Series([], dtype=kind), *found]).unique().sort()
    samples = raw.gather(np.linspace(0, len(raw) - 1, min(len(raw), _SAMPLES * group.size)).astype(np.int64))
    every = sorted({value for of_rank in group.objects(samples.to_list()) for value in of_rank})
    cuts = [every[len(every) * r // group.size] for r in range(1, group.size)] if every else []
    bounds = [0, *(int(raw.search_sorted(cut)) for cut in cuts), len(raw)]
    give = [max(0, b - a) for a, b in itertools.pairwise(bounds)] if cuts else [len(raw)]
    give += [0] * (group.size - len(give))
    sections = _exchange_ids(raw, give, group)
    mine = pl.concat(sections).unique().sort()
    counts = group.all_counts(len(mine))
    first = sum(counts[: group.rank])
    told = [torch.from_numpy(np.asarray(mine.search_sorted(s), dtype=np.int64).reshape(-1)) for s in sections]
    rows = group.exchange(torch.cat(told) + first, [len(s) for s in sections], give, "ids")
    own_rows = Rows(sum(counts), group.size, group.rank)
    blocks = []
    for rank in range(group.size):
        low, high = own_rows.bounds(rank)
        blocks.append(max(0, min(high, first + len(mine)) - max(low, first)))
    own = pl.concat(_exchange_ids(mine, blocks, group))
    return raw, rows, IdMap(own), sum(counts)


def _exchange_ids(raw: pl.Series, give: list[int], group: Group) -> list[pl.Series]:
    """Send ``give[r]`` ids to rank r, in order; what comes from each rank."""
    take = group.counts(give)
    if raw.dtype != pl.String:
        received = group.exchange(torch.from_numpy(raw.to_numpy().copy()), give, take, "ids")
        return [pl.Series(part.numpy(), dtype=pl.Int64) for part in received.split(take)]
    lengths = raw.str.len_bytes().cast(pl.Int64).to_numpy().copy()
    content = np.frombuffer("".join(raw).encode(), dtype=np.uint8).copy()
    ends = np.concatenate([[0], np.cumsum(lengths)])
    places = np.concatenate([[0], np.cumsum(give)])
    of_ranks = [int(ends[b] - ends[a]) for a, b in itertools.pairwise(places)]
    sizes = group.exchange(torch.from_numpy(lengths), give, take, "ids")
    text = group.exchange(torch.from_numpy(content), of_ranks, group.counts(of_ranks), "ids").numpy().tobytes()
    series, at = [], 0
    for part in sizes.split(take):
        words = []
        for size in part.tolist():
            words.append(text[at : at + size].decode())
            at += size
        series.append(pl.Series(words, dtype=pl.String))
    return series


# ---------------------------------------------------------------------------------------------------------------------
# Pairs


def _pairs(
    tables: list[Table],
    users: tuple[pl.Series, Tensor, IdMap, int],
    items: tuple[pl.Series, Tensor, IdMap, int],
    part: Partition,
    group: Group,
) -> Tensor:
    """Distinct pairs of this rank's users, sorted, from the tables that all ranks have read."""
    read_here = [
        torch.stack(
            [
                rows[torch.from_numpy(np.asarray(getattr(table, role).rows_in(raw), dtype=np.int64))]
                for role, (raw, rows, _, _) in (("users", users), ("items", items))
            ]
        )
        for table in tables
    ]
    pairs = torch.cat([torch.empty(2, 0, dtype=torch.int64), *read_here], dim=1)
    order, give = part.users.by_owner(pairs[0])
    own = group.exchange(pairs.T[order], give, group.counts(give), "interactions")
    keys = (own[:, 0] * part.items.total + own[:, 1]).unique()
    return torch.stack([keys // part.items.total, keys % part.items.total])


def _without(pairs: Tensor, other: Tensor, part: Partition) -> Tensor:
    keys, known = (x[0] * part.items.total + x[1] for x in (pairs, other))
    return pairs[:, ~torch.isin(keys, known)]


def _split(pairs: Tensor, part: Partition, split: Split, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Training, validation and test by the rule of ``ratio``, in the order of a hash within each user."""
    users, items = pairs
    order = uniform_of(seed, users, items).argsort()
    order = order[users[order].argsort(stable=True)]
    degree = torch.bincount(users - part.users.start, minlength=max(1, len(part.users)))
    count = degree[users - part.users.start]
    first = (degree.cumsum(0) - degree)[users[order] - part.users.start]
    place = torch.empty_like(order)
    place[order] = torch.arange(order.numel()) - first
    test = torch.minimum((split.test * count + 0.5 + 1e-9).floor().long(), count - 1)
    valid = torch.minimum((split.valid * count + 0.5 + 1e-9).floor().long(), count - 1 - test)
    is_test, is_valid = place < test, (place >= test) & (place < test + valid)
    return pairs[:, ~(is_test | is_valid)], pairs[:, is_valid], pairs[:, is_test]


def _fingerprint(splits: tuple[Tensor, ...], part: Partition, group: Group) -> str:
    """A number of all pairs in any order: sums of hashes, which the ranks add up."""
    sums = [(uniform_of(number + 1, pairs[0], pairs[1]) * 2**31).long().sum() for number, pairs in enumerate(splits)]
    total = group.sum_(torch.stack(sums), "agreement").tolist()
    return "-".join(f"{value:016x}" for value in (part.users.total, part.items.total, *total))
