"""MMSSL: each modality's relations of users and items are learned against a critic, and contrasted with behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infodcl_geo.kernels import infonce

from ..errors import OptionError
from ..graph.graph import Graph, propagate, sparse_matrix
from ..nn.critic import Critic
from ..nn.edges import Edges
from ..nn.modal import CrossModalAttention
from ..nn.propagation import normalized
from .base import Batch
from .lightgcn import LightGCN
from .modal import ModalModel
from .objective import ChannelRankingOptions
from .options import check
from .recipe import Recipe, Space, search_contrast, search_embeddings
from .scoring import UserRows

_CHUNK = 1024


@dataclass(frozen=True)
class MMSSLOptions(ChannelRankingOptions):
    """Options of :class:`MMSSL`; start and penalty are LightGCN's here, the weights this library's choice.

    Args:
        related: k, items of each user in a modality's graph of learned relations.
        heads: of the attention across modalities; they share the d columns.
        modal_share: eta, weight of the modal embeddings, at unit length, beside those of the IDs.
        feature_share: omega, weight of each modality's features, at unit length, in what ranks.
        contrast: weight lambda_1 of InfoNCE between the modal and the final embeddings of the users.
        temperature: tau of InfoNCE.
        adversarial: weight lambda_2 of the relations' likeness to behaviour, as the critic sees it; 0 leaves it out.
        hidden: width of the critic.
        gradient_penalty: weight of the critic's gradient penalty.
        softness: temperature of the Gumbel softmax that makes a row of zeros and ones dense.
        likeness: zeta, weight of the cosines of the final embeddings in such a row.
        every: epochs from one drawing of the graphs to the next.
    """

    num_layers: int | None = 2
    l2: float = 0.004
    init_std: float = 0.03
    related: int = 10
    heads: int = 2
    modal_share: float = 0.3
    feature_share: float = 0.1
    contrast: float = 0.01
    temperature: float = 0.5
    adversarial: float = 0.001
    hidden: int = 64
    gradient_penalty: float = 1.0
    softness: float = 0.1
    likeness: float = 0.1
    every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, at_least_1=["related", "heads", "hidden", "every"], positive=["temperature", "softness"])
        if self.dim % self.heads:
            raise OptionError(f"dim {self.dim} cannot be shared by {self.heads} heads: give heads a divisor of it")


class Related(NamedTuple):
    """The items of each user that a modality relates it to most, and how much."""

    items: Tensor
    """``[M, k]`` int64"""
    weights: Tensor
    """``[M, k]``"""


class MMSSL(ModalModel, LightGCN):
    r"""MMSSL (Wei et al., WWW 2023), for any number of modalities.

    **Relations against a critic** (section 3.1). With :math:`x^m` the projected features, :math:`\tilde A` the
    normalised user-item matrix, and s the cosine, a modality relates users to items by

    .. math::
        F_u^m = \tilde A x^m, \quad F_i^m = x^m + \tilde A^\top F_u^m, \qquad \hat a_{ui}^m = s(F_u^m, F_i^m)

    and the rows :math:`\hat a_u^m` shall look to a :class:`~infodcl_geo.nn.critic.Critic` like those of behaviour,
    :math:`\tilde a_u = \operatorname{softmax}((a_u + g) / \tau_g) + \zeta s(h_u, h_\cdot)` with Gumbel noise g:
    :math:`\mathcal L_G` is what the relations lose by it, :math:`\mathcal L_D` the critic's own loss.

    **Contrast** (section 3.2). The k items of largest :math:`\hat a_u^m` are the user's neighbours in the modality's
    graph :math:`\hat A_m`, weighted by it and normalised, over which the ID embeddings pass. Modalities look at one
    another (:class:`~infodcl_geo.nn.modal.CrossModalAttention`), their mean joins the IDs before LightGCN's layers:

    .. math::
        \bar Z = \operatorname{Attention}(\hat A_m E)_m, \qquad
        H = \tfrac{1}{K+1} \sum_k \mathcal A^k \Big(E + \eta \tfrac{\bar z}{\|\bar z\|}\Big), \quad
        \bar z = \tfrac{1}{|\mathcal M|} \sum_m \bar z^m

    What ranks is :math:`H + \omega \sum_m F^m / \|F^m\|`, and :math:`\mathcal L = \mathcal L_{bpr} + \lambda \|E\|^2
    + \lambda_1 \sum_m \mathcal L_{nce}(\bar z_u^m, h_u) + \lambda_2 \mathcal L_G + \mathcal L_D`, InfoNCE over all
    users.

    Differences: the critic and the rest take their steps at once, each moved by its own term; a user's rows are shown
    once an epoch, in the step whose batch has its first item, so rows exist for a batch, never M x N, and a critic has
    N ``hidden`` weights. :math:`F_i` keeps :math:`x_i`, so that an item without interactions is ranked by its features.
    Graphs are drawn once in ``every`` epochs, and from the final weights at inference. The features themselves are not
    trained. Without features of their own the items are described by the similarity channels. On TikTok the authors'
    figures were not reproduced by others, and their settings for it were not released.

    Arguments as in :class:`~infodcl_geo.models.modal.ModalModel`; ``l2`` is on the layer-0 embeddings of the batch.
    """

    Options = MMSSLOptions

    def set_up(self, features: list[Tensor]) -> None:
        options, edges = self.options, Edges(self.graph)
        self.rows = UserRows(torch.stack([edges.users, edges.items - self.num_users]), self.num_users, self.num_items)
        self.attention = CrossModalAttention(self.dim, options.heads)
        self.critics = nn.ModuleList(Critic(self.num_items, options.hidden) for _ in features)
        self.seen, self.drawn_in = 0, -1
        self.related: list[Related] = []
        self.drawn: list[Graph] = []

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.rows = self.rows.to(self.user_embedding.weight.device)
        return self

    def training_state(self) -> dict[str, Tensor]:
        state = {"progress": torch.tensor([self.seen, self.drawn_in])}
        for m, related in enumerate(self.related):
            state |= {f"items.{m}": related.items.clone(), f"weights.{m}": related.weights.clone()}
        return state

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        self.seen, self.drawn_in = state["progress"].tolist()
        device, count = self.user_embedding.weight.device, (len(state) - 1) // 2
        self.related = [Related(state[f"items.{m}"].to(device), state[f"weights.{m}"].to(device)) for m in range(count)]
        self.drawn = [self._graph(related) for related in self.related]

    def described(self) -> list[Tensor]:
        """Users and items by their features, F ``[M + N, d]`` of each modality."""
        found = []
        for projection in self.projections:
            items = projection()
            # Products of the whole graph with one side alone are what that side sends to the other.
            users, _ = self.split(self.graph @ torch.cat([items.new_zeros(self.num_users, self.dim), items]))
            _, back = self.split(self.graph @ torch.cat([users, torch.zeros_like(items)]))
            found.append(torch.cat([users, items + back]))
        return found

    @torch.no_grad()
    def relations(self) -> list[Related]:
        """The k items of each user that the modalities relate it to most, by the weights as they are now."""
        found, k = [], min(self.options.related, self.num_items)
        for nodes in self.described():
            users, items = self.split(F.normalize(nodes, dim=1))
            best = [(part @ items.T).topk(k) for part in users.split(_CHUNK)]
            found.append(Related(torch.cat([one.indices for one in best]), torch.cat([one.values for one in best])))
        return found

    def _graph(self, related: Related) -> Graph:
        users = torch.arange(self.num_users, device=related.items.device).unsqueeze(1).expand_as(related.items)
        users, items = users.reshape(-1), related.items.reshape(-1) + self.num_users
        row, col, size = torch.cat([users, items]), torch.cat([items, users]), self.num_users + self.num_items
        weights = related.weights.clamp(min=0).reshape(-1).repeat(2)
        return Graph(normalized(Graph(sparse_matrix(row, col, weights, (size, size)))).matrix, symmetric=True)

    def parts(self, drawn: list[Graph]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Final embeddings H ``[M + N, d]``, those of the modalities ``[|M|, M + N, d]``, and F of each."""
        ids = self.nodes()
        modal = self.attention(torch.stack([graph @ ids for graph in drawn]))
        first = ids + self.options.modal_share * F.normalize(modal.mean(0), dim=1)
        return propagate(self.graph, first, self.num_layers), modal, self.described()

    def _ranked(self, final: Tensor, described: list[Tensor]) -> tuple[Tensor, Tensor]:
        features = torch.stack([F.normalize(nodes, dim=1) for nodes in described]).sum(0)
        return self.split(final + self.options.feature_share * features)

    def propagated(self) -> tuple[Tensor, Tensor]:
        final, _, described = self.parts([self._graph(related) for related in self.relations()])
        return self._ranked(final, described)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        options, epoch = self.options, self.seen // max(self.graph.num_edges // 2, 1)
        if not self.drawn or epoch - self.drawn_in >= options.every:
            self.related, self.drawn_in = self.relations(), epoch
            self.drawn = [self._graph(related) for related in self.related]
        self.seen += batch.users.numel()
        final, modal, described = self.parts(self.drawn)
        terms = self.ranking(batch, *self._ranked(final, described), generator)
        if options.contrast:
            users, (all_users, _) = batch.users.unique(), self.split(final)
            losses = [infonce(F.embedding(users, z), all_users, users, options.temperature) for z in modal]
            terms["nce"] = options.contrast * torch.stack(losses).sum()
        if options.adversarial:
            terms |= self._adversarial(batch, final.detach(), described, generator)
        return terms

    def _adversarial(
        self, batch: Batch, final: Tensor, described: list[Tensor], generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        options, rows = self.options, self.rows
        shown = batch.users[batch.positives == rows.items[rows.end[batch.users] - rows.degree[batch.users]]]
        fooled = critic_loss = final.new_zeros(())
        if not len(shown):
            return {"gan": fooled, "critic": critic_loss}
        times = torch.empty(len(shown), self.num_items, device=final.device).exponential_(generator=generator)
        noisy = rows.dense(shown) - times.clamp(min=torch.finfo(times.dtype).tiny).log()
        real = torch.softmax(noisy / options.softness, dim=1) + options.likeness * self._cosines(final, shown)
        for critic, nodes in zip(cast(list[Critic], list(self.critics)), described, strict=True):
            fake = self._cosines(nodes, shown)
            fooled = fooled + critic.fooled(fake)
            critic_loss = critic_loss + critic.loss(fake, real, options.gradient_penalty, generator)
        return {"gan": options.adversarial * fooled, "critic": critic_loss}

    def _cosines(self, nodes: Tensor, users: Tensor) -> Tensor:
        """Cosines ``[B, N]`` of some users with all items, by embeddings of all nodes."""
        of_users, of_items = self.split(F.normalize(nodes, dim=1))
        return of_users[users] @ of_items.T


def _search(space: Space) -> None:
    search_embeddings(space)
    search_contrast(space, 1e-4, 0.3)
    space.number("modal_share", 0.01, 1)
    space.number("feature_share", 0.01, 1)
    space.number("adversarial", 1e-5, 0.1)


recipe = Recipe(
    name="mmssl",
    summary="relations by features (or the similarity channels), learned against a critic, contrasted with behaviour",
    paper="Wei et al., MMSSL, WWW 2023",
    options=MMSSLOptions,
    build=lambda inputs, options: MMSSL(inputs.graph, *inputs.sizes, inputs.metadata, options=options),
    training={"lr": 0.001},
    search=_search,
    reads_channels=True,
)
