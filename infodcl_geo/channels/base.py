"""What a channel is, the pretrained vectors it is made from, and helpers of its builders."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..data.ids import IdMap, InteractionWarning
from ..data.interactions import Interactions
from ..graph.graph import (
    Graph,
    csr_parts,
    from_scipy,
    to_scipy,
)

Path_: TypeAlias = str | PathLike[str]


@dataclass(frozen=True, eq=False)
class Channel:
    """Metadata of the items, and what it was made from.

    Args:
        name: what the channel is called in models and tables.
        metadata: ``[num_items, d]`` float32.
        source: one line that says what it was made from, with counts.
        covered: bool ``[num_items]``, items with metadata of their own; the others hold the builder's fallback.
        graph: the graph behind it, row = who is described, column = by whom: items ``[N, N]`` or users ``[M, M]``.
        over: whose graph it is, 'items' or 'users'; ``None`` without a graph.
        from_interactions: made of the training interactions and nothing else, so that how well it agrees with them
            (:func:`row_agreement`) says nothing of it.

    Raises:
        ValueError: if the shapes do not fit each other, or the metadata are not finite.
    """

    name: str
    metadata: Tensor
    source: str
    covered: Tensor
    graph: Graph | None = None
    over: Literal["items", "users"] | None = None
    from_interactions: bool = False

    def __post_init__(self) -> None:
        where = f"channel {self.name!r}"
        if self.metadata.dim() != 2 or not self.metadata.is_floating_point():
            raise ValueError(
                f"{where}: metadata is {list(self.metadata.shape)} {self.metadata.dtype}, not [N, d] floats"
            )
        if self.covered.shape != (len(self.metadata),) or self.covered.dtype != torch.bool:
            raise ValueError(f"{where}: covered must be bool [{len(self.metadata)}], not {list(self.covered.shape)}")
        if not bool(self.metadata.isfinite().all()):
            raise ValueError(f"{where}: metadata has values that are not finite")
        if (self.graph is None) != (self.over is None):
            raise ValueError(f"{where}: a graph and whom it is over go together")

    @property
    def coverage(self) -> float:
        """Share of the items with metadata of their own."""
        return float(self.covered.float().mean()) if len(self.covered) else 0.0

    def __repr__(self) -> str:
        return f"Channel({self.name!r}, {list(self.metadata.shape)}, coverage={self.coverage:.3f}, {self.source})"


@dataclass(frozen=True, eq=False)
class Vectors:
    """Pretrained vectors that channels aggregate: ``users`` ``[num_users, d]`` and ``items`` ``[num_items, d]``."""

    users: Tensor
    items: Tensor


ChannelBuilder: TypeAlias = Callable[[Interactions, Vectors], Channel]
"""Makes a channel from interactions (of which it must read the training split alone) and pretrained vectors."""


def has_edges(graph: Graph) -> Tensor:
    """Which rows have an entry, bool ``[rows]``."""
    return csr_parts(graph.matrix)[0].diff() > 0


def unweighted(graph: Graph) -> Graph:
    matrix = to_scipy(graph.matrix)
    matrix.data[:] = 1.0
    return Graph(from_scipy(matrix))


def _warn(message: str) -> None:
    warnings.warn(message, InteractionWarning, stacklevel=3)


def unknown(column: Any, ids: IdMap) -> set[Any]:
    rows = ids.encode(column.ids, missing=-1)
    used = np.zeros(len(column.ids), dtype=bool)
    used[column.codes] = True
    return set(column.ids[used & (rows < 0)].tolist())
