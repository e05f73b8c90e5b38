"""LightGCL: contrast of propagation on the graph with propagation on its truncated SVD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.kernels import infonce

from ..errors import OptionError
from ..graph.graph import Graph, sparse_matrix
from ..graph.spectral import truncated_svd
from ..nn.edges import Edges
from .base import Batch
from .lightgcn import LightGCN
from .objective import RankingOptions
from .options import check
from .recipe import Recipe, Space, search_contrast, search_embeddings


@dataclass(frozen=True)
class LightGCLOptions(RankingOptions):
    """Options of :class:`LightGCL`.

    Args:
        rank: q, singular values of the global view.
        contrast: weight lambda_1 of the contrastive loss; the authors' 0.2 holds ranking back on Amazon-Office.
        temperature: tau of InfoNCE.
        similarity: 'dot' as in the authors' program or 'cosine' as in the paper.
        clamp: bound of the positive logits of the dot product, beyond which a pair is pulled no closer, as in the
            authors' program.
        dropout: share of the edges that a propagation in training leaves out, drawn for each layer; the others are
            scaled up to the same expectation.
    """

    num_layers: int | None = 2
    l2: float = 0.036
    init_std: float = 0.01
    rank: int = 5
    contrast: float = 0.002
    temperature: float = 0.2
    similarity: Literal["dot", "cosine"] = "dot"
    clamp: float = 5.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, at_least_1=["dim", "rank"], positive=["temperature", "clamp"], shares=["dropout"])
        if self.dropout == 1:
            raise OptionError("dropout is a share below 1: all edges would be gone")


class LightGCL(LightGCN):
    r"""LightGCL (Cai et al., ICLR 2023): BPR on the graph's view, and InfoNCE between it and a global view.

    With :math:`\tilde A \approx P \Sigma Q^\top` of rank q (section 3.2), K layers of propagation :math:`E^{(k)}` on
    the graph and the global view

    .. math::
        E_u = \sum_{k=0}^{K} E_u^{(k)}, \qquad
        G_u = E_u^{(0)} + \sum_{k=1}^{K} P \Sigma Q^\top E_i^{(k-1)}

    (items alike, with the transpose), the objective is (section 3.3)

    .. math::
        \mathcal L = \mathcal L_{bpr} + \lambda_1 (\mathcal L_s^{user} + \mathcal L_s^{item}) + \lambda_2 \|\Theta\|^2,
        \qquad
        \mathcal L_s^{user} = \operatorname{mean}_u -\log \frac{\exp(s(G_u, E_u)/\tau)}{\sum_v \exp(s(G_u, E_v)/\tau)}

    u over the users of the batch, repeats included, v over all users; the items are the positives and the negatives.
    As in the authors' program the layers are summed, neither averaged nor passed through an activation, the contrast is
    of the sums and not layer by layer, and s the dot product. So scores are K + 1 squared times those of LightGCN with
    the same embeddings. The SVD is exact for small graphs and randomized for large ones
    (:func:`~infodcl_geo.graph.spectral.truncated_svd`).

    Args:
        graph, num_users, num_items, changes: as in :class:`~infodcl_geo.models.base.EmbeddingModel`.
        options: see :class:`LightGCLOptions`.

    Raises:
        ValueError: if ``options.rank`` is not less than the number of users and of items.
    """

    left: Tensor
    right: Tensor

    Options = LightGCLOptions

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, *, options: LightGCLOptions | None = None, **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)
        self.edges = Edges(graph)
        upper = sparse_matrix(
            self.edges.users, self.edges.items - num_users, self.edges.weights(graph), (num_users, num_items)
        )
        left, values, right = truncated_svd(Graph(upper), self.options.rank)
        # Rebuilt from the data, so a checkpoint of the weights need not carry them.
        self.register_buffer("left", left * values.sqrt(), persistent=False)
        self.register_buffer("right", right * values.sqrt(), persistent=False)

    def propagated(self) -> tuple[Tensor, Tensor]:
        return self.split(torch.stack(self._layers(0.0, None)).sum(0))

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        layers = self._layers(self.options.dropout, generator)
        users, items = self.split(torch.stack(layers).sum(0))
        terms = self.ranking(batch, users, items, generator)
        # The view is linear: the layers are summed before the product, and one product serves for all.
        below = torch.stack(layers[:-1]).sum(0) if self.num_layers else torch.zeros_like(layers[0])
        users_below, items_below = self.split(below)
        global_users = self.user_embedding.weight + self.left @ (self.right.T @ items_below)
        global_items = self.item_embedding.weight + self.right @ (self.left.T @ users_below)
        nce = self._contrast(batch.users, global_users, users)
        nce = nce + self._contrast(torch.cat([batch.positives, batch.negatives]), global_items, items)
        terms["nce"] = self.options.contrast * nce
        return terms

    def _contrast(self, chosen: Tensor, view: Tensor, nodes: Tensor) -> Tensor:
        options, anchors = self.options, F.embedding(chosen, view)
        cosine = options.similarity == "cosine"
        loss = infonce(anchors, nodes, chosen, options.temperature, normalize=cosine)
        if cosine:
            return loss
        positive = (anchors * F.embedding(chosen, nodes)).sum(1) / options.temperature
        return loss + (positive - positive.clamp(-options.clamp, options.clamp)).mean()

    def _layers(self, dropout: float, generator: torch.Generator | None) -> list[Tensor]:
        layers = [self.nodes()]
        for _ in range(self.num_layers):
            graph = self.graph
            if dropout:
                weights = self.edges.weights(graph)
                kept = torch.rand(weights.shape, generator=generator, device=weights.device) >= dropout
                graph = self.edges.reweighted(graph, weights * kept / (1 - dropout))
            layers.append(graph @ layers[-1])
        return layers


def _search(space: Space) -> None:
    search_embeddings(space)
    search_contrast(space)
    space.number("dropout", 0.0, 0.5, log=False)


recipe = Recipe(
    name="lightgcl",
    summary="LightGCN and the contrast with a low-rank graph",
    paper="Cai et al., LightGCL, ICLR 2023",
    options=LightGCLOptions,
    build=lambda inputs, options: LightGCL(inputs.graph, *inputs.sizes, options=options),
    search=_search,
)
