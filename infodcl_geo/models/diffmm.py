"""DiffMM: each modality's diffusion of the interactions draws a graph, and the graphs' views are contrasted."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infodcl_geo.kernels import infonce

from ..graph.graph import Graph, sparse_matrix
from ..nn.edges import Edges
from ..nn.item_graph import ItemGraph
from ..nn.propagation import normalized
from .base import Batch
from .diffrec import DiffRec, DiffRecOptions
from .lightgcn import LightGCN
from .modal import ModalModel
from .objective import ChannelRankingOptions
from .options import check
from .recipe import Recipe, Space, search_contrast, search_embeddings

_CHUNK = 1024


def looped_graph(pairs: Tensor, num_users: int, num_items: int) -> Graph:
    r"""The graph :math:`D^{-1/2} (\mathcal A + I) D^{-1/2}` over users and items of ``pairs`` ``[2, E]``."""
    size = num_users + num_items
    users, items, own = pairs[0], pairs[1] + num_users, torch.arange(size, device=pairs.device)
    row, col = torch.cat([users, items, own]), torch.cat([items, users, own])
    graph = normalized(Graph(sparse_matrix(row, col, None, (size, size))))
    return Graph(graph.matrix, symmetric=True)


@dataclass(frozen=True)
class DiffMMOptions(ChannelRankingOptions):
    """Options of :class:`DiffMM`, with the authors' defaults but for the start, the penalty and ``hidden``.

    Args:
        generated: items of each user in the graph that a modality's diffusion draws.
        generated_weight: weight of these graphs in the embeddings that rank.
        residual: weight omega of the fused embeddings, at unit length, beside their propagation.
        contrast: weight lambda_2 of InfoNCE (0.01 on TikTok, 0.1 on Baby).
        temperature: tau of InfoNCE.
        anchor: what the views of the modalities are contrasted with: 'modal', one another (with one modality, as with
            'main'), or 'main', the embeddings that rank.
        injection: weight lambda_0 of the modality's signal in the diffusion's loss.
        hidden: width of the denoisers' hidden layer; the authors take 1000.
        steps, noise_scale, noise_min, noise_max, dropout: of the diffusion, see
            :class:`~infodcl_geo.models.diffrec.DiffRecOptions`.
        every: epochs from one drawing of the graphs to the next.
    """

    num_layers: int | None = 1
    l2: float = 0.004
    init_std: float = 0.03
    generated: int = 1
    generated_weight: float = 0.2
    residual: float = 0.5
    contrast: float = 0.01
    temperature: float = 0.5
    anchor: Literal["modal", "main"] = "modal"
    injection: float = 0.1
    hidden: int = 200
    steps: int = 5
    noise_scale: float = 0.1
    noise_min: float = 1e-4
    noise_max: float = 0.02
    dropout: float = 0.5
    every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = ["dim", "generated", "hidden", "steps", "every", "similar_items"]
        check(self, at_least_1=counts, positive=["temperature"])
        self.diffusion()

    def diffusion(self) -> DiffRecOptions:
        """Options of a modality's diffusion, which refuses those that cannot be."""
        names = ("hidden", "steps", "noise_scale", "noise_min", "noise_max", "dropout")
        return DiffRecOptions(importance=False, **{name: getattr(self, name) for name in names})


class DiffMM(ModalModel, LightGCN):
    r"""DiffMM (Jiang et al., MM 2024), for any number of modalities.

    Each modality has a diffusion of the users' rows of interactions, :class:`~infodcl_geo.models.diffrec.DiffRec`,
    whose loss also asks that what it predicts look like the interactions (section 3.2), E the items' embeddings,
    :math:`F_m` their features projected and of unit length:

    .. math::
        \mathcal L_{dm} = \tfrac{w_t}{N} \|x_0 - \hat x_0\|^2 + \tfrac{\lambda_0}{d} \|\hat x_0 F_m - x_0 E\|^2

    It moves the denoiser alone. The ``generated`` items of largest :math:`\hat x_0` at the end of the reverse process
    are the user's neighbours in the modality's graph :math:`\hat A_m`. With A that of the interactions, both with
    loops and normalised, and U the users' embeddings (section 3.3),

    .. math::
        h_m = A [U; F_m], \quad \tilde h_m = h_m + A [h_m^{user}; E] + \omega_g \hat A_m [U; E], \quad
        H = \sum_m \kappa_m \tilde h_m, \qquad
        \hat H = \sum_{l=0}^{L} A^l H + \omega \frac{H}{\|H\|}

    rank by inner product; :math:`\kappa` is a trained softmax. The views :math:`z_m = \sum_l A^l \hat A_m [U; F_m]`
    are contrasted with one another or with :math:`\hat H`, over all users (items), for those of the batch:
    :math:`\mathcal L = \mathcal L_{bpr} + \lambda_2 \mathcal L_{cl} + \lambda_1 \|E\|^2 + \sum_m \mathcal L_{dm}`.

    A user is diffused once an epoch, in the step whose batch has its first item; the authors' program diffuses all
    before each epoch. Graphs are drawn once in ``every`` epochs, and from the final weights at inference; rows exist
    for a batch or chunk of users, never M x N, and a denoiser has :math:`2 N \cdot` ``hidden`` weights. The program
    trains the features too and chooses its epoch on the test split. Without features of their own the items are
    described by the similarity channels.

    Arguments as in :class:`~infodcl_geo.models.modal.ModalModel`; ``l2`` is on the layer-0 embeddings of the batch.
    """

    Options = DiffMMOptions

    def set_up(self, features: list[Tensor]) -> None:
        edges = Edges(self.graph)
        pairs = torch.stack([edges.users, edges.items - self.num_users])
        self.looped = ItemGraph(looped_graph(pairs, self.num_users, self.num_items))
        self.diffusions = nn.ModuleList(
            DiffRec(pairs, self.num_users, self.num_items, options=self.options.diffusion()) for _ in features
        )
        self._nets = [cast(DiffRec, net) for net in self.diffusions]
        self.modality = nn.Parameter(torch.zeros(len(features)))
        self.seen, self.drawn_in = 0, -1
        self.chosen: list[Tensor] = []
        self.drawn: list[Graph] = []

    def training_state(self) -> dict[str, Tensor]:
        state = {"progress": torch.tensor([self.seen, self.drawn_in])}
        return state | {f"chosen.{m}": chosen.clone() for m, chosen in enumerate(self.chosen)}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        self.seen, self.drawn_in = state["progress"].tolist()
        self.chosen = [state[f"chosen.{m}"].to(self.modality.device) for m in range(len(state) - 1)]
        self.drawn = [self._graph(chosen) for chosen in self.chosen]

    @torch.no_grad()
    def generate(self) -> list[Tensor]:
        """The items ``[M, k]`` that each modality's diffusion gives the users, by the weights as they are now."""
        users = torch.arange(self.num_users, device=self.modality.device)
        count = min(self.options.generated, self.num_items)
        return [
            torch.cat([diffusion.predict(part).topk(count).indices for part in users.split(_CHUNK)])
            for diffusion in self._nets
        ]

    def _graph(self, chosen: Tensor) -> Graph:
        users = torch.arange(self.num_users, device=chosen.device).unsqueeze(1).expand_as(chosen)
        return looped_graph(torch.stack([users.reshape(-1), chosen.reshape(-1)]), self.num_users, self.num_items)

    def _deep(self, x: Tensor) -> Tensor:
        total = x
        for _ in range(self.num_layers):
            total = x + self.looped(total, 1)
        return total

    def parts(self, drawn: list[Graph]) -> tuple[Tensor, list[Tensor]]:
        """What ranks ``[M + N, d]``, and the view of each modality, with the graphs ``drawn``."""
        users, items, options = self.user_embedding.weight, self.item_embedding.weight, self.options
        ids, modal, views = self.nodes(), [], []
        for graph, projection in zip(drawn, self.projections, strict=True):
            mixed = torch.cat([users, F.normalize(projection(), dim=1)])
            h = self.looped(mixed, 1)
            h = h + self.looped(torch.cat([h[: self.num_users], items]), 1)
            modal.append(h + options.generated_weight * (graph @ ids))
            views.append(graph @ mixed)
        fused = (self.modality.softmax(0)[:, None, None] * torch.stack(modal)).sum(0)
        ranked = self._deep(fused) + options.residual * F.normalize(fused, dim=1)
        return ranked, [self._deep(view) for view in views]

    def propagated(self) -> tuple[Tensor, Tensor]:
        return self.split(self.parts([self._graph(chosen) for chosen in self.generate()])[0])

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        options = self.options
        epoch = self.seen // max(self.graph.num_edges // 2, 1)
        if not self.drawn or epoch - self.drawn_in >= options.every:
            self.chosen, self.drawn_in = self.generate(), epoch
            self.drawn = [self._graph(chosen) for chosen in self.chosen]
        self.seen += batch.users.numel()
        ranked, views = self.parts(self.drawn)
        terms = self.ranking(batch, *self.split(ranked), generator)
        if options.contrast:
            among = options.anchor == "modal" and len(views) > 1
            pairs = list(combinations(views, 2)) if among else [(ranked, view) for view in views]
            losses = []
            for one, other in pairs:
                for rows, a, b in zip((batch.users, batch.positives), self.split(one), self.split(other), strict=True):
                    losses.append(infonce(F.embedding(rows, a), b, rows, options.temperature))
            terms["nce"] = options.contrast * torch.stack(losses).sum()
        terms["recon"] = self._diffused(batch, generator)
        return terms

    def _diffused(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        rows, options = self._nets[0].rows, self.options
        first = rows.items[rows.end[batch.users] - rows.degree[batch.users]]
        x = rows.dense(batch.users[batch.positives == first])
        ids, total = self.item_embedding.weight.detach(), x.new_zeros(())
        if not len(x):
            return total
        for diffusion, projection in zip(self._nets, self.projections, strict=True):
            t = diffusion.diffusion.sample_steps(len(x), generator)
            noise = torch.randn(x.shape, generator=generator, device=x.device)
            noised = diffusion.diffusion(x, noise, t)
            kept = torch.rand(x.shape, generator=generator, device=x.device) >= options.dropout
            predicted = diffusion(noised * kept / (1 - options.dropout), t)
            modal = F.normalize(projection(), dim=1).detach()
            injected = (predicted @ modal - x @ ids).square().mean()
            elbo = (diffusion.step_weight[t - 1] * (x - predicted).square().mean(1)).mean()
            total = total + elbo + options.injection * injected
        return total


def _search(space: Space) -> None:
    search_embeddings(space)
    search_contrast(space)
    space.number("generated_weight", 0.01, 1)
    space.number("residual", 0.01, 2)
    space.choice("anchor", ["modal", "main"])


recipe = Recipe(
    name="diffmm",
    summary="a diffusion of interactions draws a graph for each modality (or similarity channel); views contrasted",
    paper="Jiang et al., DiffMM, MM 2024",
    options=DiffMMOptions,
    build=lambda inputs, options: DiffMM(inputs.graph, *inputs.sizes, inputs.metadata, options=options),
    training={"lr": 0.001},
    search=_search,
    reads_channels=True,
)
