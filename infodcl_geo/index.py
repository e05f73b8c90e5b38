"""The tables of a model for other programs, and a FAISS index over its items."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from .errors import OptionError
from .files import make_folder, write_atomically
from .kernels.ties import tie_order
from .models.scoring import ExactScorer, UserRows
from .recommender import Recommender
from .serving import Recommendation, check_length, plain_ids
from .text import escape

TableFormat = Literal["npz", "parquet", "safetensors", "faiss"]
Kind = Literal["flat", "hnsw"]

_SPARE = 64
"""Candidates that an index is asked for beyond the list and what the user has seen."""
_BATCH = 1024
"""Users that are searched for together."""


def export(
    recommender: Recommender, folder: str | Path, format: TableFormat = "parquet", kind: Kind = "flat"
) -> list[Path]:
    """Write the user and item embeddings of a model, with raw ids and numbers of training interactions.

    The score of a user and an item is the inner product of their rows. Users of zero interactions have learned nothing.

    - ``parquet``: ``users.parquet`` and ``items.parquet`` with columns ``id``, ``interactions`` and ``vector``;
    - ``npz``: ``tables.npz`` with ``users``, ``items``, ``user_ids``, ``item_ids``, ``user_interactions``,
      ``item_interactions``;
    - ``safetensors``: ``tables.safetensors`` with the vectors and interactions, the ids as JSON in its header;
    - ``faiss``: ``items.faiss``, see :func:`build_index`, and ``items.json`` with the ids of its rows.

    Args:
        recommender: the model.
        folder: where; made if it is not there. Files of these names are replaced.
        format: one of these.
        kind: of the FAISS index.

    Returns:
        The files that were written.

    Raises:
        OptionError: if the model does not rank by embeddings, or there is no such format.
        FileError: if a file cannot be written.
    """
    if format not in get_args(TableFormat):
        raise OptionError(f"the format of an export is one of {', '.join(get_args(TableFormat))}, not {format!r}")
    users, items = (table.contiguous() for table in _tables(recommender))
    counts = [torch.bincount(recommender.train[row], minlength=size) for row, size in enumerate(recommender.sizes)]
    ids = (recommender.user_ids, recommender.item_ids)
    contents: dict[str, bytes] = {}
    if format == "parquet":
        import polars as pl

        for name, own, table, count in zip(("users", "items"), ids, (users, items), counts, strict=True):
            vectors = pl.Series(table.to(torch.float32).numpy(), dtype=pl.Array(pl.Float32, table.size(1)))
            frame = pl.DataFrame({"id": own.values, "interactions": count.numpy(), "vector": vectors})
            buffer = io.BytesIO()
            frame.write_parquet(buffer)
            contents[f"{name}.parquet"] = buffer.getvalue()
    elif format == "npz":
        buffer = io.BytesIO()
        np.savez(
            buffer,
            users=users.to(torch.float32).numpy(),
            items=items.to(torch.float32).numpy(),
            user_ids=_fixed_width(ids[0].raw, "users"),
            item_ids=_fixed_width(ids[1].raw, "items"),
            user_interactions=counts[0].numpy(),
            item_interactions=counts[1].numpy(),
        )
        contents["tables.npz"] = buffer.getvalue()
    elif format == "safetensors":
        from safetensors.torch import save

        tensors = {"users": users, "items": items, "user_interactions": counts[0], "item_interactions": counts[1]}
        header = {"user_ids": json.dumps(ids[0].values.to_list()), "item_ids": json.dumps(ids[1].values.to_list())}
        contents["tables.safetensors"] = save({name: t.clone() for name, t in tensors.items()}, header)
    else:
        index = build_index(recommender, kind)
        contents["items.faiss"] = _faiss().serialize_index(index).tobytes()
        contents["items.json"] = json.dumps({"ids": ids[1].values.to_list()}).encode()
    place = make_folder(folder)
    for name, content in contents.items():
        write_atomically(place / name, content)
    return [place / name for name in contents]


def _tables(recommender: Recommender) -> tuple[Tensor, Tensor]:
    tables = recommender.tables
    if tables is None:
        raise OptionError(f"{escape(recommender.name)} does not rank by embeddings: it has no tables to export")
    return tables


def _fixed_width(raw: np.ndarray, who: str) -> np.ndarray:
    """Ids as npz can hold them without pickles, unless one long id would make all of them long."""
    if raw.dtype != object:
        return raw
    longest, total = max(map(len, raw)), sum(map(len, raw))
    if longest * len(raw) > 8 * total + (1 << 24):
        raise OptionError(f"the ids of {who} are too different in length for npz: export parquet")
    return raw.astype(np.str_)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise OptionError("a FAISS index needs faiss: pip install 'infodcl-geo[faiss]'") from None
    return faiss


def build_index(recommender: Recommender, kind: Kind = "flat", *, neighbours: int = 32, search: int = 128) -> Any:
    """A FAISS index of the item embeddings by inner product; row r is item r of the model.

    Args:
        recommender: the model.
        kind: ``flat`` (exact) or ``hnsw`` (approximate: a graph of neighbours).
        neighbours: of each item in the graph.
        search: items that a search of the graph keeps in view; more find more.

    Raises:
        OptionError: if the model does not rank by embeddings, or FAISS is not installed.
    """
    faiss = _faiss()
    items = _tables(recommender)[1].to(torch.float32).contiguous().numpy()
    if kind == "flat":
        index = faiss.IndexFlatIP(items.shape[1])
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(items.shape[1], neighbours, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efSearch = search
    else:
        raise OptionError(f"the index is flat or hnsw, not {kind!r}")
    index.add(items)
    return index


class ItemIndex:
    r"""Recommendations by an index of items; from an exact one the same as the library's.

    The index gives candidates: as many as the list, as many as the user has seen, and some more. They are scored
    exactly and put in the library's order. What is no candidate has an exact score of at most the index' last value and
    the rounding bound of :class:`~infodcl_geo.models.scoring.ExactScorer`; where that reaches the last of the list
    (ties), an exact index leaves the user to the library, as it leaves users without a training interaction.

    Args:
        recommender: the model, whose users it serves.
        index: of :func:`build_index`.
    """

    def __init__(self, recommender: Recommender, index: Any) -> None:
        self.recommender, self.index = recommender, index
        self.users, self.items = _tables(recommender)
        self.seen = UserRows(recommender.seen, *recommender.sizes)
        self.degree = torch.bincount(recommender.train[0], minlength=recommender.sizes[0])
        self.exact = isinstance(index, _faiss().IndexFlat)

    def recommend(self, users: Sequence[Any], k: int = 10) -> list[Recommendation]:
        """The ``k`` best items that each user has not seen, as the recommender's own ``recommend`` gives them."""
        check_length(k)
        asked = plain_ids(users)
        rows = torch.from_numpy(self.recommender.user_ids.encode(asked))
        answers: list[Recommendation | None] = [None] * len(asked)
        trained = (self.degree[rows] > 0).nonzero()[:, 0]
        for part in trained.split(_BATCH):
            items, scores, sure = self._lists(rows[part], k)
            for n, row, own, good in zip(part.tolist(), items, scores, sure.tolist(), strict=True):
                if good:
                    kept = row >= 0
                    raw = self.recommender.item_ids.decode(row[kept])
                    answers[n] = Recommendation(asked[n], raw, own[kept].numpy())
        left = [n for n, answer in enumerate(answers) if answer is None]
        for n, answer in zip(left, self.recommender.recommend([asked[n] for n in left], k), strict=True):
            answers[n] = answer
        return [answer for answer in answers if answer is not None]

    def _lists(self, rows: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Items and scores ``[B, k]`` of users ``[B]``, and whether they are the best for sure."""
        position, item = self.seen.pairs(rows)
        num_items = self.items.size(0)
        most = int(torch.bincount(position, minlength=1).max())
        count = min(k + most + _SPARE, num_items)
        values, found = map(torch.from_numpy, self.index.search(self.users[rows].float().contiguous().numpy(), count))
        scorer = self.recommender.scorer()
        assert isinstance(scorer, ExactScorer)
        users = rows.unsqueeze(1).expand_as(found)
        scores = scorer.exact(users.flatten(), found.clamp(min=0).flatten()).view_as(values)
        keys = torch.arange(rows.numel()).unsqueeze(1) * num_items + found
        scores = scores.masked_fill((found < 0) | torch.isin(keys, position * num_items + item), -torch.inf)
        order = tie_order(users, found.clamp(min=0)).argsort(dim=1)
        scores, found = scores.gather(1, order), found.gather(1, order)
        scores, order = (scores + 0.0).sort(dim=1, descending=True, stable=True)
        found = found.gather(1, order).masked_fill(scores == -torch.inf, -1)[:, :k]
        sure = torch.ones(rows.numel(), dtype=torch.bool)
        if self.exact and count < num_items:
            sure = scores[:, k - 1].double() > values[:, -1].double() + scorer.rounding(rows)
        return found, scores[:, :k], sure
