"""The generated demo, where what is planted must be there to be found; downloads from servers that misbehave."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import svds
from torch import Tensor

from infodcl_geo.data import named as module
from infodcl_geo.data.generated import Demo, demo
from infodcl_geo.data.ids import InteractionError
from infodcl_geo.data.interactions import Split
from infodcl_geo.data.named import NAMED, DatasetError, download, load_named


@pytest.fixture(scope="module")
def data() -> Demo:
    return demo()


def dense(pairs: Tensor, shape: tuple[int, int]) -> np.ndarray:
    matrix = np.zeros(shape)
    matrix[pairs[0], pairs[1]] = 1
    return matrix


def recall(scores: np.ndarray, data: Demo, k: int = 20) -> float:
    """Mean over users of the share of their test items among the best k that are not in training."""
    shape = (data.interactions.num_users, data.interactions.num_items)
    train, test = dense(data.interactions.train, shape), dense(data.interactions.test, shape)
    best = np.argsort(-np.where(train > 0, -np.inf, scores), axis=1)[:, :k]
    found, wanted = np.take_along_axis(test, best, axis=1).sum(1), test.sum(1)
    return float((found[wanted > 0] / wanted[wanted > 0]).mean())


def ease(train: np.ndarray, ridge: float = 200.0) -> np.ndarray:
    """Steck (2019): the closed-form linear autoencoder without a diagonal."""
    inverse = np.linalg.inv(train.T @ train + ridge * np.eye(train.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return train @ weights


def digest(data: Demo) -> str:
    parts = (data.interactions.train, data.interactions.valid, data.interactions.test, data.social, data.knowledge)
    return hashlib.sha256(b"".join(p.numpy().tobytes() for p in parts)).hexdigest()


def test_it_has_the_promised_size_and_says_that_it_is_generated(data: Demo) -> None:
    interactions = data.interactions
    assert interactions.num_users == 2000
    assert 1450 <= interactions.num_items <= 1500
    assert 35_000 <= interactions.num_interactions <= 45_000
    assert interactions.generated
    assert "generated" in interactions.name
    assert interactions.train.size(1) / interactions.num_interactions == pytest.approx(0.7, abs=0.02)
    assert int(torch.bincount(interactions.train[0], minlength=2000).min()) >= 4


def test_a_seed_gives_the_same_data_everywhere(data: Demo) -> None:
    assert digest(demo(0)) == digest(data)
    assert digest(demo(1)) != digest(data)
    # A change here changes every number that was ever measured on the demo.
    assert digest(data)[:16] == "a7240171fec4ed1e"


def test_collaborative_models_beat_popularity_but_not_trivially(data: Demo) -> None:
    shape = (data.interactions.num_users, data.interactions.num_items)
    train = dense(data.interactions.train, shape)
    popularity = recall(np.broadcast_to(train.sum(0), shape), data)
    assert 0.05 <= popularity <= 0.12
    assert 2 * popularity <= recall(ease(train), data) <= 4 * popularity
    normalised = train / np.sqrt(train.sum(1, keepdims=True)) / np.sqrt(np.maximum(train.sum(0), 1))
    left, values, right = svds(normalised, k=24, random_state=0)
    assert 2 * popularity <= recall((left * values) @ right, data) <= 4 * popularity


def test_interactions_follow_the_planted_tastes(data: Demo) -> None:
    users, items = data.interactions.train
    shared = (data.user_interests[users] * data.item_interests[items]).sum(1) > 0
    by_chance = ((data.user_interests > 0).float() @ data.item_interests.float().T > 0).float().mean()
    assert shared.float().mean() > 4 * by_chance
    assert torch.allclose(data.user_interests.sum(1), torch.ones(2000))
    assert set(data.item_interests.sum(1).tolist()) == {1, 2}


def test_popularity_is_a_power_law(data: Demo) -> None:
    degree = torch.bincount(torch.cat([data.interactions.train[1], data.interactions.test[1]])).double()
    degree = degree.sort(descending=True).values
    assert degree[: len(degree) // 10].sum() > 0.3 * degree.sum()
    rank = torch.arange(1, len(degree) + 1, dtype=torch.float64)
    body = slice(20, 1000)
    slope = np.polyfit(torch.log(rank[body] + 10), torch.log(degree[body].clamp(min=1)), 1)[0]
    assert -1.2 < slope < -0.4


def test_friends_share_interests(data: Demo) -> None:
    a, b = data.social
    count = data.interactions.num_users
    assert not (a == b).any()
    keys = a * count + b
    assert len(torch.unique(keys)) == len(keys)
    assert torch.equal(torch.unique(keys), torch.unique(b * count + a))
    main = data.user_interests.argmax(1)
    assert 0.6 < (main[a] == main[b]).float().mean() < 0.9  # three in four, and some by chance


def test_items_of_an_interest_share_entities(data: Demo) -> None:
    heads, relations, tails = data.heads, data.relations, data.tails
    assert heads.max() < data.interactions.num_items
    assert relations.max() < len(data.relation_names)
    assert tails.max() < len(data.entity_names)
    assert torch.unique(data.knowledge, dim=1).size(1) == data.knowledge.size(1)
    for relation, tail in zip(relations[:50].tolist(), tails[:50].tolist(), strict=True):
        assert data.entity_names[tail].startswith(data.relation_names[relation] + "-")
    has = np.zeros((data.interactions.num_items, len(data.entity_names)), dtype=bool)
    has[heads, tails] = True
    share_entity = (has.astype(int) @ has.astype(int).T) > 0
    topics = data.item_interests.numpy().astype(int)
    same, other = (topics @ topics.T) > 0, (topics @ topics.T) == 0
    np.fill_diagonal(same, False)
    assert share_entity[same].mean() > 4 * share_entity[other].mean()
    assert share_entity[other].mean() > 0.01  # noise


def test_its_size_can_be_chosen() -> None:
    small = demo(3, num_users=50, num_items=40, num_interests=4, mean_interactions=10)
    assert small.interactions.num_users == 50
    assert small.user_interests.shape == (50, 4)
    assert small.item_interests.shape == (small.interactions.num_items, 4)


# ---------------------------------------------------------------------------------------------------------------------
# Downloads


class Server:
    """Serves one file at 127.0.0.1, as badly as it is told to."""

    def __init__(self) -> None:
        self.content = bytes(range(256)) * 1000
        self.cut_after: list[int] = []  # bytes after which each of the next connections breaks
        self.errors: list[int] = []  # what the next connections answer instead of the file
        self.ranges = True  # whether a file can be continued
        self.shift = 0  # how far a continued file begins from what was asked for
        self.length = True  # whether the size is announced
        self.requests: list[str | None] = []  # the Range header of each connection
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/reviews_Tiny_5.json.gz"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.requests.append(asked)
        if self.errors:
            handler.send_error(self.errors.pop(0))
            return
        body, status, start = self.content, 200, 0
        if asked and self.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(body)}")
                handler.end_headers()
                return
            start += self.shift
            body, status = body[start:], 206
        handler.send_response(status)
        if status == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: self.cut_after.pop(0)] if self.cut_after else body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda seconds: None))
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def fetch(server: Server, folder: Path, **options: int) -> Path:
    download(server.url, folder / "file", progress=False, timeout=5, **options)
    assert not (folder / "file.part").exists()
    return folder / "file"


def test_download(server: Server, tmp_path: Path) -> None:
    assert fetch(server, tmp_path).read_bytes() == server.content
    server.length = False
    assert fetch(server, tmp_path).read_bytes() == server.content
    assert fetch(server, tmp_path, size=len(server.content)).read_bytes() == server.content


def test_a_cut_connection_is_continued(server: Server, tmp_path: Path) -> None:
    server.cut_after = [100_000, 50_000, 0, 1]
    assert fetch(server, tmp_path).read_bytes() == server.content
    assert server.requests == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-", "bytes=150001-"]


def test_a_later_call_continues_too(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1000, 0, 0, 0, 0]
    with pytest.raises(DatasetError, match=r"cannot download http://127.0.0.1"):
        fetch(server, tmp_path)
    assert (tmp_path / "file.part").read_bytes() == server.content[:1000]
    server.cut_after = []
    assert fetch(server, tmp_path).read_bytes() == server.content
    assert server.requests[-1] == "bytes=1000-"


def test_a_server_that_cannot_continue_begins_anew(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cut_after = [1000, 5000]
    assert fetch(server, tmp_path).read_bytes() == server.content
    server.cut_after = [1000, 2000, 1000, 2000, 1000, 2000, 1000, 2000, 1000]
    with pytest.raises(DatasetError, match="cannot download"):  # and not forever
        fetch(server, tmp_path)


def test_a_server_that_continues_elsewhere_is_not_believed(server: Server, tmp_path: Path) -> None:
    server.cut_after = [1000]
    server.shift = 7
    assert fetch(server, tmp_path).read_bytes() == server.content


def test_what_is_already_whole_is_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(server.content)
    assert fetch(server, tmp_path).read_bytes() == server.content
    # More than the server has cannot be of this file.
    (tmp_path / "file.part").write_bytes(server.content + b"more")
    assert fetch(server, tmp_path).read_bytes() == server.content


def test_a_wrong_size_is_not_accepted(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="has 256000 bytes, not 256001"):
        fetch(server, tmp_path, size=256_001)
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_final_and_a_failure_is_not(server: Server, tmp_path: Path) -> None:
    server.errors = [404]
    with pytest.raises(DatasetError, match="HTTP 404"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1
    server.errors = [503, 429, 500]
    assert fetch(server, tmp_path).read_bytes() == server.content
    server.errors = [503] * 9
    with pytest.raises(DatasetError, match="HTTP 503"):
        fetch(server, tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Named data sets

REVIEWS = [("A2", "B1", 5.0, 30), ("A2", "B2", 4.0, 10), ("A2", "000X", 1.0, 20), ("A1", "B1", 5.0, 40)]


def reviews_file(rows: list[tuple[str, str, float, int]] = REVIEWS) -> bytes:
    keys = ("reviewerID", "asin", "overall", "unixReviewTime")
    text = [json.dumps(dict(zip(keys, row, strict=True)) | {"reviewText": 'a "good"\none'}) + "\n" for row in rows]
    return gzip.compress("".join(text).encode())


@pytest.fixture
def tiny(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    server.content = reviews_file()
    monkeypatch.setattr(module, "_AMAZON", {"amazon-tiny": module._Reviews(server.url, reviews=4)})
    return server


def test_reviews_are_downloaded_once_and_then_work_offline(
    tiny: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = Split("leave-one-out")
    data = load_named("amazon-tiny", root=tmp_path, split=split)
    assert data.user_ids.raw.tolist() == ["A1", "A2"]
    assert data.item_ids.raw.tolist() == ["000X", "B1", "B2"]
    assert data.train.tolist() == [[0, 1], [1, 2]]
    assert (data.valid.tolist(), data.test.tolist()) == ([[1], [0]], [[1], [1]])
    assert data.name == "amazon-tiny"
    assert hashlib.sha256(tiny.content).hexdigest() in capsys.readouterr().err
    tiny.errors = [404] * 9
    again = load_named("amazon-tiny", root=tmp_path, split=split)
    assert torch.equal(again.train, data.train)
    assert len(tiny.requests) == 1
    liked = load_named("amazon-tiny", root=tmp_path, min_rating=4, split=Split("ratio", 0.0, 0.0))
    assert liked.num_interactions == 3


def test_without_a_network_one_line_says_what_to_do(tiny: Server, tmp_path: Path) -> None:
    tiny.errors = [404]
    place = tmp_path / "amazon-tiny" / "reviews_Tiny_5.json.gz"
    with pytest.raises(DatasetError) as caught:
        load_named("amazon-tiny", root=tmp_path)
    assert str(caught.value).endswith(f"download {tiny.url} by hand and put it at {place}")
    assert "\n" not in str(caught.value)
    tiny.http.shutdown()
    tiny.http.server_close()
    with pytest.raises(DatasetError, match="by hand and put it at"):
        load_named("amazon-tiny", root=tmp_path)
    place.write_bytes(tiny.content)
    assert load_named("amazon-tiny", root=tmp_path).num_interactions == 4


def test_wrong_bytes_are_noticed(tiny: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = tiny.content
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 0xFF
    for content, message in (
        (bytes(damaged), "damaged|not a review"),
        (good[:-20], "damaged"),
        (b"<html>sorry</html>", "damaged"),
        (reviews_file(REVIEWS[:3]), "has 3 reviews, not 4"),
        (gzip.compress(b'{"asin": "B1"}\n'), r"json.gz:1: not a review"),
        (gzip.compress(b"[1]\n"), r"json.gz:1: not a review"),
    ):
        folder = tmp_path / hashlib.sha256(content).hexdigest()[:8]
        tiny.content = content
        with pytest.raises(DatasetError, match=message) as caught:
            load_named("amazon-tiny", root=folder)
        assert "\n" not in str(caught.value)
        assert not (folder / "amazon-tiny" / "ratings.csv").exists()
        # Once the bad file is deleted, as the message says, the good one is welcome.
        tiny.content = good
        (folder / "amazon-tiny" / "reviews_Tiny_5.json.gz").unlink()
        assert load_named("amazon-tiny", root=folder).num_interactions == 4
    known = module._Reviews(tiny.url, reviews=4, sha256="0" * 64)
    monkeypatch.setattr(module, "_AMAZON", {"amazon-tiny": known})
    with pytest.raises(DatasetError, match="its SHA-256 is"):
        load_named("amazon-tiny", root=tmp_path)


def test_a_recorded_checksum_is_checked(tiny: Server, tmp_path: Path) -> None:
    load_named("amazon-tiny", root=tmp_path)
    (tmp_path / "amazon-tiny" / "ratings.csv").unlink()
    assert load_named("amazon-tiny", root=tmp_path).num_interactions == 4
    (tmp_path / "amazon-tiny" / "ratings.csv").unlink()
    (tmp_path / "amazon-tiny" / "reviews_Tiny_5.json.gz").write_bytes(reviews_file([*REVIEWS[:3], REVIEWS[0]]))
    with pytest.raises(DatasetError, match=r"its SHA-256 is .* delete it"):
        load_named("amazon-tiny", root=tmp_path)


def test_unknown_names_and_useless_caches(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no data set is called 'amazon'; there are amazon-electronics"):
        load_named("amazon", root=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="amazon-office"):
        load_named("amazon-office", root=tmp_path / "file")
    assert {"amazon-electronics", "amazon-office", "amazon-baby", "ml-100k", "ml-1m", "amazon-book"} == set(NAMED)
    assert issubclass(DatasetError, InteractionError)


def test_data_sets_of_pyg(tmp_path: Path) -> None:
    raw = tmp_path / "ml-1m" / "raw"
    raw.mkdir(parents=True)
    (raw / "movies.dat").write_text("1::Toy Story (1995)::Animation\n7::Heat::Action\n")
    (raw / "users.dat").write_text("3::F::1::10::48067\n9::M::56::16::70072\n")
    (raw / "ratings.dat").write_text("3::1::5::978300760\n3::7::3::978302109\n9::7::4::978301968\n")
    data = load_named("ml-1m", root=tmp_path, split=Split("ratio", 0.0, 0.0), min_rating=4)
    assert (data.user_ids.raw.tolist(), data.item_ids.raw.tolist()) == ([3, 9], [1, 7])
    assert data.train.tolist() == [[0, 1], [0, 1]]

    raw = tmp_path / "amazon-book" / "raw"
    raw.mkdir(parents=True)
    (raw / "user_list.txt").write_text("org_id remap_id\nu 0\nv 1\n")
    (raw / "item_list.txt").write_text("org_id remap_id\n" + "".join(f"i{i} {i}\n" for i in range(12)))
    (raw / "train.txt").write_text("0 0 1 2 3 4 5 6 7\n1 8 9\n")
    (raw / "test.txt").write_text("0 10\n1 11 0\n")
    with pytest.warns(UserWarning, match="no validation split"):
        book = load_named("amazon-book", root=tmp_path)
    assert book.test.tolist() == [[0, 1, 1], [10, 0, 11]]
    assert (book.train.size(1), book.valid.size(1)) == (9, 1)


def test_without_a_network_pyg_data_can_be_put_in_place_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_geometric.datasets import MovieLens100K

    def no_network(self: object) -> None:
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr(MovieLens100K, "download", no_network)
    with pytest.raises(DatasetError) as caught:
        load_named("ml-100k", root=tmp_path)
    assert str(caught.value).endswith(f"put the content of {MovieLens100K.url} into {tmp_path / 'ml-100k' / 'raw'}")
    assert "\n" not in str(caught.value)
