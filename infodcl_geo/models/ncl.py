"""NCL: contrast of each node with its neighbours in the graph and with the prototype of its cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.kernels import infonce

from ..errors import OptionError
from ..graph.graph import Graph
from .base import Batch
from .lightgcn import LightGCN
from .objective import RankingOptions
from .options import check
from .recipe import Recipe, Space, search_embeddings


@dataclass(frozen=True)
class NCLOptions(RankingOptions):
    """Options of :class:`NCL`.

    Args:
        structure: weight lambda_1 of the structural contrast. Losses here are means: the authors' 1e-6 of a sum over
            4096 interactions is 0.004.
        prototype: weight lambda_2 of the prototype contrast; the authors' 1e-7 is 0.0004.
        item_share: weight alpha of the items in the structural contrast; that of the users is 1.
        temperature: tau of both.
        layer: k, the even layer that is contrasted with layer 0.
        clusters: prototypes of the users, and as many of the items; never more than there are nodes.
        iterations: steps of k-means each time.
        warm_up: epochs before the prototype contrast begins.
        every: epochs from one clustering to the next.
    """

    num_layers: int | None = 2
    l2: float = 0.004
    init_std: float = 0.03
    structure: float = 4e-3
    prototype: float = 4e-4
    item_share: float = 0.8
    temperature: float = 0.1
    layer: int = 2
    clusters: int = 1000
    iterations: int = 10
    warm_up: int = 20
    every: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, at_least_1=["dim", "clusters", "iterations", "every"], positive=["temperature"])
        if self.layer < 2 or self.layer % 2:
            raise OptionError(f"only an even layer, from 2, holds a node's own kind, not {self.layer}")


class NCL(LightGCN):
    r"""NCL (Lin et al., WWW 2022): LightGCN's BPR and two contrasts with neighbours.

    .. math::
        \mathcal L = \mathcal L_{bpr} + \lambda_1 (\mathcal L_S^{user} + \alpha \mathcal L_S^{item})
            + \lambda_2 (\mathcal L_P^{user} + \mathcal L_P^{item}) + \lambda_3 \|\Theta\|^2

    with (sections 3.2 and 3.3; items alike), over the users of the batch, repeats included,

    .. math::
        \mathcal L_S^{user} = \operatorname{mean}_u -\log \frac{\exp(\cos(z_u^{(k)}, z_u^{(0)})/\tau)}
            {\sum_{v} \exp(\cos(z_u^{(k)}, z_v^{(0)})/\tau)}, \qquad
        \mathcal L_P^{user} = \operatorname{mean}_u -\log \frac{\exp(\cos(z_u^{(0)}, c_u)/\tau)}
            {\sum_{c} \exp(\cos(z_u^{(0)}, c)/\tau)}

    v over all users, c over the prototypes: centroids of k-means over :math:`z^{(0)}`, which an E-step finds and the
    M-step holds fixed, :math:`c_u` that of u's cluster. The first E-step starts from random nodes, each later one from
    the prototypes of the one before.

    The model counts the interactions of its batches; as many as the graph has are an epoch. ``reset_parameters``
    begins anew.

    Args:
        graph, num_users, num_items, changes: as in :class:`~infodcl_geo.models.base.EmbeddingModel`. The contrasted
            layer may lie beyond ``num_layers``.
        options: see :class:`NCLOptions`.
    """

    Options = NCLOptions

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, *, options: NCLOptions | None = None, **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)

    def reset_parameters(self) -> None:
        """Draw the initial embeddings and forget the prototypes."""
        super().reset_parameters()
        self.seen = 0
        self.clustered_in: int | None = None
        self.prototypes: tuple[tuple[Tensor, Tensor], ...] = ()

    def training_state(self) -> dict[str, Tensor]:
        clustered_in = -1 if self.clustered_in is None else self.clustered_in
        state = {"progress": torch.tensor([self.seen, clustered_in])}
        for side, (centroids, cluster) in zip(("users", "items"), self.prototypes, strict=False):
            state |= {f"{side}.centroids": centroids.clone(), f"{side}.cluster": cluster.clone()}
        return state

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        self.seen, clustered_in = state["progress"].tolist()
        self.clustered_in = None if clustered_in < 0 else clustered_in
        device = self.user_embedding.weight.device
        self.prototypes = tuple(
            (state[f"{side}.centroids"].to(device), state[f"{side}.cluster"].to(device))
            for side in ("users", "items")
            if f"{side}.centroids" in state
        )

    @property
    def epoch(self) -> int:
        """Epochs behind the model, by the interactions that its batches held."""
        return self.seen // max(self.graph.num_edges // 2, 1)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        layers = [self.nodes()]
        for _ in range(max(self.num_layers, self.options.layer)):
            layers.append(self.graph @ layers[-1])
        final = torch.stack(layers[: self.num_layers + 1]).mean(0)
        terms = self.ranking(batch, *self.split(final), generator)
        terms["structure"] = self._structure(batch, self.split(layers[self.options.layer]))
        epoch = self.epoch
        if epoch >= self.options.warm_up and self.options.prototype:
            if self.clustered_in is None or epoch - self.clustered_in >= self.options.every:
                self._cluster(generator)
                self.clustered_in = epoch
            terms["prototype"] = self._prototype(batch)
        else:
            terms["prototype"] = layers[0].new_zeros(())
        self.seen += batch.users.numel()
        return terms

    def _structure(self, batch: Batch, contexts: tuple[Tensor, Tensor]) -> Tensor:
        options, (users, items) = self.options, contexts
        tau = options.temperature
        user_loss = infonce(F.embedding(batch.users, users), self.user_embedding.weight, batch.users, tau)
        item_loss = infonce(F.embedding(batch.positives, items), self.item_embedding.weight, batch.positives, tau)
        return options.structure * (user_loss + options.item_share * item_loss)

    def _prototype(self, batch: Batch) -> Tensor:
        total = self.user_embedding.weight.new_zeros(())
        sides = ((batch.users, self.user_embedding), (batch.positives, self.item_embedding))
        for (chosen, table), (centroids, cluster) in zip(sides, self.prototypes, strict=True):
            anchors = F.embedding(chosen, table.weight)
            total = total + infonce(anchors, centroids, cluster[chosen], self.options.temperature)
        return self.options.prototype * total

    @torch.no_grad()
    def _cluster(self, generator: torch.Generator | None) -> None:
        """The E-step: prototypes of users and of items, and the cluster of each node."""
        found = []
        for side, table in enumerate((self.user_embedding.weight, self.item_embedding.weight)):
            if self.prototypes:
                start = self.prototypes[side][0]
            else:
                count = min(self.options.clusters, table.size(0))
                start = table[torch.randperm(table.size(0), generator=generator, device=table.device)[:count]]
            found.append(kmeans(table, start, self.options.iterations))
        self.prototypes = tuple(found)


@torch.no_grad()
def kmeans(x: Tensor, centroids: Tensor, iterations: int, *, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    r"""Lloyd's algorithm from given centroids, :math:`\min \sum_i \|x_i - c_{a(i)}\|^2`, ``chunk`` points at a time.

    A cluster that has lost all its points keeps its centroid.

    Args:
        x: points ``[n, d]``.
        centroids: where to start, ``[k, d]``.
        iterations: rounds of assignment and update.

    Returns:
        Centroids ``[k, d]``, and for each point the nearest of them, int64 ``[n]``.
    """

    def nearest() -> Tensor:
        # The point's own norm does not change which centroid is nearest.
        half = centroids.square().sum(1) / 2
        return torch.cat([torch.addmm(-half, part, centroids.T).argmax(1) for part in x.split(chunk)])

    for _ in range(iterations):
        cluster = nearest()
        size = torch.bincount(cluster, minlength=centroids.size(0))[:, None]
        total = torch.zeros_like(centroids).index_add_(0, cluster, x)
        centroids = torch.where(size > 0, total / size.clamp(min=1), centroids)
    return centroids, nearest()


def _search(space: Space) -> None:
    search_embeddings(space, fewest_layers=2)  # the second layer is contrasted
    space.number("structure", 1e-4, 0.1)
    space.number("prototype", 1e-5, 1e-2)
    space.number("temperature", 0.05, 0.5)


recipe = Recipe(
    name="ncl",
    summary="LightGCN and the contrast with neighbours and with prototypes",
    paper="Lin et al., NCL, WWW 2022",
    options=NCLOptions,
    build=lambda inputs, options: NCL(inputs.graph, *inputs.sizes, options=options),
    search=_search,
)
