"""CoGCL: contrast of graphs to which discrete codes of users and items are added as virtual neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.kernels import infonce

from ..graph.graph import Graph, normalized_adjacency, propagate
from ..nn.edges import Edges
from .base import Batch
from .lightgcn import LightGCN
from .ncl import kmeans
from .objective import RankingOptions
from .options import check
from .recipe import Recipe, Space, search_contrast, search_embeddings


@dataclass(frozen=True)
class CoGCLOptions(RankingOptions):
    """Options of :class:`CoGCL`.

    Args:
        levels: H, levels of the codes.
        codes: codes a level; the authors take 4 levels of 512 on Office.
        replaced: share of the edges that one view puts codes in the place of.
        added: share of the edges beside which the other view puts codes.
        contrast: weight of the contrast of the two views. Losses here are means; the authors' weight is 1.
        similar: weight of the contrast of nodes with like codes; the authors' is 0.2.
        temperature: tau of InfoNCE.
        iterations: steps of k-means a level, each time.
        warm_up: epochs without codes.
        every: epochs from one assignment of codes to the next.
    """

    num_layers: int | None = 2
    l2: float = 0.004
    init_std: float = 0.03
    levels: int = 4
    codes: int = 512
    replaced: float = 0.2
    added: float = 0.2
    contrast: float = 0.05
    similar: float = 0.01
    temperature: float = 0.2
    iterations: int = 5
    warm_up: int = 5
    every: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self,
            at_least_1=["dim", "levels", "codes", "iterations", "every"],
            positive=["temperature"],
            shares=["replaced", "added"],
        )


@torch.no_grad()
def residual_codes(
    x: Tensor, levels: int, codes: int, iterations: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""Residual quantisation: each level codes what the levels before leave, by the nearest centroid of k-means.

    .. math:: c_{bh} = \arg\min_k \|r_{bh} - e_{hk}\|, \qquad r_{b1} = x_b, \quad r_{b,h+1} = r_{bh} - e_{h c_{bh}}

    Args:
        x: vectors ``[n, d]``.
        levels: H.
        codes: K; never more than n.
        iterations: rounds of k-means.
        generator: of the vectors that k-means starts from.

    Returns:
        Codes ``[n, H]``, from 0, and centroids ``[H, K, d]``.
    """
    rest, found, books = x, [], []
    for _ in range(levels):
        start = rest[torch.randperm(x.size(0), generator=generator, device=x.device)[: min(codes, x.size(0))]]
        book, code = kmeans(rest, start, iterations)
        found.append(code)
        books.append(book)
        rest = rest - book[code]
    return torch.stack(found, 1), torch.stack(books)


def partner(codes: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """For each node another with equal codes ``[n, H]`` but for the last level, evenly drawn; itself if there is none.

    Nodes are sorted by their codes: a group is a stretch, and no pair of nodes is compared.
    """
    prefix = codes[:, :-1] if codes.size(1) > 1 else codes
    group = prefix.unique(dim=0, return_inverse=True)[1]
    order = group.argsort(stable=True)
    size = torch.bincount(group)
    first = (size.cumsum(0) - size)[group]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    others = (size[group] - 1).clamp(min=1)
    step = 1 + (torch.rand(len(order), generator=generator, device=order.device) * others).long().clamp(max=others - 1)
    return order[first + (place - first + step) % size[group]]


class CoGCL(LightGCN):
    r"""CoGCL (Zheng et al., WWW 2025): LightGCN's BPR, contrast of two views with codes, and of nodes of like codes.

    Every user and item has H codes (:func:`residual_codes` of the propagated embeddings), which are nodes of their own
    with their centroids as embeddings. Of an edge (u, i) that is drawn, one view puts edges from u to the codes of i
    and from i to the codes of u in its place ('replace'), the other beside it ('add').

    .. math::
        \mathcal L = \mathcal L_{bpr} + \mu (\mathcal L_{aug}^{user} + \mathcal L_{aug}^{item})
            + \eta (\mathcal L_{sim}^{user} + \mathcal L_{sim}^{item}) + \lambda \mathcal L_{reg}

    with InfoNCE by cosines over the distinct users and items of the batch: for :math:`\mathcal L_{aug}` the positive of
    :math:`z'_u` is :math:`z''_u`, for :math:`\mathcal L_{sim}` it is :math:`z''_v` of a node v whose codes are the same
    but for the last level (:func:`partner`).

    Where it differs from the authors' program: codes come from k-means every few epochs, where theirs are learned with
    the model; nodes that share interactions are no positives of their own. The codes of a node are found without
    comparing it with all others, so nothing of M x M is formed.

    Args:
        graph, num_users, num_items, changes: as in :class:`~infodcl_geo.models.base.EmbeddingModel`.
        options: see :class:`CoGCLOptions`.
    """

    Options = CoGCLOptions

    def __init__(
        self, graph: Graph, num_users: int, num_items: int, *, options: CoGCLOptions | None = None, **changes: Any
    ) -> None:
        super().__init__(graph, num_users, num_items, options=options, **changes)
        self.edges = Edges(graph)

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.seen, self.coded_in = 0, -1
        self.codes: tuple[Tensor, ...] = ()
        self.books: tuple[Tensor, ...] = ()

    def training_state(self) -> dict[str, Tensor]:
        state = {"progress": torch.tensor([self.seen, self.coded_in])}
        for side, (codes, books) in enumerate(zip(self.codes, self.books, strict=True)):
            state |= {f"codes.{side}": codes.clone(), f"books.{side}": books.clone()}
        return state

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        self.seen, self.coded_in = state["progress"].tolist()
        device = self.user_embedding.weight.device
        sides = [side for side in range(2) if f"codes.{side}" in state]
        self.codes = tuple(state[f"codes.{side}"].to(device) for side in sides)
        self.books = tuple(state[f"books.{side}"].to(device) for side in sides)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        options, epoch = self.options, self.seen // max(self.edges.users.numel(), 1)
        self.seen += batch.users.numel()
        clean = self.propagated()
        terms = self.ranking(batch, *clean, generator)
        terms["nce"] = terms["similar"] = clean[0].new_zeros(())
        if epoch < options.warm_up:
            return terms
        if self.coded_in < 0 or epoch - self.coded_in >= options.every:
            found = [
                residual_codes(x.detach(), options.levels, options.codes, options.iterations, generator) for x in clean
            ]
            self.codes, self.books = tuple(c for c, _ in found), tuple(b for _, b in found)
            self.coded_in = epoch
        one = self._view(options.replaced, generator, keep=False)
        other = self._view(options.added, generator, keep=True)
        for side, chosen in enumerate((batch.users.unique(), batch.positives.unique())):
            anchors, views = F.embedding(chosen, one[side]), F.embedding(chosen, other[side])
            own = torch.arange(chosen.numel(), device=chosen.device)
            terms["nce"] = terms["nce"] + options.contrast * infonce(anchors, views, own, options.temperature)
            like = F.embedding(partner(self.codes[side], generator)[chosen], other[side])
            terms["similar"] = terms["similar"] + options.similar * infonce(anchors, like, own, options.temperature)
        return terms

    def _view(self, share: float, generator: torch.Generator | None, *, keep: bool) -> tuple[Tensor, Tensor]:
        """User and item embeddings on the graph with codes at a ``share`` of the edges, which stay or not."""
        users, items = self.edges.users, self.edges.items - self.num_users
        drawn = torch.rand(users.numel(), generator=generator, device=users.device) < share
        user_codes, item_codes = self.codes
        left, right = self.num_users, self.num_items
        # On the side of the users stand users and codes of users, on the other items and codes of items.
        pairs = [torch.stack([users, items]) if keep else torch.stack([users[~drawn], items[~drawn]])]
        for level in range(self.options.levels):
            to_item = right + level * self.books[1].size(1) + item_codes[items[drawn], level]
            to_user = left + level * self.books[0].size(1) + user_codes[users[drawn], level]
            pairs += [torch.stack([users[drawn], to_item]), torch.stack([to_user, items[drawn]])]
        books = [book.flatten(0, 1) for book in self.books]
        sizes = left + len(books[0]), right + len(books[1])
        left_nodes, right_nodes = torch.cat(pairs, 1)
        keys = (left_nodes * sizes[1] + right_nodes).unique()
        graph = normalized_adjacency(torch.stack([keys // sizes[1], keys % sizes[1]]), *sizes)
        nodes = [self.user_embedding.weight, books[0], self.item_embedding.weight, books[1]]
        x = propagate(graph, torch.cat(nodes), self.num_layers)
        return x[:left], x[sizes[0] : sizes[0] + right]


def _search(space: Space) -> None:
    search_embeddings(space)
    search_contrast(space)
    space.number("similar", 1e-3, 0.5)
    space.number("replaced", 0.05, 0.5)


recipe = Recipe(
    name="cogcl",
    summary="LightGCN and the contrast of graphs with discrete codes as neighbours",
    paper="Zheng et al., CoGCL, WWW 2025",
    options=CoGCLOptions,
    build=lambda inputs, options: CoGCL(inputs.graph, *inputs.sizes, options=options),
    search=_search,
)
