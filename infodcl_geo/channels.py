"""Metadata channels: a graph or features become one vector of metadata per item.

A channel is made by a :data:`ChannelBuilder`, which is any function of the interactions and of pretrained vectors that
returns a :class:`Channel`; the classes below are the ready ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .graph import Graph, csr_parts, from_scipy, interaction_graph, normalized_interactions, to_scipy
from .interactions import Interactions
from .side_information import ItemFeatures, KnowledgeGraph, SocialGraph
from .similarity import cosine_graph, jaccard_graph, jaccard_mean, keep_top_k
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


def weighted_mean(graph: Graph, x: Tensor, fallback: Tensor) -> Tensor:
    """Row-wise weighted mean of ``x`` over the neighbours; rows without neighbours take ``fallback``."""
    total = graph @ x.new_ones(x.size(0), 1)
    return torch.where(total > 0, (graph @ x) / total.clamp(min=torch.finfo(x.dtype).tiny), fallback)


def _has_edges(graph: Graph) -> Tensor:
    """Which rows have an entry, bool ``[rows]``."""
    return csr_parts(graph.matrix)[0].diff() > 0


def _unweighted(graph: Graph) -> Graph:
    matrix = to_scipy(graph.matrix)
    matrix.data[:] = 1.0
    return Graph(from_scipy(matrix))


def row_agreement(metadata: Tensor, interactions: Tensor, num_users: int, num_items: int, *, seed: int = 0) -> Tensor:
    r"""How surely each item's metadata tell something of who interacts with it, from 0 to 1.

    With :math:`\hat m` the metadata, centred and normalised, and :math:`c_{ij}` the number of training users that
    items i and j share,

    .. math::
        s_i = \cos\Big(\hat m_i, \sum_{j \ne i} c_{ij} \hat m_j\Big), \qquad u_i = F_0(s_i), \qquad
        w_i = \max\Big(0, 1 - \frac{1}{f(u_i)}\Big)

    :math:`F_0` is the distribution of the same scores when the rows are dealt anew among the items (four times), f the
    density of the u (a histogram of 20 bins), which is 1 for metadata that have nothing to do with the interactions:
    :math:`w_i` is one minus the local false discovery rate (Efron et al., JASA 96, 2001). It is 0 where :math:`s_i` is
    below the median of chance. Items that share no user with another have the mean of the others.

    Args:
        metadata: ``[num_items, d]``.
        interactions: training pairs, int64 ``[2, E]``.
        seed: of the deals.

    Returns:
        Weights ``[num_items]``.
    """
    bins, deals = 20, 4
    graph = interaction_graph(interactions, num_users, num_items)
    degree = torch.bincount(interactions[1], minlength=num_items).to(metadata.dtype).unsqueeze(1)
    rows = F.normalize(metadata - metadata.mean(0), dim=1)
    shared = graph.t() @ (graph @ rows.new_ones(num_items, 1)) - degree
    known = shared.squeeze(1) > 0
    if not bool(known.any()):
        return metadata.new_zeros(num_items)

    def scores(rows: Tensor) -> Tensor:
        return F.cosine_similarity(rows, graph.t() @ (graph @ rows) - degree * rows, dim=1)[known]

    generator = torch.Generator().manual_seed(seed)
    dealt = [scores(rows[torch.randperm(num_items, generator=generator)]) for _ in range(deals)]
    chance = torch.cat(dealt).sort().values
    rank = torch.searchsorted(chance, scores(rows)).double() / len(chance)
    bin_of = (rank * bins).long().clamp(max=bins - 1)
    density = torch.bincount(bin_of, minlength=bins) * (bins / len(rank))
    certain = 1 - 1 / density.clamp(min=1)
    certain[: bins // 2] = 0
    found = certain[bin_of].to(metadata.dtype)
    weights = metadata.new_full((num_items,), float(found.mean()))
    weights[known] = found
    return weights


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
    return weighted_mean(_unweighted(jaccard_graph(graph.t(), top_k=top_k)), item_vectors, item_vectors)


def user_similarity_metadata(interactions: Tensor, num_users: int, num_items: int, user_vectors: Tensor) -> Tensor:
    r"""Metadata of the user channel: user vectors smoothed over similar users, then averaged over each item's users.

    .. math::
        s_u = \tfrac12 \Big(p_u + \frac{\sum_v J_{uv}\, p_v}{\sum_v J_{uv}}\Big), \qquad
        m_i = \frac{1}{|N_i|} \sum_{u \in N_i} s_u

    over all users :math:`v \neq u` with Jaccard similarity :math:`J_{uv} > 0` (InfoDCL section 3.1.1, the "social"
    channel of the authors' program). A user without a similar one keeps :math:`p_u`; an item without a user gets the
    mean of all users. The users' graph is never held; where popular items would make its work explode they are left
    out with a warning, see ``max_pairs`` of :func:`~infodcl_geo.similarity.jaccard_graph`.

    Args:
        interactions: training pairs, int64 ``[2, E]``.
        user_vectors: pretrained user vectors p, ``[num_users, d]``.

    Returns:
        Metadata ``[num_items, d]``.
    """
    graph = interaction_graph(interactions, num_users, num_items)
    smoothed = 0.5 * (user_vectors + jaccard_mean(graph, user_vectors))
    return weighted_mean(graph.t(), smoothed, smoothed.mean(0, keepdim=True))


DEFAULT_SMOOTHING = 0.75
"""Where none is given and none chosen."""


@dataclass(frozen=True)
class SVDOptions:
    """Settings of :func:`spectral_embeddings`.

    Args:
        smoothing: share of the mean degree that is added to every degree before the matrix is normalised. If missing,
            a training run chooses it on validation (:func:`~infodcl_geo.experiment.spectral_vectors`); where nothing
            is chosen it is 0.75.
        power: exponent of the singular values in the vectors of either side.
    """

    smoothing: float | None = None
    power: float = 1.0

    def __post_init__(self) -> None:
        for name in ("smoothing", "power"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} cannot be negative: {value}")


def spectral_embeddings(
    interactions: Tensor,
    num_users: int,
    num_items: int,
    dim: int,
    options: SVDOptions = SVDOptions(),
    *,
    method: SVDMethod = "auto",
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""Closed-form pretraining: the rank-``dim`` truncated SVD of the normalised interaction matrix.

    .. math:: \tilde A \approx P \Sigma Q^\top, \qquad p_u = P_u \Sigma^{\beta}, \quad q_i = Q_i \Sigma^{\beta}

    A stand-in for LightGCN pretraining that takes seconds. With :math:`\beta = 1/2`, :math:`p_u^\top q_i` is the best
    rank-``dim`` approximation of :math:`\tilde A_{ui}`; larger powers favour components of large singular values, as
    propagation does. Degrees are smoothed (:func:`~infodcl_geo.graph.normalized_interactions`), as in SVD-GCN
    (Peng et al., CIKM 2022) and in regularised spectral clustering (Amini et al., Annals of Statistics 41, 2013):
    without it the leading components describe small parts of the graph and nodes of few interactions. The sign of
    each component is fixed: the entry of largest magnitude of each item component is positive.

    Args:
        interactions: training pairs, int64 ``[2, E]``.
        dim: number of components; at most ``min(num_users, num_items) - 1``, missing ones are filled with zeros.
        options: smoothing and power :math:`\beta`.
        method: of :func:`~infodcl_geo.spectral.truncated_svd`: exact up to 200,000 users and items together, a
            randomized subspace beyond.
        seed: of the solver's start vectors.

    Returns:
        User vectors ``[num_users, dim]`` and item vectors ``[num_items, dim]``, float32.

    Raises:
        ValueError: if there are fewer than two users or items.
    """
    smoothing = DEFAULT_SMOOTHING if options.smoothing is None else options.smoothing
    graph = normalized_interactions(interactions, num_users, num_items, smoothing=smoothing)
    rank = min(dim, min(graph.shape) - 1)
    if rank < 1:
        raise ValueError(f"a {num_users} x {num_items} interaction matrix has no truncated SVD")
    users, values, items = truncated_svd(graph, rank, method=method, seed=seed)
    sign = torch.where(items.amax(0) >= -items.amin(0), 1.0, -1.0)
    users *= sign * values**options.power
    items *= sign * values**options.power
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
        metadata = weighted_mean(_unweighted(similar), vectors.items, vectors.items)
        source = f"the {self.top_k} most similar items by training users, {similar.num_edges} edges"
        return Channel("item", metadata, source, _has_edges(similar), similar, "items", from_interactions=True)


@dataclass(frozen=True)
class UserSimilarity:
    """The user channel: :func:`user_similarity_metadata`. Items without a training user are not covered.

    Args:
        graph_top_k: the channel also gets a graph of this many most similar users of each user, for diagnostics alone
            (the metadata are made from all of them); 0 leaves it out, and diagnostics compare the metadata.
    """

    graph_top_k: int = 0

    def __call__(self, data: Interactions, vectors: Vectors) -> Channel:
        metadata = user_similarity_metadata(data.train, data.num_users, data.num_items, vectors.users)
        covered = torch.bincount(data.train[1], minlength=data.num_items) > 0
        source = f"users with a training item in common, {data.train.size(1)} interactions"
        if not self.graph_top_k:
            return Channel("user", metadata, source, covered, from_interactions=True)
        interactions = interaction_graph(data.train, data.num_users, data.num_items)
        similar = jaccard_graph(interactions, top_k=self.graph_top_k)
        return Channel("user", metadata, source, covered, similar, "users", from_interactions=True)


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
        edges: a :class:`~infodcl_geo.side_information.SocialGraph`, or user rows ``[2, S]``, follower above followed.
        directed: a user's friends are those it follows; otherwise also those who follow it, with the larger of the two
            weights.
        name: of the channel.
    """

    edges: SocialGraph | Tensor
    directed: bool = True
    name: str = "social"

    def __call__(self, data: Interactions, vectors: Vectors) -> Channel:
        given = self.edges
        social = given if isinstance(given, SocialGraph) else SocialGraph.from_edges(given, data.num_users)
        friends = social.graph
        if friends.shape[0] != data.num_users:
            raise ValueError(f"{social.source}: a graph of {friends.shape[0]} users for {data.num_users}")
        if not self.directed:
            matrix = to_scipy(friends.matrix)
            friends = Graph(from_scipy(matrix.maximum(matrix.T)), symmetric=True)
        smoothed = 0.5 * (vectors.users + weighted_mean(friends, vectors.users, vectors.users))
        by_item = interaction_graph(data.train, data.num_users, data.num_items).t()
        metadata = weighted_mean(by_item, smoothed, smoothed.mean(0, keepdim=True))
        covered = (by_item @ _has_edges(friends).float().unsqueeze(1)).squeeze(1) > 0
        return Channel(self.name, metadata, social.source, covered, friends, "users")


@dataclass(frozen=True, eq=False)
class Knowledge:
    r"""Items described by what a knowledge graph says about them.

    A fact of an item is a relation, its direction and the entity at the other end. With :math:`n_{re}` items of which
    the fact (r, e) is true, among the :math:`N_r` items of which any fact of that relation is, it weighs

    .. math:: w_{re} = \log \frac{N_r}{n_{re}},

    the inverse entity frequency within the relation: what all have in common says nothing, what two alone share says
    much. Facts that are true of the same items because a relation is stored together with its inverse count once.

    - ``shared``: the mean pretrained vector of the ``top_k`` items of largest cosine similarity of their facts,
      :math:`S_{ij} = \hat w_i \cdot \hat w_j` with :math:`\hat w_i = w_i / \lVert w_i \rVert`, weighted by it.
    - ``propagate``: pretrained vectors carried from items to entities and back ``num_layers`` times, each time as a
      mean weighted by :math:`w`, and the results of all times averaged.
    - ``kge``: entity vectors from one of PyG's ``torch_geometric.nn.kge`` models, used as :class:`Modal` uses features.

    Items without a fact that another one shares keep their own vector and are not covered.

    Args:
        graph: triples and which entity each item is.
        method: see above.
        top_k: size of the neighbourhood.
        max_share: facts that are true of more than this share of :math:`N_r` are left out: they weigh little and cost
            most.
        num_layers: of ``propagate``.
        model: class name of the model of ``kge``; on small graphs TransE needs several times the steps of DistMult.
        aggregate: of ``kge``, as in :class:`Modal`.
        epochs: passes over the triples of ``kge``.
        batch_size: triples a step of ``kge``.
        lr: learning rate of ``kge``.
        seed: of ``kge``.
        name: of the channel.
    """

    graph: KnowledgeGraph
    method: Literal["shared", "propagate", "kge"] = "shared"
    top_k: int = 20
    max_share: float = 0.5
    num_layers: int = 1
    model: Literal["TransE", "DistMult", "ComplEx", "RotatE"] = "DistMult"
    aggregate: Literal["features", "neighbours"] = "features"
    epochs: int = 20
    batch_size: int = 512
    lr: float = 0.01
    seed: int = 0
    name: str = "knowledge"

    def __post_init__(self) -> None:
        if self.method not in ("shared", "propagate", "kge"):
            raise ValueError(f"method must be shared, propagate or kge, not {self.method!r}")
        for number in ("top_k", "num_layers", "epochs"):
            if getattr(self, number) < 1:
                raise ValueError(f"{number} must be at least 1, not {getattr(self, number)}")

    def __call__(self, data: Interactions, vectors: Vectors) -> Channel:
        import scipy.sparse as sp

        if self.graph.num_items != data.num_items:
            raise ValueError(f"{self.graph.source}: made for {self.graph.num_items} items, not {data.num_items}")
        if self.method == "kge":
            features = self._entity_features(vectors.items.size(1))
            source = f"{self.graph.source}, {self.model} of {self.epochs} epochs"
            return _described_by(features, vectors, self.aggregate, self.top_k, self.name, source)
        weights = self.fact_weights()
        source = f"{self.graph.source}, {weights.shape[1]} facts shared by items"
        if self.method == "shared":
            rows = np.sqrt(np.asarray(weights.multiply(weights).sum(1)).ravel())
            unit = (sp.diags_array(_reciprocal(rows)) @ weights).tocsr()
            similar = _top_k_product(unit, unit.T.tocsr(), self.top_k)
            metadata = weighted_mean(similar, vectors.items, vectors.items)
        else:
            to_entities = sp.diags_array(_reciprocal(np.asarray(weights.sum(0)).ravel())) @ weights.T
            to_items = sp.diags_array(_reciprocal(np.asarray(weights.sum(1)).ravel())) @ weights
            similar = _top_k_product(to_items.tocsr(), to_entities.tocsr(), self.top_k)
            carried, total = vectors.items.numpy(), np.zeros(vectors.items.shape, dtype=np.float32)
            for _ in range(self.num_layers):
                carried = to_items @ (to_entities @ carried)
                total += carried
            own = ~torch.from_numpy(np.diff(weights.indptr) > 0).unsqueeze(1)
            metadata = torch.where(own, vectors.items, torch.from_numpy(total / self.num_layers))
        return Channel(self.name, metadata.float(), source, _has_edges(similar), similar, "items")

    def fact_weights(self) -> Any:
        """Weight :math:`w_{re}` of every fact that several items share, scipy CSR ``[N, facts]``."""
        import scipy.sparse as sp

        item, kind, entity = (part.numpy() for part in self.graph.item_attributes())
        fact, column = np.unique(np.stack([kind, entity]), axis=1, return_inverse=True)
        column = column.reshape(-1)
        true_of = np.bincount(column, minlength=fact.shape[1])
        pairs = np.unique(np.stack([kind, item]), axis=1)
        asked_of = np.bincount(pairs[0], minlength=2 * len(self.graph.relation_ids))[fact[0]]
        # The sum of random numbers of the items tells whether two facts about one entity are true of the same ones.
        mark = np.random.default_rng(0).integers(1 << 62, size=self.graph.num_items)
        marks = np.zeros(fact.shape[1], dtype=np.int64)
        np.add.at(marks, column, mark[item])
        first = np.zeros(fact.shape[1], dtype=bool)
        first[np.unique(np.stack([fact[1], marks]), axis=1, return_index=True)[1]] = True
        kept = first & (true_of > 1) & (true_of < asked_of) & (true_of <= self.max_share * asked_of)
        weight = np.log(asked_of / np.maximum(true_of, 1)).astype(np.float32)
        rows = kept[column]
        place = np.cumsum(kept) - 1
        shape = (self.graph.num_items, int(kept.sum()))
        return sp.csr_matrix((weight[column[rows]], (item[rows], place[column[rows]])), shape=shape)

    def _entity_features(self, dim: int) -> ItemFeatures:
        from torch_geometric.nn import kge

        head, relation, tail = self.graph.triples
        # PyG's models draw their weights and their negatives from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            classes = {"TransE": kge.TransE, "DistMult": kge.DistMult, "ComplEx": kge.ComplEx, "RotatE": kge.RotatE}
            model = classes[self.model](len(self.graph.entity_ids), len(self.graph.relation_ids), dim)
            optimizer = torch.optim.Adam(model.parameters(), lr=self.lr)
            for _ in range(self.epochs):
                for batch in torch.randperm(len(head)).split(self.batch_size):
                    optimizer.zero_grad()
                    model.loss(head[batch], relation[batch], tail[batch]).backward()
                    optimizer.step()
        parts = [model.node_emb.weight]
        if hasattr(model, "node_emb_im"):
            parts.append(model.node_emb_im.weight)
        entities = torch.cat(parts, dim=1).detach()
        seen = torch.zeros(len(entities), dtype=torch.bool)
        seen[head], seen[tail] = True, True
        at = self.graph.item_entity.clamp(min=0)
        covered = self.graph.linked & seen[at]
        return ItemFeatures(torch.where(covered.unsqueeze(1), entities[at], 0.0), covered, self.name)


@dataclass(frozen=True, eq=False)
class Modal:
    r"""Items described by features of their own: text, image, audio.

    Features are standardised over the items that have them (column mean 0, variance 1). The similarity graph joins each
    item to the ``top_k`` items of largest positive cosine similarity. The metadata are

    - ``features``: the standardised features, reduced to the d directions of largest variance (truncated SVD; narrower
      features are padded with zeros); items without features get zero, the mean of the others;
    - ``neighbours``: the mean pretrained vector of the similar items, weighted by similarity, so that the metadata live
      in the space of the interactions like those of the other channels; items without features keep their own vector.

    The default is ``features``: vectors pretrained on few interactions are noisy, and their mean over items that only
    look alike blurs what the features know (TikTok's images rank held-out items better as they are).

    Args:
        features: :class:`~infodcl_geo.side_information.ItemFeatures` or a matrix ``[N, f]``, in which rows of only NaN
            or only zeros are items without features.
        aggregate: see above.
        top_k: size of the neighbourhood.
        name: of the channel; by default that of the features.
    """

    features: ItemFeatures | Tensor
    aggregate: Literal["features", "neighbours"] = "features"
    top_k: int = 20
    name: str | None = None

    def __post_init__(self) -> None:
        if self.aggregate not in ("features", "neighbours"):
            raise ValueError(f"aggregate must be features or neighbours, not {self.aggregate!r}")
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {self.top_k}")

    def __call__(self, data: Interactions, vectors: Vectors) -> Channel:
        given = self.features
        features = given if isinstance(given, ItemFeatures) else ItemFeatures.from_matrix(given, "modal")
        if len(features.values) != data.num_items:
            raise ValueError(f"{features.source}: {len(features.values)} rows for {data.num_items} items")
        name = self.name or features.name
        return _described_by(features, vectors, self.aggregate, self.top_k, name, features.source)


def _described_by(
    features: ItemFeatures, vectors: Vectors, aggregate: str, top_k: int, name: str, source: str
) -> Channel:
    """The channel of :class:`Modal`."""
    values = _standardised(features)
    similar = cosine_graph(values, features.covered, top_k=top_k)
    if aggregate == "neighbours":
        metadata = weighted_mean(similar, vectors.items, vectors.items)
        return Channel(name, metadata, source, _has_edges(similar), similar, "items")
    return Channel(name, _reduced(values, vectors.items.size(1)), source, features.covered, similar, "items")


def _standardised(features: ItemFeatures) -> Tensor:
    """Columns of mean 0 and variance 1 over the covered rows, zero elsewhere and where a column is constant."""
    known = features.values[features.covered].double()
    values = torch.zeros_like(features.values)
    if len(known):
        spread = known.std(0, correction=0)
        scaled = (known - known.mean(0)) / torch.where(spread > 1e-6 * known.abs().amax(0), spread, torch.inf)
        values[features.covered] = scaled.to(values.dtype)
    return values


def _reduced(values: Tensor, dim: int) -> Tensor:
    """Coordinates along the ``dim`` directions of largest variance; signs fixed, the largest entry positive."""
    from scipy.sparse.linalg import svds

    matrix = values.double().numpy()
    if not matrix.any():
        return torch.zeros(len(values), dim)
    rank = min(dim, *matrix.shape)
    if rank < min(matrix.shape):
        left, sizes, _ = svds(matrix, k=rank, rng=np.random.default_rng(0))
    else:
        left, sizes, _ = np.linalg.svd(matrix, full_matrices=False)
    order = np.argsort(-sizes)
    coordinates = torch.from_numpy(np.ascontiguousarray((left * sizes)[:, order])).float()
    largest = coordinates.gather(0, coordinates.abs().argmax(0, keepdim=True))
    result = torch.zeros(len(values), dim)
    result[:, :rank] = torch.where(largest < 0, -coordinates, coordinates)
    return result


def _top_k_product(left: Any, right: Any, top_k: int, chunk_size: int = 2048) -> Graph:
    """The ``top_k`` largest entries of each row of a scipy product, without the diagonal, some rows at a time."""
    import scipy.sparse as sp

    blocks = []
    for start in range(0, left.shape[0], chunk_size):
        block = (left[start : start + chunk_size] @ right).tocsr()
        row = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
        block.data[block.indices == start + row] = 0.0
        block.eliminate_zeros()
        blocks.append(keep_top_k(block, top_k))
    return Graph(from_scipy(sp.vstack(blocks, format="csr")))


def _reciprocal(values: np.ndarray) -> np.ndarray:
    return np.divide(1.0, values, out=np.zeros(len(values), dtype=np.float32), where=values > 0)
