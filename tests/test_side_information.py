"""Social edges, triples and features: every format, ids as the data have them, errors in one line, PyG and back."""

from __future__ import annotations

import contextlib
import resource
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from torch_geometric.data import HeteroData

from infodcl_geo.channels import matrices
from infodcl_geo.channels.knowledge import KnowledgeGraph, load_knowledge
from infodcl_geo.channels.modal import ItemFeatures, load_features
from infodcl_geo.channels.social import SocialGraph, load_social
from infodcl_geo.data.ids import IdMap, InteractionError, InteractionWarning
from infodcl_geo.data.interactions import Interactions, Split, load_interactions
from infodcl_geo.pyg import (
    SideInformation,
    from_hetero_data,
    from_hetero_graph,
    side_information_from_hetero_data,
    to_hetero_data,
)


def interactions(users: npt.ArrayLike = (3, 5, 8), items: npt.ArrayLike = ("a", "b", "d", "e")) -> Interactions:
    train = torch.tensor([[0, 0, 1, 2], [0, 1, 2, 3]])
    valid, test = torch.tensor([[1], [3]]), torch.tensor([[2], [0]])
    user_ids, item_ids = IdMap(users), IdMap(items)
    return Interactions(train, valid, test, len(user_ids), len(item_ids), user_ids, item_ids, "small")


# ---------------------------------------------------------------------------------------------------------------------
# Social edges


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("edges.tsv", "user\tfriend\n3\t5\n5\t8\n8\t3\n"),
        ("edges.csv", "source_id,target_id\n3,5\n5,8\n8,3\n"),
        ("edges.net", "source_id:token\ttarget_id:token\n3\t5\n5\t8\n8\t3\n"),
        ("edges.txt", "# follows\n3 5\n5 8\n8 3\n"),
        ("odd.csv", "target,note,source\n5,x,3\n8,x,5\n3,x,8\n"),
    ],
)
def test_social_text(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    social = load_social(tmp_path / name, interactions())
    assert social.edges.tolist() == [[0, 1, 2], [1, 2, 0]]
    assert social.weight.tolist() == [1, 1, 1]
    assert social.source == f"{name}: 3 of 3 edges between users of small"


def test_social_weights_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "w.tsv").write_text("user\tfriend\tweight\n3\t5\t0.5\n8\t3\t2\n")
    (tmp_path / "plain.txt").write_text("3 5 0.5\n8 3 2\n")
    pd.DataFrame({"follower": [3, 8], "followee": [5, 3], "weight": [0.5, 2.0]}).to_parquet(tmp_path / "w.parquet")
    np.save(tmp_path / "w.npy", np.array([[3, 5, 0.5], [8, 3, 2]]))
    sp.save_npz(tmp_path / "w.npz", sp.coo_matrix(([0.5, 2.0], ([3, 8], [5, 3])), shape=(9, 9)))
    for name in ("w.tsv", "plain.txt", "w.parquet", "w.npy", "w.npz"):
        social = load_social(tmp_path / name, interactions())
        assert social.edges.tolist() == [[0, 2], [1, 0]], name
        assert social.weight.tolist() == [0.5, 2.0], name
    swapped = load_social(tmp_path / "w.tsv", interactions(), columns=("friend", "user"))
    assert swapped.edges.tolist() == [[0, 1], [2, 0]]
    assert swapped.weight.tolist() == [1, 1]


def test_unknown_users_are_counted_and_left_out(tmp_path: Path) -> None:
    file = tmp_path / "edges.txt"
    file.write_text("3 5\n3 77\n78 5\n3 78\n")
    with pytest.warns(InteractionWarning, match=r"edges.txt: 2 users are not in small; 3 of 4 edges left out"):
        social = load_social(file, interactions())
    assert social.edges.tolist() == [[0], [1]]
    file.write_text("71 72\n")
    with pytest.raises(InteractionError, match="none of its 1 edges is between users of small"):
        load_social(file, interactions())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3 5 x\n8 3 2\n", r"e\.txt:1: weight 'x' is not a number"),
        ("3 5 1\n8 3 -2\n", r"e\.txt: 1 weights are not positive numbers"),
        ("3\t5\n8\n", r"e\.txt:2: 1 fields where 2 are expected"),
        ("user\tfriend\n3\t\n", r"e\.txt:2: friend id is missing"),
        ("", r"e\.txt: empty"),
    ],
)
def test_social_errors_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "e.txt").write_text(text)
    with pytest.raises(InteractionError, match=message) as caught:
        load_social(tmp_path / "e.txt", interactions())
    assert "\n" not in str(caught.value)


def test_other_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(InteractionError, match=r"nowhere\.tsv: no such file"):
        load_social(tmp_path / "nowhere.tsv", interactions())
    np.save(tmp_path / "e.npy", np.zeros(5))
    with pytest.raises(InteractionError, match=r"e\.npy: shape \(5,\), not E x 2"):
        load_social(tmp_path / "e.npy", interactions())
    (tmp_path / "e.csv").write_text("user,friend\n3,5\n")
    with pytest.raises(InteractionError, match="no column 'who' for user; there are 'user', 'friend'"):
        load_social(tmp_path / "e.csv", interactions(), columns=("who", "friend"))
    with pytest.raises(InteractionError, match="2 users"):
        SocialGraph.from_edges(torch.tensor([[0], [2]]), 2)


# ---------------------------------------------------------------------------------------------------------------------
# Knowledge


def test_recbole_knowledge_with_links(tmp_path: Path) -> None:
    (tmp_path / "x.kg").write_text(
        "head_id:token\trelation_id:token\ttail_id:token\n"
        "m.2\tby\tm.9\nm.1\tby\tm.9\nm.9\tmade\tm.1\nm.1\tby\tm.9\nm.7\tin\tm.8\n"
    )
    (tmp_path / "x.link").write_text("item_id:token\tentity_id:token\na\tm.1\nb\tm.2\nz\tm.7\n")
    with pytest.warns(InteractionWarning) as caught:
        graph = load_knowledge(tmp_path / "x.kg", interactions())
    said = [str(w.message) for w in caught]
    assert any("1 duplicate triples, kept once" in s for s in said)
    assert any("1 of 3 linked items are not in small, left out" in s for s in said)
    assert graph.relation_ids.raw.tolist() == ["by", "in", "made"]
    named = [
        (graph.entity_ids.raw[h], graph.relation_ids.raw[r], graph.entity_ids.raw[t]) for h, r, t in graph.triples.T
    ]
    assert sorted(named) == [("m.1", "by", "m.9"), ("m.2", "by", "m.9"), ("m.7", "in", "m.8"), ("m.9", "made", "m.1")]
    assert graph.linked.tolist() == [True, True, False, False]
    assert graph.entity_ids.decode(graph.item_entity[:2]).tolist() == ["m.1", "m.2"]
    # a: by m.9, and what m.9 made; b: by m.9
    item, kind, entity = graph.item_attributes()
    facts = {(int(i), int(k), str(graph.entity_ids.raw[e])) for i, k, e in zip(item, kind, entity, strict=True)}
    assert facts == {(0, 0, "m.9"), (1, 0, "m.9"), (0, 3 + 2, "m.9")}


def test_items_may_be_entities_themselves(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("subject,predicate,object\na,likes,b\nd,likes,q\n")
    graph = load_knowledge(tmp_path / "t.csv", interactions())
    assert graph.linked.tolist() == [True, True, True, False]
    np.save(tmp_path / "t.npy", np.array([[0, 0, 9], [3, 1, 9], [3, 1, 8]]))
    graph = load_knowledge(tmp_path / "t.npy", interactions(items=(0, 1, 2, 3)))
    assert graph.linked.tolist() == [True, False, False, True]
    assert graph.triples.size(1) == 3
    (tmp_path / "other.csv").write_text("subject,predicate,object\nx,likes,y\n")
    with pytest.raises(InteractionError, match="no item of small is in a triple"):
        load_knowledge(tmp_path / "other.csv", interactions())
    (tmp_path / "two.txt").write_text("a b\n")
    with pytest.raises(InteractionError, match="2 fields where head, relation, tail are expected"):
        load_knowledge(tmp_path / "two.txt", interactions())


def test_facts_about_items_become_a_graph() -> None:
    facts = torch.tensor([[0, 1, 1], [1, 1, 0], [0, 0, 1]])  # item, relation, entity
    graph = KnowledgeGraph.from_item_facts(facts, 3, ("on", "by"))
    assert graph.relation_ids.raw.tolist() == ["by", "on"]
    assert graph.triples.tolist() == [[0, 1, 1], [0, 0, 1], [3, 3, 4]]
    with pytest.raises(InteractionError, match="item 1 of 1"):
        KnowledgeGraph.from_item_facts(facts, 1)
    with pytest.raises(InteractionError, match="distinct and sorted"):
        KnowledgeGraph(graph.triples.flip(1), graph.item_entity, graph.entity_ids, graph.relation_ids)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 5)), max_size=25), st.data())
@settings(max_examples=60, deadline=None)
def test_item_attributes_like_a_loop(triples: list[tuple[int, int, int]], data: st.DataObject) -> None:
    item_entity = data.draw(st.lists(st.integers(-1, 5), min_size=4, max_size=4))
    ordered = sorted(set(triples), key=lambda x: (x[1], x[0], x[2]))
    tensor = torch.tensor(ordered, dtype=torch.int64).reshape(-1, 3).T
    graph = KnowledgeGraph(tensor, torch.tensor(item_entity), IdMap(np.arange(6)), IdMap(np.arange(3)))
    expected = [(i, r, t) for h, r, t in ordered for i, e in enumerate(item_entity) if e == h]
    expected += [(i, 3 + r, h) for h, r, t in ordered for i, e in enumerate(item_entity) if e == t]
    assert sorted(zip(*(x.tolist() for x in graph.item_attributes()), strict=True)) == sorted(expected)


# ---------------------------------------------------------------------------------------------------------------------
# Features


def test_features_of_every_format(tmp_path: Path) -> None:
    matrix = np.arange(1.0, 13.0, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "f.npy", matrix.astype(np.float16))
    np.savez(tmp_path / "one.npz", matrix)
    sp.save_npz(tmp_path / "sparse.npz", sp.csr_matrix(matrix))
    save_file({"features": matrix}, tmp_path / "f.safetensors")
    for name in ("f.npy", "one.npz", "sparse.npz", "f.safetensors"):
        features = load_features(tmp_path / name, interactions(items=range(4)))
        assert torch.equal(features.values, torch.from_numpy(matrix)), name
        assert features.covered.all()
    assert features.name == "f"
    assert features.source == "f.safetensors: 4 of 4 items with 3 features"


def test_features_by_id(tmp_path: Path) -> None:
    matrix = np.array([[1.0, 2], [3, 4], [5, 6]])
    names = ["e", "zz", "a"]
    np.save(tmp_path / "f.npy", matrix)
    np.save(tmp_path / "ids.npy", np.array(names))
    (tmp_path / "ids.txt").write_text("e\nzz\na\n")
    np.savez(tmp_path / "f.npz", features=matrix, ids=np.array(names))
    np.savez(tmp_path / "bytes.npz", features=matrix, ids=np.array([b"e", b"zz", b"a"]))
    frame = pd.DataFrame({"item_id": names, "f0": matrix[:, 0], "f1": matrix[:, 1]})
    frame.to_parquet(tmp_path / "f.parquet")
    pd.DataFrame({"asin": names, "embedding": list(matrix)}).to_parquet(tmp_path / "lists.parquet")
    frame.to_csv(tmp_path / "f.csv", index=False)
    frame[["f0", "item_id", "f1"]].rename(columns={"item_id": "iid:token"}).to_csv(
        tmp_path / "f.tsv", index=False, sep="\t"
    )
    for file, ids in (
        ("f.npy", tmp_path / "ids.txt"),
        ("f.npy", str(tmp_path / "ids.npy")),
        ("f.npy", names),
        ("f.npz", None),
        ("bytes.npz", None),
        ("f.parquet", None),
        ("lists.parquet", None),
        ("f.csv", None),
        ("f.tsv", None),
    ):
        with pytest.warns(InteractionWarning, match="1 of 3 rows are of items that are not in small"):
            features = load_features(tmp_path / file, interactions(), ids=ids)
        assert features.values.tolist() == [[5, 6], [0, 0], [0, 0], [1, 2]], file
        assert features.covered.tolist() == [True, False, False, True]
    save_file({"features": matrix, "ids": np.array([7, 2, 4])}, tmp_path / "f.safetensors")
    for file, ids in (("f.safetensors", None), ("f.npy", ["7", "2", "4"]), ("f.npy", np.array([7.0, 2.0, 4.0]))):
        features = load_features(tmp_path / file, interactions(items=(2, 4, 6, 7)), ids=ids)
        assert features.values[:, 0].tolist() == [3, 5, 0, 1], file


@pytest.mark.parametrize(
    ("items", "count"),
    [
        ((1, 2, 3, 4), 4),  # row k is of item k + 1, or is it?
        ((1, 2, 3, 4), 5),
        ((0, 2, 3, 5), 6),  # a filter has left out 1 and 4
        ((0, 2, 3, 5), 4),
        ((0, 1, 2, 3), 5),
        ((0, 1, 2, 3), 3),
        (("a", "m", "z", "zz"), 4),  # in the order of a list that is not known
        (("0", "1", "2", "x"), 4),
    ],
)
def test_rows_whose_ids_are_not_known_are_refused(items: tuple[object, ...], count: int, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.ones((count, 2)))
    message = r"f\.npy: whose rows are these\? .*--feature_ids FILE or ids= gives the id of each row"
    with pytest.raises(InteractionError, match=message) as caught:
        load_features(tmp_path / "f.npy", interactions(items=items))
    assert "\n" not in str(caught.value)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_rows_never_move_when_a_filter_leaves_items_out(data: st.DataObject) -> None:
    """Whatever the ids and the order of the matrix: each item has its own row, or it is said that this is not known."""
    total = data.draw(st.integers(2, 9))
    first = data.draw(st.integers(0, 2))
    words = data.draw(st.booleans())
    every: list[object] = [f"i{i}" if words else i for i in range(first, first + total)]
    kept = sorted(data.draw(st.sets(st.sampled_from(every), min_size=1)))  # type: ignore[type-var]
    order = data.draw(st.permutations(every))
    matrix = np.arange(1.0, total + 1)[:, None]
    owner = dict(zip(order, matrix[:, 0], strict=True))
    pairs = torch.stack([torch.zeros(len(kept), dtype=torch.int64), torch.arange(len(kept))])
    empty = torch.empty(2, 0, dtype=torch.int64)
    part = Interactions(pairs, empty, empty, 1, len(kept), IdMap([0]), IdMap(kept), "part")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", InteractionWarning)
        file = Path(folder) / "f.npy"
        np.save(file, matrix)
        features = load_features(file, part, ids=np.array(order))
        assert features.values[:, 0].tolist() == [owner[i] for i in kept]
        if kept != list(range(total)):
            with pytest.raises(InteractionError, match="whose rows are these"):
                load_features(file, part)
        else:
            assert load_features(file, part).values[:, 0].tolist() == matrix[:, 0].tolist()


def test_missing_and_broken_rows(tmp_path: Path) -> None:
    data = interactions(items=range(4))
    matrix = np.array([[1.0, 2], [np.nan, np.nan], [0, 0], [4, 4]])
    np.save(tmp_path / "f.npy", matrix)
    assert load_features(tmp_path / "f.npy", data).covered.tolist() == [True, False, False, True]
    (tmp_path / "f.csv").write_text("item,x,y\n0,1,2\n1,,\n2,0,0\n3,4,4\n")
    assert load_features(tmp_path / "f.csv", data).covered.tolist() == [True, False, False, True]
    for wrong in (np.inf, 1e300):
        matrix[3, 1] = wrong
        np.save(tmp_path / "f.npy", matrix)
        with pytest.raises(InteractionError, match=r"f\.npy: row 3 \(from 0\): not finite \(1 such rows\)"):
            load_features(tmp_path / "f.npy", data)


def test_feature_errors_name_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "three.npy", np.ones((3, 2)))
    np.save(tmp_path / "flat.npy", np.ones(4))
    (tmp_path / "text.npy").write_text("hello")
    np.savez(tmp_path / "two.npz", a=np.ones((4, 1)), b=np.ones((4, 1)))
    np.save(tmp_path / "o.npy", np.array([[{}, {}]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "o.npz", np.array([[{}, {}]], dtype=object), allow_pickle=True)
    (tmp_path / "f.pt").write_bytes(b"\x80\x04")
    (tmp_path / "bare.csv").write_text("1,2,3\n4,5,6\n")
    (tmp_path / "words.csv").write_text("item,x\na,1\nb,red\n")
    (tmp_path / "hole.csv").write_text("item,x\na,1\n,2\n")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more PAR1")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 64)
    pd.DataFrame({"item": ["a", "b"], "x": [[1.0], [1.0, 2.0]]}).to_parquet(tmp_path / "ragged.parquet")
    for name, message in (
        ("nowhere.npy", "no such file"),
        ("flat.npy", r"shape \(4,\), not rows x features"),
        ("text.npy", "not readable as npy"),
        ("two.npz", "arrays a, b; call the matrix 'features'"),
        ("o.npy", "an array of object, not of numbers or words"),
        ("o.npz", "an array of object, not of numbers or words"),
        ("f.pt", "a matrix comes as npy, npz, safetensors, parquet, csv or tsv, told by the ending, not as .pt"),
        ("bare.csv", "no header; the first line names the columns"),
        ("words.csv", "column 'x' does not hold numbers"),
        ("hole.csv", "1 rows have no item"),
        ("bad.parquet", "not readable as parquet"),
        ("bad.safetensors", "not readable as safetensors"),
        ("ragged.parquet", "lists of column 'x' are not all of one length"),
    ):
        with pytest.raises(InteractionError, match=f"{name}: .*{message}") as caught:
            load_features(tmp_path / name, interactions())
        assert "\n" not in str(caught.value)
    with pytest.raises(InteractionError, match="1 ids are repeated"):
        load_features(tmp_path / "three.npy", interactions(), ids=["a", "a", "b"])
    with pytest.raises(InteractionError, match="1 ids for 3 rows"):
        load_features(tmp_path / "three.npy", interactions(), ids=["a"])
    with pytest.raises(InteractionError, match="none of its 3 rows is of the items of small"):
        load_features(tmp_path / "three.npy", interactions(), ids=["x", "y", "z"])
    with pytest.raises(InteractionError, match="ids of type float64"):
        load_features(tmp_path / "three.npy", interactions(), ids=[0.5, 1, 2])
    (tmp_path / "ids.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(InteractionError, match=r"ids\.txt: not readable as ids"):
        load_features(tmp_path / "three.npy", interactions(), ids=tmp_path / "ids.txt")


def _npy(header: str, content: bytes = b"") -> bytes:
    text = header.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def test_what_a_header_claims_is_not_allocated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices, "_SLACK", 2**24)
    huge = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000), }"
    (tmp_path / "f.npy").write_bytes(_npy(huge))
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("features.npy", _npy(huge))
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", bytes(2**24 + 1))
    for name in ("huge", "negative"):
        shape = [10**9, 10**6] if name == "huge" else [-1, 4]
        parts = {"data": np.zeros(0), "indices": np.zeros(0, int), "indptr": np.zeros(1, int)}
        np.savez(tmp_path / f"{name}.npz", format=np.array(b"csr"), shape=np.array(shape), **parts)  # type: ignore[arg-type]
    pd.DataFrame({"item": [1], "x": [np.zeros(5_000_000, np.float32)]}).to_parquet(tmp_path / "lists.parquet")
    pd.DataFrame({"item": ["a" * 100_000] * 400, "x": np.zeros(400)}).to_parquet(tmp_path / "words.parquet")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, message in (
        ("f.npy", "says that it holds"),
        ("f.npz", "says that it holds"),
        ("bomb.npz", "unpacks to more than"),
        ("huge.npz", "too large"),
        ("negative.npz", "too large|not readable"),
        ("lists.parquet", "unpack to more than"),
        ("words.parquet", "unpack to more than"),
    ):
        with pytest.raises(InteractionError, match=message):
            load_features(tmp_path / name, interactions())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # KiB


@given(st.sampled_from(["f.npy", "f.npz", "s.npz", "f.safetensors", "f.parquet", "f.csv"]), st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_matrices_end_in_the_librarys_error(name: str, data: st.DataObject) -> None:
    matrix = np.arange(1.0, 9.0, dtype=np.float32).reshape(4, 2)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / name
        if name == "f.npy":
            np.save(file, matrix)
        elif name == "f.npz":
            np.savez_compressed(file, features=matrix, ids=np.arange(4))
        elif name == "s.npz":
            sp.save_npz(file, sp.csr_matrix(matrix))
        elif name == "f.safetensors":
            save_file({"features": matrix, "ids": np.arange(4)}, file)
        else:
            frame = pd.DataFrame({"item": range(4), "x": matrix[:, 0], "y": matrix[:, 1]})
            frame.to_parquet(file) if name == "f.parquet" else frame.to_csv(file, index=False)
        content = bytearray(file.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
        with contextlib.suppress(InteractionError):  # and nothing else
            features = load_features(file, interactions(items=range(4)))
            assert features.values.shape[0] == 4
            assert features.values.isfinite().all()


# ---------------------------------------------------------------------------------------------------------------------
# PyG


def same_side(a: SideInformation, b: SideInformation) -> None:
    if a.social is not None and b.social is not None:
        assert torch.equal(a.social.edges, b.social.edges)
        assert torch.equal(a.social.weight, b.social.weight)
        assert a.social.source == b.social.source
    if a.knowledge is not None and b.knowledge is not None:
        for field in ("triples", "item_entity"):
            assert torch.equal(getattr(a.knowledge, field), getattr(b.knowledge, field))
        for field in ("entity_ids", "relation_ids", "source"):
            assert getattr(a.knowledge, field) == getattr(b.knowledge, field)
    assert len(a.features) == len(b.features)
    for mine, theirs in zip(a.features, b.features, strict=True):
        assert torch.equal(mine.values, theirs.values)
        assert torch.equal(mine.covered, theirs.covered)
        assert (mine.name, mine.source) == (theirs.name, theirs.source)
    assert (a.social is None, a.knowledge is None) == (b.social is None, b.knowledge is None)


@pytest.mark.parametrize("items", [("a", "b", "d", "e"), (2, 4, 6, 9)])
def test_hetero_data_and_back_without_loss(items: tuple[object, ...]) -> None:
    data = interactions(items=items)
    knowledge = KnowledgeGraph.from_item_facts(torch.tensor([[0, 1, 3], [0, 1, 1], [0, 0, 1]]), 4, ("x.by", "a"))
    side = SideInformation(
        SocialGraph.from_edges(torch.tensor([[0, 2], [1, 0]]), 3, torch.tensor([0.5, 2.0])),
        knowledge,
        (
            ItemFeatures.from_matrix(torch.tensor([[1.0], [0.0], [2.0], [3.0]]), "text"),
            ItemFeatures.from_matrix(torch.rand(4, 2) + 1, "image"),
        ),
    )
    for kept in (side, SideInformation(), SideInformation(knowledge=knowledge)):
        graph = to_hetero_data(data, kept)
        assert graph.validate()
        again, found = from_hetero_graph(graph.clone())
        assert repr(again) == repr(data)
        for part in ("train", "valid", "test"):
            assert torch.equal(getattr(again, part), getattr(data, part))
        assert again.user_ids == data.user_ids
        assert again.item_ids == data.item_ids
        same_side(kept, found)
    graph = to_hetero_data(data, side)
    assert ("entity", "x.by", "entity") in graph.edge_types
    assert torch.equal(graph["user", "interacts", "item"].edge_index, data.train)
    with pytest.raises(InteractionError, match="not of to_hetero_data"):
        from_hetero_graph(HeteroData())


def test_anybodys_hetero_data() -> None:
    graph = HeteroData()
    graph["member"].num_nodes, graph["artist"].num_nodes, graph["label"].num_nodes = 4, 4, 2
    graph["member", "hears", "artist"].edge_index = torch.tensor([[0, 1, 3, 3], [0, 2, 2, 3]])
    graph["member", "knows", "member"].edge_index = torch.tensor([[0, 1, 2], [1, 3, 0]])
    graph["member", "knows", "member"].edge_weight = torch.tensor([1.0, 2.0, 3.0])
    graph["artist", "signed_by", "label"].edge_index = torch.tensor([[0, 1, 2, 3], [0, 0, 0, 1]])
    graph["artist"].x = torch.arange(1.0, 9.0).view(4, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = from_hetero_data(graph, edge_type=("member", "hears", "artist"), split=Split(valid=0, test=0))
    assert data.item_ids.raw.tolist() == [0, 2, 3]
    with pytest.warns(InteractionWarning, match="1 of 3 edges of users without interactions"):
        side = side_information_from_hetero_data(
            graph,
            data,
            user="member",
            item="artist",
            social=("member", "knows", "member"),
            knowledge=[("artist", "signed_by", "label")],
            features=["x"],
        )
    assert side.social is not None
    assert side.social.edges.tolist() == [[0, 1], [1, 2]]
    assert side.social.weight.tolist() == [1, 2]
    assert side.knowledge is not None
    assert side.knowledge.item_entity.tolist() == [0, 2, 3]
    assert side.knowledge.triples.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0], [4, 4, 4, 5]]
    assert side.features[0].values.tolist() == [[1, 2], [5, 6], [7, 8]]
    with pytest.raises(InteractionError, match="no edges"):
        side_information_from_hetero_data(graph, data, user="member", item="artist", social=("a", "b", "c"))
    with pytest.raises(InteractionError, match="have no tensor 'y'"):
        side_information_from_hetero_data(graph, data, user="member", item="artist", features=["y"])


# ---------------------------------------------------------------------------------------------------------------------
# Real files


@pytest.mark.real_data
def test_the_real_social_network(data_root: Path) -> None:
    with pytest.warns(InteractionWarning, match=r"12 users are not in lastfm; 208 of 25434 edges left out"):
        social = load_social(data_root / "lastfm" / "social.tsv", load_interactions(data_root / "lastfm"))
    assert social.edges.size(1) == 25434 - 208
    assert social.source == "social.tsv: 25226 of 25434 edges between users of lastfm"


@pytest.mark.real_data
def test_the_real_knowledge_graph(data_root: Path) -> None:
    graph = load_knowledge(data_root / "ml-100k" / "ml-100k.kg", load_interactions(data_root / "ml-100k"))
    assert graph.triples.size(1) == 91_631
    assert int(graph.linked.sum()) == 1_598
    assert len(graph.relation_ids) == 24


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["audio_feat", "image_feat"])
def test_the_real_features(name: str, data_root: Path) -> None:
    features = load_features(data_root / "tiktok" / f"{name}.npy", load_interactions(data_root / "tiktok"))
    assert features.values.shape == (6710, 128)
    assert features.covered.all()
    assert features.name == name
