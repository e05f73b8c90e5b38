"""The item and the user channel: pretrained vectors averaged over what is similar by the training interactions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.interactions import Interactions
from ..graph.graph import interaction_graph
from ..graph.similarity import jaccard_graph, jaccard_mean, weighted_mean
from .base import Channel, PretrainedVectors, has_edges, unweighted


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
    return weighted_mean(unweighted(jaccard_graph(graph.t(), top_k=top_k)), item_vectors, item_vectors)


def user_similarity_metadata(interactions: Tensor, num_users: int, num_items: int, user_vectors: Tensor) -> Tensor:
    r"""Metadata of the user channel: user vectors smoothed over similar users, then averaged over each item's users.

    .. math::
        s_u = \tfrac12 \Big(p_u + \frac{\sum_v J_{uv}\, p_v}{\sum_v J_{uv}}\Big), \qquad
        m_i = \frac{1}{|N_i|} \sum_{u \in N_i} s_u

    over all users :math:`v \neq u` with Jaccard similarity :math:`J_{uv} > 0` (InfoDCL section 3.1.1, the "social"
    channel of the authors' program). A user without a similar one keeps :math:`p_u`; an item without a user gets the
    mean of all users. The users' graph is never held; where popular items would make its work explode they are left
    out with a warning, see ``max_pairs`` of :func:`~infodcl_geo.graph.similarity.jaccard_graph`.

    Args:
        interactions: training pairs, int64 ``[2, E]``.
        user_vectors: pretrained user vectors p, ``[num_users, d]``.

    Returns:
        Metadata ``[num_items, d]``.
    """
    graph = interaction_graph(interactions, num_users, num_items)
    smoothed = 0.5 * (user_vectors + jaccard_mean(graph, user_vectors))
    return weighted_mean(graph.t(), smoothed, smoothed.mean(0, keepdim=True))


@dataclass(frozen=True)
class ItemSimilarity:
    """The item channel: :func:`item_similarity_metadata`. Items that share no user with another are not covered.

    Args:
        top_k: size of the neighbourhood.
    """

    top_k: int = 20

    def __call__(self, data: Interactions, vectors: PretrainedVectors) -> Channel:
        similar = jaccard_graph(interaction_graph(data.train, data.num_users, data.num_items).t(), top_k=self.top_k)
        metadata = weighted_mean(unweighted(similar), vectors.items, vectors.items)
        source = f"the {self.top_k} most similar items by training users, {similar.num_edges} edges"
        return Channel("item", metadata, source, has_edges(similar), similar, "items", from_interactions=True)


@dataclass(frozen=True)
class UserSimilarity:
    """The user channel: :func:`user_similarity_metadata`. Items without a training user are not covered.

    Args:
        graph_top_k: the channel also gets a graph of this many most similar users of each user, for diagnostics alone
            (the metadata are made from all of them); 0 leaves it out, and diagnostics compare the metadata.
    """

    graph_top_k: int = 0

    def __call__(self, data: Interactions, vectors: PretrainedVectors) -> Channel:
        metadata = user_similarity_metadata(data.train, data.num_users, data.num_items, vectors.users)
        covered = torch.bincount(data.train[1], minlength=data.num_items) > 0
        source = f"users with a training item in common, {data.train.size(1)} interactions"
        if not self.graph_top_k:
            return Channel("user", metadata, source, covered, from_interactions=True)
        interactions = interaction_graph(data.train, data.num_users, data.num_items)
        similar = jaccard_graph(interactions, top_k=self.graph_top_k)
        return Channel("user", metadata, source, covered, similar, "users", from_interactions=True)
