"""A stopped, killed or interrupted run goes on to the same bits; damaged or foreign checkpoints are refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from infodcl_geo.data.generated import power_law_graph
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.errors import CheckpointError, FileError, OptionError
from infodcl_geo.files import locked
from infodcl_geo.graph.graph import normalized_adjacency
from infodcl_geo.models.base import Model
from infodcl_geo.models.diffrec import DiffRec, DiffRecOptions
from infodcl_geo.models.infodcl import InfoDCL, InfoDCLOptions
from infodcl_geo.models.lightgcn import LightGCN
from infodcl_geo.models.mf import MatrixFactorization
from infodcl_geo.models.ncl import NCL, NCLOptions
from infodcl_geo.models.simgcl import SimGCL
from infodcl_geo.training.callbacks import Callback
from infodcl_geo.training.checkpoint import CheckpointWarning, checkpoints, read_checkpoint, remove_checkpoints
from infodcl_geo.training.loop import train
from infodcl_geo.training.options import CheckpointOptions, TrainOptions
from infodcl_geo.training.state import StopTraining, TrainState

DATA = power_law_graph(60, 50, 700)
STEPS = 5
OPTIONS = TrainOptions(epochs=7, batch_size=128, lr=0.01, eval_every=2)


def built(name: str, data: Interactions = DATA) -> Model:
    """A model from seed 0; ``infodcl`` learns channel weights, and ``lazy`` is InfoDCL on sampled candidates."""
    torch.manual_seed(0)
    sizes = data.num_users, data.num_items
    graph = normalized_adjacency(data.train, *sizes)
    if name == "diffrec":
        return DiffRec(data.train, *sizes, options=DiffRecOptions(hidden=16))
    if name in ("infodcl", "lazy"):
        channels = {c: torch.randn(data.num_items, 8) for c in ("one", "two")}
        options = InfoDCLOptions(channel_weights="learned", candidates=5 if name == "lazy" else 0)
        model = InfoDCL(graph, *sizes, channels, options=options)
        model.anchor_batch = 10
        return model
    if name == "ncl":
        return NCL(graph, *sizes, dim=8, options=NCLOptions(clusters=6, warm_up=1, every=2))
    kind = {"lightgcn": LightGCN, "simgcl": SimGCL, "mf": MatrixFactorization}[name]
    return kind(graph, *sizes, dim=8)


class StopAt(Callback):
    """Ends training at a step, as a signal or a crash would."""

    def __init__(self, epoch: int, step: int, how: Callable[[], None]) -> None:
        self.place, self.how = (epoch, step), how

    def on_step(self, state: TrainState) -> None:
        assert state.progress is not None
        if (state.epoch, state.progress.step) == self.place:
            self.how()


class Killed(Exception):
    """Stands for a process that is gone: no last checkpoint is written."""


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def kill() -> None:
    raise Killed


def bits(model: Model) -> dict[str, Tensor]:
    return {**model.state_dict(), **dict(model.named_buffers())}


def the_same(one: Model, other: Model) -> bool:
    a, b = bits(one), bits(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def options_of(name: str) -> TrainOptions:
    return replace(OPTIONS, adam="lazy") if name == "lazy" else OPTIONS


NAMES = ["diffrec", "infodcl", "lazy", "lightgcn", "mf", "ncl", "simgcl"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [(0, 1), (2, 3), (3, 5), (6, 4)])
def test_a_terminated_run_goes_on_to_the_same_bits(name: str, place: tuple[int, int], tmp_path: Path) -> None:
    options, straight, broken, resumed = options_of(name), built(name), built(name), built(name)
    whole = train(straight, DATA, options, progress=False)
    folder = CheckpointOptions(tmp_path)
    torch.manual_seed(1)
    first = train(broken, DATA, options, progress=False, checkpoint=folder, callbacks=[StopAt(*place, terminate)])
    assert first.interrupted
    assert first.ended == f"interrupted by SIGTERM in epoch {place[0] + 1}"
    # After the last step of an epoch the epoch is ended, and validated.
    assert len(first.history) == place[0] + (place[1] == STEPS)
    torch.manual_seed(2)
    second = train(resumed, DATA, options, progress=False, resume=tmp_path)
    assert the_same(resumed, straight)
    assert second.validation == whole.validation
    assert second.best_epoch == whole.best_epoch
    assert (second.ended, second.interrupted) == (whole.ended, False)
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in r.history] for r in (whole, second)]
    assert timeless[0] == timeless[1]
    assert len(second.epoch_seconds) == options.epochs


@pytest.mark.parametrize("name", ["diffrec", "infodcl", "lazy", "lightgcn", "ncl", "simgcl"])
def test_a_killed_run_goes_on_from_its_last_checkpoint(name: str, tmp_path: Path) -> None:
    options, straight = options_of(name), built(name)
    whole = train(straight, DATA, options, progress=False)
    folder = CheckpointOptions(tmp_path, every_epochs=2, keep=2)
    for place in ((1, 2), (3, 1), (5, 4)):
        again = tmp_path if list(tmp_path.iterdir()) else None
        with pytest.raises(Killed):
            train(
                built(name), DATA, options, progress=False, checkpoint=folder, resume=again,
                callbacks=[StopAt(*place, kill)],
            )  # fmt: skip
    assert [path.name[:17] for path in checkpoints(tmp_path)] == ["checkpoint-000004", "checkpoint-000002"]
    resumed = built(name)
    result = train(resumed, DATA, options, progress=False, resume=tmp_path)
    assert the_same(resumed, straight)
    assert result.validation == whole.validation


def test_checkpoints_by_time_in_the_midst_of_an_epoch(tmp_path: Path) -> None:
    often = CheckpointOptions(tmp_path, every_minutes=1e-9, keep=100)
    straight = built("infodcl")
    train(straight, DATA, OPTIONS, progress=False, checkpoint=often)
    found = checkpoints(tmp_path)
    assert len(found) > 30
    for path in found[::9]:
        one = tmp_path / path.stem
        one.mkdir()
        (one / path.name).write_bytes(path.read_bytes())
        resumed = built("infodcl")
        train(resumed, DATA, OPTIONS, progress=False, resume=one)
        assert the_same(resumed, straight)


def test_a_finished_run_is_finished_when_resumed_and_may_be_given_more_epochs(tmp_path: Path) -> None:
    straight, model = built("lightgcn"), built("lightgcn")
    result = train(model, DATA, OPTIONS, progress=False, checkpoint=CheckpointOptions(tmp_path))
    again = built("lightgcn")
    resumed = train(again, DATA, OPTIONS, progress=False, resume=tmp_path)
    assert the_same(again, model)
    assert resumed == result
    longer = replace(OPTIONS, epochs=12)
    train(again := built("lightgcn"), DATA, longer, progress=False, resume=tmp_path)
    train(straight, DATA, longer, progress=False)
    assert the_same(again, straight)
    patient = replace(OPTIONS, epochs=300, patience=2, lr=0.3)
    first = train(built("mf"), DATA, patient, progress=False, checkpoint=CheckpointOptions(tmp_path / "p"))
    second = train(built("mf"), DATA, patient, progress=False, resume=tmp_path / "p")
    assert first.ended.startswith("patience")
    assert second == first
    remove_checkpoints(tmp_path)
    assert checkpoints(tmp_path) == []


def test_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    identity = json.dumps({"model": {"dim": 8}, "data": "abc"})
    folder = CheckpointOptions(tmp_path)
    train(built("mf"), DATA, OPTIONS, progress=False, checkpoint=folder, identity=identity)
    kept = checkpoints(tmp_path)[0].read_bytes()
    for changed, words in (
        ({"identity": json.dumps({"model": {"dim": 16}, "data": "abc"})}, "model.dim was 8, is 16"),
        ({"identity": "another"}, "is of another run"),
        ({"options": replace(OPTIONS, lr=0.5)}, "lr was 0.01, is 0.5"),
        ({"data": power_law_graph(60, 50, 600)}, "interactions was"),
    ):
        arguments = {"data": DATA, "options": OPTIONS, "identity": identity, **changed}
        with pytest.raises(CheckpointError, match=words) as caught:
            train(built("mf"), progress=False, resume=tmp_path, **arguments)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="model was 'MatrixFactorization', is 'LightGCN'"):
        train(built("lightgcn"), DATA, OPTIONS, progress=False, resume=tmp_path, identity=identity)
    assert checkpoints(tmp_path)[0].read_bytes() == kept


def test_nothing_to_go_on_from(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(CheckpointError, match="begin without resuming"):
            train(built("mf"), DATA, OPTIONS, progress=False, resume=folder)
    for wrong in ({"every_minutes": 0.0}, {"every_epochs": 0}, {"keep": 0}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            CheckpointOptions(tmp_path, **wrong)  # type: ignore[arg-type]


def test_a_damaged_checkpoint_is_passed_over_if_there_is_one_before(tmp_path: Path) -> None:
    straight = built("mf")
    folder = CheckpointOptions(tmp_path, every_epochs=1, keep=2)
    train(straight, DATA, OPTIONS, progress=False, checkpoint=folder)
    newest, before = checkpoints(tmp_path)
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(CheckpointWarning, match="going on from the one before"):
        train(resumed := built("mf"), DATA, OPTIONS, progress=False, resume=tmp_path, checkpoint=folder)
    assert the_same(resumed, straight)
    for path in checkpoints(tmp_path):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"), pytest.warns(CheckpointWarning):
        train(built("mf"), DATA, OPTIONS, progress=False, resume=tmp_path, checkpoint=folder)
    assert before.exists() or newest.exists()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    folder = tmp_path_factory.mktemp("written")
    stop = StopAt(2, 2, terminate)
    train(built("mf"), DATA, OPTIONS, progress=False, checkpoint=CheckpointOptions(folder), callbacks=[stop])
    path = checkpoints(folder)[0]
    return path, path.read_bytes()


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_mutation_is_gone_on_from(written: tuple[Path, bytes], data: st.DataObject) -> None:
    path, content = written
    changed = bytearray(content)
    header = int.from_bytes(content[:8], "little") + 8
    limit = data.draw(st.sampled_from([9, header, len(content)]))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, limit - 1))
        changed[position] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        changed = changed[: data.draw(st.integers(0, len(changed)))]
    path.write_bytes(changed)
    try:
        if bytes(changed) == content:
            return
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)
    finally:
        path.write_bytes(content)


def test_a_checkpoint_of_a_stranger_with_the_right_digest(written: tuple[Path, bytes], tmp_path: Path) -> None:
    _, content = written
    size = int.from_bytes(content[:8], "little")
    described = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["infodcl_geo"])
    tensors = load(content)

    def write(tensors: dict[str, Tensor], described: object) -> None:
        forged = bytearray(save(tensors, {"sha256": "0" * 64, "infodcl_geo": json.dumps(described)}))
        place = forged.index(b'"sha256":"') + 10
        forged[place : place + 64] = hashlib.sha256(forged).hexdigest().encode()
        (tmp_path / "checkpoint-000002-00000002.safetensors").write_bytes(forged)

    def refused(tensors: dict[str, Tensor], described: object) -> None:
        write(tensors, described)
        with pytest.raises(CheckpointError) as caught:
            train(built("mf"), DATA, OPTIONS, progress=False, resume=tmp_path)
        assert "\n" not in str(caught.value)

    write(tensors, described)
    train(built("mf"), DATA, OPTIONS, progress=False, resume=tmp_path)
    (tmp_path / checkpoints(tmp_path)[0]).unlink()
    for name in tensors:
        if not name.startswith("best/"):
            refused({key: value for key, value in tensors.items() if key != name}, described)
        if name.startswith(("model/", "random/", "optimizer/")) and tensors[name].dim():
            refused({**tensors, name: tensors[name][:-1].clone()}, described)
    weights = tensors["model/user_embedding.weight"].clone()
    weights[3, 3] = float("nan")
    refused({**tensors, "model/user_embedding.weight": weights}, described)
    for key in described:
        refused(tensors, {k: v for k, v in described.items() if k != key})
        refused(tensors, {**described, key: [["surprise"]]})
    refused(tensors, [])
    # A place before the beginning would be trained from for longer than anybody waits.
    for key, value in (("epoch", -(2**70)), ("epoch", 1.5), ("step", -1), ("step", 10**9)):
        refused(tensors, {**described, key: value})
    # 0 is not False: the optimiser's own code would fail on it in the midst of training.
    for before, after in (("false", "0"), ("true", "1")):
        changed = json.dumps(described["optimizer"]).replace(before, after)
        if changed != json.dumps(described["optimizer"]):
            refused(tensors, {**described, "optimizer": json.loads(changed)})


def test_a_folder_is_one_run_s_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(FileError, match="another process"):
        train(built("mf"), DATA, OPTIONS, progress=False, checkpoint=CheckpointOptions(tmp_path))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError, match="a file of that name"):
        train(built("mf"), DATA, OPTIONS, progress=False, checkpoint=CheckpointOptions(tmp_path / "file"))


def test_a_full_disk_in_the_midst_of_training_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = built("mf")
    train(straight, DATA, OPTIONS, progress=False)
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 8:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    often = CheckpointOptions(tmp_path, every_epochs=1)
    with pytest.warns(CheckpointWarning, match="the disk is full; the checkpoint before stays"):
        train(model := built("mf"), DATA, OPTIONS, progress=False, checkpoint=often)
    monkeypatch.undo()
    assert the_same(model, straight)
    assert len(checkpoints(tmp_path)) == 1
    train(resumed := built("mf"), DATA, OPTIONS, progress=False, resume=tmp_path)
    assert the_same(resumed, straight)


def test_a_second_signal_ends_at_once_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    class Twice(Callback):
        def on_step(self, state: TrainState) -> None:
            if state.epoch == 4:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    model = built("mf")
    result = train(model, DATA, OPTIONS, progress=False, callbacks=[Twice()])
    assert result.interrupted
    assert result.ended == "interrupted by Ctrl-C in epoch 5"
    assert result.best_epoch in (2, 4)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    # Interrupted: the best so far is what the model has, as if it had been trained no longer.
    train(shorter := built("mf"), DATA, replace(OPTIONS, epochs=4), progress=False)
    assert the_same(model, shorter)


def test_training_in_another_thread() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(train(built("mf"), DATA, OPTIONS, progress=False)))
    thread.start()
    thread.join()
    assert found[0].ended.startswith("epochs used up")


PROGRAM = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_checkpoint import DATA, OPTIONS, built
from infodcl_geo import files
from infodcl_geo.training.loop import train
from infodcl_geo.training.options import CheckpointOptions
left = 0
def counted(real):
    def call(*arguments, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)
    return call
for name in ("open", "replace", "fsync", "unlink"):
    setattr(files.os, name, counted(getattr(os, name)))
train(built("mf"), DATA, OPTIONS, progress=False)  # loads once what every copy would load by itself
left = 0
kills = 0
while True:
    child = os.fork()
    if child == 0:
        left = kills + 1
        folder = CheckpointOptions(Path(sys.argv[2]) / str(kills), every_epochs=2)
        train(built("mf"), DATA, OPTIONS, progress=False, checkpoint=folder)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    kills += 1
print(kills)
"""


def test_killed_at_every_file_operation_of_training(tmp_path: Path) -> None:
    straight = built("mf")
    train(straight, DATA, OPTIONS, progress=False)
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path)]
    # One thread: a process with several cannot be copied.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    kills = int(done.stdout)
    assert kills > 20
    begun = 0
    for killed in range(kills):
        folder = tmp_path / str(killed)
        resumed = built("mf")
        there = bool(checkpoints(folder))
        begun += there
        train(resumed, DATA, OPTIONS, progress=False, **({"resume": folder} if there else {}))  # type: ignore[arg-type]
        assert the_same(resumed, straight)
        assert not (there and [name for name in os.listdir(folder) if ".tmp-" in name])
    assert begun > 15


def test_stop_training_keeps_what_is_there(tmp_path: Path) -> None:
    class Enough(Callback):
        def on_validation(self, state: TrainState) -> None:
            if state.epoch == 4:
                raise StopTraining("enough")

    result = train(
        built("mf"), DATA, OPTIONS, progress=False, callbacks=[Enough()], checkpoint=CheckpointOptions(tmp_path)
    )
    assert (result.ended, result.interrupted) == ("enough", False)
    straight = built("mf")
    train(straight, DATA, OPTIONS, progress=False)
    train(resumed := built("mf"), DATA, OPTIONS, progress=False, resume=tmp_path)
    assert the_same(resumed, straight)
