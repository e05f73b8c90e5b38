"""LATTICE: graphs of similar items that are learned with the recommender."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph.graph import csr_parts, propagate
from ..graph.similarity import cosine_graph
from ..nn.item_graph import ItemGraph, knn_graph
from .base import Batch
from .lightgcn import LightGCN
from .modal import ModalModel
from .objective import ChannelRankingOptions
from .options import check
from .recipe import Recipe, Space, search_embeddings


class Neighbours(NamedTuple):
    """The nearest items of each item, itself first."""

    items: Tensor
    """``[N, k]`` int64; the item itself where there are fewer"""
    known: Tensor
    """bool ``[N, k]``, False where there are fewer"""


@torch.no_grad()
def nearest_items(vectors: Tensor, covered: Tensor, top_k: int) -> Neighbours:
    """Each item and its ``top_k - 1`` others of largest positive cosine, from ``vectors`` ``[N, d]``.

    Args:
        covered: bool ``[N]``; an item that is not has and is no neighbour.
        top_k: with the item itself.
    """
    # Cosines of vectors on a CPU: chunks of rows, so that N x N is never held.
    pointers, col, _, (size, _) = csr_parts(cosine_graph(vectors.cpu(), covered.cpu(), top_k=top_k - 1).matrix)
    index = torch.arange(size)[:, None].repeat(1, top_k)
    known = torch.zeros(size, top_k, dtype=torch.bool)
    row = torch.repeat_interleave(torch.arange(size), pointers.diff())
    place = torch.arange(col.numel()) - pointers[row] + 1
    index[row, place], known[row, place], known[:, 0] = col, True, True
    return Neighbours(index.to(vectors.device), known.to(vectors.device))


def learned_weights(vectors: Tensor, near: Neighbours) -> Tensor:
    r"""Entries ``[N, k]`` of :math:`D^{-1/2} S D^{-1/2}`, S the cosines of ``near``, differentiable in ``vectors``.

    :math:`D_{ii} = \sum_j S_{ij}`; a cosine that has become negative counts as zero.
    """
    unit = F.normalize(vectors, dim=1)
    cosine = (unit.unsqueeze(1) * unit[near.items]).sum(2).clamp(min=0)
    # With the item itself at weight one no degree is below one.
    cosine = torch.cat([torch.ones_like(cosine[:, :1]), cosine[:, 1:] * near.known[:, 1:]], dim=1)
    scale = cosine.sum(1).rsqrt()
    return scale.unsqueeze(1) * cosine * scale[near.items]


@dataclass(frozen=True)
class LATTICEOptions(ChannelRankingOptions):
    """Options of :class:`LATTICE`, with the authors' defaults but for the start and the penalty, LightGCN's here.

    Args:
        item_layers: layers of the graph of similar items.
        item_neighbours: k, neighbours of each item in it, of which it is the first.
        original: share lambda of the graph by the features as they are; the learned graph has the rest.
    """

    num_layers: int | None = 2
    l2: float = 0.004
    init_std: float = 0.03
    item_layers: int = 1
    item_neighbours: int = 10
    original: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, at_least_1=["dim", "item_neighbours", "similar_items"], shares=["original"])


class LATTICE(ModalModel, LightGCN):
    r"""LATTICE (Zhang et al., MM 2021) over LightGCN, for any number of modalities:

    .. math::
        A = \sum_m \alpha_m \big(\lambda \tilde S^m + (1 - \lambda) \tilde A^m\big), \qquad
        h = A^{L} E_I, \qquad \hat i = \bar i + \frac{h_i}{\|h_i\|}

    (eq. 1 to 10), scored by :math:`\bar u^\top \hat i` and trained by BPR. :math:`\tilde S^m` is the graph of the k
    nearest neighbours by the features, :math:`\tilde A^m` by the transformed features :math:`W_m f^m_i + b_m`, both
    weighted by cosine and normalised; :math:`\alpha = \operatorname{softmax}(w)` is trained. :math:`\bar u, \bar i`
    are LightGCN's.

    The matrices are never dense: each keeps k neighbours an item. Which they are is found anew once an epoch, by
    cosines of chunks of rows, work of N squared; their weights are computed, and :math:`W_m` learns, in every step. In
    the authors' program :math:`W_m` has a gradient in the first step of an epoch alone, and the learned graphs are
    summed before they are normalised. The features themselves are not trained, as they are there. Without features of
    their own the items are described by the similarity channels.

    Arguments as in :class:`~infodcl_geo.models.modal.ModalModel`; ``l2`` is on the layer-0 embeddings of the batch.
    """

    Options = LATTICEOptions
    covered: Tensor

    def set_up(self, features: list[Tensor]) -> None:
        neighbours = self.options.item_neighbours
        self.original = nn.ModuleList(ItemGraph(knn_graph(f, neighbours, binary=False)) for f in features)
        self.modality = nn.Parameter(torch.zeros(len(features)))
        self.register_buffer("covered", torch.stack([(f != 0).any(1) for f in features]), persistent=False)
        self.seen, self.found_in = 0, -1
        self.near: list[Neighbours] = []

    def training_state(self) -> dict[str, Tensor]:
        state = {"progress": torch.tensor([self.seen, self.found_in])}
        for m, near in enumerate(self.near):
            state |= {f"index.{m}": near.items.clone(), f"known.{m}": near.known.clone()}
        return state

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        self.seen, self.found_in = state["progress"].tolist()
        device, count = self.modality.device, (len(state) - 1) // 2
        self.near = [Neighbours(state[f"index.{m}"].to(device), state[f"known.{m}"].to(device)) for m in range(count)]

    def neighbours(self) -> list[Neighbours]:
        """The nearest items by the transformed features as they are now, of each modality."""
        top_k = self.options.item_neighbours
        return [
            nearest_items(projection(), covered, top_k)
            for projection, covered in zip(self.projections, self.covered, strict=True)
        ]

    def enhanced(self, near: list[Neighbours]) -> tuple[Tensor, Tensor]:
        """What ranks, with the learned graphs over ``near``: users ``[M, d]`` and items ``[N, d]``."""
        users, items = self.split(propagate(self.graph, self.nodes(), self.num_layers))
        share, original = self.modality.softmax(0), self.options.original
        learned = []
        if original < 1:
            learned = [learned_weights(p(), n) for p, n in zip(self.projections, near, strict=True)]
        h = self.item_embedding.weight
        for _ in range(self.options.item_layers):
            layer = torch.zeros_like(h)
            for m, graph in enumerate(self.original):
                modal = original * graph(h, 1)
                if original < 1:
                    sums = F.embedding_bag(near[m].items, h, per_sample_weights=learned[m], mode="sum")
                    modal = modal + (1 - original) * sums
                layer = layer + share[m] * modal
            h = layer
        return users, items + F.normalize(h, dim=1)

    def propagated(self) -> tuple[Tensor, Tensor]:
        return self.enhanced(self.neighbours())

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        epoch = self.seen // max(self.graph.num_edges // 2, 1)
        if not self.near or epoch > self.found_in:
            self.near, self.found_in = self.neighbours(), epoch
        self.seen += batch.users.numel()
        return self.ranking(batch, *self.enhanced(self.near), generator)


def _search(space: Space) -> None:
    search_embeddings(space)
    space.number("original", 0, 1, log=False)
    space.whole("item_layers", 1, 2)


recipe = Recipe(
    name="lattice",
    summary="LightGCN and graphs of similar items, by features (or the similarity channels), that are learned",
    paper="Zhang et al., LATTICE, MM 2021",
    options=LATTICEOptions,
    build=lambda inputs, options: LATTICE(inputs.graph, *inputs.sizes, inputs.metadata, options=options),
    training={"lr": 0.001},
    search=_search,
    reads_channels=True,
)
