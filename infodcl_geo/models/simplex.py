"""SimpleX: users made of their histories, trained by the cosine contrastive loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..graph.graph import Graph, csr_parts, sparse_matrix
from .lightgcn import LightGCN
from .objective import RankingLoss, RankingOptions, search_objective
from .options import check
from .recipe import Recipe, Space, search_embeddings


@dataclass(frozen=True)
class SimpleXOptions(RankingOptions):
    """Options of :class:`SimpleX`.

    Args:
        own_share: g, share of a user's own embedding beside the history's; the authors take 0.1 to 1.
    """

    ranking_loss: RankingLoss = "ccl"
    num_layers: int | None = 0
    l2: float = 0.0
    init_std: float = 0.1
    ranking_candidates: int | None = 1000
    own_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, shares=["own_share", "missing_weight"])


class SimpleX(LightGCN):
    r"""SimpleX (Mao et al., CIKM 2021) with mean pooling: users partly are the mean of their items.

    .. math::
        h_u = g\, e_u + (1 - g)\, V \frac{1}{|N_u|} \sum_{j \in N_u} e_j, \qquad
        \mathcal L = \operatorname{mean}_b (1 - \cos(h_u, e_i)) + \frac{w}{n} \sum_j \max(0, \cos(h_u, e_j) - m)
            + \lambda \mathcal L_{reg}

    (eq. 1, 3 and 4). The n negatives are drawn for each step and shared in the batch; the history holds the item that
    is predicted, as in the authors' program. Ranked by the cosine.

    Args:
        graph, num_users, num_items, changes: as in :class:`~infodcl_geo.models.base.EmbeddingModel`; with
            ``num_layers`` above 0 the vectors are also propagated.
        options: see :class:`SimpleXOptions`.
    """

    Options = SimpleXOptions

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, *, options: SimpleXOptions | None = None, **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)
        pointers, col, _, _ = csr_parts(graph.matrix)
        degree = pointers.diff()[:num_users]
        users = torch.repeat_interleave(torch.arange(num_users, device=col.device), degree)
        items = col[: users.numel()] - num_users
        self.mean = Graph(sparse_matrix(users, items, 1 / degree[users].float(), (num_users, num_items)))
        self.history = nn.Linear(self.dim, self.dim, bias=False)
        nn.init.eye_(self.history.weight)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.mean = self.mean.to(self.user_embedding.weight.device)
        return self

    def nodes(self) -> Tensor:
        items = self.item_embedding.weight
        users = torch.lerp(self.history(self.mean @ items), self.user_embedding.weight, self.options.own_share)
        return torch.cat([users, items])


def _search(space: Space) -> None:
    search_embeddings(space, fewest_layers=0, held=False)
    search_objective(space, "negative_weight", "margin")
    space.number("own_share", 0.0, 1.0, log=False)


recipe = Recipe(
    name="simplex",
    summary="users made of their histories, by the cosine contrastive loss",
    paper="Mao et al., SimpleX, CIKM 2021",
    options=SimpleXOptions,
    build=lambda inputs, options: SimpleX(inputs.graph, *inputs.sizes, options=options),
    search=_search,
)
