"""Metadata channels: a graph or features become one vector of metadata per item."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .graph import Graph, from_scipy, interaction_graph, normalized_interactions, to_scipy
from .similarity import jaccard_graph


def _weighted_mean(graph: Graph, x: Tensor, fallback: Tensor) -> Tensor:
    """Row-wise weighted mean of ``x`` over the neighbours; rows without neighbours take ``fallback``."""
    total = graph @ torch.ones(x.size(0), 1, dtype=x.dtype)
    return torch.where(total > 0, (graph @ x) / total.clamp(min=torch.finfo(x.dtype).tiny), fallback)


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
    neighbours = _weighted_mean(jaccard_graph(graph), user_vectors, user_vectors)
    smoothed = 0.5 * (user_vectors + neighbours)
    return _weighted_mean(graph.t(), smoothed, smoothed.mean(0, keepdim=True))


def spectral_embeddings(
    interactions: Tensor, num_users: int, num_items: int, dim: int, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    r"""Closed-form pretraining: the rank-``dim`` truncated SVD of the normalised interaction matrix.

    .. math:: \tilde A \approx P \Sigma Q^\top, \qquad p_u = P_u \Sigma^{1/2}, \quad q_i = Q_i \Sigma^{1/2}

    A stand-in for LightGCN pretraining that takes seconds: :math:`p_u^\top q_i` is the best rank-``dim``
    approximation of :math:`\tilde A_{ui}` (eq. 16). The sign of each component is fixed: the entry of largest
    magnitude of each item component is positive.

    Args:
        interactions: training pairs, int64 ``[2, E]``.
        dim: number of components; at most ``min(num_users, num_items) - 1``, missing ones are filled with zeros.
        seed: of the solver's start vector.

    Returns:
        User vectors ``[num_users, dim]`` and item vectors ``[num_items, dim]``, float32.
    """
    from scipy.sparse.linalg import svds

    matrix = to_scipy(normalized_interactions(interactions, num_users, num_items).matrix)
    rank = min(dim, min(matrix.shape) - 1)
    if rank < 1:
        raise ValueError(f"a {num_users} x {num_items} interaction matrix has no truncated SVD")
    left, values, right = svds(matrix.astype(np.float64), k=rank, rng=np.random.default_rng(seed))
    order = np.argsort(-values)
    left, values, right = left[:, order], values[order], right[order]
    largest = np.abs(right).argmax(1)
    sign = np.sign(right[np.arange(rank), largest])
    sign[sign == 0] = 1.0
    root = sign * np.sqrt(np.maximum(values, 0))
    users = torch.zeros(num_users, dim)
    items = torch.zeros(num_items, dim)
    users[:, :rank] = torch.from_numpy(left * root).float()
    items[:, :rank] = torch.from_numpy(right.T * root).float()
    return users, items
