"""LGMRec: local graphs of interactions and modalities beside hyperedges that are learned for all."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infodcl_geo.kernels import infonce

from ..errors import OptionError
from ..graph.graph import interaction_graph, propagate
from ..graph.similarity import weighted_mean
from ..nn.edges import Edges
from ..nn.item_graph import ItemGraph
from ..nn.modal import ModalProjection
from .base import Batch
from .lightgcn import LightGCN
from .modal import ModalModel
from .objective import ChannelRankingOptions
from .options import check
from .recipe import Recipe, Space, search_contrast, search_embeddings

_Dependencies = tuple[Tensor, Tensor]
"""Shares of the hyperedges in the users ``[M, A]`` and in the items ``[N, A]``."""


@dataclass(frozen=True)
class LGMRecOptions(ChannelRankingOptions):
    """Options of :class:`LGMRec`: the authors' for Baby, but for the start and the penalty, which are LightGCN's here.

    Args:
        modal_layers: layers K' of the modalities' propagation over the interactions.
        hyperedges: A, hyperedges of each modality.
        hyper_layers: H, layers of the passage through the hyperedges.
        gumbel: temperature of the softmax that gives nodes to hyperedges.
        dropout: share of the entries that a layer of the hyperedges leaves out.
        alpha: weight of the global embeddings beside the local ones.
        contrast: weight lambda_1 of InfoNCE between the modalities' global embeddings.
        temperature: tau of InfoNCE.
    """

    num_layers: int | None = 2
    l2: float = 0.004
    init_std: float = 0.03
    modal_layers: int = 2
    hyperedges: int = 4
    hyper_layers: int = 1
    gumbel: float = 0.2
    dropout: float = 0.5
    alpha: float = 0.3
    contrast: float = 1e-4
    temperature: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ["dim", "hyperedges", "hyper_layers", "similar_items"]
        check(self, at_least_1=counts, positive=["gumbel", "temperature"], shares=["dropout"])
        if self.dropout == 1:
            raise OptionError("dropout is a share below 1: nothing would be left")


class LGMRec(ModalModel, LightGCN):
    r"""LGMRec (Guo et al., AAAI 2024), for any number of modalities.

    Local embeddings are LightGCN's, :math:`E_{id}`, and those of the modalities (section 3.1), with
    :math:`f_i^m = W_m f_i + b_m`, the users' first layer the mean over their items, and the last of K' layers:

    .. math::
        E_m = \mathcal A^{K'} [\tfrac{1}{|N_u|} \sum_{i \in N_u} f_i^m;\; f^m], \qquad
        E_{lge} = E_{id} + \sum_m \frac{E_m}{\|E_m\|}

    Hyperedges :math:`V_m` (one of the width of the features each) stand for attributes; how much of each a node has
    comes from the features, for users from those of their items (section 3.2):

    .. math::
        H_i^m = F_m V_m^\top, \quad H_u^m = A H_i^m, \quad
        \tilde H = \operatorname{softmax}\big((g + H) / \tau_g\big), \qquad
        E_i^{m, h+1} = \operatorname{Drop}(\tilde H_i^m) (\tilde H_i^m)^\top E_i^{m, h}, \quad
        E_u^{m, h+1} = \operatorname{Drop}(\tilde H_u^m) (\tilde H_i^m)^\top E_i^{m, h}

    from the items of :math:`E_{id}`; g is Gumbel noise in training and 0 at inference (the authors' program draws it
    there too). What ranks is :math:`E_{lge} + \alpha \frac{E_{ghe}}{\|E_{ghe}\|}` with
    :math:`E_{ghe} = \sum_m E^{m, H}`. The loss is BPR, the penalty and :math:`\lambda_1` times InfoNCE between each two
    modalities' :math:`E^{m, H}`, of the batch's users and positives over all; with one modality there is no such term.

    The products go through A columns, never M x N or N x N. :math:`H_u` is divided by the number of the user's items,
    so that the temperature means the same for all; in the paper it is the sum. Of an item without interactions the
    features are seen through the hyperedges alone. The features themselves are not trained, as they are in the authors'
    program. Without features of their own the items are described by the similarity channels.

    Arguments as in :class:`~infodcl_geo.models.modal.ModalModel`; ``l2`` is on the layer-0 embeddings of the batch.
    """

    Options = LGMRecOptions

    def set_up(self, features: list[Tensor]) -> None:
        edges = Edges(self.graph)
        pairs = torch.stack([edges.users, edges.items - self.num_users])
        self.interactions = ItemGraph(interaction_graph(pairs, self.num_users, self.num_items))
        self.hyperedges = nn.ModuleList(ModalProjection(f, self.options.hyperedges, bias=False) for f in features)

    def _of_items(self, items: Tensor) -> Tensor:
        """Means ``[M, d]`` of what the users' items have ``[N, d]``; zero for users without any."""
        return weighted_mean(self.interactions.graph, items, items.new_zeros(1, items.size(1)))

    def _dependencies(self, hyperedges: nn.Module, generator: torch.Generator | None, noisy: bool) -> _Dependencies:
        items = hyperedges()
        return self._softmax(self._of_items(items), generator, noisy), self._softmax(items, generator, noisy)

    def _softmax(self, logits: Tensor, generator: torch.Generator | None, noisy: bool) -> Tensor:
        if noisy:
            times = torch.empty_like(logits).exponential_(generator=generator)
            logits = logits - times.clamp(min=torch.finfo(logits.dtype).tiny).log()
        return torch.softmax(logits / self.options.gumbel, dim=1)

    def _drop(self, shares: Tensor, generator: torch.Generator | None, noisy: bool) -> Tensor:
        if not noisy or not self.options.dropout:
            return shares
        kept = torch.rand(shares.shape, generator=generator, device=shares.device) >= self.options.dropout
        return shares * kept / (1 - self.options.dropout)

    def local(self) -> tuple[Tensor, Tensor]:
        r""":math:`E_{id}` and :math:`E_{lge}` of all nodes, each ``[M + N, d]``."""
        ids = total = propagate(self.graph, self.nodes(), self.num_layers)
        for projection in self.projections:
            items = projection()
            nodes = torch.cat([self._of_items(items), items])
            for _ in range(self.options.modal_layers):
                nodes = self.graph @ nodes
            total = total + F.normalize(nodes, dim=1)
        return ids, total

    def through_hyperedges(
        self, items: Tensor, generator: torch.Generator | None = None, *, noisy: bool = False
    ) -> list[Tensor]:
        """Global embeddings of all nodes for each modality ``[M + N, d]``, from item embeddings ``[N, d]``.

        Args:
            noisy: with Gumbel noise and dropout, as in training.
        """
        result = []
        for hyperedges in self.hyperedges:
            of_users, of_items = self._dependencies(hyperedges, generator, noisy)
            layer, users = items, items
            for _ in range(self.options.hyper_layers):
                gathered = of_items.T @ layer
                layer = self._drop(of_items, generator, noisy) @ gathered
                users = self._drop(of_users, generator, noisy) @ gathered
            result.append(torch.cat([users, layer]))
        return result

    def _ranked(self, local: Tensor, through: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.split(local + self.options.alpha * F.normalize(torch.stack(through).sum(0), dim=1))

    def propagated(self) -> tuple[Tensor, Tensor]:
        ids, local = self.local()
        return self._ranked(local, self.through_hyperedges(ids[self.num_users :]))

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        options = self.options
        ids, local = self.local()
        through = self.through_hyperedges(ids[self.num_users :], generator, noisy=True)
        terms = self.ranking(batch, *self._ranked(local, through), generator)
        if options.contrast and len(through) > 1:
            losses = []
            for one, other in combinations(through, 2):
                for rows, a, b in zip((batch.users, batch.positives), self.split(one), self.split(other), strict=True):
                    losses.append(infonce(F.embedding(rows, a), b, rows, options.temperature))
            terms["nce"] = options.contrast * torch.stack(losses).sum()
        return terms


def _search(space: Space) -> None:
    search_embeddings(space)
    search_contrast(space, 1e-6, 1e-1)
    space.number("alpha", 0.05, 1)
    space.whole("hyperedges", 2, 128, log=True)


recipe = Recipe(
    name="lgmrec",
    summary="local graphs of interactions and features (or similarity channels), and learned hyperedges for all",
    paper="Guo et al., LGMRec, AAAI 2024",
    options=LGMRecOptions,
    build=lambda inputs, options: LGMRec(inputs.graph, *inputs.sizes, inputs.metadata, options=options),
    training={"lr": 0.001},
    search=_search,
    reads_channels=True,
)
