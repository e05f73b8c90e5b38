"""SGL: contrast of two views of the graph, each with some of its nodes or edges left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.kernels import infonce

from ..graph import Graph, csr_parts
from ..sampling import Batch
from .lightgcn import LightGCN

Augmentation = Literal["edge", "node", "walk"]


@dataclass(frozen=True)
class SGLOptions:
    """Hyper-parameters of SGL beside those of :class:`~infodcl_geo.models.base.EmbeddingModel`.

    Args:
        augmentation: what a view leaves out: 'edge' (SGL-ED), 'node' (SGL-ND: nodes with all their edges) or 'walk'
            (SGL-RW: edges, drawn anew for each layer).
        drop: share rho of the nodes or edges that a view leaves out.
        contrast: weight lambda_1 of the contrastive loss.
        temperature: tau of InfoNCE.
    """

    augmentation: Augmentation = "edge"
    drop: float = 0.1
    contrast: float = 0.1
    temperature: float = 0.2

    def __post_init__(self) -> None:
        if self.augmentation not in ("edge", "node", "walk"):
            raise ValueError(f"augmentation must be 'edge', 'node' or 'walk', not {self.augmentation!r}")
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop is a share below 1, not {self.drop}")
        if self.contrast < 0:
            raise ValueError(f"contrast is a weight and cannot be negative: {self.contrast}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")


class SGL(LightGCN):
    r"""SGL (Wu et al., SIGIR 2021): LightGCN's BPR, and InfoNCE between two augmented views of the graph.

    .. math::
        \mathcal L = \mathcal L_{bpr} + \lambda_1 (\mathcal L_{ssl}^{user} + \mathcal L_{ssl}^{item})
            + \lambda_2 \|\Theta\|^2, \qquad
        \mathcal L_{ssl}^{user} = \operatorname{mean}_{u} -\log \frac{\exp(\cos(z'_u, z''_u)/\tau)}
            {\sum_{v} \exp(\cos(z'_u, z''_v)/\tau)}

    (eq. 10 and 11; items alike), u over the users of the batch, repeats included, v over all users. z' and z'' are
    LightGCN embeddings on two graphs that each miss a random share of the edges (eq. 7), of the nodes (eq. 6), or of
    the edges of each layer (eq. 8), normalised by the degrees that are left. Views are drawn for each step, where the
    authors' program draws them for each epoch: the expectation is the same, the model sees more of them.

    Args:
        graph, num_users, num_items, shared: as in :class:`~infodcl_geo.models.base.EmbeddingModel`.
        options: see :class:`SGLOptions`.
    """

    users: Tensor
    items: Tensor
    transposed: Tensor

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, *, options: SGLOptions = SGLOptions(), **shared: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, **shared)
        self.options = options
        pointers, col, _, (size, _) = csr_parts(graph.matrix)
        # Users come first, so the upper half of the entries holds each interaction once; the lower half holds them in
        # the order of the items. Positions of all entries stay the same in all views, and only values are drawn.
        row = torch.repeat_interleave(torch.arange(size, device=col.device), pointers.diff())
        half = col.numel() // 2
        for name, value in (
            ("users", row[:half]),
            ("items", col[:half]),
            ("transposed", torch.argsort(col[:half] * size + row[:half])),
        ):
            self.register_buffer(name, value, persistent=False)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        one, other = self._view(generator), self._view(generator)
        nce = one[0].new_zeros(())
        for chosen, anchors, candidates in zip((batch.users, batch.positives), one, other, strict=True):
            nce = nce + infonce(F.embedding(chosen, anchors), candidates, chosen, self.options.temperature)
        return {**super().loss(batch), "nce": self.options.contrast * nce}

    def _view(self, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """User and item embeddings on an augmented graph."""
        x = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        total, graph = x, self._augmented(generator)
        for layer in range(self.num_layers):
            if layer and self.options.augmentation == "walk":
                graph = self._augmented(generator)
            x = graph @ x
            total = total + x
        users, items = (total / (self.num_layers + 1)).split([self.num_users, self.num_items])
        return users, items

    def _augmented(self, generator: torch.Generator | None) -> Graph:
        """The normalised graph without what was dropped: explicit zeros, so no entry moves and nothing is sorted."""
        pointers, col, value, shape = csr_parts(self.graph.matrix)
        drawn = shape[0] if self.options.augmentation == "node" else self.users.numel()
        kept = torch.rand(drawn, generator=generator, device=value.device) >= self.options.drop
        if self.options.augmentation == "node":
            kept = kept[self.users] & kept[self.items]
        ones = kept.to(value.dtype)
        # Sums of ones are exact in any order, so the views repeat themselves on a GPU as well.
        degree = torch.zeros(shape[0], dtype=value.dtype, device=value.device)
        degree.index_add_(0, self.users, ones).index_add_(0, self.items, ones)
        scale = degree.clamp_(min=1).rsqrt_()
        weights = ones * scale[self.users] * scale[self.items]
        matrix = torch.sparse_csr_tensor(
            pointers, col, torch.cat([weights, weights[self.transposed]]), size=shape, check_invariants=False
        )
        return Graph(matrix, symmetric=True)
