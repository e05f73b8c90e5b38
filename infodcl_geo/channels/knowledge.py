"""The knowledge channel: triples about items, their reader and their builder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..data.ids import IdMap, InteractionError
from ..data.interactions import Interactions
from ..data.readers import read_columns
from ..data.tables import all_ids
from ..errors import OptionError
from ..graph.similarity import top_k_product, weighted_mean
from .base import Channel, ChannelError, PretrainedVectors, has_edges, warn_of_file
from .modal import ItemFeatures, described_by

_TRIPLES = {
    "head": "head headid subject subjectid h source item itemid",
    "relation": "relation relationid predicate rel r property",
    "tail": "tail tailid object objectid t target entity entityid",
}
_LINKS = {"item": "item itemid", "entity": "entity entityid freebaseid"}


@dataclass(frozen=True, eq=False)
class KnowledgeGraph:
    """Triples between entities, and which entity each item is.

    Args:
        triples: ``[3, T]`` int64, rows are head, relation and tail; distinct, sorted by (relation, head, tail).
        item_entity: ``[N]`` int64, the entity that an item is, -1 for items that are none.
        entity_ids: raw ids of the entities.
        relation_ids: raw ids of the relations.
        source: where it comes from, one line with counts.

    Raises:
        InteractionError: if the tensors do not hold what is said above.
    """

    triples: Tensor
    item_entity: Tensor
    entity_ids: IdMap = field(repr=False)
    relation_ids: IdMap = field(repr=False)
    source: str = "given triples"

    def __post_init__(self) -> None:
        if self.triples.dim() != 2 or self.triples.size(0) != 3 or self.triples.dtype != torch.int64:
            found = f"{list(self.triples.shape)} {self.triples.dtype}"
            raise InteractionError(f"{self.source}: triples must be [3, T] int64, not {found}")
        entities, relations = len(self.entity_ids), len(self.relation_ids)
        head, relation, tail = self.triples
        for what, index, size in (("entity", torch.cat([head, tail]), entities), ("relation", relation, relations)):
            if index.numel() and (int(index.min()) < 0 or int(index.max()) >= size):
                raise InteractionError(f"{self.source}: {what} {int(index.max())} of {size}")
        if not bool(_ascending(self.triples).all()):
            raise InteractionError(f"{self.source}: triples must be distinct and sorted by (relation, head, tail)")
        linked = self.item_entity
        if linked.dim() != 1 or linked.dtype != torch.int64 or bool(((linked < -1) | (linked >= entities)).any()):
            raise InteractionError(f"{self.source}: item_entity must be [N] int64, -1 or one of {entities} entities")

    @property
    def num_items(self) -> int:
        return len(self.item_entity)

    @property
    def linked(self) -> Tensor:
        """Which items are entities, bool ``[N]``."""
        return self.item_entity >= 0

    @classmethod
    def from_item_facts(
        cls, facts: Tensor, num_items: int, relations: Sequence[str] | None = None, source: str = ""
    ) -> KnowledgeGraph:
        """The graph of facts ``[3, T]`` about items: item row, relation, entity, each numbered from 0.

        Item ``i`` becomes entity ``i``, entity ``e`` becomes ``num_items + e``; ``relations`` are their names in
        order, by default numbers.
        """
        if facts.dim() != 2 or facts.size(0) != 3 or facts.dtype != torch.int64:
            raise InteractionError(f"facts must be [3, T] int64, not {list(facts.shape)} {facts.dtype}")
        item, relation, entity = facts
        if facts.numel() and int(item.max()) >= num_items:
            raise InteractionError(f"a fact is about item {int(item.max())} of {num_items}")
        size = int(entity.max()) + 1 if facts.numel() else 0
        if relations is None:
            names = IdMap(np.arange(int(relation.max()) + 1 if facts.numel() else 0))
        else:
            names = IdMap(np.unique(np.asarray(relations, dtype=np.str_)))
            relation = torch.from_numpy(names.encode(np.asarray(relations, dtype=np.str_)))[relation]
        triples = sorted_triples(torch.stack([item, relation, entity + num_items]))
        return cls(
            triples,
            torch.arange(num_items),
            IdMap(np.arange(num_items + size)),
            names,
            source or f"{triples.size(1)} given facts about {int(item.unique().numel())} items",
        )

    def item_attributes(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the triples say about items, from either end: item, kind and entity, each ``[A]``, distinct.

        The triple (h, r, t) tells of an item that is h that its r is t (kind ``r``), and of an item that is t that it
        is the r of h (kind ``R + r``). Items that are one entity share its attributes.
        """
        order = torch.argsort(self.item_entity, stable=True)
        sorted_entities = self.item_entity[order].contiguous()
        parts = []
        head, relation, tail = self.triples
        for own, kind, other in ((head, relation, tail), (tail, relation + len(self.relation_ids), head)):
            low = torch.searchsorted(sorted_entities, own.contiguous())
            count = torch.searchsorted(sorted_entities, own.contiguous(), right=True) - low
            edge = torch.repeat_interleave(torch.arange(len(own)), count)
            within = torch.arange(len(edge)) - (count.cumsum(0) - count)[edge]
            parts.append(torch.stack([order[low[edge] + within], kind[edge], other[edge]]))
        item, kind, entity = torch.cat(parts, dim=1)
        return item, kind, entity


def _ascending(triples: Tensor) -> Tensor:
    """Which triples come strictly after the one before by (relation, head, tail), ``[T - 1]``."""
    head, relation, tail = triples.diff(dim=1).sign()
    return torch.where(relation != 0, relation, torch.where(head != 0, head, tail)) > 0


def sorted_triples(triples: Tensor) -> Tensor:
    """Distinct triples ``[3, T]``, sorted by (relation, head, tail)."""
    head, relation, tail = triples.numpy()
    triples = triples[:, torch.from_numpy(np.lexsort((tail, head, relation)))]
    first = torch.ones(triples.size(1), dtype=torch.bool)
    first[1:] = _ascending(triples)
    return triples[:, first]


def load_knowledge(
    path: str | PathLike[str],
    data: Interactions,
    *,
    links: str | PathLike[str] | None = None,
    columns: Sequence[str | int] | None = None,
) -> KnowledgeGraph:
    """Read knowledge triples: ``head relation tail`` a row, and which entity each item is: ``item entity`` a row.

    Args:
        path: text with or without a header, RecBole ``.kg``, parquet or npy (``T x 3``).
        data: whose items they are about.
        links: the links, in the same formats; default: for ``name.kg`` the file ``name.link`` beside it if there is
            one, else an item is the entity with the same id.
        columns: header names or positions of head, relation and tail.

    Raises:
        InteractionError: if a file cannot be read or no item of ``data`` is an entity of a triple.
    """
    read = read_columns(path, _TRIPLES, columns=columns)
    beside = Path(path).with_suffix(".link")
    if links is None and Path(path).suffix == ".kg" and beside.is_file():
        links = beside
    linked = read_columns(links, _LINKS) if links is not None else None
    entity_ids = IdMap(all_ids([read["head"], read["tail"]] + ([linked["entity"]] if linked else [])))
    relation_ids = IdMap(all_ids([read["relation"]]))
    raw = np.stack(
        [read["head"].encode(entity_ids), read["relation"].encode(relation_ids), read["tail"].encode(entity_ids)]
    )
    triples = sorted_triples(torch.from_numpy(raw))
    if triples.size(1) < raw.shape[1]:
        warn_of_file(f"{path}: {raw.shape[1] - triples.size(1)} duplicate triples, kept once")
    item_entity = np.full(data.num_items, -1, dtype=np.int64)
    if linked is None:
        item_entity = entity_ids.encode(data.item_ids.raw, missing=-1)
    else:
        items, entities = linked["item"].encode(data.item_ids), linked["entity"].encode(entity_ids)
        known = items >= 0
        if not known.all():
            warn_of_file(
                f"{links}: {int((~known).sum())} of {len(known)} linked items are not in {data.name}, left out"
            )
        items, entities = items[known][::-1], entities[known][::-1]
        item_entity[items] = entities  # reversed: the first of several links stays
        several = int((item_entity[items] != entities).sum())
        if several:
            warn_of_file(f"{links}: {several} links of items that are already linked to another entity, left out")
    in_triples = np.isin(item_entity, torch.cat([triples[0], triples[2]]).numpy())
    if not in_triples.any():
        raise InteractionError(f"{path}: no item of {data.name} is in a triple")
    where = f"{Path(path).name}: {triples.size(1)} triples of {len(relation_ids)} relations"
    by_themselves = "" if linked is not None else " to the entity of the same id"
    source = f"{where}, {int((item_entity >= 0).sum())} of {data.num_items} items linked{by_themselves}"
    return KnowledgeGraph(triples, torch.from_numpy(item_entity), entity_ids, relation_ids, source)


@dataclass(frozen=True, eq=False)
class Knowledge:
    r"""Items described by what a knowledge graph says about them.

    A fact of an item is a relation, its direction and the entity at the other end. With :math:`n_{re}` items of which
    the fact (r, e) is true, among the :math:`N_r` items of which any fact of that relation is, it weighs

    .. math:: w_{re} = \log \frac{N_r}{n_{re}},

    the inverse entity frequency within the relation: what all have in common says nothing, what two alone share says
    much. Facts that are true of the same items because a relation is stored together with its inverse count once.

    - ``shared``: the mean pretrained vector of the ``top_k`` items of largest cosine similarity of their facts,
      :math:`S_{ij} = \hat w_i \cdot \hat w_j` with :math:`\hat w_i = w_i / \lVert w_i \rVert`, weighted by it.
    - ``propagate``: pretrained vectors carried from items to entities and back ``num_layers`` times, each time as a
      mean weighted by :math:`w`, and the results of all times averaged.
    - ``kge``: entity vectors from one of PyG's ``torch_geometric.nn.kge`` models, used as
      :class:`~infodcl_geo.channels.modal.Modal` uses features.

    Items without a fact that another one shares keep their own vector and are not covered.

    Args:
        graph: triples and which entity each item is.
        method: see above.
        top_k: size of the neighbourhood.
        max_share: facts that are true of more than this share of :math:`N_r` are left out: they weigh little and cost
            most.
        num_layers: of ``propagate``.
        model: class name of the model of ``kge``; on small graphs TransE needs several times the steps of DistMult.
        aggregate: of ``kge``, as in :class:`~infodcl_geo.channels.modal.Modal`.
        epochs: passes over the triples of ``kge``.
        batch_size: triples a step of ``kge``.
        lr: learning rate of ``kge``.
        seed: of ``kge``.
        name: of the channel.
    """

    graph: KnowledgeGraph
    method: Literal["shared", "propagate", "kge"] = "shared"
    top_k: int = 20
    max_share: float = 0.5
    num_layers: int = 1
    model: Literal["TransE", "DistMult", "ComplEx", "RotatE"] = "DistMult"
    aggregate: Literal["features", "neighbours"] = "features"
    epochs: int = 20
    batch_size: int = 512
    lr: float = 0.01
    seed: int = 0
    name: str = "knowledge"

    def __post_init__(self) -> None:
        if self.method not in ("shared", "propagate", "kge"):
            raise OptionError(f"method must be shared, propagate or kge, not {self.method!r}")
        if self.model not in ("TransE", "DistMult", "ComplEx", "RotatE"):
            raise OptionError(f"model must be TransE, DistMult, ComplEx or RotatE, not {self.model!r}")
        for number in ("top_k", "num_layers", "epochs"):
            if getattr(self, number) < 1:
                raise OptionError(f"{number} must be at least 1, not {getattr(self, number)}")

    def __call__(self, data: Interactions, vectors: PretrainedVectors) -> Channel:
        import scipy.sparse as sp

        if self.graph.num_items != data.num_items:
            raise ChannelError(f"{self.graph.source}: made for {self.graph.num_items} items, not {data.num_items}")
        if self.method == "kge":
            features = self._entity_features(vectors.items.size(1))
            source = f"{self.graph.source}, {self.model} of {self.epochs} epochs"
            return described_by(features, vectors, self.aggregate, self.top_k, self.name, source)
        weights = self.fact_weights()
        source = f"{self.graph.source}, {weights.shape[1]} facts shared by items"
        if self.method == "shared":
            rows = np.sqrt(np.asarray(weights.multiply(weights).sum(1)).ravel())
            unit = (sp.diags_array(_reciprocal(rows)) @ weights).tocsr()
            similar = top_k_product(unit, unit.T.tocsr(), self.top_k)
            metadata = weighted_mean(similar, vectors.items, vectors.items)
        else:
            to_entities = sp.diags_array(_reciprocal(np.asarray(weights.sum(0)).ravel())) @ weights.T
            to_items = sp.diags_array(_reciprocal(np.asarray(weights.sum(1)).ravel())) @ weights
            similar = top_k_product(to_items.tocsr(), to_entities.tocsr(), self.top_k)
            carried, total = vectors.items.numpy(), np.zeros(vectors.items.shape, dtype=np.float32)
            for _ in range(self.num_layers):
                carried = to_items @ (to_entities @ carried)
                total += carried
            own = ~torch.from_numpy(np.diff(weights.indptr) > 0).unsqueeze(1)
            metadata = torch.where(own, vectors.items, torch.from_numpy(total / self.num_layers))
        return Channel(self.name, metadata.float(), source, has_edges(similar), similar, "items")

    def fact_weights(self) -> Any:
        """Weight :math:`w_{re}` of every fact that several items share, scipy CSR ``[N, facts]``."""
        import scipy.sparse as sp

        item, kind, entity = (part.numpy() for part in self.graph.item_attributes())
        fact, column = np.unique(np.stack([kind, entity]), axis=1, return_inverse=True)
        column = column.reshape(-1)
        true_of = np.bincount(column, minlength=fact.shape[1])
        pairs = np.unique(np.stack([kind, item]), axis=1)
        asked_of = np.bincount(pairs[0], minlength=2 * len(self.graph.relation_ids))[fact[0]]
        # The sum of random numbers of the items tells whether two facts about one entity are true of the same ones.
        mark = np.random.default_rng(0).integers(1 << 62, size=self.graph.num_items)
        marks = np.zeros(fact.shape[1], dtype=np.int64)
        np.add.at(marks, column, mark[item])
        first = np.zeros(fact.shape[1], dtype=bool)
        first[np.unique(np.stack([fact[1], marks]), axis=1, return_index=True)[1]] = True
        kept = first & (true_of > 1) & (true_of < asked_of) & (true_of <= self.max_share * asked_of)
        weight = np.log(asked_of / np.maximum(true_of, 1)).astype(np.float32)
        rows = kept[column]
        place = np.cumsum(kept) - 1
        shape = (self.graph.num_items, int(kept.sum()))
        return sp.csr_matrix((weight[column[rows]], (item[rows], place[column[rows]])), shape=shape)

    def _entity_features(self, dim: int) -> ItemFeatures:
        from torch_geometric.nn import kge

        head, relation, tail = self.graph.triples
        # PyG's models draw their weights and their negatives from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            classes = {"TransE": kge.TransE, "DistMult": kge.DistMult, "ComplEx": kge.ComplEx, "RotatE": kge.RotatE}
            model = classes[self.model](len(self.graph.entity_ids), len(self.graph.relation_ids), dim)
            optimizer = torch.optim.Adam(model.parameters(), lr=self.lr)
            for _ in range(self.epochs):
                for batch in torch.randperm(len(head)).split(self.batch_size):
                    optimizer.zero_grad()
                    model.loss(head[batch], relation[batch], tail[batch]).backward()
                    optimizer.step()
        parts = [model.node_emb.weight]
        if hasattr(model, "node_emb_im"):
            parts.append(model.node_emb_im.weight)
        entities = torch.cat(parts, dim=1).detach()
        seen = torch.zeros(len(entities), dtype=torch.bool)
        seen[head], seen[tail] = True, True
        at = self.graph.item_entity.clamp(min=0)
        covered = self.graph.linked & seen[at]
        return ItemFeatures(torch.where(covered.unsqueeze(1), entities[at], 0.0), covered, self.name)


def _reciprocal(values: np.ndarray) -> np.ndarray:
    return np.divide(1.0, values, out=np.zeros(len(values), dtype=np.float32), where=values > 0)
