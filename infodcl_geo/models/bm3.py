"""BM3: bootstrapped agreement of users, items and their modalities, without negatives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import OptionError
from ..nn.losses import embedding_penalty
from .base import Batch
from .modal import ModalModel
from .options import ChannelModelOptions, check
from .recipe import Recipe, Space, search_embeddings


@dataclass(frozen=True)
class BM3Options(ChannelModelOptions):
    """Options of :class:`BM3`, with the authors' defaults but for the start and the penalty.

    The authors' penalty is a norm of whole tables with weight 0.1 or 0.01, which has no counterpart here. The loss is
    made of cosines, so that the penalty decides nothing but how large a step of Adam is beside the embeddings.

    Args:
        dropout: share p of the entries that a target is without (0.3 or 0.5).
        modal: weight of the agreement of the modalities (2 in the authors' settings; 1 in eq. 13).
    """

    num_layers: int | None = 1
    l2: float = 0.001
    init_std: float = 0.1
    dropout: float = 0.3
    modal: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, at_least_1=["dim", "similar_items"], shares=["dropout"])
        if self.dropout == 1:
            raise OptionError("dropout is a share below 1: nothing would be left")


class BM3(ModalModel):
    r"""BM3 (Zhou et al., WWW 2023), for any number of modalities:

    .. math::
        \mathcal L = C(\tilde h_u, \dot h_i) + C(\dot h_u, \tilde h_i)
            + w \sum_m \big(C(\tilde h_i^m, \dot h_i) + C(\tilde h_i^m, \dot h_i^m)\big) + \lambda \|E\|^2,
        \qquad C(a, b) = 1 - \cos(a, b)

    over the pairs of the batch (eq. 7 to 13). :math:`h_u` is LightGCN's embedding, :math:`h_i` that of the item plus
    its embedding before propagation, :math:`h_i^m = W_m f_i^m + b_m`. A linear predictor, one for all, gives
    :math:`\tilde h = h W_p + b_p`; a target :math:`\dot h` is h after dropout, and no gradient flows into it. There
    are no negatives. Items are ranked by the predictor's outputs, :math:`\tilde h_u^\top \tilde h_i` (eq. 14).

    The features themselves are not trained, as they are in the authors' program. Modalities are read only in training:
    an item without interactions is ranked by what it learned as target of its modalities. Without features of their
    own the items are described by the similarity channels.

    Arguments as in :class:`~infodcl_geo.models.modal.ModalModel`; ``l2`` is on the layer-0 embeddings of the batch.
    """

    Options = BM3Options

    def set_up(self, features: list[Tensor]) -> None:
        self.predictor = nn.Linear(self.dim, self.dim)
        nn.init.xavier_uniform_(self.predictor.weight)
        nn.init.zeros_(self.predictor.bias)

    def propagated(self) -> tuple[Tensor, Tensor]:
        """Embeddings h ``[M, d]`` and ``[N, d]`` before the predictor."""
        users, items = super().propagated()
        return users, items + self.item_embedding.weight

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        tables = self.propagated()
        users, items = (F.embedding(rows, x) for rows, x in zip((batch.users, batch.positives), tables, strict=True))
        user_target, item_target = (self._target(x, generator) for x in (users, items))
        agreement = _distance(self.predictor(users), item_target) + _distance(self.predictor(items), user_target)
        modal = users.new_zeros(())
        for projection in self.projections:
            latent = projection(batch.positives)
            predicted = self.predictor(latent)
            modal = modal + _distance(predicted, item_target)
            modal = modal + _distance(predicted, self._target(latent, generator))
        penalty = embedding_penalty(self.user_embedding(batch.users), self.item_embedding(batch.positives))
        return {"agreement": agreement, "modal": self.options.modal * modal, "reg": self.l2 * penalty}

    def _target(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= self.options.dropout
        return x.detach() * kept / (1 - self.options.dropout)

    @torch.no_grad()
    def embeddings(self) -> tuple[Tensor, Tensor]:
        users, items = self.propagated()
        return self.predictor(users), self.predictor(items)


def _distance(predicted: Tensor, target: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(predicted, target, dim=-1).mean()


def _search(space: Space) -> None:
    search_embeddings(space)
    space.number("dropout", 0.1, 0.7, log=False)
    space.number("modal", 0.1, 5)


recipe = Recipe(
    name="bm3",
    summary="agreement of users, items and features (or the similarity channels) without negatives",
    paper="Zhou et al., BM3, WWW 2023",
    options=BM3Options,
    build=lambda inputs, options: BM3(inputs.graph, *inputs.sizes, inputs.metadata, options=options),
    training={"lr": 0.01},
    search=_search,
    reads_channels=True,
)
