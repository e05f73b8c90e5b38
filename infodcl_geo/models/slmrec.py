"""SLMRec: contrast of views whose features are dropped or masked, and of the modalities with one another."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infodcl_geo.kernels import infonce

from ..errors import OptionError
from ..graph.graph import propagate
from .base import Batch
from .modal import ModalModel
from .objective import ChannelRankingOptions
from .options import check
from .ranked import RankingModel
from .recipe import Recipe, Space, search_contrast, search_embeddings


@dataclass(frozen=True)
class SLMRecOptions(ChannelRankingOptions):
    """Options of :class:`SLMRec`; the start and the penalty are LightGCN's here, the weights this library's choice.

    Args:
        contrast: weight of the contrast of two views of the items.
        view: what a view lacks: 'drop' (feature dropout, FD: a share of the entries) or 'mask' (feature masking, FM:
            for each node one modality, the ID among them).
        drop: share of the entries that 'drop' leaves out.
        between: weight of the contrast of the modalities with one another (FAC); 0 leaves it out.
        temperature: tau of InfoNCE.
    """

    num_layers: int | None = 2
    l2: float = 0.004
    init_std: float = 0.03
    contrast: float = 0.01
    view: Literal["drop", "mask"] = "drop"
    drop: float = 0.1
    between: float = 0.01
    temperature: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, positive=["temperature"], shares=["drop"])
        if self.drop == 1:
            raise OptionError("drop is a share below 1: nothing would be left")


class SLMRec(ModalModel, RankingModel):
    r"""SLMRec (Tao et al., TMM 2022), for any number of modalities.

    The IDs and each modality have LightGCN embeddings of their own, of one user table (section III-A):

    .. math::
        X_0 = \tfrac{1}{K+1} \sum_k \mathcal A^k [U; E], \quad
        X_m = \tfrac{1}{K+1} \sum_k \mathcal A^k [U; W_m f^m + b_m], \qquad
        X = [X_0 \,\|\, X_1 \,\|\, \dots] W + b

    Scores are inner products of X, and

    .. math::
        \mathcal L = \mathcal L_{bpr} + \lambda \mathcal L_{reg} + \lambda_1 \mathcal L_{nce}(X', X'')
            + \lambda_2 \sum_{m < m'} \mathcal L_{nce}(X_m, X_{m'})

    over the batch's positive items: X' and X'' are fused from embeddings whose entries are dropped, or of which one
    modality is masked (FD and FM, section III-B). The last sum, over the IDs and the modalities, holds one space to the
    other: this library's reading of the fine alignment in FAC, whose coarse one is left out. The loss here is BPR as in
    all models, where the authors take a softmax over the batch: ``ranking_loss='softmax'``.

    The features themselves are not trained. Without features of their own the items are described by the similarity
    channels.

    Arguments as in :class:`~infodcl_geo.models.modal.ModalModel`; ``l2`` is on the ID embeddings of the batch.
    """

    Options = SLMRecOptions

    def set_up(self, features: list[Tensor]) -> None:
        self.fusion = nn.Linear((1 + len(features)) * self.dim, self.dim)
        nn.init.xavier_uniform_(self.fusion.weight)
        nn.init.zeros_(self.fusion.bias)

    def spaces(self) -> Tensor:
        """Embeddings of all nodes by the IDs and by each modality ``[M + N, 1 + |M|, d]``."""
        users = self.user_embedding.weight
        first = [self.nodes(), *(torch.cat([users, projection()]) for projection in self.projections)]
        layers = propagate(self.graph, torch.cat(first, dim=1), self.num_layers)
        return layers.unflatten(1, (len(first), self.dim))

    def propagated(self) -> tuple[Tensor, Tensor]:
        return self.split(self.fusion(self.spaces().flatten(1)))

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        options, spaces = self.options, self.spaces()
        terms = self.ranking(batch, *self.split(self.fusion(spaces.flatten(1))), generator)
        chosen = batch.positives.unique()
        items = F.embedding(chosen + self.num_users, spaces.flatten(1)).unflatten(1, spaces.shape[1:])
        own = torch.arange(len(chosen), device=chosen.device)
        if options.contrast:
            one, other = (self.fusion(self._lacking(items, generator).flatten(1)) for _ in range(2))
            terms["nce"] = options.contrast * infonce(one, other, own, options.temperature)
        if options.between:
            pairs = combinations(items.unbind(1), 2)
            losses = [infonce(one.contiguous(), other.contiguous(), own, options.temperature) for one, other in pairs]
            terms["between"] = options.between * torch.stack(losses).sum()
        return terms

    def _lacking(self, items: Tensor, generator: torch.Generator | None) -> Tensor:
        """A view of items ``[B, 1 + |M|, d]``."""
        if self.options.view == "drop":
            kept = torch.rand(items.shape, generator=generator, device=items.device) >= self.options.drop
            return items * kept / (1 - self.options.drop)
        masked = torch.randint(items.size(1), (items.size(0), 1), generator=generator, device=items.device)
        return items * (torch.arange(items.size(1), device=items.device) != masked).unsqueeze(2)


def _search(space: Space) -> None:
    search_embeddings(space)
    search_contrast(space, 1e-4, 0.3)
    space.number("between", 1e-4, 0.3)
    space.choice("view", ["drop", "mask"])


recipe = Recipe(
    name="slmrec",
    summary="contrast of items with features (or similarity channels) dropped or masked, and among modalities",
    paper="Tao et al., SLMRec, TMM 2022",
    options=SLMRecOptions,
    build=lambda inputs, options: SLMRec(inputs.graph, *inputs.sizes, inputs.metadata, options=options),
    training={"lr": 0.001},
    search=_search,
    reads_channels=True,
)
