"""The social channel: a network of users, its reader and its builder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from ..data.ids import IdMap, InteractionError
from ..data.interactions import Interactions
from ..data.readers import read_columns
from ..data.tables import Ids
from ..graph.graph import Graph, csr_parts, from_scipy, interaction_graph, sparse_matrix, to_scipy
from ..graph.similarity import weighted_mean
from .base import Channel, ChannelError, PretrainedVectors, has_edges, warn_of_file

_SOCIAL = {
    "user": "source sourceid user userid follower from u id1 userid1 user1 truster",
    "friend": "target targetid friend friendid followee to v id2 userid2 user2 trustee",
}


@dataclass(frozen=True, eq=False)
class SocialGraph:
    """Edges between users, from the one who follows (trusts, likes) to the one followed.

    Args:
        graph: weights ``[M, M]``, row follows column; no user follows itself.
        source: where it comes from, one line with counts.
    """

    graph: Graph
    source: str = "given edges"

    @classmethod
    def from_edges(cls, edges: Tensor, num_users: int, weight: Tensor | None = None, source: str = "") -> SocialGraph:
        """The graph of user rows ``[2, S]``, sources above targets, with positive weights ``[S]``, by default ones.

        Edges from a user to itself are left out; the weights of repeated edges are added where there are weights.

        Raises:
            InteractionError: if the shapes do not fit, a row is no user, or a weight is not positive.
        """
        what = source or "social edges"
        if edges.dim() != 2 or edges.size(0) != 2 or edges.dtype != torch.int64:
            raise InteractionError(f"{what}: edges must be [2, S] int64, not {list(edges.shape)} {edges.dtype}")
        if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= num_users):
            raise InteractionError(
                f"{what}: edges reach from {int(edges.min())} to {int(edges.max())}, of {num_users} users"
            )
        if weight is not None:
            if weight.shape != edges.shape[1:]:
                raise InteractionError(f"{what}: {list(weight.shape)} weights for {edges.size(1)} edges")
            wrong = ~(weight.isfinite() & (weight > 0))
            if bool(wrong.any()):
                raise InteractionError(f"{what}: {int(wrong.sum())} weights are not positive numbers")
        values = torch.ones(edges.size(1)) if weight is None else weight.float()
        proper = edges[0] != edges[1]
        edges, values = edges[:, proper], values[proper]
        key, inverse = (edges[0] * num_users + edges[1]).unique(return_inverse=True)
        total = torch.ones(len(key)) if weight is None else torch.zeros(len(key)).index_add(0, inverse, values)
        matrix = sparse_matrix(key // max(num_users, 1), key % max(num_users, 1), total, (num_users, num_users))
        return cls(Graph(matrix), source or f"{len(key)} given edges")

    @property
    def edges(self) -> Tensor:
        """The edges ``[2, S]``, sorted."""
        pointers, col, _, (rows, _) = csr_parts(self.graph.matrix)
        return torch.stack([torch.repeat_interleave(torch.arange(rows), pointers.diff()), col])

    @property
    def weight(self) -> Tensor:
        """Weight of each edge, ``[S]``."""
        return csr_parts(self.graph.matrix)[2]


def load_social(
    path: str | PathLike[str], data: Interactions, *, columns: Sequence[str | int] | None = None
) -> SocialGraph:
    """Read edges between users: ``user friend [weight]`` a row.

    Args:
        path: text with or without a header, RecBole ``.net``, parquet, npy (``S x 2`` or ``S x 3``) or npz (a scipy
            matrix users x users whose indices are raw ids); see :func:`~infodcl_geo.data.readers.read_columns`.
        data: whose users they are.
        columns: header names or positions of user, friend and, if there is one, weight.

    Raises:
        InteractionError: if the file cannot be read or no edge is between users of ``data``.
    """
    read = read_columns(path, _SOCIAL, weight=True, columns=columns)
    edges = torch.from_numpy(np.stack([read[role].encode(data.user_ids) for role in _SOCIAL]))
    known = (edges >= 0).all(0)
    total, kept = edges.size(1), int(known.sum())
    if kept == 0:
        raise InteractionError(f"{path}: none of its {total} edges is between users of {data.name}")
    if kept < total:
        strangers = len(_strangers(read["user"], data.user_ids) | _strangers(read["friend"], data.user_ids))
        warn_of_file(f"{path}: {strangers} users are not in {data.name}; {total - kept} of {total} edges left out")
    weight = torch.from_numpy(np.asarray(read["weight"], dtype=np.float32))[known] if "weight" in read else None
    source = f"{Path(path).name}: {kept} of {total} edges between users of {data.name}"
    try:
        return SocialGraph.from_edges(edges[:, known], data.num_users, weight, source)
    except InteractionError as error:
        raise InteractionError(f"{path}: {str(error).removeprefix(f'{source}: ')}") from None


def _strangers(column: Ids, ids: IdMap) -> set[Any]:
    """The raw ids of a column that ``ids`` does not have."""
    found = column.distinct(False)
    return set(found.filter(pl.Series(ids.encode(found, missing=-1) < 0)))


@dataclass(frozen=True, eq=False)
class Social:
    r"""User vectors smoothed over friends, then averaged over each item's users.

    .. math::
        s_u = \tfrac12 \Big(p_u + \frac{\sum_v F_{uv}\, p_v}{\sum_v F_{uv}}\Big), \qquad
        m_i = \frac{1}{|N_i|} \sum_{u \in N_i} s_u

    with the weights F of u's edges to friends: the user channel (InfoDCL section 3.1.1) with a given graph in place of
    the similarities. A user without friends keeps :math:`p_u`, an item without training users gets the mean of all
    users. Items none of whose users has a friend are not covered.

    Args:
        edges: a :class:`SocialGraph`, or user rows ``[2, S]``, follower above followed.
        directed: a user's friends are those it follows; otherwise also those who follow it, with the larger of the two
            weights.
        name: of the channel.
    """

    edges: SocialGraph | Tensor
    directed: bool = True
    name: str = "social"

    def __call__(self, data: Interactions, vectors: PretrainedVectors) -> Channel:
        given = self.edges
        social = given if isinstance(given, SocialGraph) else SocialGraph.from_edges(given, data.num_users)
        friends = social.graph
        if friends.shape[0] != data.num_users:
            raise ChannelError(f"{social.source}: a graph of {friends.shape[0]} users for {data.num_users}")
        if not self.directed:
            matrix = to_scipy(friends.matrix)
            friends = Graph(from_scipy(matrix.maximum(matrix.T)), symmetric=True)
        smoothed = 0.5 * (vectors.users + weighted_mean(friends, vectors.users, vectors.users))
        by_item = interaction_graph(data.train, data.num_users, data.num_items).t()
        metadata = weighted_mean(by_item, smoothed, smoothed.mean(0, keepdim=True))
        covered = (by_item @ has_edges(friends).float().unsqueeze(1)).squeeze(1) > 0
        return Channel(self.name, metadata, social.source, covered, friends, "users")
