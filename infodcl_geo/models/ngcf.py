"""NGCF: propagation with weights and products of neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import OptionError
from ..graph.graph import Graph
from .base import Batch
from .objective import RankingOptions
from .options import check
from .ranked import RankingModel, Rows
from .recipe import Recipe, Space, search_embeddings

_SLOPE = 0.2


@dataclass(frozen=True)
class NGCFOptions(RankingOptions):
    """Options of :class:`NGCF`; the authors take 3 layers and learning rates of 1e-4 to 5e-4, here it is 0.005.

    Args:
        message_dropout: share of each layer's output that training sets to zero; the authors take 0.1, validation on
            sparse data prefers none. Their dropout of nodes is left out.
    """

    num_layers: int | None = 2
    l2: float = 0.001
    init_std: float = 0.03
    message_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, at_least_1=["dim"], shares=["message_dropout"])
        if self.message_dropout == 1:
            raise OptionError("message_dropout is a share below 1: nothing would be left")


class NGCF(RankingModel):
    r"""NGCF (Wang et al., SIGIR 2019): BPR on the layers of a graph network, side by side.

    .. math::
        E^{(k)} = \operatorname{LeakyReLU}\big((L + I) E^{(k-1)} W_1^{(k)} + (L E^{(k-1)} \odot E^{(k-1)}) W_2^{(k)}
            + b^{(k)}\big), \qquad E = [E^{(0)} \,\|\, \tilde E^{(1)} \,\|\, \dots \,\|\, \tilde E^{(K)}]

    (eq. 7 and 9), with :math:`L = D^{-1/2} A D^{-1/2}`, slope 0.2 and, as in the authors' program, rows of
    :math:`\tilde E^{(k)}` of length one. Every layer has d outputs, so (K + 1) d numbers rank a node. The penalty is on
    the batch's rows of E, as there; the weights of the layers are not held.

    Args:
        graph, num_users, num_items, changes: as in :class:`~infodcl_geo.models.base.EmbeddingModel`.
        options: see :class:`NGCFOptions`.
    """

    Options = NGCFOptions

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, *, options: NGCFOptions | None = None, **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)
        sums = [nn.Linear(self.dim, self.dim) for _ in range(self.num_layers)]
        self.sums = nn.ModuleList(sums)
        self.products = nn.ModuleList(nn.Linear(self.dim, self.dim, bias=False) for _ in range(self.num_layers))
        for layer in (*self.sums, *self.products):
            nn.init.xavier_uniform_(layer.weight)
        for layer in sums:
            nn.init.zeros_(layer.bias)

    def propagated(self) -> tuple[Tensor, Tensor]:
        return self._layers(None, training=False)

    def _layers(self, generator: torch.Generator | None, *, training: bool) -> tuple[Tensor, Tensor]:
        """User and item embeddings ``[M, (K + 1) d]`` and ``[N, (K + 1) d]``."""
        x = self.nodes()
        layers = [x]
        for sums, products in zip(self.sums, self.products, strict=True):
            near = self.graph @ x
            x = F.leaky_relu(sums(near + x) + products(near * x), _SLOPE)
            if training and self.options.message_dropout:
                kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.options.message_dropout
                x = x * kept / (1 - self.options.message_dropout)
            layers.append(F.normalize(x))
        return self.split(torch.cat(layers, dim=1))

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        users, items = (Rows(x) for x in self._layers(generator, training=True))
        terms = self.ranked(batch, users, items, generator)
        return {**terms, "reg": self.l2 * self.penalty(batch, users, items)}


def _search(space: Space) -> None:
    search_embeddings(space)
    space.number("message_dropout", 0.0, 0.5, log=False)


recipe = Recipe(
    name="ngcf",
    summary="BPR on a graph network with weights and products of neighbours",
    paper="Wang et al., NGCF, SIGIR 2019",
    options=NGCFOptions,
    build=lambda inputs, options: NGCF(inputs.graph, *inputs.sizes, options=options),
    search=_search,
)
