"""DualGNN: users weigh the modalities, and listen to the users with whom they share most items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.graph import Graph, from_scipy, interaction_graph, propagate, to_scipy
from ..graph.similarity import keep_top_k
from ..nn.edges import Edges
from ..nn.item_graph import ItemGraph
from .base import Batch
from .modal import ModalModel
from .objective import ChannelRankingOptions
from .options import check
from .ranked import RankingModel
from .recipe import Recipe, Space, search_embeddings


@dataclass(frozen=True)
class DualGNNOptions(ChannelRankingOptions):
    """Options of :class:`DualGNN`; the start and the penalty are LightGCN's here.

    Args:
        user_neighbours: k, users whom each user listens to.
    """

    num_layers: int | None = 2
    l2: float = 0.004
    init_std: float = 0.03
    user_neighbours: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, at_least_1=["user_neighbours"])


def shared_items_graph(pairs: Tensor, num_users: int, num_items: int, top_k: int) -> Graph:
    r"""Users and those with whom they share most items, :math:`S_{uv} = \operatorname{softmax}_v |N_u \cap N_v|`.

    Args:
        pairs: training pairs ``[2, E]``; a CPU computes.
        num_users, num_items: M and N.
        top_k: users v of each user, at most; none that shares no item.

    Returns:
        Graph ``[M, M]``, row = the user who listens; rows sum to one or are empty.
    """
    x = to_scipy(interaction_graph(pairs.cpu(), num_users, num_items).matrix)
    common = (x @ x.T).tocsr()
    common.setdiag(0)
    common.eliminate_zeros()
    common = keep_top_k(common, top_k).tocsr()
    lengths = np.diff(common.indptr)
    most = np.zeros(num_users, dtype=common.data.dtype)
    np.maximum.at(most, np.repeat(np.arange(num_users), lengths), common.data)
    common.data = np.exp(common.data - np.repeat(most, lengths))
    total = np.bincount(np.repeat(np.arange(num_users), lengths), common.data, num_users)
    common.data = (common.data / np.repeat(total, lengths)).astype(np.float32)
    return Graph(from_scipy(common))


class DualGNN(ModalModel, RankingModel):
    r"""DualGNN (Wang et al., TMM 2021), for any number of modalities:

    .. math::
        X_m = \sum_{k=0}^{K} \mathcal A^k [p^m; W_m f^m + b_m], \qquad
        u = \sum_m \alpha_{um} X_{m,u} + U, \quad i = \sum_m \tfrac{1}{|\mathcal M|} X_{m,i} + E, \qquad
        \hat u = u + \sum_{v} S_{uv} v

    Graph networks of the single modalities from the users' preferences :math:`p^m` and the items' features, with
    trained weights :math:`\alpha_u = \operatorname{softmax}(a_u)` by which each user fuses them, and the graph S of
    users with shared items (:func:`shared_items_graph`), over which the fused preferences pass once. ID embeddings U
    and E are added here, so that what the modalities do not tell can be learned; scores are inner products of
    :math:`\hat u` and i, the loss is BPR and the penalty.

    The features themselves are not trained. Without features of their own the items are described by the similarity
    channels.

    Arguments as in :class:`~infodcl_geo.models.modal.ModalModel`; ``l2`` is on the ID embeddings of the batch.
    """

    Options = DualGNNOptions

    def set_up(self, features: list[Tensor]) -> None:
        edges = Edges(self.graph)
        pairs = torch.stack([edges.users, edges.items - self.num_users])
        shared = shared_items_graph(pairs, self.num_users, self.num_items, self.options.user_neighbours)
        self.companions = ItemGraph(shared)
        self.preferences = nn.ParameterList(
            nn.Parameter(self.init_std * torch.randn(self.num_users, self.dim)) for _ in features
        )
        self.taste = nn.Parameter(torch.zeros(self.num_users, len(features)))

    def propagated(self) -> tuple[Tensor, Tensor]:
        first = [
            torch.cat([own, projection()]) for own, projection in zip(self.preferences, self.projections, strict=True)
        ]
        # Side by side, so that the graph is read once a layer for all of them.
        layers = (self.num_layers + 1) * propagate(self.graph, torch.cat(first, dim=1), self.num_layers)
        users, items = self.split(layers.unflatten(1, (len(first), self.dim)))
        fused = (self.taste.softmax(1).unsqueeze(2) * users).sum(1) + self.user_embedding.weight
        return fused + self.companions(fused, 1), items.mean(1) + self.item_embedding.weight

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return self.ranking(batch, *self.propagated(), generator)


def _search(space: Space) -> None:
    search_embeddings(space)
    space.whole("user_neighbours", 5, 80, log=True)


recipe = Recipe(
    name="dualgnn",
    summary="users weigh modalities (or similarity channels) and listen to users with shared items",
    paper="Wang et al., DualGNN, TMM 2021",
    options=DualGNNOptions,
    build=lambda inputs, options: DualGNN(inputs.graph, *inputs.sizes, inputs.metadata, options=options),
    training={"lr": 0.001},
    search=_search,
    reads_channels=True,
)
