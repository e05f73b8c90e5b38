"""SGL: contrast of two views of the graph, each with some of its nodes or edges left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.kernels import infonce

from ..errors import OptionError
from ..graph.graph import Graph
from ..nn.edges import Edges
from .base import Batch
from .lightgcn import LightGCN
from .objective import RankingOptions
from .options import check
from .recipe import Recipe, Space, search_contrast, search_embeddings

Augmentation = Literal["edge", "node", "walk"]


@dataclass(frozen=True)
class SGLOptions(RankingOptions):
    """Options of :class:`SGL`.

    Args:
        augmentation: what a view leaves out: 'edge' (SGL-ED), 'node' (SGL-ND: nodes with all their edges) or 'walk'
            (SGL-RW: edges, drawn anew for each layer).
        drop: share rho of the nodes or edges that a view leaves out.
        contrast: weight lambda_1 of the contrastive loss; the authors take 0.02 to 0.5, the least on
            their sparsest data.
        temperature: tau of InfoNCE.
    """

    num_layers: int | None = 2
    l2: float = 0.004
    init_std: float = 0.03
    augmentation: Augmentation = "edge"
    drop: float = 0.1
    contrast: float = 0.02
    temperature: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, at_least_1=["dim"], positive=["temperature"], shares=["drop"])
        if self.drop == 1:
            raise OptionError("drop is a share below 1: all edges would be gone")


class SGL(LightGCN):
    r"""SGL (Wu et al., SIGIR 2021): LightGCN's BPR, and InfoNCE between two augmented views of the graph.

    .. math::
        \mathcal L = \mathcal L_{bpr} + \lambda_1 (\mathcal L_{ssl}^{user} + \mathcal L_{ssl}^{item})
            + \lambda_2 \|\Theta\|^2, \qquad
        \mathcal L_{ssl}^{user} = \operatorname{mean}_{u} -\log \frac{\exp(\cos(z'_u, z''_u)/\tau)}
            {\sum_{v} \exp(\cos(z'_u, z''_v)/\tau)}

    (sections 3.2 and 3.3; items alike), u over the users of the batch, repeats included, v over all users. z' and z''
    are LightGCN embeddings on two graphs that each miss a random share of the edges, of the nodes, or of the edges of
    each layer (section 3.1), normalised by the degrees that are left. Views are drawn for each step, where the
    authors' program draws them for each epoch: the expectation is the same, the model sees more of them.

    Args:
        graph, num_users, num_items, changes: as in :class:`~infodcl_geo.models.base.EmbeddingModel`.
        options: see :class:`SGLOptions`.
    """

    Options = SGLOptions

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, *, options: SGLOptions | None = None, **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)
        self.edges = Edges(graph)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        one, other = self._view(generator), self._view(generator)
        nce = one[0].new_zeros(())
        for chosen, anchors, candidates in zip((batch.users, batch.positives), one, other, strict=True):
            nce = nce + infonce(F.embedding(chosen, anchors), candidates, chosen, self.options.temperature)
        return {**super().loss(batch, generator), "nce": self.options.contrast * nce}

    def _view(self, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """User and item embeddings on an augmented graph."""
        x = self.nodes()
        total, graph = x, self._augmented(generator)
        for layer in range(self.num_layers):
            if layer and self.options.augmentation == "walk":
                graph = self._augmented(generator)
            x = graph @ x
            total = total + x
        return self.split(total / (self.num_layers + 1))

    def _augmented(self, generator: torch.Generator | None) -> Graph:
        """The graph without what was dropped, normalised by the degrees that are left."""
        edges, device, dtype = self.edges, self.user_embedding.weight.device, self.user_embedding.weight.dtype
        nodes = self.num_users + self.num_items
        drawn = nodes if self.options.augmentation == "node" else edges.users.numel()
        kept = torch.rand(drawn, generator=generator, device=device) >= self.options.drop
        if self.options.augmentation == "node":
            kept = kept[edges.users] & kept[edges.items]
        ones = kept.to(dtype)
        # Sums of ones are exact in any order, so the views repeat themselves on a GPU as well.
        degree = torch.zeros(nodes, dtype=dtype, device=device)
        degree.index_add_(0, edges.users, ones).index_add_(0, edges.items, ones)
        scale = degree.clamp_(min=1).rsqrt_()
        return edges.reweighted(self.graph, ones * scale[edges.users] * scale[edges.items])


def _search(space: Space) -> None:
    search_embeddings(space)
    search_contrast(space)
    space.number("drop", 0.05, 0.5)


recipe = Recipe(
    name="sgl",
    summary="LightGCN and the contrast of two augmented graphs",
    paper="Wu et al., SGL, SIGIR 2021",
    options=SGLOptions,
    build=lambda inputs, options: SGL(inputs.graph, *inputs.sizes, options=options),
    search=_search,
)
