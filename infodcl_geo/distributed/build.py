"""A rank's part of a model, built of its own rows alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from ..configuration import Config
from ..errors import OptionError
from ..graph.graph import Graph
from ..graph.spectral import SVDOptions
from ..models.base import EmbeddingModel
from ..models.options import SPECTRAL
from ..models.recipe import Inputs
from .exchange import drawn_rows
from .graph import ShardedGraph
from .group import Group
from .input import OwnInteractions
from .partition import Partition, Rows
from .spectral import sharded_spectral_embeddings
from .workers import join


@dataclass(frozen=True, eq=False)
class RankInputs(Inputs):
    """What a rank's part of a model is built from: sizes and graph are those of its rows."""

    of_rank: Graph | None = None

    @cached_property
    def graph(self) -> Graph:
        assert self.of_rank is not None
        return self.of_rank


def build_part(data: OwnInteractions, config: Config, group: Group) -> tuple[Config, EmbeddingModel]:
    """The configuration with what was missing, and this rank's part of the model.

    Random embeddings are those that one process draws for the same seed, pretrained ones those of the randomized
    decomposition (:mod:`~infodcl_geo.distributed.spectral`).

    Raises:
        OptionError: if the model needs something that one process makes of all interactions.
    """
    recipe, options = config.recipe, config.options
    if recipe.reads_channels or recipe.needs_vectors:
        raise OptionError(
            f"{recipe.name} reads channels, which are made of all interactions: leave --tables sharded out"
        )
    if getattr(options, "num_layers", 1) is None:
        options = replace(options, num_layers=1)  # type: ignore[call-arg]
    graph = ShardedGraph(data.train, data.part, group)
    model = recipe.build(RankInputs(data.train, *data.part.sizes, of_rank=graph), options)
    assert isinstance(model, EmbeddingModel)
    draw_tables(model, data.part, config.training.seed)
    if getattr(options, "init", None) == "pretrained":
        if getattr(options, "pretraining", SPECTRAL) != SPECTRAL:
            raise OptionError("pretraining of interactions in parts is the closed form: leave --pretraining out")
        how = SVDOptions(getattr(options, "smoothing", None), getattr(options, "power", 1.0))
        vectors = sharded_spectral_embeddings(data.train, data.part, group, model.dim, how)
        start_from(model, vectors, group)
    model = model.to(group.device)
    join(model, graph, data.part, group)
    return replace(config, options=options), model


@torch.no_grad()
def draw_tables(model: EmbeddingModel, part: Partition, seed: int) -> None:
    """The rows of the embeddings that a whole model draws for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    tables = ((model.user_embedding, part.users), (model.item_embedding, part.items))

    def drawn(table: nn.Embedding, rows: Rows, std: float) -> Tensor:
        dtype = table.weight.dtype
        return drawn_rows(
            lambda count: torch.empty(count, model.dim, dtype=dtype).normal_(std=std, generator=generator), rows
        )

    for table, rows in tables:  # what every table draws as it is made, before the model draws its own
        drawn(table, rows, 1.0)
    for table, rows in tables:
        table.weight.copy_(drawn(table, rows, model.init_std))


@torch.no_grad()
def start_from(model: EmbeddingModel, vectors: tuple[Tensor, Tensor], group: Group) -> None:
    """:meth:`EmbeddingModel.start_from` with the scale of all ranks' vectors."""
    for table, own in zip((model.user_embedding.weight, model.item_embedding.weight), vectors, strict=True):
        known = own != 0
        moment = torch.stack([own.double().square().sum(), known.double().sum()])
        total, count = group.sum_(moment, "pretraining").tolist()
        if count:
            table.copy_(torch.where(known, own * (model.init_std / (total / count) ** 0.5), table))
