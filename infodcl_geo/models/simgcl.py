"""SimGCL: contrast of embeddings that were perturbed by random noise in each propagation layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..graph.graph import Graph
from ..nn.ranks import ONE, OneRank, Traffic
from .base import Batch
from .lightgcn import LightGCN
from .objective import RankingOptions
from .options import EmbeddingOptions, check
from .ranked import splits
from .recipe import Recipe, Space, search_contrast, search_embeddings


@dataclass(frozen=True)
class SimGCLOptions(RankingOptions):
    """Options of :class:`SimGCL`.

    Args:
        contrast: weight lambda of the contrastive loss.
        temperature: tau of InfoNCE.
        noise: length epsilon of the perturbation that each layer adds to each node.
    """

    num_layers: int | None = 2
    l2: float = 0.001
    init_std: float = 0.05
    contrast: float = 0.1
    temperature: float = 0.2
    noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, at_least_1=["dim"], positive=["temperature"])


def perturbed_layers(
    graph: Graph,
    first: Tensor,
    num_layers: int,
    noise: float,
    generator: torch.Generator | None = None,
    ranks: OneRank = ONE,
) -> list[Tensor]:
    r"""The K layers of propagation, each perturbed, without the input layer:

    .. math::
        E^{(k)} = \tilde{\mathcal A} E^{(k-1)} + \Delta^{(k)}, \quad
        \Delta^{(k)} = \epsilon \operatorname{sign}(\tilde{\mathcal A} E^{(k-1)}) \odot X / \|X\|_2, \quad
        X \sim U(0, 1)

    so every node moves by a vector of length epsilon within its own orthant (Yu et al., SIGIR 2022, section 3.1).

    Args:
        graph: normalised adjacency of ``n`` nodes.
        first: :math:`\tilde{\mathcal A} E^{(0)}` ``[n, d]``, which several views of the same embeddings share.
        num_layers: K.
        noise: epsilon; with 0 nothing is drawn.
        generator: of the noise.
        ranks: the processes that have the other nodes.
    """
    layers, x = [], first
    for k in range(num_layers):
        if k:
            x = graph @ x
        if noise:
            direction = ranks.uniform(x, generator)
            length = torch.linalg.vector_norm(direction, dim=1, keepdim=True)
            x = x + direction.mul_(noise / length).mul_(x.detach().sign())
        layers.append(x)
    return layers


class SimGCL(LightGCN):
    r"""SimGCL (Yu et al., SIGIR 2022): LightGCN's BPR, and InfoNCE between two perturbed views.

    .. math::
        \mathcal L = \mathcal L_{bpr} + \lambda (\mathcal L_{cl}^{user} + \mathcal L_{cl}^{item})
            + \lambda_g \mathcal L_{reg}, \qquad
        \mathcal L_{cl} = \frac1{|B|} \sum_{i \in B} -\log \frac{\exp(\cos(z'_i, z''_i)/\tau)}
            {\sum_{j \in B} \exp(\cos(z'_i, z''_j)/\tau)}

    over the distinct users and the distinct positive items of the batch. Embeddings are the mean of the layers 1 to K:
    as in the authors' program the ID embeddings themselves are left out, in training and at inference.

    Args:
        graph, num_users, num_items, changes: as in :class:`~infodcl_geo.models.base.EmbeddingModel`, with at least one
            layer.
        options: see :class:`SimGCLOptions`.
    """

    Options: ClassVar[type[EmbeddingOptions]] = SimGCLOptions

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, *, options: SimGCLOptions | None = None, **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)
        if self.num_layers < 1:
            raise ValueError(f"{type(self).__name__} needs at least one layer")

    def _first(self) -> Tensor:
        return self.graph @ self.nodes()

    def propagated(self) -> tuple[Tensor, Tensor]:
        return self.split(mean_layer(perturbed_layers(self.graph, self._first(), self.num_layers, 0.0)))

    def _contrast(self, batch: Batch, one: Tensor, other: Tensor) -> Tensor:
        (users, items), (other_users, other_items) = self.split(one), self.split(other)
        # A share of nothing is a pair that stands in for none.
        pairs = (batch.users, batch.positives) if batch.share else (batch.users[:0], batch.positives[:0])
        tau = self.options.temperature
        total = self.ranks.views("users", pairs[0], users, other_users, tau)
        return self.options.contrast * (total + self.ranks.views("items", pairs[1], items, other_items, tau))

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        first = self._first()
        clean = mean_layer(perturbed_layers(self.graph, first, self.num_layers, 0.0))
        views = [
            mean_layer(perturbed_layers(self.graph, first, self.num_layers, self.options.noise, generator, self.ranks))
            for _ in range(2)
        ]
        return {**self.ranking(batch, *self.split(clean), generator), "nce": self._contrast(batch, *views)}


def mean_layer(layers: list[Tensor]) -> Tensor:
    """Their mean, summed one after the other."""
    total = layers[0]
    for layer in layers[1:]:
        total = total + layer
    return total / len(layers)


def search_noise(space: Space) -> None:
    """What is searched of SimGCL and of XSimGCL."""
    search_embeddings(space)
    search_contrast(space)
    space.number("noise", 0.01, 0.5)


recipe = Recipe(
    name="simgcl",
    summary="LightGCN and the contrast of two noisy propagations",
    paper="Yu et al., SimGCL, SIGIR 2022",
    options=SimGCLOptions,
    build=lambda inputs, options: SimGCL(inputs.graph, *inputs.sizes, options=options),
    training={"lr": 0.002},
    search=search_noise,
    splits=splits,
    traffic=lambda options: Traffic(item_rows=4, products=3 * (options.num_layers or 1) - 2, views=True),
)
