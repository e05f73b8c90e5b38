"""Checkpoints: whole or one line that says what is wrong, whatever the bytes and whoever writes meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from test_recommender import tiny, trained

from infodcl_geo.data.ids import IdMap
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.errors import CheckpointError, InfodclGeoError, ScoreError
from infodcl_geo.models import find_recipe
from infodcl_geo.recommender import Recommender
from infodcl_geo.saved import FORMAT, _digest, _id_tensors, _ids

DATA = Path(__file__).parent / "data"


def by_hand(names: Any = ("ann", "bob", "cat")) -> Recommender:
    users = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    items = torch.tensor([[4.0, 0.0], [3.0, 1.0], [2.0, 5.0], [1.0, 2.0]])
    train, valid = torch.tensor([[0, 2, 2], [0, 0, 1]]), torch.tensor([[0, 1], [3, 3]])
    config = {"model": "mf", "options": {"dim": 2}}
    return Recommender(
        {"users": users, "items": items}, IdMap(list(names)), IdMap([10, 20, 30, 40]), train, valid, config
    )


@pytest.fixture(scope="module")
def diffrec() -> Recommender:
    data = tiny()
    return Recommender.from_run(trained("diffrec", data), data)


def rewrite(folder: Path, about: Any = None, tensors: Any = None) -> None:
    """Change a checkpoint as somebody would who knows its format: all hashes fit."""
    index = json.loads((folder / "model.json").read_text())
    if about is not None:
        about(index["about"])
        index["about"]["sha256"] = _digest(index["about"]["content"])
    entry = index["files"]["model.safetensors"]
    if tensors is not None:
        held = load_file(folder / entry["file"])
        tensors(held)
        content = save({name: value.contiguous() for name, value in held.items()})
        (folder / entry["file"]).write_bytes(content)
        entry |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "model.json").write_text(json.dumps(index))


def assert_refused(folder: Path, message: str = "") -> None:
    with pytest.raises(CheckpointError) as caught:
        Recommender.load(folder)
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert str(folder) in text


# ---------------------------------------------------------------------------------------------------------------------
# There and back


def test_round_trip(tmp_path: Path) -> None:
    data = tiny()
    recommender = Recommender.from_run(trained("mf", data), data)
    recommender.save(tmp_path / "new" / "folder")
    again = Recommender.load(tmp_path / "new" / "folder")
    assert again.state.keys() == recommender.state.keys()
    assert all(torch.equal(again.state[name], value) for name, value in recommender.state.items())
    assert (again.user_ids, again.item_ids) == (recommender.user_ids, recommender.item_ids)
    assert torch.equal(again.train, data.train)
    assert torch.equal(again.valid, data.valid)
    assert again.config == json.loads(json.dumps(recommender.config))
    assert again.record == replace(recommender.record, metrics=again.record.metrics)
    assert again.record.fingerprint == data.fingerprint
    assert again.record.metrics["test"] == recommender.record.metrics["test"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.sets(st.integers(-(2**63), 2**63 - 1), min_size=1), st.sets(TEXT, min_size=1)))
def test_ids_come_back(raw: set[Any]) -> None:
    ids = IdMap(sorted(raw))
    assert _ids(_id_tensors("users", ids), "users") == ids


def test_files_are_readable_by_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        by_hand().save(tmp_path / "run")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").iterdir()}
    assert {name for name in modes if name.endswith((".safetensors", ".json", ".md"))}
    assert set(modes.values()) == {0o644}


def test_the_card_says_what_is_known(tmp_path: Path) -> None:
    data = tiny()
    recommender = Recommender.from_run(trained("ease", data), data)
    names = replace(recommender.record, name="a|b\nc\x1b[0m")
    replace(recommender, record=names).save(tmp_path)
    text = (tmp_path / "card.md").read_text()
    assert "\x1b" not in text
    assert "| name | a\\|b\\\\nc\\\\x1b[0m |" in text
    recall = f"{recommender.record.metrics['test']['recall@10']:.4f}"
    for wanted in (data.fingerprint, recall, "options: l2", "## Limits"):
        assert wanted in text


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    by_hand().save(tmp_path)
    bad = replace(by_hand(), state={"users": torch.full((3, 2), torch.nan), "items": torch.ones(4, 2)})
    with pytest.raises(CheckpointError, match="not finite"):
        bad.save(tmp_path)
    assert Recommender.load(tmp_path).recommend(["ann"], 1)[0].items.tolist() == [20]


def test_a_model_of_ones_own_ranks_without_its_code(tmp_path: Path) -> None:
    data = tiny()
    mine = replace(find_recipe("svd"), name="mine")
    outcome = trained(mine, data)
    Recommender.from_run(outcome, data).save(tmp_path / "plain")
    assert Recommender.load(tmp_path / "plain").score(data, ks=(5, 10)).ranking.mean() == outcome.test
    # One that has to be restored needs its recipe, and only that one.
    own = replace(find_recipe("gfcf"), name="own")
    Recommender.from_run(trained(own, data), data).save(tmp_path / "restored")
    assert_refused(tmp_path / "restored", "give its recipe, as file.py:recipe")
    assert Recommender.load(tmp_path / "restored", recipe=own).recommend(["u01"], 2)
    with pytest.raises(CheckpointError, match="a checkpoint of own, not of gfcf"):
        Recommender.load(tmp_path / "restored", recipe="gfcf")


# ---------------------------------------------------------------------------------------------------------------------
# Other versions


def test_format_2_is_read(tmp_path: Path) -> None:
    """The committed checkpoint of version 0.2; later versions must read it as well."""
    old = Recommender.load(DATA / "checkpoint_v2")
    for folder in (None, tmp_path):
        if folder is not None:
            old.save(folder)
            old = Recommender.load(folder)
        ann, cat, eve = old.recommend(["ann", "cat", "eve"], k=3)
        assert (ann.items.tolist(), ann.scores.tolist()) == ([12, 13, 14], [2, 1, 0])
        assert cat.items.tolist() == [12, 13, 14]
        assert eve.items.tolist() == [13, 11, 10]
        assert not old.recommend(["fay"])[0].known
        assert old.config["data"]["split"] == "temporal"
        assert old.valid.tolist() == [[0, 2, 3], [1, 1, 0]]


def test_format_2_knows_its_data_by_the_pairs() -> None:
    old = Recommender.load(DATA / "checkpoint_v2")
    test = torch.tensor([[0, 1], [2, 0]])
    data = Interactions(old.train, old.valid, test, 6, 5, old.user_ids, old.item_ids, "small")
    assert old.score(data, ks=(2,)).ranking.mean()["recall@2"] == 0.5
    with pytest.raises(InfodclGeoError, match="the valid pairs are others"):
        old.score(replace(data, valid=old.valid[:, :1]))


def test_format_3_is_read(tmp_path: Path) -> None:
    """The committed checkpoint of the first version with format 3."""
    found = Recommender.load(DATA / "checkpoint_v3")
    assert [a.items.tolist() for a in found.recommend(["ann", "bob"], k=2)] == [[20, 30], [30, 20]]


def test_newer_formats_say_so(tmp_path: Path) -> None:
    by_hand().save(tmp_path)
    rewrite(tmp_path, about=lambda about: about.update(format=FORMAT + 1))
    assert_refused(tmp_path, "newer version")


# ---------------------------------------------------------------------------------------------------------------------
# Damage


@pytest.mark.parametrize("damage", ["cut", "no weights", "no index", "not json", "deep json", "pipe", "folder"])
def test_damaged_files(damage: str, tmp_path: Path) -> None:
    by_hand().save(tmp_path)
    (weights,), index = tmp_path.glob("model-*.safetensors"), tmp_path / "model.json"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:40])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "no index":
        index.unlink()
    elif damage == "not json":
        index.write_text("{")
    elif damage == "deep json":
        index.write_text("[" * 100_000)
    elif damage == "pipe":
        weights.unlink()
        os.mkfifo(weights)
    else:
        index.unlink()
        index.mkdir()
    assert_refused(tmp_path)


def swapped(name: str, value: Any) -> Any:
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swapped("state.users", torch.ones(2, 2)), "users are 2 x 2"),
        (swapped("state.users", torch.ones(3, 3)), "3 dimensions"),
        (swapped("state.users", torch.ones(3, 2, dtype=torch.int64)), "users are 3 x 2 of int64"),
        (swapped("state.items", torch.full((4, 2), torch.inf)), "not finite"),
        (swapped("state.items", torch.ones(4, 0)), "items are 4 x 0"),
        (swapped("train", torch.tensor([[0, 2, 2], [0, 0, 4]])), "outside"),
        (swapped("train", torch.tensor([[0, -1, 2], [0, 0, 1]])), "outside"),
        (swapped("train", torch.tensor([[0, 0, 2], [0, 0, 1]])), "not distinct"),
        (swapped("train", torch.tensor([[0.0], [0.0]])), "no pairs"),
        (swapped("valid", torch.tensor([[0], [0]])), "share pairs"),
        (swapped("ids.items", torch.tensor([10, 20, 30, 30])), "distinct"),
        (swapped("ids.items", torch.tensor([10, 20, 30])), "outside of 3 users and 3 items"),
        (swapped("ids.users.lengths", torch.tensor([3, 3, 4])), "no strings"),
        (swapped("ids.users.lengths", torch.tensor([-3, 9, 3])), "no strings"),
        (swapped("ids.users.text", torch.full((9,), 255, dtype=torch.uint8)), "no strings"),
        (lambda tensors: tensors.pop("valid"), "valid is missing"),
        (lambda tensors: tensors.pop("state.items"), "nothing to rank by"),
    ],
)
def test_what_does_not_fit_is_refused_though_all_hashes_do(change: Any, message: str, tmp_path: Path) -> None:
    by_hand().save(tmp_path)
    rewrite(tmp_path, tensors=change)
    assert_refused(tmp_path, message)


@pytest.mark.parametrize("name", ["slim", "turbocf"])
@pytest.mark.parametrize("change", ["column outside", "pointer outside", "pointers turn", "fewer values", "other type"])
def test_sparse_weights_point_nowhere_else(name: str, change: str, tmp_path: Path) -> None:
    data = tiny()
    Recommender.from_run(trained(name, data), data).save(tmp_path)
    prefix = "state." + ("item_term." if name == "slim" else "")

    def damage(tensors: dict[str, torch.Tensor]) -> None:
        pointers, columns = tensors[f"{prefix}pointers"], tensors[f"{prefix}columns"]
        if change == "column outside":
            columns[0] = 10**9
        elif change == "pointer outside":
            pointers[-1] += 10**9
        elif change == "pointers turn":
            pointers[2] = 10**9
        elif change == "fewer values":
            tensors[f"{prefix}values"] = tensors[f"{prefix}values"][1:]
        else:
            tensors[f"{prefix}columns"] = columns.to(torch.int32)

    rewrite(tmp_path, tensors=damage)
    assert_refused(tmp_path, "pointers")


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": 10**9},
        {"steps": 10**9},
        {"time_dim": 10**9},
        {"hidden": "12"},
        {"hidden": None},
        {"dropout": -1},
        {"nothing": 1},
    ],
)
def test_options_that_do_not_fit_their_weights_take_no_memory(
    change: dict[str, Any], diffrec: Recommender, tmp_path: Path
) -> None:
    diffrec.save(tmp_path)
    rewrite(tmp_path, about=lambda about: about["content"]["config"]["options"].update(change))
    assert_refused(tmp_path)


def test_a_changed_description_is_noticed(diffrec: Recommender, tmp_path: Path) -> None:
    diffrec.save(tmp_path)
    index = tmp_path / "model.json"
    index.write_text(index.read_text().replace('"noise_scale": 0.01', '"noise_scale": 0.02'))
    assert_refused(tmp_path, "was changed after it was written")


def test_old_ranges_are_bounded_by_the_weights(tmp_path: Path) -> None:
    for name in ("model.json", "model.safetensors"):
        (tmp_path / name).write_bytes((DATA / "checkpoint_v2" / name).read_bytes())
    index = tmp_path / "model.json"
    index.write_text(index.read_text().replace('"stop": 15', '"stop": 134217728'))
    assert_refused(tmp_path, "more than the weights have rows for")


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A few bits flipped, bytes replaced, cut out, doubled or put in."""
    found = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        at = draw.randrange(len(found) + 1)
        kind = draw.randrange(6)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and at < len(found):
            found[at] = draw.randrange(256)
        elif kind == 2:
            del found[at : at + draw.choice([1, 2, 8, 100])]
        elif kind == 3:
            found[at:at] = found[at : at + draw.choice([1, 8, 50])]
        elif kind == 4:
            found[at:at] = draw.choice([b"9", b"-", b"[", b"{", b"null", b"1e999", b"\x00", b"\xff", b'"', b"9" * 20])
        else:
            del found[at:]
    return bytes(found)


def load_and_use(folder: Path) -> bool:
    """Whether it loads; then it ranks, or says in one line that finite weights give scores that are not."""
    message, answers = "", []
    try:
        found = Recommender.load(folder)
        answers = found.recommend(found.user_ids.raw[:2].tolist(), 3)
    except (CheckpointError, ScoreError) as error:
        message = str(error)
    assert "\n" not in message
    assert all(np.isfinite(answer.scores).all() for answer in answers)
    return not message


def test_no_mutation_is_believed(diffrec: Recommender, tmp_path: Path) -> None:
    """5,000 mutations of any byte of the files: refused in one line, or without effect."""
    draw = random.Random(int(os.environ.get("INFODCL_GEO_FUZZ_SEED", "0")))
    diffrec.save(tmp_path / "a")
    by_hand().save(tmp_path / "b")
    loaded, count = 0, int(os.environ.get("INFODCL_GEO_FUZZ", "5000"))
    for folder in (tmp_path / "a", tmp_path / "b"):
        files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
        whole = {path: path.read_bytes() for path in files}
        for _ in range(count // 2):
            path = draw.choice(files)
            path.write_bytes(mutated(whole[path], draw))
            loaded += load_and_use(folder)
            path.write_bytes(whole[path])
    # White space between the words of the index is all that may be other than it was.
    assert loaded < count / 20


def test_no_mutation_with_fitting_hashes_crashes(diffrec: Recommender, tmp_path: Path) -> None:
    """5,000 mutations by somebody who mends the hashes: refused in one line, or a model that ranks."""
    draw = random.Random(int(os.environ.get("INFODCL_GEO_FUZZ_SEED", "1")))
    diffrec.save(tmp_path / "a")
    by_hand().save(tmp_path / "b")
    for name in ("model.json", "model.safetensors"):
        (tmp_path / "c").mkdir(exist_ok=True)
        (tmp_path / "c" / name).write_bytes((DATA / "checkpoint_v2" / name).read_bytes())
    for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "c"):
        index = folder / "model.json"
        whole = json.loads(index.read_text())
        (weights,) = folder.glob("*.safetensors")
        content = weights.read_bytes()
        for _ in range(int(os.environ.get("INFODCL_GEO_FUZZ", "5000")) // 3):
            changed, text = content, json.dumps(whole.get("about", {}).get("content", whole))
            if draw.random() < 0.5:
                changed = mutated(content, draw)
            else:
                text = mutated(text.encode(), draw).decode(errors="replace")
            try:
                described = json.loads(text)
            except (ValueError, RecursionError):
                continue
            found = described
            if "about" in whole:
                about = {**whole["about"], "content": described, "sha256": _digest(described)}
                entry = {"sha256": hashlib.sha256(changed).hexdigest(), "bytes": len(changed), "file": weights.name}
                found = {**whole, "about": about, "files": {"model.safetensors": entry}}
            index.write_text(json.dumps(found))
            weights.write_bytes(changed)
            load_and_use(folder)


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["format", "about", "files", "content", "config", "record", "model"]), inner
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_refused(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    folder = tmp_path_factory.mktemp("json")
    (folder / "model.json").write_text(json.dumps(content))
    assert_refused(folder)


# ---------------------------------------------------------------------------------------------------------------------
# Readers and killed writers


def test_readers_during_writes_see_one_model(tmp_path: Path) -> None:
    """Two models with other ids take turns in a folder; whoever reads meanwhile gets one of them, whole."""
    first, second = by_hand(("ann", "bob", "cat")), by_hand(("xav", "yve", "zoe"))
    second = replace(second, state={name: -value for name, value in second.state.items()})
    first.save(tmp_path)
    stop, wrong, read = threading.Event(), [], []

    def reader() -> None:
        while not stop.is_set():
            found = Recommender.load(tmp_path)
            is_first = found.user_ids.raw[0] == "ann"
            read.append(is_first)
            if not torch.equal(found.state["users"], (first if is_first else second).state["users"]):
                wrong.append(is_first)

    threads = [threading.Thread(target=reader) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(60):
        (second, first)[turn % 2].save(tmp_path)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(read) > 20


WRITER = """
import os, sys
import torch
sys.path.insert(0, sys.argv[1])
from test_saved import by_hand
from infodcl_geo import files
from infodcl_geo.recommender import Recommender
torch.set_num_threads(1)

def counted(function):
    def call(*given, **named):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return function(*given, **named)
    return call

for operations in range(40):
    child = os.fork()
    if child == 0:
        left = operations
        for name in ("open", "fsync", "replace", "listdir", "fdopen"):
            setattr(files.os, name, counted(getattr(files.os, name)))
        by_hand(("xav", "yve", "zoe")).save(sys.argv[2])
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.WIFSIGNALED(status), Recommender.load(sys.argv[2]).user_ids.raw[0])
    by_hand().save(sys.argv[2])
"""


def test_a_writer_killed_at_any_operation_leaves_a_whole_model(tmp_path: Path) -> None:
    by_hand().save(tmp_path)
    words = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    names = [name for _, name in found]
    # Killed early it is the old model, late the new one; at the end nobody is killed any more.
    assert names == sorted(names)
    assert set(names) == {"ann", "xav"}
    assert found[0][0] == "True"
    assert found[-1] == ["False", "xav"]
