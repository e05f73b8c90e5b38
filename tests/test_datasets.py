"""The generated demo, where what is planted must be there to be found; downloads from servers that misbehave."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import svds
from torch import Tensor

from infodcl_geo.data import download as transport
from infodcl_geo.data import named as module
from infodcl_geo.data.download import DatasetError, download
from infodcl_geo.data.generated import Demo, demo
from infodcl_geo.data.ids import InteractionError
from infodcl_geo.data.interactions import Split
from infodcl_geo.data.named import NAMED, load_named


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
        self.redirect: str | None = None  # where every connection is sent
        self.files: dict[str, bytes] = {}  # what other paths hold
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
        if self.redirect:
            handler.send_response(302)
            handler.send_header("Location", self.redirect)
            handler.end_headers()
            return
        body, status, start = self.files.get(handler.path, self.content), 200, 0
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
            whole = start + len(body)
            handler.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        if self.length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: self.cut_after.pop(0)] if self.cut_after else body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(transport, "time", SimpleNamespace(sleep=lambda seconds: None))
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def fetch(server: Server, folder: Path, **options: Any) -> Path:
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


def test_other_bytes_than_promised_are_refused(server: Server, tmp_path: Path) -> None:
    right = hashlib.sha256(server.content).hexdigest()
    download(server.url, tmp_path / "file", sha256=right.upper(), progress=False)
    assert (tmp_path / "file").read_bytes() == server.content
    server.content = server.content[:-1] + b"x"
    with pytest.raises(DatasetError, match=f"its SHA-256 is .*, not {right}"):
        download(server.url, tmp_path / "file", sha256=right, progress=False)
    assert (tmp_path / "file").read_bytes()[-1] != ord("x")  # what was there stays
    with pytest.raises(DatasetError, match="has more than 1000 bytes"):
        download(server.url, tmp_path / "other", max_size=1000, progress=False)
    server.length = False
    with pytest.raises(DatasetError, match="has more than 1000 bytes"):
        download(server.url, tmp_path / "other", size=1000, progress=False)
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "http://example.invalid/x", "x.zip"])
def test_addresses_that_cannot_be_verified_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="only https is downloaded"):
        download(url, tmp_path / "file", progress=False)


@pytest.mark.parametrize(("old", "new", "followed"), [
    ("https://a.invalid/x", "https://b.invalid/y", True),
    ("http://a.invalid/x", "https://b.invalid/y", True),
    ("http://a.invalid/x", "http://b.invalid/y", True),
    ("https://a.invalid/x", "http://a.invalid/x", False),
    ("https://a.invalid/x", "ftp://a.invalid/x", False),
    ("http://a.invalid/x", "file:///etc/passwd", False),
])  # fmt: skip
def test_redirects_never_lead_to_less(old: str, new: str, followed: bool) -> None:
    def redirected() -> urllib.request.Request | None:
        request = urllib.request.Request(old)
        return transport._Redirects().redirect_request(request, io.BytesIO(), 302, "Found", Message(), new)

    if followed:
        again = redirected()
        assert again is not None
        assert again.full_url == new
    else:
        with pytest.raises(DatasetError, match=f"{old}: it redirects to {new}, which is not https"):
            redirected()


def test_a_server_that_redirects_to_a_file_is_refused(server: Server, tmp_path: Path) -> None:
    server.redirect = "ftp://127.0.0.1/pub"
    with pytest.raises(DatasetError, match="redirects to ftp"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_a_certificate_that_nobody_signed_is_refused(server: Server, tmp_path: Path) -> None:
    """The server of the attack: https with a certificate of its own."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the program openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*made, *subject], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    url = f"https://localhost:{server.http.server_port}/x"
    with pytest.raises(DatasetError, match=r"cannot download https://.*its certificate is not valid$"):
        download(url, tmp_path / "file", progress=False)
    assert server.requests == []
    trusting = ssl.create_default_context(cafile=str(certificate))
    download(url, tmp_path / "file", progress=False, context=trusting)
    assert (tmp_path / "file").read_bytes() == server.content


# ---------------------------------------------------------------------------------------------------------------------
# Named data sets

REVIEWS = [("A2", "B1", 5.0, 30), ("A2", "B2", 4.0, 10), ("A2", "000X", 1.0, 20), ("A1", "B1", 5.0, 40)]
ALL_TRAINED = Split("ratio", 0.0, 0.0)


def reviews_file(rows: list[tuple[str, str, float, int]] = REVIEWS) -> bytes:
    keys = ("reviewerID", "asin", "overall", "unixReviewTime")
    text = [json.dumps(dict(zip(keys, row, strict=True)) | {"reviewText": 'a "good"\none'}) + "\n" for row in rows]
    return gzip.compress("".join(text).encode())


def archive(members: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, text in members.items():
            made.writestr(name, text)
    return out.getvalue()


def offer(monkeypatch: pytest.MonkeyPatch, name: str, source: object) -> None:
    monkeypatch.setattr(module, "_SOURCES", {name: source})


@pytest.fixture
def tiny(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    server.content = reviews_file()
    offer(monkeypatch, "amazon-tiny", module._Ratings(module._File(server.url), module._reviews, 4))
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
    liked = load_named("amazon-tiny", root=tmp_path, min_rating=4, split=ALL_TRAINED)
    assert liked.num_interactions == 3
    # Once it is read, the file of reviews is not needed any more.
    (tmp_path / "amazon-tiny" / "reviews_Tiny_5.json.gz").unlink()
    assert load_named("amazon-tiny", root=tmp_path).num_interactions == 4
    assert not [f.name for f in (tmp_path / "amazon-tiny").iterdir() if f.name.startswith(".") or "part" in f.name]


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


def test_wrong_bytes_are_noticed_and_not_kept(tiny: Server, tmp_path: Path) -> None:
    good = tiny.content
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 0xFF
    for content, message in (
        (bytes(damaged), "damaged|not a review"),
        (good[:-20], "damaged"),
        (b"<html>sorry</html>", "damaged"),
        (reviews_file(REVIEWS[:3]), "has 3 ratings, not 4"),
        (reviews_file([*REVIEWS, REVIEWS[0]]), "has 5 ratings, not 4"),
        (gzip.compress(b'{"asin": "B1"}\n'), r":1: not a review"),
        (gzip.compress(b"[1]\n"), r":1: not a review"),
        (gzip.compress(b"[" * 100_000), r":1: not a review"),
        (gzip.compress(b'{"reviewerID": "a\\nb", "asin": "i", "overall": 1, "unixReviewTime": 1}'), "not a review"),
        (gzip.compress(b'{"reviewerID": "a", "asin": "i", "overall": NaN, "unixReviewTime": 1}'), "not a review"),
        (gzip.compress(b"x" * 2**23), "unpacks to more than such a file can hold"),
    ):
        folder = tmp_path / hashlib.sha256(content).hexdigest()[:8]
        tiny.content = content
        with pytest.raises(DatasetError, match=message) as caught:
            load_named("amazon-tiny", root=folder, progress=False)
        assert "\n" not in str(caught.value)
        assert list((folder / "amazon-tiny").iterdir()) == []
        tiny.content = good
        assert load_named("amazon-tiny", root=folder, progress=False).num_interactions == 4


def test_a_file_of_another_size_or_checksum_is_refused(
    tiny: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for known, message in (
        (module._File(tiny.url, sha256="0" * 64), "its SHA-256 is .*, not 0000"),
        (module._File(tiny.url, size=7), "more than 7 bytes|not 7"),
    ):
        offer(monkeypatch, "amazon-tiny", module._Ratings(known, module._reviews, 4))
        with pytest.raises(DatasetError, match=message):
            load_named("amazon-tiny", root=tmp_path)
        assert list((tmp_path / "amazon-tiny").iterdir()) == []


def test_the_first_checksum_is_the_standard(tiny: Server, tmp_path: Path) -> None:
    load_named("amazon-tiny", root=tmp_path)
    folder = tmp_path / "amazon-tiny"
    file, good = folder / "reviews_Tiny_5.json.gz", tiny.content
    other = reviews_file([*REVIEWS[:3], ("A9", "B1", 5.0, 40)])
    (folder / "ratings.csv").unlink()
    file.write_bytes(other)  # changed on the disk: downloaded again
    assert "A9" not in load_named("amazon-tiny", root=tmp_path).user_ids.raw.tolist()
    assert (file.read_bytes(), len(tiny.requests)) == (good, 2)
    (folder / "ratings.csv").unlink()
    file.unlink()
    tiny.content = other  # changed by its publisher, or by somebody between: refused
    with pytest.raises(DatasetError, match=r"its SHA-256 is .*; if its publisher has changed it, delete .*gz\.json"):
        load_named("amazon-tiny", root=tmp_path)
    (folder / "reviews_Tiny_5.json.gz.json").unlink()
    assert "A9" in load_named("amazon-tiny", root=tmp_path).user_ids.raw.tolist()


def test_a_table_that_was_cut_or_changed_is_made_again(tiny: Server, tmp_path: Path) -> None:
    whole = load_named("amazon-tiny", root=tmp_path, split=ALL_TRAINED)
    table = tmp_path / "amazon-tiny" / "ratings.csv"
    text = table.read_bytes()
    record = table.with_name("ratings.csv.json")
    for cut in (*range(0, len(text), 7), len(text) - 1):
        table.write_bytes(text[:cut])
        assert torch.equal(load_named("amazon-tiny", root=tmp_path, split=ALL_TRAINED).train, whole.train)
        assert table.read_bytes() == text
    table.write_bytes(text.replace(b"B1", b"B7"))
    assert load_named("amazon-tiny", root=tmp_path, split=ALL_TRAINED).item_ids == whole.item_ids
    for damage in ("", "[]", '{"bytes": 3}', "{" * 5000, "\udcff"):
        record.write_text(damage, errors="surrogateescape")
        assert load_named("amazon-tiny", root=tmp_path, split=ALL_TRAINED).item_ids == whole.item_ids
    assert len(tiny.requests) == 1  # from the file that is there
    # Neither the table nor the file is whole: both are had again.
    table.write_bytes(text[:20])
    (table.parent / "reviews_Tiny_5.json.gz").write_bytes(tiny.content[:50])
    assert torch.equal(load_named("amazon-tiny", root=tmp_path, split=ALL_TRAINED).train, whole.train)
    assert len(tiny.requests) == 2


def test_a_disk_that_fails_at_any_moment_leaves_nothing_half(
    tiny: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_named("amazon-tiny", root=tmp_path / "whole", split=ALL_TRAINED)
    failed = 0
    for operation in ("fsync", "replace"):
        working = getattr(os, operation)
        for moment in range(9):
            calls = iter(range(1000))

            def fail(*arguments: Any, moment: int = moment, working: Any = working, calls: Any = calls) -> Any:
                if next(calls) == moment:
                    raise OSError(28, "No space left on device", str(arguments[0]))
                return working(*arguments)

            root = tmp_path / f"{operation}{moment}"
            with monkeypatch.context() as patch:
                patch.setattr(os, operation, fail)
                try:
                    load_named("amazon-tiny", root=root, split=ALL_TRAINED, progress=False)
                except DatasetError as error:
                    failed += 1
                    assert "No space left on device" in str(error)  # noqa: PT017
            again = load_named("amazon-tiny", root=root, split=ALL_TRAINED, progress=False)
            assert torch.equal(again.train, whole.train)
            assert not [f.name for f in (root / "amazon-tiny").iterdir() if f.name.startswith(".") or "part" in f.name]
    assert failed > 5


RATINGS = "3::1::5::978300760\n3::7::3::978302109\n9::7::4::978301968\n"


@pytest.fixture
def movies(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    server.content = archive({"ml-tiny/README": "see ../..", "ml-tiny/ratings.dat": RATINGS, "../evil.pt": "pickle"})
    sha256 = hashlib.sha256(server.content).hexdigest()
    known = module._File(server.url.replace("reviews_Tiny_5.json.gz", "ml-tiny.zip"), len(server.content), sha256)
    offer(monkeypatch, "ml-tiny", module._Ratings(known, module._member("ml-tiny/ratings.dat", "::"), 3))
    return server


def test_an_archive_gives_its_ratings_and_nothing_else(movies: Server, tmp_path: Path) -> None:
    data = load_named("ml-tiny", root=tmp_path / "cache", split=ALL_TRAINED, min_rating=4)
    assert (data.user_ids.raw.tolist(), data.item_ids.raw.tolist()) == ([3, 9], [1, 7])
    assert data.train.tolist() == [[0, 1], [0, 1]]
    found = sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file())
    assert found == [f"cache/ml-tiny/{n}" for n in ("ml-tiny.zip", "ratings.csv", "ratings.csv.json")]


def test_a_truncated_archive_is_not_used_again(movies: Server, tmp_path: Path) -> None:
    place = tmp_path / "ml-tiny" / "ml-tiny.zip"
    place.parent.mkdir()
    place.write_bytes(movies.content[:100])
    assert load_named("ml-tiny", root=tmp_path).num_interactions == 3
    assert place.read_bytes() == movies.content
    # Put in place by hand, it must be the right one too.
    (place.parent / "ratings.csv").unlink()
    place.write_bytes(b"PK" + movies.content[2:-1] + b"x")
    movies.errors = [404] * 9
    with pytest.raises(DatasetError, match=r"HTTP 404.*ml-tiny\.zip: its SHA-256 is .*by hand and put it at"):
        load_named("ml-tiny", root=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive({"other/ratings.dat": RATINGS}), "has no ml-tiny/ratings.dat"),
        (archive({"ml-tiny/ratings.dat": RATINGS[:-10] + "\n"}), "ratings.dat:3: not user, item, rating and time|has"),
        (archive({"ml-tiny/ratings.dat": "1::2\n"}), "ratings.dat:1: not user, item, rating and time"),
        (archive({"ml-tiny/ratings.dat": RATINGS[:19]}), "has 1 ratings, not 3"),
        (archive({"ml-tiny/ratings.dat": RATINGS})[:-30], "damaged"),
        (archive({"ml-tiny/ratings.dat": "1" * 2**23}), "unpacks to more"),
        (b"\x80\x04\x95 a pickle", "damaged"),
    ],
)
def test_archives_that_are_none(
    content: bytes, message: str, movies: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    movies.content = content
    known = module._File(movies.url)
    offer(monkeypatch, "ml-tiny", module._Ratings(known, module._member("ml-tiny/ratings.dat", "::"), 3))
    with pytest.raises(DatasetError, match=message) as caught:
        load_named("ml-tiny", root=tmp_path)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "ml-tiny").iterdir()) == []


def test_lists_that_are_split_already(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files = {"/train.txt": b"0 0 1 2 3 4 5 6 7\n1 8 9\n", "/test.txt": b"0 10\n1 11 0\n"}
    base = server.url.rsplit("/", 1)[0]
    parts = (module._List(module._File(f"{base}/{name}.txt"), n) for name, n in (("train", 10), ("test", 3)))
    offer(monkeypatch, "book", module._Lists(*parts))
    with pytest.warns(UserWarning, match="no validation split"):
        book = load_named("book", root=tmp_path)
    assert book.test.tolist() == [[0, 1, 1], [10, 0, 11]]
    assert (book.train.size(1), book.valid.size(1)) == (9, 1)
    (tmp_path / "book" / "test.txt").write_bytes(b"0 10\n1 1")
    with pytest.warns(UserWarning, match="no validation split"):
        assert torch.equal(load_named("book", root=tmp_path).test, book.test)
    (tmp_path / "book" / "train.txt").unlink()
    (tmp_path / "book" / "train.txt.json").unlink()
    server.files["/train.txt"] = server.files["/train.txt"][:-2]
    with pytest.raises(DatasetError, match="has 9 interactions, not 10"):
        load_named("book", root=tmp_path)


def test_unknown_names_and_useless_caches(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no data set is called 'amazon'; there are amazon-electronics"):
        load_named("amazon", root=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match="amazon-office"):
        load_named("amazon-office", root=tmp_path / "file")
    assert {"amazon-electronics", "amazon-office", "amazon-baby", "ml-100k", "ml-1m", "amazon-book"} == set(NAMED)
    assert issubclass(DatasetError, InteractionError)


def test_what_is_offered_is_had_by_https_and_by_checksum_or_count() -> None:
    for name, source in module._SOURCES.items():
        parts = [source] if isinstance(source, module._Ratings) else [source.train, source.test]
        for part in parts:
            assert part.file.url.startswith("https://"), name
            assert part.count > 50_000
    for name in ("ml-100k", "ml-1m"):
        source = module._SOURCES[name]
        assert isinstance(source, module._Ratings)
        assert re.fullmatch("[0-9a-f]{64}", source.file.sha256 or "")


def test_no_data_set_class_of_another_library_is_imported() -> None:
    code = "import sys; import infodcl_geo.data.named; print('torch_geometric.datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
