"""VBPR: matrix factorisation with a second pair of factors, the item's made of its features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.graph import Graph, propagate
from ..nn.losses import embedding_penalty
from ..nn.modal import ModalProjection, checked_features
from .base import Batch
from .objective import ChannelRankingOptions
from .options import check
from .ranked import RankingModel, Rows
from .recipe import Recipe, Space, search_embeddings


@dataclass(frozen=True)
class VBPROptions(ChannelRankingOptions):
    """Options of :class:`VBPR`.

    The scale of the start and the penalty are those of matrix factorisation here; the authors search the penalty
    and take 10 + 10 factors.

    Args:
        num_layers: propagation layers at inference; 0 is the paper's model.
        modal_dim: D, factors of the features.
        modal_l2: penalty of the embedding matrix E and of the bias :math:`\\beta'`.
    """

    num_layers: int | None = 0
    l2: float = 0.011
    init_std: float = 0.02
    modal_dim: int = 64
    modal_l2: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, at_least_1=["dim", "modal_dim", "similar_items"])


class VBPR(RankingModel):
    r"""VBPR (He and McAuley, AAAI 2016), for any number of modalities:

    .. math::
        \hat x_{ui} = \beta_i + \gamma_u^\top \gamma_i + \theta_u^\top (E f_i) + \beta'^\top f_i, \qquad
        \mathcal L = -\operatorname{mean} \ln\sigma(\hat x_{ui} - \hat x_{uj}) + \lambda \|\Theta\|^2

    (eq. 4 and 7). The offsets alpha and :math:`\beta_u` of eq. 4 are the same for all items of a user and left out.
    Features of several modalities stand side by side in f, each centred and at one scale. Without features of their
    own the items are described by the similarity channels.

    With ``num_layers`` above 0 factors and projected features propagate over the graph at inference, as those of
    matrix factorisation do here; the paper's model does not. What ranks are the users
    :math:`[\gamma_u, \theta_u, 1]` and the items :math:`[\gamma_i, E f_i, \beta_i + \beta'^\top f_i]`.

    Args:
        graph, num_users, num_items, options, changes: as in :class:`~infodcl_geo.models.base.EmbeddingModel`.
        features: ``[num_items, f]`` by the modality's name, of any widths.

    Raises:
        OptionError: without features, or if their rows are not the items.
    """

    Options = VBPROptions

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, features: Mapping[str, Tensor], **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, **changes)
        modal_dim = self.options.modal_dim
        parts = [ModalProjection(f, 1).features for f in checked_features(features, num_items)]
        self.projection = ModalProjection(torch.cat(parts, dim=1), modal_dim, bias=False)
        self.modal_bias = nn.Linear(self.projection.features.size(1), 1, bias=False)
        self.taste = nn.Embedding(num_users, modal_dim)
        self.item_bias = nn.Embedding(num_items, 1)
        nn.init.normal_(self.taste.weight, std=self.init_std)
        nn.init.zeros_(self.item_bias.weight)
        nn.init.zeros_(self.modal_bias.weight)

    def _user_rows(self, users: Tensor | None) -> Tensor:
        """Factors of both kinds and a one for the items' bias ``[B, d + D + 1]``."""
        factors, taste = (Rows(table)(users) for table in (self.user_embedding, self.taste))
        return torch.cat([factors, taste, taste.new_ones(len(taste), 1)], dim=1)

    def _item_rows(self, items: Tensor | None) -> Tensor:
        factors, bias = (Rows(table)(items) for table in (self.item_embedding, self.item_bias))
        features = self.projection.features if items is None else self.projection.features[items]
        return torch.cat([factors, self.projection(items), bias + self.modal_bias(features)], dim=1)

    def _scores(self, users: Tensor, items: Tensor) -> Tensor:
        factors = (self.user_embedding(users) * self.item_embedding(items)).sum(1)
        modal = (self.taste(users) * self.projection(items)).sum(1)
        return factors + modal + (self.item_bias(items) + self.modal_bias(self.projection.features[items]))[:, 0]

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        users, positives, negatives = batch.users, batch.positives, batch.negatives
        if self.objective is None:
            margin = self._scores(users, positives) - self._scores(users, negatives)
            terms = {"bpr": nn.functional.softplus(-margin).mean()}
        else:
            terms = self.ranked(batch, Rows(self._user_rows), Rows(self._item_rows), generator)
        rows = [self.user_embedding(users), self.taste(users)]
        held = [positives, negatives] if self.objective is None else [positives]
        rows += [table(items) for items in held for table in (self.item_embedding, self.item_bias)]
        weights = self.projection.linear.weight.square().sum() + self.modal_bias.weight.square().sum()
        return {**terms, "reg": self.l2 * embedding_penalty(*rows) + self.options.modal_l2 * weights}

    def row_tables(self, anchors: int) -> list[nn.Embedding]:
        return [self.user_embedding, self.item_embedding, self.taste, self.item_bias] if self.ranks_by_rows else []

    def propagated(self) -> tuple[Tensor, Tensor]:
        """Users and items with their factors of both kinds and the items' bias, ``[M, d + D + 1]`` and ``[N, ...]``."""
        items = torch.cat([self.item_embedding.weight, self.projection()], dim=1)
        nodes = torch.cat([torch.cat([self.user_embedding.weight, self.taste.weight], dim=1), items])
        users, items = self.split(propagate(self.graph, nodes, self.num_layers))
        bias = self.item_bias.weight + self.modal_bias(self.projection.features)
        return torch.cat([users, users.new_ones(len(users), 1)], dim=1), torch.cat([items, bias], dim=1)


def _search(space: Space) -> None:
    search_embeddings(space, fewest_layers=0)
    space.number("modal_l2", 1e-6, 1e-2)
    space.whole("modal_dim", 16, 128, log=True)


recipe = Recipe(
    name="vbpr",
    summary="matrix factorisation with features beside the items (or the similarity channels where there are none)",
    paper="He and McAuley, VBPR, AAAI 2016",
    options=VBPROptions,
    build=lambda inputs, options: VBPR(inputs.graph, *inputs.sizes, inputs.metadata, options=options),
    search=_search,
    reads_channels=True,
    propagates_afterwards=True,
)
