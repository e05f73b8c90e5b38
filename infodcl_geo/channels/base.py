"""What a channel is, the pretrained vectors that it is made from, and what its readers and builders share."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ..data.ids import InteractionWarning
from ..data.interactions import Interactions
from ..errors import InfodclGeoError
from ..graph.graph import Graph, csr_parts, from_scipy, to_scipy
from ..text import escape


class ChannelError(InfodclGeoError):
    """A channel that does not fit itself or the data; the message is one line and names the channel or its source."""


@dataclass(frozen=True, eq=False)
class Channel:
    """Metadata of the items, and what it was made from.

    Args:
        name: what the channel is called in models and tables, one line without control characters.
        metadata: ``[num_items, d]`` float32.
        source: one line that says what it was made from, with counts; control characters are escaped.
        covered: bool ``[num_items]``, items with metadata of their own; the others hold the builder's fallback.
        graph: the graph behind it, row = who is described, column = by whom: items ``[N, N]`` or users ``[M, M]``.
        over: whose graph it is, 'items' or 'users'; ``None`` without a graph.
        from_interactions: made of the training interactions and nothing else, so that how well it agrees with them
            (:func:`~infodcl_geo.channels.agreement.row_agreement`) says nothing of it.

    Raises:
        ChannelError: if the shapes do not fit each other, or the metadata are not finite.
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
        if not self.name or not self.name.isprintable():
            raise ChannelError(f"{where}: a name is one line without control characters")
        object.__setattr__(self, "source", escape(self.source))
        if self.metadata.dim() != 2 or not self.metadata.is_floating_point():
            raise ChannelError(
                f"{where}: metadata is {list(self.metadata.shape)} {self.metadata.dtype}, not [N, d] floats"
            )
        if self.covered.shape != (len(self.metadata),) or self.covered.dtype != torch.bool:
            raise ChannelError(f"{where}: covered must be bool [{len(self.metadata)}], not {list(self.covered.shape)}")
        if not bool(self.metadata.isfinite().all()):
            raise ChannelError(f"{where}: metadata has values that are not finite")
        if (self.graph is None) != (self.over is None):
            raise ChannelError(f"{where}: a graph and whom it is over go together")

    @property
    def coverage(self) -> float:
        """Share of the items with metadata of their own."""
        return float(self.covered.float().mean()) if len(self.covered) else 0.0

    def __repr__(self) -> str:
        return f"Channel({self.name!r}, {list(self.metadata.shape)}, coverage={self.coverage:.3f}, {self.source})"


@dataclass(frozen=True, eq=False)
class PretrainedVectors:
    """Pretrained vectors that channels aggregate: ``users`` ``[num_users, d]`` and ``items`` ``[num_items, d]``."""

    users: Tensor
    items: Tensor


ChannelBuilder: TypeAlias = Callable[[Interactions, PretrainedVectors], Channel]
"""Makes a channel from interactions (of which it must read the training split alone) and pretrained vectors."""


def has_edges(graph: Graph) -> Tensor:
    """Which rows have an entry, bool ``[rows]``."""
    return csr_parts(graph.matrix)[0].diff() > 0


def unweighted(graph: Graph) -> Graph:
    """The graph with a weight of one on every edge."""
    matrix = to_scipy(graph.matrix)
    matrix.data[:] = 1.0
    return Graph(from_scipy(matrix))


def warn_of_file(message: str) -> None:
    """An :class:`~infodcl_geo.data.ids.InteractionWarning`, attributed to the caller of the reader that calls this."""
    warnings.warn(escape(message), InteractionWarning, stacklevel=3)
