"""Loading, identifying and splitting interactions."""

from __future__ import annotations

import gzip
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch_geometric.data import HeteroData

from infodcl_geo.data import streams, text_files
from infodcl_geo.data.ids import IdMap, InteractionError, InteractionWarning, UnknownIdError
from infodcl_geo.data.interactions import Interactions, Split, load_interactions, split_interactions
from infodcl_geo.data.readers import read_columns
from infodcl_geo.pyg import from_hetero_data

KEEP_ALL = Split("ratio", valid=0.0, test=0.0)

# Raw ids with gaps: users 3, 10, 200 are rows 0, 1, 2; items 5, 7, 40, 1000 are rows 0 to 3.
RAW = [(10, 7), (3, 1000), (3, 5), (200, 7), (10, 40), (200, 5)]
DENSE = [(0, 0), (0, 3), (1, 1), (1, 2), (2, 0), (2, 1)]
USERS, ITEMS = [u for u, _ in RAW], [i for _, i in RAW]


def pairs_of(tensor: torch.Tensor) -> list[tuple[int, int]]:
    return [(int(u), int(i)) for u, i in tensor.T.tolist()]


def raw_pairs(data: Interactions, part: str) -> set[tuple[Any, Any]]:
    users, items = getattr(data, part).numpy()
    return set(zip(data.user_ids.decode(users).tolist(), data.item_ids.decode(items).tolist(), strict=True))


def load_quietly(path: Path, **options: Any) -> Interactions:
    """Load, and fail on any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_interactions(path, **options)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in pieces of a few bytes and rows, so that every seam is met."""
    monkeypatch.setattr(streams, "_BLOCK", 5)
    monkeypatch.setattr(text_files, "_ROWS", 2)
    monkeypatch.setattr(streams, "_SAMPLE", 64)


# ---------------------------------------------------------------------------------------------------------------------
# One data set in every format

Writer = Callable[[Path], Path]


def text(name: str, content: str) -> Writer:
    def write(folder: Path) -> Path:
        data = content.encode()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return folder / name

    return write


def lines(separator: str = " ", head: str = "", tail: str = "", end: str = "\n") -> str:
    return head + "".join(f"{u}{separator}{i}{tail}{end}" for u, i in RAW)


def npy(array: Any) -> Writer:
    def write(folder: Path) -> Path:
        np.save(folder / "x.npy", np.asarray(array))
        return folder / "x.npy"

    return write


def npz(format: str) -> Writer:
    def write(folder: Path) -> Path:
        matrix = sp.coo_matrix((np.ones(len(RAW)), (USERS, ITEMS)))
        sp.save_npz(folder / "x.npz", matrix.asformat(format))
        return folder / "x.npz"

    return write


def parquet(**columns: Any) -> Writer:
    def write(folder: Path) -> Path:
        pytest.importorskip("pyarrow")
        pd.DataFrame(columns).to_parquet(folder / "x.parquet")
        return folder / "x.parquet"

    return write


LISTS = "10 7 40\n3 1000 5\n200 7 5\n"
FORMATS: dict[str, tuple[Writer, dict[str, Any]]] = {
    "spaces": (text("x.txt", lines(" ")), {}),
    "runs of blanks": (text("x.txt", lines(" \t ", head="")), {"format": "pairs"}),
    "tabs": (text("x.txt", lines("\t")), {}),
    "commas": (text("x.csv", lines(",")), {}),
    "commas and blanks": (text("x.csv", lines(", ")), {}),
    "double colons": (text("x.dat", lines("::", tail="::5::978300760")), {}),
    "double colons, fractions": (text("x.dat", lines("::", tail="::4.5::978300760")), {}),
    "windows line ends": (text("x.txt", lines(end="\r\n")), {}),
    "no last newline": (text("x.txt", lines().rstrip("\n")), {}),
    "blank lines": (text("x.txt", lines(head="\n", end="\n\n")), {}),
    "byte order mark": (text("x.txt", lines(head="\ufeff")), {}),
    "comments": (text("x.txt", lines(head="# from somewhere\n% é\n")), {}),
    "gzip": (text("x.txt.gz", lines()), {}),
    "rating": (text("x.txt", lines(tail=" 4.5")), {}),
    "rating and time": (text("x.data", lines("\t", tail="\t4\t881250949")), {}),
    "decimal ids": (text("x.txt", "".join(f"{u}.0 {i}.00 5\n" for u, i in RAW)), {}),
    "columns by position": (
        text("x.txt", "".join(f"9 {i} {u}\n" for u, i in RAW)),
        {"user_column": 2, "item_column": 1},
    ),
    "adjacency": (text("x.txt", LISTS), {"format": "adjacency"}),
    "adjacency, commas": (text("x.csv", LISTS.replace(" ", ",")), {"format": "adjacency"}),
    "adjacency, repeated users": (text("x.txt", "10 7\n3 1000 5\n10 40\n200 7 5\n"), {"format": "adjacency"}),
    "header, tabs": (text("x.tsv", lines("\t", head="user\titem\n")), {}),
    "header, commas": (text("x.csv", lines(",", head="userId,movieId,rating,timestamp\n", tail=",3.5,9")), {}),
    "header, semicolons": (text("x.csv", lines(";", head='"User-ID";"ISBN"\n')), {}),
    "header, blanks": (text("x.txt", lines(head="user_id item_id\n")), {}),
    "header, items first": (text("x.csv", "item,user\n" + "".join(f"{i},{u}\n" for u, i in RAW)), {}),
    "header, named columns": (text("x.csv", lines(",", head="a,b\n")), {"user_column": "a", "item_column": "b"}),
    "header, gzip": (text("x.csv.gz", lines(",", head="user,item\n")), {}),
    "quoted": (text("x.csv", lines(",", head="user,item,title\n", tail=',"a, b\nc"')), {}),
    "recbole": (text("x.inter", lines("\t", head="user_id:token\titem_id:token\ttitle:token_seq\n", tail='\t"q')), {}),
    "npy E x 2": (npy(RAW), {}),
    "npy 2 x E": (npy(np.array(RAW, dtype=np.int32).T), {}),
    "npy floats and rating": (npy([(u, i, 4.5) for u, i in RAW]), {}),
    "npy unsigned": (npy(np.array(RAW, dtype=np.uint64)), {}),
    "npz csr": (npz("csr"), {}),
    "npz csc": (npz("csc"), {}),
    "npz coo": (npz("coo"), {}),
    "parquet": (parquet(user_id=USERS, item_id=ITEMS, rating=[1.0] * 6), {}),
    "parquet, digits as strings": (parquet(user=[str(u) for u in USERS], item=[str(i) for i in ITEMS]), {}),
    "parquet, dates": (parquet(user=USERS, item=ITEMS, date=pd.date_range("2020-01-01", periods=6)), {}),
}


def check_expected(data: Interactions) -> None:
    assert pairs_of(data.train) == DENSE
    assert data.valid.shape == data.test.shape == (2, 0)
    assert data.user_ids.raw.tolist() == [3, 10, 200]
    assert data.item_ids.raw.tolist() == [5, 7, 40, 1000]
    assert (data.num_users, data.num_items, data.name, data.generated) == (3, 4, "x", False)


@pytest.mark.parametrize("case", FORMATS)
def test_every_format_gives_the_same_interactions(tmp_path: Path, case: str) -> None:
    write, options = FORMATS[case]
    check_expected(load_quietly(write(tmp_path), split=KEEP_ALL, **options))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("case", FORMATS)
def test_pieces_of_a_file_fit_together(tmp_path: Path, case: str) -> None:
    write, options = FORMATS[case]
    check_expected(load_interactions(write(tmp_path), split=KEEP_ALL, **options))


def test_hetero_data_has_the_same_interactions() -> None:
    graph = HeteroData()
    graph["user"].num_nodes, graph["item"].num_nodes = 300, 2000
    graph["user", "rates", "item"].edge_index = torch.tensor(RAW).T
    graph["item", "rev_rates", "user"].edge_index = torch.tensor(RAW).T.flip(0)
    check_expected(from_hetero_data(graph, split=KEEP_ALL, name="x"))
    graph["item", "rated_by", "user"].edge_index = torch.tensor(RAW).T.flip(0)
    graph["user", "knows", "user"].edge_index = torch.tensor([[0], [1]])
    check_expected(from_hetero_data(graph, split=KEEP_ALL, name="x"))


def test_hetero_data_takes_ratings_times_and_given_splits() -> None:
    graph = HeteroData()
    store = graph["user", "buys", "item"]
    store.edge_index = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 2, 0, 1]])
    store.rating = torch.tensor([5, 1, 5, 5, 5])
    store.time = torch.tensor([3, 2, 1, 9, 8])
    kept = from_hetero_data(graph, min_rating=4, split=Split("temporal", valid=0.25, test=0.25))
    assert raw_pairs(kept, "train") == {(0, 2), (0, 0)}
    assert raw_pairs(kept, "valid") == {(1, 1)}
    assert raw_pairs(kept, "test") == {(1, 0)}
    given = from_hetero_data(graph, valid=torch.tensor([[0], [7]]), test=torch.tensor([[1], [8]]))
    assert (given.num_items, given.train.size(1)) == (5, 5)
    assert raw_pairs(given, "valid") == {(0, 7)}
    assert raw_pairs(given, "test") == {(1, 8)}


def test_hetero_data_without_the_edges_is_an_error() -> None:
    graph = HeteroData()
    graph["user", "knows", "user"].edge_index = torch.tensor([[0], [1]])
    with pytest.raises(InteractionError, match="edge_type="):
        from_hetero_data(graph)
    with pytest.raises(InteractionError, match="no edges"):
        from_hetero_data(graph, edge_type=("user", "rates", "item"))
    graph["user", "rates", "item"].edge_index = torch.tensor([[0, 1], [1, 0]])
    graph["user", "rates", "item"].rating = torch.tensor([1.0, float("nan")])
    with pytest.raises(InteractionError, match=r"row 1 .*rating is not a number"):
        from_hetero_data(graph)
    graph["user", "rates", "item"].rating = torch.ones(3)
    with pytest.raises(InteractionError, match="not one value for 2 edges"):
        from_hetero_data(graph)


# ---------------------------------------------------------------------------------------------------------------------
# Pairs or adjacency lists


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("0 1\n1 2\n2 0\n", {(0, 1), (1, 2), (2, 0)}),  # two fields: the same either way
        ("0 1 2 3\n1 2\n2 0 1\n", {(0, 1), (0, 2), (0, 3), (1, 2), (2, 0), (2, 1)}),
        ("0 1 2 3 4 5\n1 2 3 4 5 6\n", {(0, i) for i in range(1, 6)} | {(1, i) for i in range(2, 7)}),
        ("0 1 5\n0 2 4\n1 1 5\n", {(0, 1), (0, 2), (1, 1)}),  # a user twice: ratings
        ("0 1 4.5\n1 2 3\n", {(0, 1), (1, 2)}),  # no integer in the third column
        ("0 1 5 978300760\n1 2 4 978300761\n", {(0, 1), (1, 2)}),  # a time in the fourth
        ("0 1 2 3 4 5\n0 7\n1 2 3\n1 4 5 6\n", {*((0, i) for i in (1, 2, 3, 4, 5, 7)), *((1, i) for i in range(2, 7))}),
    ],
)
def test_pairs_and_adjacency_lists_are_told_apart(tmp_path: Path, content: str, expected: set[tuple[int, int]]) -> None:
    (tmp_path / "x.txt").write_text(content)
    assert raw_pairs(load_quietly(tmp_path / "x.txt", split=KEEP_ALL), "train") == expected


def test_what_can_be_read_both_ways_is_said_and_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(LISTS)
    with pytest.warns(InteractionWarning, match="read as adjacency lists"):
        lists = load_interactions(tmp_path / "x.txt", split=KEEP_ALL)
    assert raw_pairs(lists, "train") == set(RAW)
    pairs = load_quietly(tmp_path / "x.txt", split=KEEP_ALL, format="pairs")
    assert raw_pairs(pairs, "train") == {(10, 7), (3, 1000), (200, 7)}


def test_the_training_file_decides_for_its_siblings(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("0 1 2 3 4\n1 1 2\n2 3 4\n")
    (tmp_path / "valid.txt").write_text("0 5 6\n1 5 6\n2 5 6\n")
    (tmp_path / "test.txt").write_text("0 7\n1 7\n2 8\n")
    data = load_quietly(tmp_path)
    assert raw_pairs(data, "valid") == {(u, i) for u in range(3) for i in (5, 6)}


# ---------------------------------------------------------------------------------------------------------------------
# Folders


@pytest.mark.parametrize(
    "names",
    [
        ("train.txt", "valid.txt", "test.txt"),
        ("training.csv", "validation.csv", "testing.csv"),
        ("Train.tsv", "dev.tsv", "Test.tsv"),
        ("shop.train.inter", "shop.valid.inter", "shop.test.inter"),
        ("u-train.txt", "u-val.txt", "u-test.txt"),
    ],
)
def test_a_split_in_a_folder_is_kept(tmp_path: Path, names: tuple[str, str, str]) -> None:
    contents = ("0 0\n0 1\n1 0\n1 2\n", "0 2\n", "1 3\n")
    for name, content in zip(names, contents, strict=True):
        separator = {".csv": ",", ".tsv": "\t", ".inter": "\t"}.get(Path(name).suffix, " ")
        head = "user_id:token\titem_id:token\n" if name.endswith("inter") else ""
        (tmp_path / name).write_text(head + content.replace(" ", separator))
    (tmp_path / "README.md").write_text("0 1\n")
    np.save(tmp_path / "train_features.npy", np.ones((4, 7)))
    if not names[0].lower().startswith("train."):
        (tmp_path / "train_features.npy").unlink()
    data = load_quietly(tmp_path)
    assert (pairs_of(data.train), pairs_of(data.valid), pairs_of(data.test)) == (
        [(0, 0), (0, 1), (1, 0), (1, 2)],
        [(0, 2)],
        [(1, 3)],
    )
    assert data.name == tmp_path.name


def test_files_can_be_named_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("0 0\n1 1\n")
    np.save(tmp_path / "b.npy", np.array([[0, 1], [1, 0]]))
    (tmp_path / "c.csv").write_text("user,item\n0,2\n")
    data = load_quietly(tmp_path / "a.txt", valid=tmp_path / "b.npy", test=tmp_path / "c.csv")
    assert (pairs_of(data.valid), pairs_of(data.test)) == ([(0, 1), (1, 0)], [(0, 2)])


@pytest.mark.parametrize("names", [("shop.inter", "shop.kg"), ("ratings.csv", "movies.csv"), ("anything.txt",)])
def test_a_folder_with_one_file_of_interactions_is_split(tmp_path: Path, names: tuple[str, ...]) -> None:
    rows = [f"{u}\t{i}" for u in range(4) for i in range(10)]
    (tmp_path / names[0]).write_text("user_id:token\titem_id:token\n" + "\n".join(rows))
    for other in names[1:]:
        (tmp_path / other).write_text("x\ty\n1\t2\n")
    data = load_quietly(tmp_path)
    assert (data.train.size(1), data.valid.size(1), data.test.size(1)) == (28, 4, 8)


def test_folders_that_cannot_be_understood(tmp_path: Path) -> None:
    with pytest.raises(InteractionError, match="no file of interactions"):
        load_interactions(tmp_path)
    (tmp_path / "a.txt").write_text("0 0\n")
    (tmp_path / "b.txt").write_text("0 0\n")
    with pytest.raises(InteractionError, match="cannot tell which file"):
        load_interactions(tmp_path)
    (tmp_path / "test.txt").write_text("0 0\n")
    with pytest.raises(InteractionError, match="no training file"):
        load_interactions(tmp_path)
    (tmp_path / "train.txt").write_text("0 0\n")
    np.save(tmp_path / "train.npy", np.array([[0, 0]]))
    with pytest.raises(InteractionError, match=r"several files for train \(train.npy, train.txt\)"):
        load_interactions(tmp_path)
    with pytest.raises(InteractionError, match="train= is a file of a folder"):
        load_interactions(tmp_path / "a.txt", train="b.txt")
    with pytest.raises(InteractionError, match=r"nothing\.txt: no such file"):
        load_interactions(tmp_path, train="a.txt", valid="nothing.txt")
    with pytest.raises(InteractionError, match="no such file or folder"):
        load_interactions(tmp_path / "nothing")
    with pytest.raises(InteractionError, match="no such file"):
        load_interactions(tmp_path / "a.txt", test=tmp_path / "nothing")


def test_validation_is_held_out_of_training_if_there_is_none(tmp_path: Path) -> None:
    # 10% of all is an eighth of what is left without the 20% for test: 3 of 24.
    train = {(u, i) for u in range(5) for i in range(24)}
    (tmp_path / "train.txt").write_text("".join(f"{u} {i}\n" for u, i in sorted(train)))
    (tmp_path / "test.txt").write_text("".join(f"{u} {24 + u}\n" for u in range(5)))
    with pytest.warns(InteractionWarning, match="no validation split; 15 training"):
        data = load_interactions(tmp_path, split=Split("ratio", valid=0.1, test=0.2))
    assert raw_pairs(data, "train") | raw_pairs(data, "valid") == train
    assert Counter(u for u, _ in raw_pairs(data, "valid")) == dict.fromkeys(range(5), 3)
    assert raw_pairs(data, "test") == {(u, 24 + u) for u in range(5)}
    with pytest.warns(InteractionWarning, match="no validation split; 5 training"):
        data = load_interactions(tmp_path, split=Split("leave-one-out"))
    assert Counter(u for u, _ in raw_pairs(data, "valid")) == dict.fromkeys(range(5), 1)
    (tmp_path / "test.txt").rename(tmp_path / "valid.txt")
    with pytest.warns(InteractionWarning, match="no test split"):
        assert load_interactions(tmp_path).test.size(1) == 0


# ---------------------------------------------------------------------------------------------------------------------
# Ids


def test_ids_are_integers_only_if_all_are(tmp_path: Path) -> None:
    def raw(words: list[str]) -> list[Any]:
        (tmp_path / "x.csv").write_text("user,item\n" + "".join(f"0,{w}\n" for w in words))
        return load_interactions(tmp_path / "x.csv", split=KEEP_ALL).item_ids.raw.tolist()

    assert raw(["10", "9"]) == [9, 10]
    assert raw(["11.0", "1.000000e+01"]) == [10, 11]
    for words in (["10", "x"], ["010", "9"], ["1.5"], ["1e3"], ["9" * 25], ["٣"], ["9007199254740993.0"], ["+5"]):
        assert raw(words) == sorted(words)


def test_string_ids_sort_as_strings_and_leading_zeros_stay(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("reviewerID,asin,overall\nB,0001,5\nA,10,4\nB,9,1\nÄ é,0001,5\n")
    data = load_quietly(tmp_path / "x.csv", split=KEEP_ALL)
    assert data.user_ids.raw.tolist() == ["A", "B", "Ä é"]
    assert data.item_ids.raw.tolist() == ["0001", "10", "9"]
    assert pairs_of(data.train) == [(0, 1), (1, 0), (1, 2), (2, 0)]


def test_strings_without_a_header_need_positions(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("A2,B1,5.0,100\nA1,B1,2.0,200\n")
    with pytest.raises(InteractionError, match=r"x.csv:1: neither numbers nor a header"):
        load_interactions(tmp_path / "x.csv")
    data = load_quietly(tmp_path / "x.csv", user_column=0, item_column=1, split=KEEP_ALL, min_rating=3)
    assert raw_pairs(data, "train") == {("A2", "B1")}
    # A header at the named positions is not taken for data.
    (tmp_path / "x.csv").write_text("user,item\nA2,B1\n")
    data = load_quietly(tmp_path / "x.csv", user_column=0, item_column=1, split=KEEP_ALL)
    assert raw_pairs(data, "train") == {("A2", "B1")}


def test_one_string_anywhere_makes_the_column_strings_everywhere(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("user,item\n10,1\n9,1\n")
    (tmp_path / "valid.csv").write_text("user,item\n10,2\n")
    (tmp_path / "test.csv").write_text("user,item\nx,2\n")
    with pytest.warns(InteractionWarning, match="1 of 3 users have no training item"):
        data = load_interactions(tmp_path)
    assert data.user_ids.raw.tolist() == ["10", "9", "x"]
    assert data.item_ids.raw.tolist() == [1, 2]
    assert raw_pairs(data, "valid") == {("10", 2)}


def test_ids_beyond_any_table_are_renumbered(tmp_path: Path) -> None:
    big = 10**12
    np.save(tmp_path / "x.npy", np.array([[big, 5], [1, 2**62], [big, 2**62]]))
    data = load_quietly(tmp_path / "x.npy", split=KEEP_ALL)
    assert pairs_of(data.train) == [(0, 1), (1, 0), (1, 1)]
    assert data.user_ids.raw.tolist() == [1, big]
    # 64-bit hashes do not fit a signed integer: in a table they are strings like any other.
    (tmp_path / "x.csv").write_text(f"user,item\n{2**64 - 1},1\n7,1\n")
    assert load_quietly(tmp_path / "x.csv", split=KEEP_ALL).user_ids.raw.tolist() == [str(2**64 - 1), "7"]


def test_only_ids_with_interactions_count(tmp_path: Path) -> None:
    sp.save_npz(tmp_path / "x.npz", sp.csr_matrix(([1.0, 5.0], ([4, 2], [0, 9])), shape=(1000, 1000)))
    data = load_quietly(tmp_path / "x.npz", split=KEEP_ALL)
    assert (data.num_users, data.num_items) == (2, 2)
    rated = load_quietly(tmp_path / "x.npz", split=KEEP_ALL, min_rating=2)
    assert raw_pairs(rated, "train") == {(2, 9)}


class TestIdMap:
    @pytest.mark.parametrize("raw", [[3, 10, 200], ["a", "b", "ä"], [5, 6, 7], [], [-3, 0, 10**15]])
    def test_there_and_back(self, raw: list[Any]) -> None:
        ids = IdMap(raw)
        assert len(ids) == len(raw)
        assert ids.decode(np.arange(len(raw))).tolist() == raw
        assert ids.encode(np.array(raw, dtype=ids.raw.dtype)).tolist() == list(range(len(raw)))
        again = IdMap.from_json(ids.to_json())
        assert again == ids
        assert again.raw.dtype == ids.raw.dtype
        assert json.loads(ids.to_json())["kind"] in ("integers", "strings", "range")

    def test_consecutive_integers_are_stored_in_a_few_bytes(self) -> None:
        assert len(IdMap(np.arange(10**6)).to_json()) < 60

    def test_unknown_ids(self) -> None:
        ids = IdMap([3, 10, 200])
        with pytest.raises(UnknownIdError, match=r"7 unknown id\(s\): 4, 5, 6, 7, 8, \.\.\."):
            ids.encode([3, 4, 5, 6, 7, 8, 9, 201])
        assert ids.encode([3, 4, 10**10, 200], missing=-1).tolist() == [0, -1, -1, 2]
        assert IdMap(["a"]).encode(["b", "a", ""], missing=-1).tolist() == [-1, 0, -1]
        assert IdMap([]).encode([1], missing=-1).tolist() == [-1]
        with pytest.raises(UnknownIdError, match="row 3 of 3 ids"):
            ids.decode([0, 3])
        with pytest.raises(UnknownIdError, match="row -1 of 3 ids"):
            ids.decode([-1])

    def test_a_command_line_gives_strings(self) -> None:
        assert IdMap([3, 10]).encode(["10", "3", "x", "03", "-1", "9" * 30], missing=-1).tolist() == [
            1,
            0,
            -1,
            -1,
            -1,
            -1,
        ]
        assert IdMap(["10", "x"]).encode([10]).tolist() == [0]

    def test_ids_must_be_distinct_ascending_integers_or_strings(self) -> None:
        for raw in ([2, 1], [1, 1], ["b", "a"], [0.5, 1.5], [[1], [2]]):
            with pytest.raises(InteractionError):
                IdMap(raw)
        with pytest.raises(ValueError, match="read-only"):
            IdMap([1, 2]).raw[0] = 5
        for damaged in (
            "",
            "{}",
            '{"kind": "strings"}',
            '{"kind": "pickle", "ids": []}',
            '{"kind": "integers", "ids": [2, 1]}',
        ):
            with pytest.raises(InteractionError):
                IdMap.from_json(damaged)


# ---------------------------------------------------------------------------------------------------------------------
# Bad input: one line that says what and where

BAD: dict[str, tuple[str, str | bytes, dict[str, Any], str]] = {
    "empty": ("x.txt", "", {}, "x.txt: empty"),
    "only blank lines": ("x.txt", "\n \n", {}, "x.txt: empty"),
    "only a header": ("x.csv", "user,item\n", {}, "x.csv: empty"),
    "a word": ("x.txt", "0 1\n0 2\n1 x\n", {}, "x.txt:3: item id 'x' is not an integer"),
    "a fraction": ("x.txt", "0 1\n0 2\n1.5 3\n", {}, "x.txt:3: user id '1.5' is not an integer"),
    "negative": ("x.txt", "0 1\n0 2\n1 -3\n", {}, "x.txt:3: item id '-3' is negative"),
    "negative in a table": ("x.csv", "user,item\n0,1\n0,-2\n", {}, "x.csv:3: item id '-2' is negative"),
    "leading zeros": ("x.txt", "0 1\n0 2\n1 007\n", {}, "x.txt:3: item id '007' is not an integer (leading zeros"),
    "cut short": ("x.txt", "0 1\n0 2\n1\n2 3\n", {}, "x.txt:3: 1 fields where 2 are expected (a line cut short?)"),
    "cut short at the end": ("x.txt", "0 1 5\n0 2 4\n0 3 1\n1 3", {}, "x.txt:4: 2 fields where 3 are expected"),
    "two lines in one": ("x.txt", "0 1\n0 2\n1 31 4\n2 3\n0 4\n", {}, "x.txt:3: 3 fields where 2 are expected"),
    "a table cut short": ("x.csv", "user,item,rating\n0,1,5\n\n0,2\n", {}, "x.csv:4: 2 fields where 3 are expected"),
    "a table line too long": ("x.csv", "user,item\n0,1\n0,2,3\n", {}, "x.csv:3: 3 fields where 2 are expected"),
    "a quoted table cut short": ("x.csv", 'user,item,t\n0,1,"a\nb"\n0,2\n', {}, "x.csv:4: 2 fields where 3 are"),
    "an open quote": ("x.csv", 'user,item,t\n0,1,a\n0,2,"b\n0,3,c\n', {}, "x.csv:3: a quote that never closes"),
    "a long open quote": ("x.csv", 'user,item\n0,1\n"' + "0,2\n" * 500 + '",3\n', {}, "x.csv:3: user of 1999 char"),
    "stray carriage return": ("x.txt", "0 1\n0 2\n0\r3\n", {}, "x.txt:3: stray character '\\r'"),
    "stray character": ("x.txt", "0 1 2 3 4\n1 \x1f3\n", {}, "x.txt:2: stray character '\\x1f'"),
    "only blanks": ("x.csv", "user,item\n0,1\n  \n", {}, "x.csv:3: 1 fields where 2 are expected"),
    "no item": ("x.csv", "user,item\n0,1\n0,\n", {}, "x.csv:3: item id is missing ('')"),
    "an item that is no number": ("x.csv", "user,item\n0,nan\n0,1\n", {}, "x.csv:2: item id is missing ('nan')"),
    "empty field in pairs": ("x.csv", "0,1,5\n0,2,5\n1,,5\n", {}, "x.csv:3: item id is missing ('')"),
    "rating that is no number": ("x.txt", "0 1 5\n0 2 x\n0 3 1\n", {}, "x.txt:2: rating 'x' is not a number"),
    "rating nan": ("x.csv", "user,item,rating\n0,1,2\n0,2,nan\n", {}, "x.csv:3: rating is missing ('nan')"),
    "rating inf": ("x.csv", "user,item,rating\n0,1,2\n0,2,inf\n", {}, "x.csv:3: rating 'inf' is not a number"),
    "time": ("x.csv", "user,item,time\n0,1,2020-01-01\n0,2,soon\n", {}, "x.csv:3: time 'soon' is neither a number nor"),
    "too large": ("x.txt", f"0 1\n0 2\n{10**30} 4\n", {}, f"x.txt:3: user id '{10**30}' is too large"),
    "too large in lists": ("x.txt", f"0 1 2 3 4\n1 {10**18}\n", {}, f"x.txt:2: item id '{10**18}' is too large"),
    "a word in lists": ("x.txt", "0 1 2 3 4\n1 2 x 3\n", {}, "x.txt:2: item id 'x' is not an integer"),
    "lists of users": ("x.txt", "0\n1\n", {"format": "adjacency"}, "x.txt: empty"),
    "one field": ("x.txt", "0\n1\n", {}, "x.txt:1: one field a line"),
    "many fields": ("x.txt", "0 1 2 3 4\n0 5 6 7 8\n", {"format": "pairs"}, "x.txt:1: 5 fields a line and no header"),
    "unknown header": ("x.csv", "a,b\n0,1\n", {}, "x.csv:1: neither numbers nor a header"),
    "half a header": ("x.csv", "user,b\n0,1\n", {}, "x.csv:1: cannot tell the item column among 'user', 'b'"),
    "no such column": ("x.csv", "user,item\n0,1\n", {"user_column": "who"}, "x.csv:1: no column 'who' for user"),
    "no such position": ("x.txt", "0 1\n0 2\n", {"item_column": 2}, "no column 2 for item; there are 2"),
    "the same column": ("x.csv", "user,item\n0,1\n", {"user_column": "item"}, "cannot be the same column"),
    "a name without a header": ("x.txt", "0 1\n0 2\n", {"user_column": "user"}, "no header, so no column 'user'"),
    "not recbole": ("x.inter", "a\tb\n0\t1\n", {"format": "recbole"}, "x.inter:1: not a RecBole header"),
    "binary": ("x.txt", b"\x00\x01\x02", {}, "x.txt: not a text file"),
    "utf-16": ("x.csv", "user,item\n0,1\n".encode("utf-16"), {}, "x.csv: not a text file"),
    "latin-1": ("x.csv", "user,item\n0,1\né,2\n".encode("latin-1"), {}, "x.csv:3: not UTF-8"),
    "old mac": ("x.txt", "0 1\r0 2\r", {}, "x.txt: lines end in bare carriage returns"),
    "damaged gzip": ("x.txt.gz", gzip.compress(b"0 1\n" * 9)[:-9], {}, "x.txt.gz: damaged compressed file"),
    "no gzip": ("x.txt.gz", b"0 1\n0 2\n", {}, "x.txt.gz: damaged compressed file"),
    "text as npy": ("x.npy", "0 1\n0 2\n", {}, "x.npy: not an array"),
    "text as npz": ("x.npz", "0 1\n0 2\n", {}, "x.npz: not a sparse matrix"),
    "unknown format": ("x.txt", "0 1\n", {"format": "yaml"}, "unknown format 'yaml'"),
    "threshold without ratings": ("x.txt", "0 1\n0 2\n", {"min_rating": 3}, "min_rating needs a rating column"),
    "threshold too high": ("x.txt", "0 1 5\n0 2 5\n", {"min_rating": 6}, "no rating is at least 6"),
    "core too high": ("x.txt", "0 1\n0 2\n", {"k_core": 2}, "no user and item is left in the 2-core"),
    "no times": ("x.txt", "0 1\n0 2\n", {"split": Split("temporal")}, "temporal split needs a time column"),
}


@pytest.mark.filterwarnings("ignore::infodcl_geo.data.ids.InteractionWarning")
@pytest.mark.parametrize("case", BAD)
def test_bad_text_is_one_line_with_the_place(tmp_path: Path, case: str) -> None:
    name, content, options, message = BAD[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InteractionError) as caught:
        load_interactions(tmp_path / name, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_bad_line_far_behind_the_sample_is_named(tmp_path: Path) -> None:
    rows = [f"{i // 10} {i % 10}" for i in range(200_000)]
    rows[199_998] = "7"
    (tmp_path / "x.txt").write_text("\n".join(rows))
    with pytest.raises(InteractionError, match=r"x.txt:199999: 1 fields where 2 are expected"):
        load_interactions(tmp_path / "x.txt")
    rows[199_998] = "7,\xe9"
    (tmp_path / "x.csv").write_bytes(("user,item\n" + "\n".join(rows).replace(" ", ",")).encode("latin-1"))
    with pytest.raises(InteractionError, match=r"x.csv:200000: not UTF-8 text"):
        load_interactions(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[0.0, np.nan], [1, 2]]), r"row 0 \(from 0\): item id is not a number"),
        (np.array([[0, 1], [1, 0.5], [1, 0.5]]), r"row 1 \(from 0\): item id is not an integer \(and 1 more\)"),
        (np.array([[0, 1], [-1, 2]]), r"row 1 \(from 0\): user id is negative"),
        (np.array([[0, 2**64 - 1]], dtype=np.uint64), "item id does not fit 64 bits"),
        (np.array([[0, 2.0**60]]), "item id is too large for float64"),
        (np.array([[0, 4096.0]], dtype=np.float16), "item id is too large for float16"),
        (np.array([[0, 1, np.inf]]), "rating is not a number"),
        (np.zeros((0, 2), dtype=int), "empty"),
        (np.zeros((3, 5), dtype=int), r"shape \(3, 5\)"),
        (np.zeros(4, dtype=int), r"shape \(4,\)"),
        (np.array([["a", "b"]]), "not integers"),
        (np.array([[0, 1j]]), "not integers"),
    ],
)
def test_bad_arrays(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InteractionError, match=message):
        load_interactions(tmp_path / "x.npy")


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[0, "a"]], dtype=object), allow_pickle=True)
    with pytest.raises(InteractionError, match="not an array of numbers"):
        load_interactions(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", data=np.array([0, "a"], dtype=object))
    with pytest.raises(InteractionError, match="not a sparse matrix"):
        load_interactions(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"indices": np.array([0, 99], dtype=np.int32)}, "not a sparse matrix"),
        ({"indptr": np.array([0, 1, 7], dtype=np.int32)}, "not a sparse matrix"),
        ({"shape": np.array([10**30, 3], dtype=object)}, "not a sparse matrix"),
        ({"shape": np.array([2.0**70, 3])}, "x.npz: "),
        ({"shape": np.array([-2, 3])}, "not a sparse matrix"),
        ({"data": np.array([1.0, np.nan])}, "value is not a number"),
        ({"data": np.array([1j, 1])}, "not of numbers"),
        ({"data": np.array([0.0, 0.0])}, "empty"),
        ({"format": np.array(b"xyz")}, "not a sparse matrix"),
    ],
)
@pytest.mark.filterwarnings("ignore::infodcl_geo.data.ids.InteractionWarning")
def test_bad_sparse_matrices(tmp_path: Path, damage: dict[str, np.ndarray], message: str) -> None:
    good = {
        "format": np.array(b"csr"),
        "shape": np.array([2, 3]),
        "data": np.ones(2),
        "indices": np.array([0, 2], dtype=np.int32),
        "indptr": np.array([0, 1, 2], dtype=np.int32),
    }
    np.savez(tmp_path / "x.npz", **(good | damage))
    with pytest.raises(InteractionError, match=message):
        load_interactions(tmp_path / "x.npz")


def test_bad_parquet(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "x.parquet").write_text("0 1\n0 2\n")
    with pytest.raises(InteractionError, match=r"x\.parquet: not readable as parquet"):
        load_interactions(tmp_path / "x.parquet")
    for frame, message in (
        (pd.DataFrame({"user": [1.0, None], "item": [1, 2]}), r"row 1 \(from 0\): user is missing"),
        (pd.DataFrame({"user": ["a", None], "item": [1, 2]}), r"row 1 \(from 0\): user is missing"),
        (pd.DataFrame({"user": ["a", ""], "item": [1, 2]}), r"row 1 \(from 0\): user id is missing"),
        (pd.DataFrame({"user": [1, -1], "item": [1, 2]}), r"row 1 \(from 0\): user id is negative"),
        (pd.DataFrame({"user": [1, 1], "item": [1, 2], "rating": ["x", "y"]}), "rating is not a number"),
        (pd.DataFrame({"user": [[1], [2]], "item": [1, 2]}), r"user column of type List\(Int64\)"),
        (pd.DataFrame({"a": [1], "item": [1]}), "cannot tell the user column"),
        (pd.DataFrame({"user": [], "item": []}), "empty"),
    ):
        frame.to_parquet(tmp_path / "x.parquet")
        with pytest.raises(InteractionError, match=message):
            load_interactions(tmp_path / "x.parquet")
    # pandas writes no name twice
    twice = pa.Table.from_arrays([pa.array([1, 2])] * 3, names=["user", "item", "user"])
    pq.write_table(twice, tmp_path / "x.parquet")
    with pytest.raises(InteractionError, match=r"x\.parquet: not readable as parquet .*user.* more than one"):
        load_interactions(tmp_path / "x.parquet")


def wreck(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, length, new in edits:
        at %= len(content) + 1
        content = content[:at] + new + content[at + length :]
    return content


VICTIMS = {
    "x.txt": (lines() * 2).encode(),
    "y.txt": (LISTS + "7 1 2 3 4 5 6\n").encode(),
    "x.csv": lines(",", head="user,item,rating,title\n", tail=',4,"a ""b"""').encode(),
    "x.inter": lines("\t", head="user_id:token\titem_id:token\ttimestamp:float\n", tail="\t8").encode(),
    "x.dat": lines("::", tail="::4.5::978300760").encode(),
}


@pytest.mark.parametrize("name", [*VICTIMS, "x.npy", "x.npz", "x.parquet", "x.txt.gz"])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(
        st.tuples(
            st.integers(0, 5000),
            st.integers(0, 6),
            st.one_of(
                st.sampled_from(
                    [b"", b" ", b"\n", b",", b"\t", b"-", b'"', b"nan", b"1e9", b".5", b"\r", b"99999999999"]
                ),
                st.binary(max_size=3),
            ),
        ),
        min_size=1,
        max_size=3,
    )
)
@example(edits=[(382, 3, b"\x00\x00\x80")])  # of the parquet file, this damages a column's name
@pytest.mark.filterwarnings("ignore::infodcl_geo.data.ids.InteractionWarning")
def test_damaged_files_load_or_fail_cleanly(tmp_path: Path, name: str, edits: list[tuple[int, int, bytes]]) -> None:
    if name in VICTIMS:
        content = VICTIMS[name]
    else:
        kind = {"x.npy": "npy E x 2", "x.npz": "npz csr", "x.parquet": "parquet", "x.txt.gz": "gzip"}[name]
        content = FORMATS[kind][0](tmp_path).read_bytes()
    (tmp_path / name).write_bytes(wreck(content, edits))
    try:
        outcome = load_interactions(tmp_path / name).summary()
    except InteractionError as error:
        outcome = str(error)
    assert ("interactions" in outcome) if "\n" in outcome else (name in outcome)


# ---------------------------------------------------------------------------------------------------------------------
# Repairs


def test_duplicates_are_kept_once_and_counted(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("0 1\n0 2\n0 1\n1 1\n0 1\n")
    with pytest.warns(InteractionWarning, match=r"x.txt: 2 duplicate pairs") as caught:
        data = load_interactions(tmp_path / "x.txt", split=KEEP_ALL)
    assert raw_pairs(data, "train") == {(0, 1), (0, 2), (1, 1)}
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("read", "repair"),
    [
        (lambda folder: load_interactions(folder / "pairs.txt"), "1 duplicate pairs"),
        (lambda folder: load_interactions(folder / "rows.txt"), "read as adjacency lists"),
        (lambda folder: load_interactions(folder / "x.npz"), "1 stored zeros"),
        (lambda folder: read_columns(folder / "x.npz", {"user": "user", "item": "item"}), "1 stored zeros"),
    ],
)
def test_warnings_point_at_the_caller(tmp_path: Path, read: Callable[[Path], object], repair: str) -> None:
    (tmp_path / "pairs.txt").write_text("0 1\n0 1\n")
    (tmp_path / "rows.txt").write_text("0 1 2\n3 4 5\n")
    sp.save_npz(tmp_path / "x.npz", sp.coo_matrix(([1, 0], ([0, 1], [0, 1]))))
    with pytest.warns(InteractionWarning, match=repair) as caught:
        read(tmp_path)
    assert caught[0].filename == __file__


def test_the_earliest_of_duplicates_counts(tmp_path: Path) -> None:
    # User 0 met item 1 at time 1, then item 2 at time 5: item 2 is the last one, although item 1 was met again at 9.
    (tmp_path / "x.csv").write_text("user,item,time\n0,1,9\n0,2,5\n0,1,1\n0,3,2\n")
    with pytest.warns(InteractionWarning, match="1 duplicate pairs"):
        data = load_interactions(tmp_path / "x.csv", split=Split("leave-one-out"))
    assert (raw_pairs(data, "train"), raw_pairs(data, "valid"), raw_pairs(data, "test")) == (
        {(0, 1)},
        {(0, 3)},
        {(0, 2)},
    )


def test_overlaps_are_removed_from_the_later_split(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("0 0\n0 1\n1 0\n")
    (tmp_path / "valid.txt").write_text("0 1\n0 2\n1 1\n")
    (tmp_path / "test.txt").write_text("0 0\n0 2\n1 1\n1 2\n")
    with pytest.warns(InteractionWarning) as caught:
        data = load_interactions(tmp_path)
    messages = [str(w.message) for w in caught]
    assert [m[m.index(": ") + 2 :] for m in messages] == [
        "1 pairs are also in train, removed from valid",
        "1 pairs are also in train, removed from test",
        "2 pairs are also in valid, removed from test",
    ]
    assert raw_pairs(data, "train") == {(0, 0), (0, 1), (1, 0)}
    assert raw_pairs(data, "valid") == {(0, 2), (1, 1)}
    assert raw_pairs(data, "test") == {(1, 2)}


def test_users_without_training_items_are_kept_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("0 0\n1 0\n")
    (tmp_path / "valid.txt").write_text("0 1\n2 1\n")
    (tmp_path / "test.txt").write_text("3 0\n")
    with pytest.warns(InteractionWarning, match="2 of 4 users have no training item"):
        data = load_interactions(tmp_path)
    assert data.num_users == 4
    assert raw_pairs(data, "test") == {(3, 0)}


def test_what_is_no_interaction_is_counted(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("0 1 2 3 4\n1\n2 1\n3\n")
    with pytest.warns(InteractionWarning, match="2 lines have a user and no item"):
        assert load_interactions(tmp_path / "x.txt").num_users == 2
    sp.save_npz(tmp_path / "x.npz", sp.coo_matrix(([1.0, 0.0, 2.0], ([0, 0, 1], [0, 1, 1]))))
    with pytest.warns(InteractionWarning, match="1 stored zeros"):
        assert load_interactions(tmp_path / "x.npz").num_interactions == 2


def test_a_threshold_keeps_the_splits_that_have_no_ratings(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("0 0 5\n0 1 4\n0 2 3.5\n1 0 4\n")
    (tmp_path / "valid.txt").write_text("0 3\n")
    (tmp_path / "test.txt").write_text("0 4 4\n1 5 1\n")
    with pytest.warns(InteractionWarning, match=r"valid.txt: no rating column; all its 1 rows"):
        data = load_interactions(tmp_path, min_rating=4)
    assert raw_pairs(data, "train") == {(0, 0), (0, 1), (1, 0)}
    assert (raw_pairs(data, "valid"), raw_pairs(data, "test")) == ({(0, 3)}, {(0, 4)})
    assert data.num_items == 4


# ---------------------------------------------------------------------------------------------------------------------
# Splits and cores

some_pairs = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 15)), min_size=1, max_size=120, unique=True)


def shuffled(pairs: list[tuple[int, int]], seed: int) -> torch.Tensor:
    order = np.random.default_rng(seed).permutation(len(pairs))
    return torch.tensor(pairs, dtype=torch.int64)[order].T.contiguous()


def half_up(x: float) -> int:
    return int(x + 0.5 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(
    pairs=some_pairs, seed=st.integers(0, 5), shares=st.sampled_from([(0.1, 0.2), (0.1, 0.1), (0.5, 0.4), (0.0, 0.9)])
)
def test_ratio_split(pairs: list[tuple[int, int]], seed: int, shares: tuple[float, float]) -> None:
    split = Split("ratio", *shares)
    parts = split_interactions(shuffled(pairs, 1), split, seed=seed)
    train, valid, test = (pairs_of(p) for p in parts)
    assert sorted(train + valid + test) == sorted(pairs)  # disjoint, nothing lost
    assert all(p == sorted(p) for p in (train, valid, test))
    for user, count in Counter(u for u, _ in pairs).items():
        n_test = min(half_up(shares[1] * count), count - 1)
        n_valid = min(half_up(shares[0] * count), count - 1 - n_test)
        found = [sum(u == user for u, _ in p) for p in (train, valid, test)]
        assert found == [count - n_test - n_valid, n_valid, n_test]
    again = split_interactions(shuffled(pairs, 2), split, seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))


def test_ratio_split_is_random_and_seeded() -> None:
    pairs = torch.cartesian_prod(torch.arange(50), torch.arange(20)).T
    first, other = (split_interactions(pairs, Split(), seed=s)[2] for s in (0, 1))
    assert not torch.equal(first, other)
    # Every item is equally likely to be held out: 50 users x 4 of 20 items, 10 a piece.
    held_out = torch.stack(
        [torch.bincount(split_interactions(pairs, Split(), seed=s)[2][1], minlength=20) for s in range(40)]
    )
    assert torch.allclose(held_out.double().mean(0), torch.full((20,), 10.0, dtype=torch.float64), atol=2.0)


@settings(max_examples=60, deadline=None)
@given(pairs=some_pairs, seed=st.integers(0, 5), timed=st.booleans())
def test_leave_one_out(pairs: list[tuple[int, int]], seed: int, timed: bool) -> None:
    edges = shuffled(pairs, 1)
    time = torch.from_numpy(np.random.default_rng(seed).permutation(len(pairs))) if timed else None
    train, valid, test = (pairs_of(p) for p in split_interactions(edges, Split("leave-one-out"), time=time, seed=seed))
    assert sorted(train + valid + test) == sorted(pairs)
    counts = Counter(u for u, _ in pairs)
    enough = {u for u, n in counts.items() if n >= 3}
    assert Counter(u for u, _ in valid) == Counter(u for u, _ in test) == dict.fromkeys(enough, 1)
    if time is not None:
        when = dict(zip(pairs_of(edges), time.tolist(), strict=True))
        for user in enough:
            of_user = sorted((p for p in pairs if p[0] == user), key=when.__getitem__)
            assert of_user[-1] in test
            assert of_user[-2] in valid


@settings(max_examples=60, deadline=None)
@given(pairs=some_pairs, seed=st.integers(0, 5))
def test_temporal_split_is_one_point_in_time(pairs: list[tuple[int, int]], seed: int) -> None:
    edges = shuffled(pairs, 1)
    time = torch.from_numpy(np.random.default_rng(seed).permutation(len(pairs)))
    parts = [pairs_of(p) for p in split_interactions(edges, Split("temporal", valid=0.1, test=0.2), time=time)]
    by_time = [p for _, p in sorted(zip(time.tolist(), pairs_of(edges), strict=True))]
    n_test, n_valid = half_up(0.2 * len(pairs)), half_up(0.1 * len(pairs))
    n_train = len(pairs) - n_test - n_valid
    expected = by_time[:n_train], by_time[n_train : n_train + n_valid], by_time[n_train + n_valid :]
    assert parts == [sorted(p) for p in expected]


def test_splits_that_make_no_sense() -> None:
    for wrong in (
        {"kind": "random"},
        {"valid": -0.1},
        {"test": 1.0},
        {"valid": 0.5, "test": 0.5},
        {"test": float("nan")},
    ):
        with pytest.raises(InteractionError):
            Split(**wrong)
    with pytest.raises(InteractionError, match="needs the times"):
        split_interactions(torch.tensor([[0], [0]]), Split("temporal"))
    with pytest.raises(InteractionError, match="duplicate pairs"):
        split_interactions(torch.tensor([[0, 1, 0], [2, 2, 2]]), Split())


def test_times_may_be_dates(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(
        "user,item,date\n0,1,2021-03-01\n0,2,2020-12-31 23:59:59\n0,3,2022-01-01T00:00:00Z\n"
    )
    data = load_quietly(tmp_path / "x.csv", split=Split("leave-one-out"))
    assert (raw_pairs(data, "train"), raw_pairs(data, "valid"), raw_pairs(data, "test")) == (
        {(0, 2)},
        {(0, 1)},
        {(0, 3)},
    )


def naive_core(pairs: set[tuple[int, int]], k: int) -> set[tuple[int, int]]:
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        kept = {(u, i) for u, i in pairs if users[u] >= k and items[i] >= k}
        if kept == pairs:
            return kept
        pairs = kept


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=some_pairs, k=st.integers(2, 5))
def test_core_is_that_of_the_naive_loop(tmp_path: Path, pairs: list[tuple[int, int]], k: int) -> None:
    (tmp_path / "x.txt").write_text("".join(f"{u} {i}\n" for u, i in pairs))
    expected = naive_core(set(pairs), k)
    if not expected:
        with pytest.raises(InteractionError, match=f"{k}-core"):
            load_interactions(tmp_path / "x.txt", k_core=k)
        return
    data = load_quietly(tmp_path / "x.txt", k_core=k, split=KEEP_ALL)
    assert raw_pairs(data, "train") == expected
    assert (data.num_users, data.num_items) == (len({u for u, _ in expected}), len({i for _, i in expected}))


def test_core_counts_over_all_splits(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("0 0\n1 0\n5 9\n")
    (tmp_path / "valid.txt").write_text("0 1\n")
    (tmp_path / "test.txt").write_text("1 1\n")
    data = load_quietly(tmp_path, k_core=2)
    assert (raw_pairs(data, "train"), raw_pairs(data, "valid"), raw_pairs(data, "test")) == (
        {(0, 0), (1, 0)},
        {(0, 1)},
        {(1, 1)},
    )


# ---------------------------------------------------------------------------------------------------------------------
# The parser against plain Python


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.lists(st.integers(0, 10**18 - 1), min_size=1, max_size=5), min_size=1, max_size=20),
    separator=st.sampled_from([" ", "\t", ",", ";", "|", "::", "  ", ", "]),
    end=st.sampled_from(["\n", "\r\n", " \n"]),
)
@pytest.mark.filterwarnings("ignore::infodcl_geo.data.ids.InteractionWarning")
def test_lists_of_integers_are_parsed_as_python_does(
    tmp_path: Path, rows: list[list[int]], separator: str, end: str
) -> None:
    (tmp_path / "x.txt").write_text("".join(separator.join(map(str, row)) + end for row in [[7, 8], *rows]))
    data = load_interactions(tmp_path / "x.txt", format="adjacency", split=KEEP_ALL)
    assert raw_pairs(data, "train") == {(row[0], item) for row in [*rows, [7, 8]] for item in row[1:]}


@pytest.mark.parametrize(
    ("content", "separator"),
    [
        *[(c, None) for c in ("1 2\n3 x\n", "1 -2\n", "1 02\n", f"1 {10**19}\n", "1 2\r3\n", "1 2.5\n")],
        *[(c, ",") for c in ("1,,2\n", ",1\n", "1,\n", "1 2,3\n", "1, 2 3\n", "1;2\n", "1,2\n,\n")],
        *[(c, "::") for c in ("1:2\n", "1:::2\n", "1: :2\n", "1::2:\n")],
    ],
)
def test_what_is_no_list_of_integers_is_refused(tmp_path: Path, content: str, separator: str | None) -> None:
    first = (separator or " ").join(["5", "6", "7", "8"])
    (tmp_path / "x.txt").write_text(first + "\n" + content)
    with pytest.raises(InteractionError, match=r"x\.txt:[23]: "):
        load_interactions(tmp_path / "x.txt", format="adjacency")


# ---------------------------------------------------------------------------------------------------------------------
# The container


def example(**changes: Any) -> Interactions:
    fields: dict[str, Any] = {
        "train": torch.tensor([[0, 0, 1], [0, 1, 1]]),
        "valid": torch.tensor([[0], [2]]),
        "test": torch.empty(2, 0, dtype=torch.int64),
        "num_users": 3,
        "num_items": 3,
        "user_ids": IdMap([0, 1, 2]),
        "item_ids": IdMap(["a", "b", "c"]),
        "name": "example",
    }
    return Interactions(**(fields | changes))


def test_summary_has_the_numbers() -> None:
    data = example()
    assert data.num_interactions == 4
    assert data.density == pytest.approx(4 / 9)
    assert repr(data) == "Interactions('example', users=3, items=3, train=3, valid=1, test=0)"
    assert data.summary().splitlines() == [
        "data set      example",
        "users         3 (1 without a training item)",
        "items         3 (1 without a training user)",
        "interactions  4 (train 3, valid 1, test 0)",
        "density       44.444%",
        f"fingerprint   {data.fingerprint[:16]}",
    ]
    assert "generated" in example(generated=True).summary()


@pytest.mark.parametrize(
    "changes",
    [
        {"train": torch.tensor([[0, 0, 1]])},
        {"train": torch.tensor([[0.0], [1.0]])},
        {"valid": torch.tensor([[0], [3]])},
        {"valid": torch.tensor([[3], [0]])},
        {"valid": torch.tensor([[0], [-1]])},
        {"train": torch.tensor([[0, 0], [1, 1]])},
        {"train": torch.tensor([[1, 0], [0, 0]])},
        {"user_ids": IdMap([0, 1])},
        {"item_ids": IdMap([0, 1])},
    ],
)
def test_inconsistent_interactions_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InteractionError):
        example(**changes)


# ---------------------------------------------------------------------------------------------------------------------
# Real data

COUNTS = {
    "office": (4905, 2420, 40877, 5880, 6501),
    "taobao": (12539, 8735, 57834, 12907, 12907),
    "tiktok": (9308, 6710, 59541, 3051, 6130),
    "electronics": (20247, 11589, 244630, 33986, 68777),
    "ml-1m": (6039, 3628, 590733, 80897, 164848),
    "lastfm": (1880, 4489, 37922, 4213, 10533),
    "ml-100k": (943, 1682, 100000, 0, 0),
}


@pytest.fixture
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # TikTok and LastFM have a few users without a training item; anything else would be news.
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*no training item", category=InteractionWarning)
        yield


@pytest.mark.real_data
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", COUNTS)
def test_real_data_have_their_counts(data_root: Path, name: str) -> None:
    data = load_interactions(data_root / name, split=KEEP_ALL)
    parts = (data.train.size(1), data.valid.size(1), data.test.size(1))
    assert (data.num_users, data.num_items, *parts) == COUNTS[name]
    if name not in ("lastfm", "ml-100k"):  # their ids start at 1
        assert data.user_ids == IdMap(np.arange(data.num_users))
        assert data.item_ids == IdMap(np.arange(data.num_items))


@pytest.mark.real_data
@pytest.mark.usefixtures("quiet")
def test_real_pairs_are_those_of_the_files(data_root: Path) -> None:
    office = load_interactions(data_root / "office")
    for part in ("train", "valid", "test"):
        rows = (data_root / "office" / f"{part}.txt").read_text().split("\n")
        assert raw_pairs(office, part) == {tuple(map(int, r.split())) for r in rows if r}
    electronics = load_interactions(data_root / "electronics")
    rows = [list(map(int, r.split())) for r in (data_root / "electronics" / "valid.txt").read_text().splitlines()]
    assert raw_pairs(electronics, "valid") == {(r[0], i) for r in rows for i in r[1:]}


@pytest.mark.real_data
@pytest.mark.usefixtures("quiet")
def test_real_ratings_split_by_threshold_core_and_time(data_root: Path) -> None:
    file = data_root / "ml-100k" / "ml-100k.inter"
    table = pd.read_csv(file, sep="\t")
    table.columns = ["user", "item", "rating", "time"]
    data = load_interactions(data_root / "ml-100k", min_rating=4, split=Split("temporal", valid=0.1, test=0.1))
    liked = table[table.rating >= 4]
    when = {(u, i): t for u, i, t in zip(liked.user, liked.item, liked.time, strict=True)}
    assert data.num_interactions == len(liked)
    latest = {p: max(when[x] for x in raw_pairs(data, p)) for p in ("train", "valid")}
    assert latest["train"] <= min(when[x] for x in raw_pairs(data, "valid"))
    assert latest["valid"] <= min(when[x] for x in raw_pairs(data, "test"))
    core = load_interactions(file, k_core=20, split=KEEP_ALL)
    assert raw_pairs(core, "train") == naive_core(set(zip(table.user, table.item, strict=True)), 20)
