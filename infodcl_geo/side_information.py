"""What is known about users and items beside their interactions: social edges, knowledge triples, item features.

Readers map raw ids through the id maps of an :class:`~infodcl_geo.interactions.Interactions`; ids that it does not have
are left out and counted in one :class:`~infodcl_geo.ids.InteractionWarning`. What cannot be used at all stops with
one :class:`~infodcl_geo.ids.InteractionError` that names the file.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from .graph import Graph, csr_parts, sparse_matrix
from .ids import IdMap, InteractionError, InteractionWarning
from .interactions import Interactions
from .readers import read_columns
from .text_files import Column

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

__all__ = [
    "ItemFeatures",
    "KnowledgeGraph",
    "SideInformation",
    "SocialGraph",
    "from_hetero_graph",
    "load_features",
    "load_knowledge",
    "load_social",
    "side_information_from_hetero_data",
    "to_hetero_data",
]

EdgeType = tuple[str, str, str]
Path_ = str | PathLike[str]

_SOCIAL = {
    "user": "source sourceid user userid follower from u id1 userid1 user1 truster",
    "friend": "target targetid friend friendid followee to v id2 userid2 user2 trustee",
}
_TRIPLES = {
    "head": "head headid subject subjectid h source item itemid",
    "relation": "relation relationid predicate rel r property",
    "tail": "tail tailid object objectid t target entity entityid",
}
_LINKS = {"item": "item itemid", "entity": "entity entityid freebaseid"}


def _warn(message: str) -> None:
    warnings.warn(message, InteractionWarning, stacklevel=3)


# ---------------------------------------------------------------------------------------------------------------------
# Containers


@dataclass(frozen=True, eq=False)
class SocialGraph:
    """Edges between users, from the one who follows (trusts, likes) to the one followed.

    Args:
        graph: weights ``[M, M]``, row follows column; no user follows itself.
        source: where it comes from, one line with counts.
    """

    graph: Graph
    source: str = "given edges"

    @classmethod
    def from_edges(cls, edges: Tensor, num_users: int, weight: Tensor | None = None, source: str = "") -> SocialGraph:
        """The graph of user rows ``[2, S]``, sources above targets, with positive weights ``[S]``, by default ones.

        Edges from a user to itself are left out; the weights of repeated edges are added where there are weights.

        Raises:
            InteractionError: if the shapes do not fit, a row is no user, or a weight is not positive.
        """
        what = source or "social edges"
        if edges.dim() != 2 or edges.size(0) != 2 or edges.dtype != torch.int64:
            raise InteractionError(f"{what}: edges must be [2, S] int64, not {list(edges.shape)} {edges.dtype}")
        if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= num_users):
            raise InteractionError(
                f"{what}: edges reach from {int(edges.min())} to {int(edges.max())}, of {num_users} users"
            )
        if weight is not None:
            if weight.shape != edges.shape[1:]:
                raise InteractionError(f"{what}: {list(weight.shape)} weights for {edges.size(1)} edges")
            wrong = ~(weight.isfinite() & (weight > 0))
            if bool(wrong.any()):
                raise InteractionError(f"{what}: {int(wrong.sum())} weights are not positive numbers")
        values = torch.ones(edges.size(1)) if weight is None else weight.float()
        proper = edges[0] != edges[1]
        edges, values = edges[:, proper], values[proper]
        key, inverse = (edges[0] * num_users + edges[1]).unique(return_inverse=True)
        total = torch.ones(len(key)) if weight is None else torch.zeros(len(key)).index_add(0, inverse, values)
        matrix = sparse_matrix(key // max(num_users, 1), key % max(num_users, 1), total, (num_users, num_users))
        return cls(Graph(matrix), source or f"{len(key)} given edges")

    @property
    def edges(self) -> Tensor:
        """The edges ``[2, S]``, sorted."""
        pointers, col, _, (rows, _) = csr_parts(self.graph.matrix)
        return torch.stack([torch.repeat_interleave(torch.arange(rows), pointers.diff()), col])

    @property
    def weight(self) -> Tensor:
        """Weight of each edge, ``[S]``."""
        return csr_parts(self.graph.matrix)[2]


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
        triples = _sorted_triples(torch.stack([item, relation, entity + num_items]))
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


def _sorted_triples(triples: Tensor) -> Tensor:
    head, relation, tail = triples.numpy()
    triples = triples[:, torch.from_numpy(np.lexsort((tail, head, relation)))]
    first = torch.ones(triples.size(1), dtype=torch.bool)
    first[1:] = _ascending(triples)
    return triples[:, first]


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """A feature vector for each item: text, image, audio, ...

    Args:
        values: ``[N, f]`` float32, finite; zero where not covered.
        covered: bool ``[N]``, items that have features.
        name: what they are called, a word.
        source: where they come from, one line with counts.
    """

    values: Tensor
    covered: Tensor
    name: str = "features"
    source: str = "given features"

    @classmethod
    def from_matrix(cls, values: Tensor, name: str = "features", source: str = "") -> ItemFeatures:
        """Features ``[N, f]`` of any real type; rows that are all NaN or all zero are items without features.

        Raises:
            InteractionError: if the shape is wrong, or a row has some values that are not finite.
        """
        what = source or name
        if values.dim() != 2 or values.size(1) == 0 or values.is_complex():
            raise InteractionError(f"{what}: features must be [N, f] numbers, not {list(values.shape)} {values.dtype}")
        values = values.float()
        missing = values.isnan().all(1)
        values = torch.where(missing.unsqueeze(1), 0.0, values)
        wrong = ~values.isfinite().all(1)
        if bool(wrong.any()):
            first = int(wrong.nonzero()[0])
            raise InteractionError(f"{what}: row {first} (from 0): not finite ({int(wrong.sum())} such rows)")
        covered = (values != 0).any(1)
        count = f"{int(covered.sum())} of {len(values)} items with {values.size(1)} features"
        return cls(values, covered, name, f"{what}: {count}")


@dataclass(frozen=True, eq=False)
class SideInformation:
    """Everything known beside the interactions."""

    social: SocialGraph | None = None
    knowledge: KnowledgeGraph | None = None
    features: tuple[ItemFeatures, ...] = ()


# ---------------------------------------------------------------------------------------------------------------------
# Readers


def load_social(path: Path_, data: Interactions, *, columns: Sequence[Column] | None = None) -> SocialGraph:
    """Read edges between users: ``user friend [weight]`` a row.

    Args:
        path: text with or without a header, RecBole ``.net``, parquet, npy (``S x 2`` or ``S x 3``) or npz (a scipy
            matrix users x users whose indices are raw ids); see :func:`~infodcl_geo.readers.read_columns`.
        data: whose users they are.
        columns: header names or positions of user, friend and, if there is one, weight.

    Raises:
        InteractionError: if the file cannot be read or no edge is between users of ``data``.
    """
    read = read_columns(path, _SOCIAL, weight=True, columns=columns)
    edges = torch.from_numpy(np.stack([read[role].encode(data.user_ids) for role in _SOCIAL]))
    known = (edges >= 0).all(0)
    total, kept = edges.size(1), int(known.sum())
    if kept == 0:
        raise InteractionError(f"{path}: none of its {total} edges is between users of {data.name}")
    if kept < total:
        unknown = len(_unknown(read["user"], data.user_ids) | _unknown(read["friend"], data.user_ids))
        _warn(f"{path}: {unknown} users are not in {data.name}; {total - kept} of {total} edges left out")
    weight = torch.from_numpy(np.asarray(read["weight"], dtype=np.float32))[known] if "weight" in read else None
    source = f"{Path(path).name}: {kept} of {total} edges between users of {data.name}"
    try:
        return SocialGraph.from_edges(edges[:, known], data.num_users, weight, source)
    except InteractionError as error:
        raise InteractionError(f"{path}: {str(error).removeprefix(f'{source}: ')}") from None


def load_knowledge(
    path: Path_,
    data: Interactions,
    *,
    links: Path_ | None = None,
    columns: Sequence[Column] | None = None,
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
    entity_ids = _id_map([read["head"], read["tail"]] + ([linked["entity"]] if linked else []))
    relation_ids = _id_map([read["relation"]])
    raw = np.stack(
        [read["head"].encode(entity_ids), read["relation"].encode(relation_ids), read["tail"].encode(entity_ids)]
    )
    triples = _sorted_triples(torch.from_numpy(raw))
    if triples.size(1) < raw.shape[1]:
        _warn(f"{path}: {raw.shape[1] - triples.size(1)} duplicate triples, kept once")
    item_entity = np.full(data.num_items, -1, dtype=np.int64)
    if linked is None:
        item_entity = entity_ids.encode(data.item_ids.raw, missing=-1)
    else:
        items, entities = linked["item"].encode(data.item_ids), linked["entity"].encode(entity_ids)
        known = items >= 0
        if not known.all():
            _warn(f"{links}: {int((~known).sum())} of {len(known)} linked items are not in {data.name}, left out")
        items, entities = items[known][::-1], entities[known][::-1]
        item_entity[items] = entities  # reversed: the first of several links stays
        several = int((item_entity[items] != entities).sum())
        if several:
            _warn(f"{links}: {several} links of items that are already linked to another entity, left out")
    in_triples = np.isin(item_entity, torch.cat([triples[0], triples[2]]).numpy())
    if not in_triples.any():
        raise InteractionError(f"{path}: no item of {data.name} is in a triple")
    where = f"{Path(path).name}: {triples.size(1)} triples of {len(relation_ids)} relations"
    source = f"{where}, {int((item_entity >= 0).sum())} of {data.num_items} items linked"
    return KnowledgeGraph(triples, torch.from_numpy(item_entity), entity_ids, relation_ids, source)


def load_features(
    path: Path_, data: Interactions, *, ids: Path_ | npt.ArrayLike | None = None, name: str | None = None
) -> ItemFeatures:
    """Read a feature matrix of items.

    Without ids, row ``r`` belongs to dense item ``r`` if there are as many rows as items, else to the item whose raw
    id is the integer ``r``. Rows that are all NaN or all zero, and items without a row, have no features.

    Args:
        path: npy, npz (one array, or arrays ``features`` and ``ids``, or a scipy sparse matrix) or safetensors (the
            same names), ``n x f``.
        data: whose items they are.
        ids: raw item id of each row: a file (npy, or text with one a line), or the ids themselves.
        name: what to call the features; default: the name of the file.

    Raises:
        InteractionError: if a file cannot be read or its shape does not fit.
    """
    file = Path(path)
    matrix, own_ids = _read_matrix(file)
    if matrix.ndim != 2 or matrix.size == 0 or matrix.dtype.kind not in "iufb":
        raise InteractionError(f"{file}: an array of {matrix.dtype} and shape {matrix.shape}, not items x features")
    row_ids = _read_ids(ids) if ids is not None else own_ids
    if row_ids is not None:
        if row_ids.shape != (len(matrix),):
            raise InteractionError(f"{file}: {list(row_ids.shape)} ids for {len(matrix)} rows")
        if len(np.unique(row_ids)) < len(row_ids):
            raise InteractionError(f"{file}: {len(row_ids) - len(np.unique(row_ids))} ids are repeated")
        rows = data.item_ids.encode(row_ids, missing=-1)
    elif len(matrix) == data.num_items:
        rows = np.arange(data.num_items)
    elif data.item_ids.raw.dtype.kind == "i" and len(matrix) > data.item_ids.raw[-1]:
        rows = data.item_ids.encode(np.arange(len(matrix)), missing=-1)
    else:
        raise InteractionError(f"{file}: {len(matrix)} rows for {data.num_items} items of {data.name}; give ids=")
    known = rows >= 0
    if not known.any():
        raise InteractionError(f"{file}: none of its {len(matrix)} rows is of an item of {data.name}")
    if not known.all():
        _warn(f"{file}: {int((~known).sum())} of {len(known)} rows are of items that are not in {data.name}, left out")
    # NaN says that an item has no row; the check of the rows that are there names rows of the file.
    ItemFeatures.from_matrix(torch.from_numpy(matrix), source=str(file))
    values = torch.full((data.num_items, matrix.shape[1]), torch.nan)
    values[torch.from_numpy(rows[known])] = torch.from_numpy(matrix[known]).float()
    return ItemFeatures.from_matrix(values, name or file.name.split(".")[0], file.name)


def _unknown(column: Any, ids: IdMap) -> set[Any]:
    rows = ids.encode(column.ids, missing=-1)
    used = np.zeros(len(column.ids), dtype=bool)
    used[column.codes] = True
    return set(column.ids[used & (rows < 0)].tolist())


def _id_map(columns: Sequence[Any]) -> IdMap:
    parts = [column.ids[np.unique(column.codes)] for column in columns]
    if any(part.dtype.kind == "U" for part in parts):
        parts = [part.astype(np.str_) for part in parts]
    return IdMap(np.unique(np.concatenate(parts)))


def _read_matrix(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The features of a file and the ids beside them."""
    if not file.is_file():
        raise InteractionError(f"{file}: no such file")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            arrays = {
                key: value.float() if value.dtype == torch.bfloat16 else value for key, value in load_file(file).items()
            }
            found: Mapping[str, np.ndarray] = {key: value.numpy() for key, value in arrays.items()}
        else:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded, None
            with loaded:
                found = dict(loaded)
            if "format" in found and "shape" in found:
                return sp.load_npz(file).toarray(), None
    except Exception as error:  # whatever the libraries meet in damaged bytes
        raise InteractionError(f"{file}: not readable as arrays ({' '.join(str(error).split())})") from None
    ids = found.get("ids")
    matrices = [key for key in found if key != "ids"]
    if "features" in found:
        return found["features"], ids
    if len(matrices) != 1:
        shown = ", ".join(matrices[:5])
        raise InteractionError(f"{file}: arrays {shown}; call the matrix 'features'")
    return found[matrices[0]], ids


def _read_ids(ids: Path_ | npt.ArrayLike) -> np.ndarray:
    if not isinstance(ids, str | PathLike):
        return np.asarray(ids)
    file = Path(ids)
    try:
        if file.suffix == ".npy":
            return np.load(file, allow_pickle=False)
        return np.array([line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()])
    except OSError as error:
        raise InteractionError(f"{file}: {error.strerror or error}") from None
    except ValueError as error:
        raise InteractionError(f"{file}: not readable as ids ({' '.join(str(error).split())})") from None


# ---------------------------------------------------------------------------------------------------------------------
# PyG


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
    triples = _sorted_triples(torch.cat(parts, dim=1))
    item_entity = torch.from_numpy(data.item_ids.raw.astype(np.int64))
    source = f"HeteroData: {triples.size(1)} triples of {len(relations)} relations"
    return KnowledgeGraph(triples, item_entity, IdMap(np.arange(entities)), relations, source)


def _raw(ids: IdMap) -> Tensor | list[str]:
    return torch.from_numpy(ids.raw.copy()) if ids.raw.dtype.kind == "i" else ids.raw.tolist()


def _ids_of(raw: Tensor | list[str]) -> IdMap:
    return IdMap(raw.numpy() if isinstance(raw, Tensor) else np.asarray(raw, dtype=np.str_))
