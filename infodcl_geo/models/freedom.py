"""FREEDOM: a frozen graph of similar items beside LightGCN on a graph that loses edges in training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from ..graph.graph import Graph, propagate
from ..nn.edges import Edges
from ..nn.item_graph import ItemGraph, knn_graph, weighted_sum
from ..nn.losses import bpr_loss
from .base import Batch
from .lightgcn import LightGCN
from .modal import ModalModel
from .objective import ChannelRankingOptions
from .options import check
from .recipe import Recipe, Space, search_embeddings


@dataclass(frozen=True)
class FREEDOMOptions(ChannelRankingOptions):
    """Options of :class:`FREEDOM`, with the authors' defaults but for the start, the penalty and the learning rate,
    which are LightGCN's here (the authors' program has no penalty).

    Args:
        item_layers: layers of the graph of similar items.
        item_neighbours: k, neighbours of each item, of which it is the first.
        first_share: weight of the first modality's graph (the authors give images 0.1), of which the others share the
            rest alike; all alike where it is missing.
        pruning: share rho of the interactions that a step leaves out, most of them between much-connected nodes.
        modal: weight lambda of BPR on the projected features, for each modality.
    """

    num_layers: int | None = 2
    l2: float = 0.004
    init_std: float = 0.03
    item_layers: int = 1
    item_neighbours: int = 10
    first_share: float | None = None
    pruning: float = 0.8
    modal: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, at_least_1=["dim", "item_neighbours", "similar_items"], shares=["pruning", "first_share"])
        if self.pruning == 1:
            raise OptionError("pruning is a share below 1: all interactions would be gone")


class FREEDOM(ModalModel, LightGCN):
    r"""FREEDOM (Zhou and Shen, MM 2023), for any number of modalities:

    .. math::
        h_i = (S^{L_{ii}} E_I)_i, \quad S = \sum_m \alpha_m S^m, \qquad
        \hat u = \bar u, \quad \hat i = \bar i + h_i, \qquad
        \mathcal L = \mathcal L_{bpr}(\hat u, \hat i) + \lambda \sum_m \mathcal L_{bpr}(\hat u, W_m f^m_i + b_m)

    with :math:`S^m` the :func:`~infodcl_geo.nn.item_graph.knn_graph` of the modality, frozen, of ones (section 3.1),
    and :math:`\bar u, \bar i` the means of LightGCN's layers on the interactions that are left:
    :math:`(1 - \rho) |E|` of them, drawn without replacement with :math:`p_{ui} \propto 1 / \sqrt{d_u d_i}` and
    normalised by the degrees that are left (section 3.2). Inference takes all interactions.

    The authors' program draws the interactions for each epoch, here for each step; it trains the features themselves,
    which here stay what they are. Without features of their own the items are described by the similarity channels.

    Arguments as in :class:`~infodcl_geo.models.modal.ModalModel`; ``l2`` is on the layer-0 embeddings of the batch.
    """

    Options = FREEDOMOptions

    def set_up(self, features: list[Tensor]) -> None:
        options: FREEDOMOptions = self.options
        graphs = [knn_graph(f, options.item_neighbours, binary=True) for f in features]
        self.similar = ItemGraph(weighted_sum(graphs, modality_weights(len(features), options.first_share)))
        self.edges = Edges(self.graph)

    def _ranked(self, graph: Graph) -> tuple[Tensor, Tensor]:
        users, items = self.split(propagate(graph, self.nodes(), self.num_layers))
        return users, items + self.similar(self.item_embedding.weight, self.options.item_layers)

    def propagated(self) -> tuple[Tensor, Tensor]:
        return self._ranked(self.graph)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        options = self.options
        users, items = self._ranked(self.pruned(generator) if options.pruning else self.graph)
        terms = self.ranking(batch, users, items, generator)
        if options.modal:
            of_batch = F.embedding(batch.users, users)
            losses = [bpr_loss(of_batch, p(batch.positives), p(batch.negatives)) for p in self.projections]
            terms["modal"] = options.modal * torch.stack(losses).sum()
        return terms

    def pruned(self, generator: torch.Generator | None) -> Graph:
        """The graph of the interactions that are left, normalised by the degrees that are left."""
        edges = self.edges
        # The weights of the normalised graph are the probabilities. The smallest of exponential times over rates are a
        # sample without replacement.
        rates = edges.weights(self.graph)
        times = torch.empty_like(rates).exponential_(generator=generator) / rates
        count = max(1, round((1 - self.options.pruning) * times.numel()))
        kept = torch.zeros_like(rates)
        kept[times.topk(min(count, times.numel()), largest=False, sorted=False).indices] = 1
        degree = torch.zeros(self.num_users + self.num_items, device=rates.device)
        # Sums of ones are exact in any order, so the draws repeat themselves on a GPU as well.
        degree.index_add_(0, edges.users, kept).index_add_(0, edges.items, kept)
        scale = degree.clamp_(min=1).rsqrt_()
        return edges.reweighted(self.graph, kept * scale[edges.users] * scale[edges.items])


def modality_weights(count: int, first: float | None) -> list[float]:
    """Weights of ``count`` modalities that sum to one: ``first`` for the first, the rest shared alike."""
    if first is None or count == 1:
        return [1 / count] * count
    return [first] + [(1 - first) / (count - 1)] * (count - 1)


def _search(space: Space) -> None:
    search_embeddings(space)
    space.number("pruning", 0, 0.9, log=False)
    space.number("modal", 1e-5, 1e-1)
    space.number("first_share", 0, 1, log=False)


recipe = Recipe(
    name="freedom",
    summary="LightGCN on pruned interactions and a frozen graph of similar items (by features, or by the channels)",
    paper="Zhou and Shen, FREEDOM, MM 2023",
    options=FREEDOMOptions,
    build=lambda inputs, options: FREEDOM(inputs.graph, *inputs.sizes, inputs.metadata, options=options),
    search=_search,
    reads_channels=True,
)
