"""What trained recommenders share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from ..graph.graph import Graph, propagate
from ..nn.losses import bpr_loss, embedding_penalty
from ..nn.ranks import ONE, OneRank
from .options import EmbeddingOptions
from .scoring import Scorer, dot_scorer

Anchors: TypeAlias = Literal["items", "positives", "unique"]
"""Items diffused and contrasted in a step: each item once an epoch, the batch's positives, or those without repeats."""


class Batch(NamedTuple):
    """One training step's rows, all int64."""

    users: Tensor
    """``[B]``"""
    positives: Tensor
    """``[B]`` items of the users' training interactions"""
    negatives: Tensor
    """``[B]`` items that are not"""
    anchors: Tensor
    """``[A]`` items whose embeddings are diffused and contrasted; empty in a step without diffusion"""
    anchor_weight: float
    """steps of the epoch for each step with diffusion, which makes up for the steps without"""
    share: float = 1.0
    """of the step's pairs that are in this batch: below 1 where several processes share a step"""
    anchor_share: float = 1.0
    """the same of its anchors; ``anchor_weight`` has it as a factor already"""


class BprRows(NamedTuple):
    """A loss of BPR and the penalty on rows of two tables."""

    users: nn.Embedding
    items: nn.Embedding
    bpr_weight: float
    l2: float
    always: bool
    """whether every step of the model is such a step"""


class Model(nn.Module):
    """What the training loop and the ranking ask of a recommender."""

    anchors: Anchors = "items"
    """items whose embeddings a step diffuses or contrasts, see :class:`~infodcl_geo.training.sampling.BatchSampler`"""
    anchor_batch: int = 1024
    """items of a step with diffusion, for anchors 'items'"""
    ranks: OneRank = ONE
    """the processes that train it together"""

    def training_state(self) -> dict[str, Tensor]:
        """What training goes on from beside parameters and buffers, as new tensors by name, for a checkpoint."""
        return {}

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Take up what :meth:`training_state` gave."""

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Weighted terms of the objective for one batch; their sum is what the step minimises."""
        raise NotImplementedError

    def row_tables(self, anchors: int) -> list[nn.Embedding]:
        """Tables of which :meth:`loss` reads nothing but rows, by calling them, so that a step need not update more.

        Args:
            anchors: of a batch, at most.
        """
        return []

    def bpr_rows(self) -> BprRows | None:
        """Tables and weights of plain steps, whose loss is BPR and the penalty on their rows and nothing else.

        ``None`` for models without such steps; :meth:`is_plain` says which steps are.
        """
        return None

    def is_plain(self, batch: Batch) -> bool:
        """Whether the step of a batch is a plain one, for models with :meth:`bpr_rows`."""
        return False

    def scorer(self) -> Scorer:
        """What ranks, with all that can be computed once already computed."""
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """Tensors from which it ranks again, by name.

        ``users`` ``[M, d]`` and ``items`` ``[N, d]`` rank by their inner product, ``item_weights`` ``[N, N]`` by sums
        over the user's training items; a model that ranks otherwise has a ``restore`` in its recipe.
        """
        return dict(self.state_dict())

    def notes(self) -> dict[str, dict[str, float]]:
        """What is worth keeping in a run's metrics beside them: by the name of a channel, numbers by name."""
        return {}


class Fitted(Model):
    """A closed form: tensors that were computed at once, and what ranks by them.

    Args:
        tensors: see :meth:`Model.state`.
        scorer: what ranks.
    """

    def __init__(self, tensors: dict[str, Tensor], scorer: Scorer) -> None:
        super().__init__()
        self.tensors, self._scorer = tensors, scorer

    def scorer(self) -> Scorer:
        return self._scorer

    def state(self) -> dict[str, Tensor]:
        return dict(self.tensors)


class EmbeddingModel(Model):
    r"""User and item embeddings, ranked by inner product after LightGCN propagation: the base of most models.

    A subclass has the objective (:meth:`loss`), and says in ``Options`` what its options are.

    Args:
        graph: normalised adjacency over users and items, see :func:`~infodcl_geo.graph.graph.normalized_adjacency`.
        num_users, num_items: M and N.
        options: see :class:`~infodcl_geo.models.options.EmbeddingOptions`; each model has its own.
        changes: single options by name, over ``options``.
    """

    Options: ClassVar[type[EmbeddingOptions]] = EmbeddingOptions
    """type of the options, whose defaults are the model's"""
    bpr_weight: float = 1.0
    """weight w of BPR"""

    def __init__(
        self,
        graph: Graph,
        num_users: int,
        num_items: int,
        *,
        options: EmbeddingOptions | None = None,
        **changes: Any,
    ) -> None:
        super().__init__()
        if graph.shape != (num_users + num_items, num_users + num_items):
            raise ValueError(f"{num_users} users and {num_items} items need a graph of their sum, not {graph.shape}")
        options = replace(options or self.Options(), **changes)
        self.options: Any = options
        self.graph = graph
        self.num_users, self.num_items, self.dim = num_users, num_items, options.dim
        self.num_layers = 1 if options.num_layers is None else options.num_layers
        self.l2, self.init_std = options.l2, options.init_std
        self.user_embedding = nn.Embedding(num_users, self.dim)
        self.item_embedding = nn.Embedding(num_items, self.dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the initial embeddings, in place."""
        nn.init.normal_(self.user_embedding.weight, std=self.init_std)
        nn.init.normal_(self.item_embedding.weight, std=self.init_std)

    @torch.no_grad()
    def start_from(self, users: Tensor, items: Tensor) -> None:
        """Initial embeddings from pretrained vectors ``[M, d]`` and ``[N, d]`` instead of random ones.

        Each table is scaled to a root mean square of ``init_std``. Entries that are zero, of nodes without
        interactions or of components beyond the rank of a small data set, keep their random start: a zero in both
        tables has no gradient.
        """
        for table, vectors in ((self.user_embedding.weight, users), (self.item_embedding.weight, items)):
            if vectors.shape != table.shape:
                raise ValueError(f"vectors of shape {list(vectors.shape)} cannot start a table of {list(table.shape)}")
            known = vectors != 0
            if bool(known.any()):
                scale = self.init_std / vectors[known].square().mean().sqrt()
                table.copy_(torch.where(known, vectors * scale, table))

    @torch.no_grad()
    def keep_rows(self, users: slice, items: slice) -> None:
        """Keep these users and items alone, of everything that has a row for each; the graph is left to the caller."""
        for name, rows in (("user_embedding", users), ("item_embedding", items)):
            kept = getattr(self, name).weight[rows].clone()
            setattr(self, name, nn.Embedding.from_pretrained(kept, freeze=False))
        self.num_users, self.num_items = users.stop - users.start, items.stop - items.start

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.graph = self.graph.to(self.user_embedding.weight.device)
        return self

    def nodes(self) -> Tensor:
        """User embeddings above item embeddings ``[M + N, d]``, the rows of the graph."""
        return torch.cat([self.user_embedding.weight, self.item_embedding.weight])

    def split(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The users' rows ``[M, d]`` and the items' ``[N, d]`` of what is computed for all nodes."""
        users, items = nodes.split([self.num_users, self.num_items])
        return users, items

    def propagated(self) -> tuple[Tensor, Tensor]:
        """User and item embeddings ``[M, d]``, ``[N, d]`` after K layers of propagation, differentiable."""
        return self.split(propagate(self.graph, self.nodes(), self.num_layers))

    def row_terms(self, batch: Batch) -> dict[str, Tensor]:
        r"""BPR and the penalty on the embeddings as they are, which read nothing but rows of the tables.

        .. math:: w\,\mathcal L_{bpr} + \lambda\,\mathcal L_{reg}

        (InfoDCL eq. 12 and 15).
        """
        users = self.user_embedding(batch.users)
        positives, negatives = self.item_embedding(batch.positives), self.item_embedding(batch.negatives)
        return {
            "bpr": batch.share * self.bpr_weight * bpr_loss(users, positives, negatives),
            "reg": batch.share * self.l2 * embedding_penalty(users, positives, negatives),
        }

    @torch.no_grad()
    def embeddings(self) -> tuple[Tensor, Tensor]:
        """What ranks: user embeddings ``[M, d]`` and item embeddings ``[N, d]``, scored by inner product."""
        return self.propagated()

    def scorer(self) -> Scorer:
        return dot_scorer(*self.embeddings())

    def state(self) -> dict[str, Tensor]:
        users, items = self.embeddings()
        return {"users": users, "items": items}

    def extra_repr(self) -> str:
        return f"users={self.num_users}, items={self.num_items}, dim={self.dim}, num_layers={self.num_layers}"
