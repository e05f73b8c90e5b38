"""MGCN: features purified by behaviour, propagated over items and users, fused by what users care for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infodcl_geo.kernels import infonce

from ..graph.graph import propagate
from ..nn.item_graph import ItemGraph, knn_graph
from .base import Batch
from .lightgcn import LightGCN
from .modal import ModalModel
from .objective import ChannelRankingOptions
from .options import check
from .recipe import Recipe, Space, search_contrast, search_embeddings


@dataclass(frozen=True)
class MGCNOptions(ChannelRankingOptions):
    """Options of :class:`MGCN`, with the authors' defaults but for the start and the penalty, LightGCN's here.

    Args:
        item_layers: layers of the graphs of similar items.
        item_neighbours: K, neighbours of each item in them, of which it is the first.
        contrast: weight lambda_C of InfoNCE between the modal and the ID embeddings (0.001 to 0.1).
        temperature: tau of InfoNCE.
    """

    num_layers: int | None = 2
    l2: float = 0.004
    init_std: float = 0.03
    item_layers: int = 1
    item_neighbours: int = 10
    contrast: float = 0.01
    temperature: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, at_least_1=["dim", "item_neighbours", "similar_items"], positive=["temperature"])


class MGCN(ModalModel, LightGCN):
    r"""MGCN (Yu et al., MM 2023), for any number of modalities:

    .. math::
        \ddot E_{i,m} = e_i \odot \sigma(W_2 (W_1 f_i^m + b_1) + b_2), \qquad
        \bar E_m = \big[\tilde A S_m^{L} \ddot E_{m};\; S_m^{L} \ddot E_{m}\big], \qquad
        \bar E_{id} = \tfrac{1}{K+1} \sum_k \mathcal A^k E_{id}

    (the purifier, the item-item and the user-item view, sections 3.1 and 3.2), with :math:`S_m` the graph of similar
    items of the modality, weighted by cosine, and :math:`\tilde A` the normalised user-item matrix. The fuser (section
    3.3) takes what the modalities share by attention, and what each has beyond it by the preferences of behaviour:

    .. math::
        E_s = \sum_m \alpha_m \bar E_m, \quad \alpha = \operatorname{softmax}_m q^\top \tanh(W_3 \bar E_m + b_3), \qquad
        E_{mul} = E_s + \tfrac{1}{|\mathcal M|} \sum_m (\bar E_m - E_s) \odot \sigma(W_{4,m} \bar E_{id} + b_{4,m})

    Scores are inner products of :math:`\bar E_{id} + E_{mul}`, the loss is BPR, the penalty and
    :math:`\lambda_C` times InfoNCE between :math:`E_{mul}` and :math:`\bar E_{id}` of the batch's users and positives,
    contrasted with one another.

    With one modality :math:`E_{mul}` is its embedding. The features themselves are not trained, as they are in the
    authors' program, which also divides :math:`E_s` by 3. The preferences of the modalities have matrices of
    their own, as in the paper. Without features of their own the items are described by the similarity channels.

    Arguments as in :class:`~infodcl_geo.models.modal.ModalModel`; ``l2`` is on the layer-0 embeddings of the batch.
    """

    Options = MGCNOptions

    def set_up(self, features: list[Tensor]) -> None:
        neighbours = self.options.item_neighbours
        self.similar = nn.ModuleList(ItemGraph(knn_graph(f, neighbours, binary=False)) for f in features)
        self.gates = nn.ModuleList(nn.Linear(self.dim, self.dim) for _ in features)
        self.preferences = nn.ModuleList(nn.Linear(self.dim, self.dim) for _ in features)
        self.query = nn.Sequential(nn.Linear(self.dim, self.dim), nn.Tanh(), nn.Linear(self.dim, 1, bias=False))

    def parts(self) -> tuple[Tensor, Tensor]:
        """ID embeddings and fused modal embeddings of all nodes, each ``[M + N, d]``."""
        ids = propagate(self.graph, self.nodes(), self.num_layers)
        views = []
        for similar, projection, gate in zip(self.similar, self.projections, self.gates, strict=True):
            items = self.item_embedding.weight * torch.sigmoid(gate(projection()))
            items = similar(items, self.options.item_layers)
            # One product of the whole graph with the items alone is what they send to the users.
            nothing = items.new_zeros(self.num_users, self.dim)
            users, _ = self.split(self.graph @ torch.cat([nothing, items]))
            views.append(torch.cat([users, items]))
        modal = torch.stack(views)
        share = torch.softmax(self.query(modal), dim=0)
        common = (share * modal).sum(0)
        preferred = torch.stack([torch.sigmoid(preference(ids)) for preference in self.preferences])
        return ids, common + ((modal - common) * preferred).mean(0)

    def propagated(self) -> tuple[Tensor, Tensor]:
        ids, modal = self.parts()
        return self.split(ids + modal)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        ids, modal = self.parts()
        terms = self.ranking(batch, *self.split(ids + modal), generator)
        if self.options.contrast:
            nce = ids.new_zeros(())
            for chosen in (batch.users, batch.positives + self.num_users):
                chosen = chosen.unique()
                own = torch.arange(chosen.numel(), device=chosen.device)
                anchors, candidates = F.embedding(chosen, modal), F.embedding(chosen, ids)
                nce = nce + infonce(anchors, candidates, own, self.options.temperature)
            terms["nce"] = self.options.contrast * nce
        return terms


def _search(space: Space) -> None:
    search_embeddings(space)
    search_contrast(space, 1e-4, 0.3)


recipe = Recipe(
    name="mgcn",
    summary="features (or the similarity channels) purified by behaviour, propagated and fused by preference",
    paper="Yu et al., MGCN, MM 2023",
    options=MGCNOptions,
    build=lambda inputs, options: MGCN(inputs.graph, *inputs.sizes, inputs.metadata, options=options),
    training={"lr": 0.001},
    search=_search,
    reads_channels=True,
)
