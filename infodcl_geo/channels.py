"""Metadata channels: a graph or features become one vector of metadata per item.

A channel is made by a :data:`ChannelBuilder`, which is any function of the interactions and of pretrained vectors that
returns a :class:`Channel`; the classes below are the ready ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from .graph import Graph, csr_parts, from_scipy, interaction_graph, normalized_interactions, to_scipy
from .interactions import Interactions
from .similarity import jaccard_graph, jaccard_mean
from .spectral import SVDMethod, truncated_svd


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

    Raises:
        ValueError: if the shapes do not fit each other, or the metadata are not finite.
    """

    name: str
    metadata: Tensor
    source: str
    covered: Tensor
    graph: Graph | None = None
    over: Literal["items", "users"] | None = None

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


def _weighted_mean(graph: Graph, x: Tensor, fallback: Tensor) -> Tensor:
    """Row-wise weighted mean of ``x`` over the neighbours; rows without neighbours take ``fallback``."""
    total = graph @ torch.ones(x.size(0), 1, dtype=x.dtype)
    return torch.where(total > 0, (graph @ x) / total.clamp(min=torch.finfo(x.dtype).tiny), fallback)


def _has_edges(graph: Graph) -> Tensor:
    """Which rows have an entry, bool ``[rows]``."""
    return csr_parts(graph.matrix)[0].diff() > 0


def _unweighted(graph: Graph) -> Graph:
    matrix = to_scipy(graph.matrix)
    matrix.data[:] = 1.0
    return Graph(from_scipy(matrix))


def item_similarity_metadata(
    interactions: Tensor, num_users: int, num_items: int, item_vectors: Tensor, *, top_k: int = 20
) -> Tensor:
    r"""Metadata of the item channel: the mean pretrained vector of the most similar items.

    .. math:: m_i = \frac{1}{|T_i|} \sum_{j \in T_i} q_j

    with :math:`T_i` the ``top_k`` items of largest Jaccard similarity of their user sets, without the item itself
    (InfoDCL section 3.1.1, the "knowledge" channel of the authors' program). An item without a similar one keeps its
    own vector.

    Args:
        interactions: training pairs, int64 ``[2, E]``.
        item_vectors: pretrained item vectors q, ``[num_items, d]``.
        top_k: size of the neighbourhood.

    Returns:
        Metadata ``[num_items, d]``.
    """
    graph = interaction_graph(interactions, num_users, num_items)
    return _weighted_mean(_unweighted(jaccard_graph(graph.t(), top_k=top_k)), item_vectors, item_vectors)


def user_similarity_metadata(interactions: Tensor, num_users: int, num_items: int, user_vectors: Tensor) -> Tensor:
    r"""Metadata of the user channel: user vectors smoothed over similar users, then averaged over each item's users.

    .. math::
        s_u = \tfrac12 \Big(p_u + \frac{\sum_v J_{uv}\, p_v}{\sum_v J_{uv}}\Big), \qquad
        m_i = \frac{1}{|N_i|} \sum_{u \in N_i} s_u

    over all users :math:`v \neq u` with Jaccard similarity :math:`J_{uv} > 0` (InfoDCL section 3.1.1, the "social"
    channel of the authors' program). A user without a similar one keeps :math:`p_u`; an item without a user gets the
    mean of all users.

    Args:
        interactions: training pairs, int64 ``[2, E]``.
        user_vectors: pretrained user vectors p, ``[num_users, d]``.

    Returns:
        Metadata ``[num_items, d]``.
    """
    graph = interaction_graph(interactions, num_users, num_items)
    smoothed = 0.5 * (user_vectors + jaccard_mean(graph, user_vectors))
    return _weighted_mean(graph.t(), smoothed, smoothed.mean(0, keepdim=True))


def spectral_embeddings(
    interactions: Tensor, num_users: int, num_items: int, dim: int, *, method: SVDMethod = "auto", seed: int = 0
) -> tuple[Tensor, Tensor]:
    r"""Closed-form pretraining: the rank-``dim`` truncated SVD of the normalised interaction matrix.

    .. math:: \tilde A \approx P \Sigma Q^\top, \qquad p_u = P_u \Sigma^{1/2}, \quad q_i = Q_i \Sigma^{1/2}

    A stand-in for LightGCN pretraining that takes seconds: :math:`p_u^\top q_i` is the best rank-``dim``
    approximation of :math:`\tilde A_{ui}` (eq. 16). The sign of each component is fixed: the entry of largest
    magnitude of each item component is positive.

    Args:
        interactions: training pairs, int64 ``[2, E]``.
        dim: number of components; at most ``min(num_users, num_items) - 1``, missing ones are filled with zeros.
        method: of :func:`~infodcl_geo.spectral.truncated_svd`: exact up to 200,000 users and items together, a
            randomized subspace beyond.
        seed: of the solver's start vectors.

    Returns:
        User vectors ``[num_users, dim]`` and item vectors ``[num_items, dim]``, float32.
    """
    graph = normalized_interactions(interactions, num_users, num_items)
    rank = min(dim, min(graph.shape) - 1)
    if rank < 1:
        raise ValueError(f"a {num_users} x {num_items} interaction matrix has no truncated SVD")
    users, values, items = truncated_svd(graph, rank, method=method, seed=seed)
    sign = torch.where(items.amax(0) >= -items.amin(0), 1.0, -1.0)
    users *= sign * values.sqrt()
    items *= sign * values.sqrt()
    if rank < dim:
        users, items = F.pad(users, (0, dim - rank)), F.pad(items, (0, dim - rank))
    return users, items


@dataclass(frozen=True)
class ItemSimilarity:
    """The item channel: :func:`item_similarity_metadata`. Items that share no user with another are not covered.

    Args:
        top_k: size of the neighbourhood.
    """

    top_k: int = 20

    def __call__(self, data: Interactions, vectors: Vectors) -> Channel:
        similar = jaccard_graph(interaction_graph(data.train, data.num_users, data.num_items).t(), top_k=self.top_k)
        metadata = _weighted_mean(_unweighted(similar), vectors.items, vectors.items)
        source = f"the {self.top_k} most similar items by training users, {similar.num_edges} edges"
        return Channel("item", metadata, source, _has_edges(similar), similar, "items")


@dataclass(frozen=True)
class UserSimilarity:
    """The user channel: :func:`user_similarity_metadata`. Items without a training user are not covered.

    Args:
        graph_top_k: the channel's graph holds this many most similar users of each user, for diagnostics (the metadata
            are made from all of them); 0 leaves it out.
    """

    graph_top_k: int = 20

    def __call__(self, data: Interactions, vectors: Vectors) -> Channel:
        metadata = user_similarity_metadata(data.train, data.num_users, data.num_items, vectors.users)
        covered = torch.bincount(data.train[1], minlength=data.num_items) > 0
        source = f"users with a training item in common, {data.train.size(1)} interactions"
        if not self.graph_top_k:
            return Channel("user", metadata, source, covered)
        interactions = interaction_graph(data.train, data.num_users, data.num_items)
        return Channel("user", metadata, source, covered, jaccard_graph(interactions, top_k=self.graph_top_k), "users")
