"""XSimGCL: SimGCL in one propagation, whose perturbed layers rank and are contrasted at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..graph.graph import Graph
from .base import Batch
from .options import check
from .recipe import Recipe
from .simgcl import SimGCL, SimGCLOptions, mean_layer, perturbed_layers, search_noise


@dataclass(frozen=True)
class XSimGCLOptions(SimGCLOptions):
    """Options of :class:`XSimGCL`.

    Args:
        layer: l*, the layer that is contrasted with the final embeddings, from 1.
    """

    layer: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, at_least_1=["dim", "layer"], positive=["temperature"])


class XSimGCL(SimGCL):
    r"""XSimGCL (Yu et al., TKDE 2023): SimGCL in one propagation.

    The perturbed embeddings rank and are contrasted at once: the final ones, mean of the perturbed layers 1 to K,
    with those of layer :math:`l^*`. At inference nothing is perturbed.

    Args:
        graph, num_users, num_items, changes: as in :class:`SimGCL`.
        options: see :class:`XSimGCLOptions`.

    Raises:
        ValueError: if the contrasted layer is not among the ``num_layers`` layers.
    """

    Options = XSimGCLOptions

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, *, options: XSimGCLOptions | None = None, **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)
        if self.options.layer > self.num_layers:
            raise OptionError(f"layer {self.options.layer} cannot be contrasted: there are {self.num_layers}")
        self.layer = self.options.layer

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        layers = perturbed_layers(self.graph, self._first(), self.num_layers, self.options.noise, generator)
        final = mean_layer(layers)
        terms = self.ranking(batch, *self.split(final), generator)
        return {**terms, "nce": self._contrast(batch, final, layers[self.layer - 1])}


recipe = Recipe(
    name="xsimgcl",
    summary="SimGCL in one propagation",
    paper="Yu et al., XSimGCL, TKDE 2023",
    options=XSimGCLOptions,
    build=lambda inputs, options: XSimGCL(inputs.graph, *inputs.sizes, options=options),
    training={"lr": 0.002},
    search=search_noise,
)
