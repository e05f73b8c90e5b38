"""PyG graphs to interactions and side information, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from .channels.base import warn_of_file as _warn
from .channels.knowledge import KnowledgeGraph, sorted_triples
from .channels.modal import ItemFeatures
from .channels.social import SocialGraph
from .data.assemble import assemble
from .data.columns import check_finite
from .data.ids import IdMap, InteractionError
from .data.interactions import Interactions, Split
from .data.readers import from_edges
from .data.tables import Table, joined

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData
    from torch_geometric.typing import EdgeType

_HELD_OUT = {"valid": ("valid", "val", "validation"), "test": ("test",)}


def from_hetero_data(
    data: HeteroData | Sequence[HeteroData],
    *,
    edge_type: tuple[str, str, str] | None = None,
    valid: Tensor | HeteroData | None = None,
    test: Tensor | HeteroData | None = None,
    split: Split = Split(),  # noqa: B008 - frozen
    min_rating: float | None = None,
    k_core: int = 0,
    seed: int = 0,
    name: str = "hetero-data",
) -> Interactions:
    """Interactions of a PyG graph; raw ids are node numbers.

    Ratings and times are the edge attributes ``rating`` and ``time``, where there are. A graph that carries its split
    is split that way: by masks over the edges (``train_mask``, ``val_mask``, ``test_mask``), by edges under
    ``valid_edge_index`` (or ``val_``) and ``test_edge_index``, or by ``edge_label_index`` with ``edge_label``, whose
    edges with a positive label that are not among the graph's edges are held out for test. Edges with a label of 0 are
    negatives, and no interactions. What is held out is not trained on, also where ``edge_index`` has it.

    Args:
        data: the graph; or the three for training, validation and test that PyG's ``RandomLinkSplit`` gives.
        edge_type: the edges from users to items; default: the only edge type between two different node types that is
            not a reverse (``rev_...``), or the only one of these from nodes called ``user``.
        valid: validation edges ``[2, E]``, or a graph that has them as ``edge_label_index``.
        test: test edges, the same way.
        split: how to split what is not split yet, as in :func:`load_interactions`.
        min_rating: as in :func:`load_interactions`; ``valid`` and ``test`` edges have no rating and all stay.
        k_core: as in :func:`load_interactions`.
        seed: of the random split.
        name: what to call the data.

    Raises:
        InteractionError: if there are no such edges.
    """
    divided = isinstance(data, (tuple, list))
    if isinstance(data, (tuple, list)):
        if len(data) != 3 or valid is not None or test is not None:
            raise InteractionError("HeteroData: give one graph, or the three of training, validation and test")
        data, valid, test = data
    assert not isinstance(data, Sequence)
    if not hasattr(data, "edge_types"):
        raise InteractionError(
            f"a {type(data).__name__} does not say which nodes are users: give a HeteroData, or edges"
        )
    edge_type = _interaction_type(data, edge_type)
    source = f"HeteroData {edge_type}"
    store = data[edge_type]
    if "edge_index" not in store:
        raise InteractionError(f"{source}: no edge_index")
    tables = {"train": _with_attributes(from_edges(f"{source} train", store.edge_index), store, source)}
    masks = {p: store.get(f"{n}_mask") for p, names in _HELD_OUT.items() for n in names if f"{n}_mask" in store}
    for part, given in (("valid", valid), ("test", test)):
        edges = _positives(given, edge_type, source) if given is not None else None
        for word in _HELD_OUT[part]:
            edges = store.get(f"{word}_edge_index") if edges is None else edges
        if edges is None and part in masks:
            tables[part] = tables["train"][_mask(masks[part], len(tables["train"]), f"{source} {part}")]
        elif edges is not None and edges.numel():
            tables[part] = from_edges(f"{source} {part}", edges)
    labelled = _positives(data, edge_type, source) if "edge_label_index" in store else None
    if labelled is not None and labelled.numel():
        table = from_edges(f"{source} edge_label_index", labelled)
        new = ~np.isin(_keys(table), _keys(tables["train"]))
        if new.any() and divided:  # message passing and supervision were kept apart: both are for training
            tables["train"] = joined([replace(tables["train"], rating=None, time=None), table[new]])
        elif new.any() and valid is None and test is None and "test" not in tables:
            tables["test"] = table[new]
    _check_sizes(tables, data, edge_type)
    held_out = [_keys(tables[p]) for p in ("valid", "test") if p in tables]
    if held_out:
        kept = ~np.isin(_keys(tables["train"]), np.concatenate(held_out))
        if "train_mask" in store:
            kept &= _mask(store.train_mask, len(kept), f"{source} train")
        if not kept.any():
            raise InteractionError(f"{source}: all edges are held out, none is left for training")
        tables["train"] = tables["train"][kept]
    return assemble(
        {p: tables[p] for p in _PARTS if p in tables},
        name=name,
        source=source,
        format="HeteroData",
        split=split,
        min_rating=min_rating,
        k_core=k_core,
        seed=seed,
    )


def _check_sizes(tables: dict[str, Table], data: HeteroData, edge_type: tuple[str, str, str]) -> None:
    """Refuse edges of nodes that a graph which says its numbers of nodes does not have, such as edges the wrong way."""
    for kind, ids in ((edge_type[0], "users"), (edge_type[2], "items")):
        store = data[kind]
        size = store.num_nodes if "num_nodes" in store or "x" in store else None
        for table in tables.values():
            largest = int(getattr(table, ids).codes.max(initial=-1))
            if size is not None and largest >= size:
                raise InteractionError(
                    f"{table.source}: node {largest} of the {size} of type {kind!r}; edges run {edge_type}"
                )


def _interaction_type(data: HeteroData, edge_type: tuple[str, str, str] | None) -> tuple[str, str, str]:
    if edge_type is None:
        candidates = [t for t in data.edge_types if t[0] != t[2] and not t[1].startswith("rev_")]
        if len(candidates) > 1:
            candidates = [t for t in candidates if t[0] == "user"]
        if len(candidates) != 1:
            raise InteractionError(f"HeteroData: name the user-item edges with edge_type=, one of {data.edge_types}")
        return candidates[0]
    if edge_type not in data.edge_types:
        raise InteractionError(f"HeteroData: no edges {edge_type}; there are {data.edge_types}")
    return edge_type


def _positives(given: Any, edge_type: tuple[str, str, str], source: str) -> Tensor:
    """Held-out edges: those given, or those of a graph whose label is not 0."""
    if isinstance(given, Tensor):
        return given
    store = given[_interaction_type(given, edge_type)]
    edges, label = store.get("edge_label_index"), store.get("edge_label")
    if not isinstance(edges, Tensor):
        raise InteractionError(f"{source}: a graph of held-out edges needs edge_label_index")
    if label is None:
        return edges
    if label.shape != edges.shape[1:]:
        raise InteractionError(f"{source}: {list(label.shape)} labels for {edges.size(1)} edges")
    return edges[:, label > 0]


def _keys(table: Table) -> np.ndarray:
    """One number for each pair of node numbers."""
    return np.asarray(table.users.codes) << 32 | np.asarray(table.items.codes)


def _mask(mask: Any, count: int, source: str) -> np.ndarray:
    values = np.asarray(torch.as_tensor(mask).cpu())
    if values.shape != (count,) or values.dtype != bool:
        raise InteractionError(f"{source}: a mask of {values.dtype} {values.shape} for {count} edges")
    return values


def _with_attributes(table: Table, store: Any, source: str) -> Table:
    """The table with the rating and time of every edge, where there are."""
    attributes: dict[str, Any] = {}
    for key in ("rating", "time"):
        values = store.get(key)
        if values is not None:
            values = np.asarray(torch.as_tensor(values).detach().cpu())
            if values.shape != (len(table),):
                raise InteractionError(
                    f"{source}: {key} has shape {values.shape}, not one value for {len(table)} edges"
                )
            check_finite(source, key, values)
            attributes[key] = values
    return replace(table, **attributes, taken=(("user", "node"), ("item", "node"), *((k, k) for k in attributes)))


@dataclass(frozen=True, eq=False)
class SideInformation:
    """Everything known beside the interactions."""

    social: SocialGraph | None = None
    knowledge: KnowledgeGraph | None = None
    features: tuple[ItemFeatures, ...] = ()


_PARTS = ("train", "valid", "test")


def to_hetero_data(data: Interactions, side: SideInformation = SideInformation()) -> HeteroData:
    """All of it as one PyG graph, without loss: :func:`from_hetero_graph` gives it back.

    Nodes are ``user``, ``item`` and ``entity`` with their raw ids under ``raw_id``. Edges are
    ``(user, interacts, item)`` (training pairs as ``edge_index``, the held-out ones as ``valid_edge_index`` and
    ``test_edge_index``, so that no layer sees them by accident), ``(user, follows, user)`` with ``edge_weight``,
    ``(item, is, entity)``, and ``(entity, <relation>, entity)`` for each relation. Features are ``x_<name>`` of the
    items, with the mask ``x_<name>_covered``.
    """
    from torch_geometric.data import HeteroData

    graph = HeteroData()
    graph.data_name, graph.generated = data.name, data.generated
    for kind, ids in (("user", data.user_ids), ("item", data.item_ids)):
        graph[kind].num_nodes, graph[kind].raw_id = len(ids), _raw(ids)
    interacts = graph["user", "interacts", "item"]
    interacts.edge_index, interacts.valid_edge_index, interacts.test_edge_index = data.train, data.valid, data.test
    if side.social is not None:
        follows = graph["user", "follows", "user"]
        follows.edge_index, follows.edge_weight, follows.source = (
            side.social.edges,
            side.social.weight,
            side.social.source,
        )
    if side.knowledge is not None:
        known = side.knowledge
        graph["entity"].num_nodes, graph["entity"].raw_id = len(known.entity_ids), _raw(known.entity_ids)
        graph["entity"].relation_raw_id, graph["entity"].source = _raw(known.relation_ids), known.source
        items = known.linked.nonzero().squeeze(1)
        graph["item", "is", "entity"].edge_index = torch.stack([items, known.item_entity[items]])
        head, relation, tail = known.triples
        for number, name in enumerate(known.relation_ids.raw):
            own = relation == number
            graph["entity", str(name), "entity"].edge_index = torch.stack([head[own], tail[own]])
    for features in side.features:
        graph["item"][f"x_{features.name}"] = features.values
        graph["item"][f"x_{features.name}_covered"] = features.covered
        graph["item"][f"x_{features.name}_source"] = features.source
    return graph


def from_hetero_graph(graph: HeteroData) -> tuple[Interactions, SideInformation]:
    """What :func:`to_hetero_data` was given, ids, splits, relation types and features included.

    Raises:
        InteractionError: if the graph is not laid out like that; for others there are
            :func:`~infodcl_geo.interactions.from_hetero_data` and :func:`side_information_from_hetero_data`.
    """
    try:
        interacts = graph["user", "interacts", "item"]
        users, items = _ids_of(graph["user"].raw_id), _ids_of(graph["item"].raw_id)
        data = Interactions(
            interacts.edge_index,
            interacts.valid_edge_index,
            interacts.test_edge_index,
            num_users=len(users),
            num_items=len(items),
            user_ids=users,
            item_ids=items,
            name=graph.data_name,
            generated=graph.generated,
        )
    except (AttributeError, KeyError) as error:
        raise InteractionError(f"HeteroData: not of to_hetero_data ({error}); use from_hetero_data") from None
    social = knowledge = None
    if ("user", "follows", "user") in graph.edge_types:
        follows = graph["user", "follows", "user"]
        social = SocialGraph.from_edges(follows.edge_index, len(users), follows.edge_weight, follows.source)
    if "entity" in graph.node_types:
        entities, relations = _ids_of(graph["entity"].raw_id), _ids_of(graph["entity"].relation_raw_id)
        parts = []
        for number, name in enumerate(relations.raw):
            head, tail = graph["entity", str(name), "entity"].edge_index
            parts.append(torch.stack([head, torch.full_like(head, number), tail]))
        item_entity = torch.full((len(items),), -1)
        linked, entity = graph["item", "is", "entity"].edge_index
        item_entity[linked] = entity
        triples = torch.cat(parts, dim=1) if parts else torch.empty(3, 0, dtype=torch.int64)
        knowledge = KnowledgeGraph(triples, item_entity, entities, relations, graph["entity"].source)
    names = [key[2 : -len("_covered")] for key in graph["item"] if key.startswith("x_") and key.endswith("_covered")]
    store = graph["item"]
    features = tuple(
        ItemFeatures(store[f"x_{name}"], store[f"x_{name}_covered"], name, store[f"x_{name}_source"]) for name in names
    )
    return data, SideInformation(social, knowledge, features)


def side_information_from_hetero_data(
    graph: HeteroData,
    data: Interactions,
    *,
    user: str = "user",
    item: str = "item",
    social: EdgeType | None = None,
    knowledge: Sequence[EdgeType] = (),
    features: Sequence[str] = (),
) -> SideInformation:
    """Side information of a PyG graph of anybody's, whose node and edge types the caller names.

    Args:
        graph: the graph.
        data: its interactions, from :func:`~infodcl_geo.interactions.from_hetero_data`: raw ids are node numbers.
        user: node type of the users.
        item: node type of the items.
        social: edges between users; weights are the edges' ``edge_weight`` where there are.
        knowledge: edges between nodes of any types, each type one relation; an item is the entity of its node.
        features: attributes of the item nodes, each ``[nodes, f]``.

    Raises:
        InteractionError: if the graph does not have what is named.
    """
    for edge_type in (*knowledge, *([social] if social else [])):
        if edge_type not in graph.edge_types:
            raise InteractionError(f"HeteroData: no edges {edge_type}; there are {graph.edge_types}")
    friends = None
    if social is not None:
        if (social[0], social[2]) != (user, user):
            raise InteractionError(f"HeteroData: {social} are not edges between nodes of type {user!r}")
        rows = torch.from_numpy(data.user_ids.encode(graph[social].edge_index.numpy().ravel(), missing=-1)).view(2, -1)
        known = (rows >= 0).all(0)
        if not bool(known.all()):
            _warn(f"HeteroData {social}: {int((~known).sum())} of {known.numel()} edges of users without interactions")
        weight = graph[social].get("edge_weight")
        source = f"{social}: {int(known.sum())} of {known.numel()} edges"
        friends = SocialGraph.from_edges(
            rows[:, known], data.num_users, None if weight is None else weight[known], source
        )
    facts = _knowledge_from_hetero_data(graph, data, item, knowledge) if knowledge else None
    found = []
    for name in features:
        values = graph[item].get(name)
        if not isinstance(values, Tensor):
            raise InteractionError(f"HeteroData: nodes of type {item!r} have no tensor {name!r}")
        found.append(ItemFeatures.from_matrix(values[torch.from_numpy(data.item_ids.raw.copy())], name))
    return SideInformation(friends, facts, tuple(found))


def _knowledge_from_hetero_data(
    graph: HeteroData, data: Interactions, item: str, edge_types: Sequence[EdgeType]
) -> KnowledgeGraph:
    kinds = [item, *sorted({kind for t in edge_types for kind in (t[0], t[2])} - {item})]
    sizes = torch.tensor([graph[kind].num_nodes for kind in kinds])
    offset = dict(zip(kinds, (sizes.cumsum(0) - sizes).tolist(), strict=True))
    entities = int(sizes.sum())
    # Edge types may share the name of their relation; the whole type is then the relation.
    short = [t[1] for t in edge_types]
    names = short if len(set(short)) == len(short) else ["__".join(t) for t in edge_types]
    relations = IdMap(np.unique(np.asarray(names, dtype=np.str_)))
    parts = []
    for edge_type, number in zip(edge_types, relations.encode(np.asarray(names)), strict=True):
        head, tail = graph[edge_type].edge_index
        parts.append(
            torch.stack([head + offset[edge_type[0]], torch.full_like(head, int(number)), tail + offset[edge_type[2]]])
        )
    triples = sorted_triples(torch.cat(parts, dim=1))
    item_entity = torch.from_numpy(data.item_ids.raw.astype(np.int64))
    source = f"HeteroData: {triples.size(1)} triples of {len(relations)} relations"
    return KnowledgeGraph(triples, item_entity, IdMap(np.arange(entities)), relations, source)


def _raw(ids: IdMap) -> Tensor | list[str]:
    return torch.from_numpy(ids.raw.copy()) if ids.are_integers else ids.values.to_list()


def _ids_of(raw: Tensor | list[str]) -> IdMap:
    return IdMap(raw.numpy() if isinstance(raw, Tensor) else pl.Series(raw, dtype=pl.String))
