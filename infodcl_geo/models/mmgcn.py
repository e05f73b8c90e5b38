"""MMGCN: a graph network for each modality, whose layers are joined by the ID embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph.graph import csr_parts
from .base import Batch
from .modal import ModalModel
from .objective import ChannelRankingOptions
from .ranked import RankingModel
from .recipe import Recipe, search_embeddings

_SLOPE = 0.01


@dataclass(frozen=True)
class MMGCNOptions(ChannelRankingOptions):
    """Options of :class:`MMGCN`, which has none of its own; the start and the penalty are LightGCN's here."""

    num_layers: int | None = 2
    l2: float = 0.004
    init_std: float = 0.03


class MMGCN(ModalModel, RankingModel):
    r"""MMGCN (Wei et al., MM 2019), for any number of modalities:

    .. math::
        H_m^{(k)} = \operatorname{LeakyReLU}\big(D^{-1} A X_m^{(k-1)} W_{1,m}^{(k)}\big), \qquad
        X_m^{(k)} = \operatorname{LeakyReLU}\big(H_m^{(k)} W_{3,m}^{(k)}
            + \operatorname{LeakyReLU}(X_m^{(k-1)} W_{2,m}^{(k)}) + E\big), \qquad
        E^* = \sum_m X_m^{(K)}

    (eq. 2 to 6, aggregation by the mean and combination by elements) from the items' projected features and a vector of
    preferences that each user has in each modality. E are the ID embeddings, the same for all layers and modalities.
    Scores are inner products of :math:`E^*`, the loss is BPR and the penalty on E.

    The linear layers have biases, as in the authors' program. The features themselves are not trained. Without features
    of their own the items are described by the similarity channels.

    Arguments as in :class:`~infodcl_geo.models.modal.ModalModel`; ``l2`` is on the ID embeddings of the batch.
    """

    Options = MMGCNOptions
    root: Tensor

    def set_up(self, features: list[Tensor]) -> None:
        degree = csr_parts(self.graph.matrix)[0].diff()
        # The normalised graph between these is the mean over neighbours.
        self.register_buffer("root", degree.clamp(min=1).sqrt().unsqueeze(1), persistent=False)
        self.preferences = nn.ParameterList(
            nn.Parameter(self.init_std * torch.randn(self.num_users, self.dim)) for _ in features
        )
        self.weights = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleList(nn.Linear(self.dim, self.dim) for _ in range(3)) for _ in range(self.num_layers)
            )
            for _ in features
        )

    def propagated(self) -> tuple[Tensor, Tensor]:
        ids, total = self.nodes(), None
        for preferences, projection, layers in zip(self.preferences, self.projections, self.weights, strict=True):
            x = torch.cat([preferences, projection()])
            for aggregate, own, combine in cast(list[nn.ModuleList], layers):
                near = self.graph @ (x * self.root) / self.root
                h = F.leaky_relu(aggregate(near), _SLOPE)
                x = F.leaky_relu(combine(h) + F.leaky_relu(own(x), _SLOPE) + ids, _SLOPE)
            total = x if total is None else total + x
        assert total is not None
        return self.split(total)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return self.ranking(batch, *self.propagated(), generator)


recipe = Recipe(
    name="mmgcn",
    summary="a graph network for each modality (or similarity channel), joined by the ID embeddings",
    paper="Wei et al., MMGCN, MM 2019",
    options=MMGCNOptions,
    build=lambda inputs, options: MMGCN(inputs.graph, *inputs.sizes, inputs.metadata, options=options),
    training={"lr": 0.001},
    search=search_embeddings,
    reads_channels=True,
)
