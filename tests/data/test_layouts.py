"""Public data sets in their original layouts: a generated miniature of each, against the counts that pandas gives."""

from __future__ import annotations

import gzip
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from infodcl_geo.data.ids import InteractionError, InteractionWarning
from infodcl_geo.data.interactions import LAYOUTS, Interactions, Split, load_interactions

ALL = Split("ratio", 0.0, 0.0)


def sample(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    """Distinct pairs with a rating and a time."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(12 * 20)[:rows]
    return pd.DataFrame(
        {
            "u": pairs // 20 + 1,
            "i": pairs % 20 + 1,
            "r": rng.integers(1, 6, rows),
            "t": rng.integers(1_300_000_000, 1_400_000_000, rows),
        }
    )


FRAME = sample()
REVIEWERS = FRAME.u.map(lambda u: f"A{u:013}")
ASINS = FRAME.i.map(lambda i: f"B{i:09}")


def write(folder: Path, name: str, rows: pd.DataFrame, sep: str = ",", header: bool = False, **options: Any) -> Path:
    rows.to_csv(folder / name, sep=sep, header=header, index=False, **options)
    return folder / name


def movielens_100k(folder: Path) -> Path:
    (folder / "u.item").write_bytes(b"1|Toy Story (1995)|x\n")
    (folder / "u.user").write_text("1|24|M|technician|85711\n")
    (folder / "u1.base").write_text("1\t1\t5\t874965758\n")
    write(folder, "u.data", FRAME, sep="\t")
    return folder


def movielens_1m(folder: Path) -> Path:
    (folder / "ratings.dat").write_text(
        "".join(f"{u}::{i}::{r}::{t}\n" for u, i, r, t in FRAME.itertuples(index=False))
    )
    (folder / "movies.dat").write_bytes("1::Amélie (2001)::Comedy\n".encode("latin-1"))
    return folder


def movielens_csv(folder: Path) -> Path:
    (folder / "movies.csv").write_text("movieId,title,genres\n1,Toy Story (1995),Adventure\n")
    rows = FRAME.assign(r=FRAME.r - 0.5).rename(
        columns={"u": "userId", "i": "movieId", "r": "rating", "t": "timestamp"}
    )
    write(folder, "ratings.csv", rows, header=True)
    return folder


def amazon_2014(folder: Path) -> Path:
    rows = pd.DataFrame({"u": REVIEWERS, "i": ASINS, "r": FRAME.r.astype(float), "t": FRAME.t})
    return write(folder, "ratings_Books.csv", rows)


def amazon_2018(folder: Path) -> Path:
    rows = pd.DataFrame({"i": ASINS, "u": REVIEWERS, "r": FRAME.r.astype(float), "t": FRAME.t})
    return write(folder, "Books.csv", rows)


def amazon_reviews(folder: Path) -> Path:
    rows = zip(REVIEWERS, ASINS, FRAME.r, FRAME.t, strict=True)
    lines = [
        json.dumps(
            {
                "reviewerID": u, "asin": i, "reviewerName": 'J. "X" Ü', "helpful": [0, 1], "reviewText": "one\ntwo",
                "overall": float(r), "unixReviewTime": int(t), "reviewTime": "09 13, 2009",
            }
        )
        for u, i, r, t in rows
    ]  # fmt: skip
    (folder / "reviews_Books_5.json.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder / "reviews_Books_5.json.gz"


def book_crossing(folder: Path) -> Path:
    lines = ['"User-ID";"ISBN";"Book-Rating"']
    lines += [f'"{u}";"0{i:08}X";"{r}"' for u, i, r in zip(FRAME.u, FRAME.i, FRAME.r, strict=True)]
    lines[1] = lines[1].replace("X", "é")
    (folder / "BX-Book-Ratings.csv").write_bytes("\r\n".join(lines).encode("latin-1"))
    (folder / "BX-Users.csv").write_bytes(b'"User-ID";"Location";"Age"\r\n')
    return folder


def lastfm_hetrec(folder: Path) -> Path:
    rows = FRAME[["u", "i", "r"]].rename(columns={"u": "userID", "i": "artistID", "r": "weight"})
    write(folder, "user_artists.dat", rows, sep="\t", header=True)
    (folder / "artists.dat").write_text("id\tname\turl\n1\tA\tx\n")
    (folder / "tags.dat").write_text("tagID\ttagValue\n1\tmetal\n")
    return folder


def lastfm_360k(folder: Path) -> Path:
    lines = []
    for u, i, r in zip(FRAME.u, FRAME.i, FRAME.r, strict=True):
        mbid = "" if i == 3 else f"{i:08x}-0000-4000-8000-000000000000"
        lines.append(f'{u:040x}\t{mbid}\t"artist" no. {i}\t{r}\n')
    (folder / "usersha1-artmbid-artname-plays.tsv").write_text("".join(lines))
    return folder


def lastfm_1k(folder: Path) -> Path:
    lines = []
    for u, i, t in zip(FRAME.u, FRAME.i, FRAME.t, strict=True):
        mbid = "" if i % 3 == 0 else f"{i:08x}-0000-4000-8000-000000000000"
        moment = pd.Timestamp(t, unit="s").isoformat()
        lines.append(f'user_{u:06}\t{moment}Z\t{mbid}\t"artist" no. {i}\t\tA "track"\n')
    (folder / "userid-timestamp-artid-artname-traid-traname.tsv").write_text("".join(lines))
    (folder / "userid-profile.tsv").write_text("#id\tgender\tage\nuser_000001\tm\t\n")
    return folder


def movielens_10m(folder: Path) -> Path:
    rows = FRAME.assign(r=FRAME.r - 0.5)
    (folder / "ratings.dat").write_text(
        "".join(f"{u:.0f}::{i:.0f}::{r:g}::{t:.0f}\n" for u, i, r, t in rows.to_numpy())
    )
    (folder / "tags.dat").write_text("1::2::excellent!::1215184630\n")
    return folder


def amazon_2023(folder: Path) -> Path:
    names = ["user_id", "parent_asin", "rating", "timestamp"]
    rows = pd.DataFrame({"u": REVIEWERS, "i": ASINS, "r": FRAME.r.astype(float), "t": FRAME.t * 1000})
    return write(folder, "All_Beauty.csv", rows.set_axis(names, axis=1), header=True)


def amazon_2023_reviews(folder: Path) -> Path:
    lines = [
        json.dumps(
            {
                "rating": float(r), "title": "x", "text": "a\nb", "images": [], "asin": f"B{n:09}", "parent_asin": i,
                "user_id": u, "timestamp": int(t) * 1000, "helpful_vote": 0, "verified_purchase": True,
            }
        )
        for n, (u, i, r, t) in enumerate(zip(REVIEWERS, ASINS, FRAME.r, FRAME.t, strict=True))
    ]  # fmt: skip
    (folder / "All_Beauty.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder / "All_Beauty.jsonl.gz"


def gowalla(folder: Path) -> Path:
    lines = [
        f"{u}\t{pd.Timestamp(t, unit='s').isoformat()}Z\t{30.2 + i / 100}\t-97.7{i}\t{i}\n"
        for u, i, t in zip(FRAME.u, FRAME.i, FRAME.t, strict=True)
    ]
    (folder / "loc-gowalla_totalCheckins.txt").write_text("".join(lines))
    return folder


def yelp(folder: Path) -> Path:
    lines = [
        json.dumps(
            {
                "review_id": f"r{n}", "user_id": f"u_{u}", "business_id": f"b-{i}", "stars": float(r), "useful": 0,
                "text": "x" * 200, "date": str(pd.Timestamp(t, unit="s")),
            }
        )
        for n, (u, i, r, t) in enumerate(FRAME.itertuples(index=False))
    ]  # fmt: skip
    (folder / "yelp_academic_dataset_review.json").write_text("\n".join(lines) + "\n")
    (folder / "yelp_academic_dataset_user.json").write_text('{"user_id": "u", "name": "x"}\n')
    return folder


def taobao(folder: Path) -> Path:
    kinds = np.array(["pv", "buy", "cart", "fav"])[FRAME.r % 4]
    rows = pd.DataFrame({"u": FRAME.u, "i": FRAME.i, "c": FRAME.i % 3, "b": kinds, "t": FRAME.t})
    return write(folder, "UserBehavior.csv", rows)


def recbole(folder: Path) -> Path:
    rows = FRAME.rename(
        columns={"u": "user_id:token", "i": "item_id:token", "r": "rating:float", "t": "timestamp:float"}
    )
    write(folder, "mini.inter", rows, sep="\t", header=True)
    (folder / "mini.item").write_text("item_id:token\ttitle:token_seq\n1\tA\n")
    (folder / "mini.user").write_text("user_id:token\tage:float\n1\t20\n")
    return folder


def selfrec(folder: Path) -> Path:
    return write(folder, "ratings.txt", FRAME[["u", "i", "r"]], sep=" ")


# Layout, its writer, options, and the users and items of each row as pandas has them.
SPLIT_BY_US: dict[str, tuple[Callable[[Path], Path], dict[str, Any], bool]] = {
    "MovieLens 100K": (movielens_100k, {}, True),
    "MovieLens 1M": (movielens_1m, {}, True),
    "MovieLens csv": (movielens_csv, {}, True),
    "Amazon 2014": (amazon_2014, {}, True),
    "Amazon 2018": (amazon_2018, {}, True),
    "Amazon reviews": (amazon_reviews, {}, True),
    "Book-Crossing": (book_crossing, {"encoding": "latin-1"}, False),
    "LastFM hetrec": (lastfm_hetrec, {}, False),
    "LastFM 360k": (lastfm_360k, {}, False),
    "LastFM 1k": (lastfm_1k, {}, True),
    "MovieLens 10M": (movielens_10m, {}, True),
    "Amazon 2023": (amazon_2023, {}, True),
    "Amazon 2023 reviews": (amazon_2023_reviews, {}, True),
    "Gowalla": (gowalla, {}, True),
    "Yelp": (yelp, {}, True),
    "Taobao": (taobao, {}, True),
    "RecBole": (recbole, {}, True),
    "SELFRec ratings": (selfrec, {}, False),
}


def pairs(data: Interactions) -> set[tuple[str, str]]:
    found = set()
    for part in (data.train, data.valid, data.test):
        users, items = data.user_ids.decode(part[0]), data.item_ids.decode(part[1])
        found |= set(zip(map(str, users.tolist()), map(str, items.tolist()), strict=True))
    return found


@pytest.mark.parametrize("layout", SPLIT_BY_US)
def test_a_public_layout_loads_by_its_path(tmp_path: Path, layout: str) -> None:
    make, options, has_time = SPLIT_BY_US[layout]
    source = make(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_interactions(source, split=ALL, **options)
    # The Book-Crossing miniature has one ISBN with a letter of its own.
    extra = 1 if layout == "Book-Crossing" and (FRAME.i == FRAME.i[0]).sum() > 1 else 0
    assert (data.num_users, data.num_items) == (FRAME.u.nunique(), FRAME.i.nunique() + extra)
    assert data.num_interactions == len(FRAME.drop_duplicates(["u", "i"])) == len(pairs(data))
    degrees = np.bincount(np.bincount(data.train[0].numpy()))
    assert degrees.tolist() == np.bincount(FRAME.u.value_counts()).tolist()
    if not extra:
        degrees = np.bincount(np.bincount(data.train[1].numpy()))
        assert degrees.tolist() == np.bincount(FRAME.i.value_counts()).tolist()
    assert (dict(data.origin.columns).get("time") is not None) == has_time  # type: ignore[union-attr]
    if has_time:  # the last pair of each user, as pandas has it, is the one held out
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            held_out = load_interactions(source, split=Split("leave-one-out"), **options)
        last = FRAME.sort_values("t").groupby("u").tail(1)
        enough = FRAME.u.value_counts()[lambda n: n >= 3].index
        expected = {(u, i) for u, i in zip(last.u, last.i, strict=True) if u in enough}
        number = lambda raw: int("".join(c for c in str(raw) if c.isdigit()))  # noqa: E731
        users, items = held_out.user_ids.decode(held_out.test[0]), held_out.item_ids.decode(held_out.test[1])
        assert {(number(u), number(i)) for u, i in zip(users, items, strict=True)} == expected


def test_mmrec_splits_by_its_label(tmp_path: Path) -> None:
    label = np.random.default_rng(1).permutation([0] * 40 + [1] * 8 + [2] * 12)
    rows = FRAME.assign(x=label).set_axis(["userID", "itemID", "rating", "timestamp", "x_label"], axis=1)
    write(tmp_path, "baby.inter", rows, sep="\t", header=True)
    np.save(tmp_path / "image_feat.npy", np.ones((20, 4)))
    for source in (tmp_path / "baby.inter", tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InteractionWarning)
            data = load_interactions(source)
        assert [p.size(1) for p in (data.train, data.valid, data.test)] == [40, 8, 12]
        users, items = data.test
        found = set(zip(data.user_ids.decode(users).tolist(), data.item_ids.decode(items).tolist(), strict=True))
        assert found == set(FRAME[label == 2][["u", "i"]].itertuples(index=False, name=None))
        assert "x_label" in data.summary()


def lists(rows: pd.DataFrame, head: str) -> str:
    return "".join(f"{u}{head}{' '.join(map(str, of.i))}\n" for u, of in rows.groupby("u"))


@pytest.mark.parametrize("head", [" ", ":", ": "])
def test_lightgcn_and_selfrec_lists(tmp_path: Path, head: str) -> None:
    (tmp_path / "train.txt").write_text(lists(FRAME[:45], head))
    (tmp_path / "test.txt").write_text(lists(FRAME[45:], head))
    (tmp_path / "user_list.txt").write_text("org_id remap_id\nx 0\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InteractionWarning)
        data = load_interactions(tmp_path)
    assert (data.num_users, data.num_items) == (FRAME.u.nunique(), FRAME.i.nunique())
    assert (data.train.size(1) + data.valid.size(1), data.test.size(1)) == (45, 15)


def test_sslrec_matrices_load_and_its_pickles_are_refused(tmp_path: Path) -> None:
    for name, rows in (("trnMat", FRAME[:40]), ("valMat", FRAME[40:50]), ("tstMat", FRAME[50:])):
        matrix = sp.coo_matrix((np.ones(len(rows)), (rows.u, rows.i)), shape=(13, 21))
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(matrix))
    for source in (tmp_path, tmp_path / "trnMat.pkl"):
        with pytest.raises(InteractionError, match=r"a pickle, .*scipy\.sparse\.save_npz"):
            load_interactions(source)
    for file in list(tmp_path.glob("*.pkl")):
        sp.save_npz(file.with_suffix(".npz"), pickle.loads(file.read_bytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InteractionWarning)
        data = load_interactions(tmp_path)
    assert [p.size(1) for p in (data.train, data.valid, data.test)] == [40, 10, 10]


def test_parts_of_a_table_and_folders_of_parts(tmp_path: Path) -> None:
    frame = FRAME.rename(columns={"u": "user", "i": "item", "r": "rating", "t": "time"})
    for number in range(3):
        frame[number * 20 : number * 20 + 20].to_parquet(tmp_path / f"part-0000{number}-abc.snappy.parquet")
    (tmp_path / "_SUCCESS").write_text("")
    data = load_interactions(tmp_path, split=ALL)
    assert pairs(data) == {(str(u), str(i)) for u, i in zip(FRAME.u, FRAME.i, strict=True)}
    split = tmp_path / "split"
    for part, rows in (("split=train", frame[:40]), ("split=valid", frame[40:50]), ("split=test", frame[50:])):
        (split / part).mkdir(parents=True)
        rows[:5].to_csv(split / part / "part-0.csv", index=False)
        rows[5:].to_csv(split / part / "part-1.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InteractionWarning)
        data = load_interactions(split)
    assert [p.size(1) for p in (data.train, data.valid, data.test)] == [40, 10, 10]


@pytest.mark.parametrize(
    ("name", "separator", "header"),
    [
        ("{}.txt", " ", None),  # SELFRec, with weights
        ("ml.{}.rating", "\t", None),  # NCF
        ("mini.{}.inter", "\t", ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]),  # RecBole
        ("{}.csv", ",", ["userID", "itemID", "rating", "timestamp"]),
    ],
)
def test_folders_that_are_divided_already(tmp_path: Path, name: str, separator: str, header: list[str] | None) -> None:
    rows = FRAME[["u", "i", "r"]] if name == "{}.txt" else FRAME
    for part, some in (("train", rows[:40]), ("valid", rows[40:48]), ("test", rows[48:])):
        write(
            tmp_path, name.format(part), some if header is None else some.set_axis(header, axis=1), separator,
            header is not None,
        )  # fmt: skip
    (tmp_path / "ml.test.negative").write_text("(1,2)\t5\t6\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InteractionWarning)
        data = load_interactions(tmp_path)
    for part, some in ((data.train, rows[:40]), (data.valid, rows[40:48]), (data.test, rows[48:])):
        users, items = data.user_ids.decode(part[0]), data.item_ids.decode(part[1])
        expected = set(some[["u", "i"]].itertuples(index=False, name=None))
        assert set(zip(users.tolist(), items.tolist(), strict=True)) == expected


def test_the_columns_of_a_known_layout_are_named(tmp_path: Path) -> None:
    shown = load_interactions(lastfm_360k(tmp_path), split=ALL).summary()
    assert "item: 2 (artist name)" in shown
    assert "1 (artist id)" in shown


def test_the_table_of_layouts_is_for_people() -> None:
    assert len(LAYOUTS) >= len(SPLIT_BY_US)
    assert all(len(row) == 3 and all(isinstance(cell, str) for cell in row) for row in LAYOUTS)
