"""Callbacks see what happens and end training; what is not finite ends it, and what was best before is kept."""

from __future__ import annotations

import csv
import io
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_checkpoint import DATA, OPTIONS, bits, built, the_same
from torch import Tensor, nn

from infodcl_geo.errors import InfodclGeoError, OptionError, TrainingError
from infodcl_geo.models.base import Batch
from infodcl_geo.models.mf import MatrixFactorization
from infodcl_geo.training.callbacks import (
    Callback,
    EarlyStopping,
    HistoryCsv,
    OnValidation,
    ProgressBar,
    TensorBoard,
    TimeLimit,
    WandB,
)
from infodcl_geo.training.finite import FiniteWatch
from infodcl_geo.training.loop import set_up, train
from infodcl_geo.training.options import CheckpointOptions, TrainOptions
from infodcl_geo.training.state import StopTraining, TrainState


class Recorder(Callback):
    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def on_start(self, state: TrainState) -> None:
        self.calls.append(("start", state.epoch))

    def on_step(self, state: TrainState) -> None:
        assert state.progress is not None
        self.calls.append(("step", state.progress.step))

    def on_validation(self, state: TrainState) -> None:
        self.calls.append(("validation", state.epoch))

    def on_epoch(self, state: TrainState) -> None:
        self.calls.append(("epoch", state.epoch))

    def on_end(self, state: TrainState) -> None:
        self.calls.append(("end", state.epoch))


def test_the_order_of_the_hooks() -> None:
    recorder = Recorder()
    train(built("mf"), DATA, replace(OPTIONS, epochs=2), progress=False, callbacks=[recorder])
    steps = [("step", k) for k in range(1, 6)]
    assert recorder.calls == [
        ("start", 0), *steps, ("epoch", 1), *steps, ("validation", 2), ("epoch", 2), ("end", 2),
    ]  # fmt: skip


def test_callbacks_do_not_change_the_numbers(tmp_path: Path) -> None:
    plain, watched = built("infodcl"), built("infodcl")
    one = train(plain, DATA, OPTIONS, progress=False)
    bar = ProgressBar(file=io.StringIO(), always=True)
    hooks = [Recorder(), bar, HistoryCsv(tmp_path / "h.csv"), TimeLimit(60), OnValidation(lambda *_: None)]
    two = train(watched, DATA, OPTIONS, progress=False, callbacks=hooks)
    assert the_same(plain, watched)
    assert one.validation == two.validation


def test_history_has_every_epoch() -> None:
    result = train(built("mf"), DATA, OPTIONS, progress=False)
    assert [row["epoch"] for row in result.history] == list(range(1, 8))
    assert [row["epoch"] for row in result.history if "ndcg@20" in row] == [2, 4, 6, 7]
    assert all({"seconds", "bpr", "reg"} <= row.keys() for row in result.history)
    assert [row["seconds"] for row in result.history] == sorted(row["seconds"] for row in result.history)


def test_why_training_ended() -> None:
    def ended(*callbacks: Callback, **options: Any) -> str:
        return train(
            built("mf"), DATA, replace(OPTIONS, **options), progress=False, callbacks=callbacks
        ).ended  # fmt: skip

    assert ended(lr=0.3, epochs=300, patience=6).startswith("patience: no better validation for 6 epochs")
    assert ended(epochs=300, lr=0.3, patience=300) == "epochs used up"
    assert ended(lr=1e-4, eval_every=1, epochs=1) == "epochs used up, still improving"
    assert ended(TimeLimit(1e-9)) == "time: 1e-09 minutes are used up"
    assert ended(EarlyStopping(2), lr=0.3, epochs=300) == "patience: no better validation for 2 epochs"
    assert ended(OnValidation(stop)) == "I said so"
    for wrong in (lambda: EarlyStopping(0), lambda: TimeLimit(0)):
        with pytest.raises(OptionError):
            wrong()


def stop(epoch: int, row: dict[str, float]) -> None:
    raise StopTraining("I said so")


class Pruned(Exception):
    """As ``optuna.TrialPruned``, which knows nothing of this library."""


def test_an_exception_of_a_callback_passes_through_and_the_best_is_kept() -> None:
    def prune(epoch: int, row: dict[str, float]) -> None:
        if epoch == 6:
            raise Pruned

    recorder, model = Recorder(), built("mf")
    with pytest.raises(Pruned):
        train(model, DATA, OPTIONS, progress=False, callbacks=[recorder, OnValidation(prune)])
    assert recorder.calls[-1] == ("end", 6)
    assert [call for call, _ in recorder.calls].count("end") == 1
    train(shorter := built("mf"), DATA, replace(OPTIONS, epochs=6), progress=False)
    assert the_same(model, shorter)


def test_the_bar_at_80_columns() -> None:
    out = io.StringIO()
    bar = ProgressBar(file=out, always=True, ncols=80)
    # The bar draws at most ten times a second: every epoch here.
    result = train(built("mf"), DATA, OPTIONS, name="my-model", progress=False, callbacks=[Slow(), bar])
    *frames, last = [part for part in out.getvalue().replace("\n", "\r").split("\r") if part.strip()]
    assert all(len(frame) <= 80 for frame in frames)
    full = [frame for frame in frames if "ndcg@20" in frame]
    assert full
    assert full[-1].startswith("my-model: ")
    assert "/7 |" in full[-1]
    assert "best 0." in full[-1]
    assert full[-1].rstrip().endswith("left")
    best = f"best ndcg@20 {result.validation['ndcg@20']:.4f} in epoch {result.best_epoch}"
    assert last == f"my-model: {result.ended}; {best}"


class Slow(Callback):
    def on_epoch(self, state: TrainState) -> None:
        import time

        time.sleep(0.11)


def test_history_as_csv(tmp_path: Path) -> None:
    path = tmp_path / "made" / "history.csv"
    result = train(built("mf"), DATA, OPTIONS, progress=False, callbacks=[HistoryCsv(path)])
    rows = list(csv.DictReader(path.open()))
    assert list(rows[0])[:4] == ["epoch", "seconds", "bpr", "reg"]
    for row, known in zip(rows, result.history, strict=True):
        assert {name: float(value) for name, value in row.items() if value} == known


def test_loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    run = SimpleNamespace(log=lambda row, step: logged.append((step, row)), summary={}, finish=lambda exit_code: None)
    given: dict[str, Any] = {}

    def init(**arguments: Any) -> Any:
        given.update(arguments)
        return run

    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    callback = WandB("project", {"dim": 8}, mode="offline")
    result = train(built("mf"), DATA, OPTIONS, name="mine", progress=False, callbacks=[callback])
    assert given == {"name": "mine", "project": "project", "config": {"dim": 8}, "mode": "offline"}
    assert [step for step, _ in logged] == list(range(1, 8))
    assert logged[-1][1]["validation/ndcg@20"] == result.history[-1]["ndcg@20"]
    assert logged[0][1].keys() == {"loss/bpr", "loss/reg"}
    assert run.summary == {"ended": result.ended}

    scalars: list[tuple[str, float, int]] = []
    writer = SimpleNamespace(
        add_scalar=lambda *row: scalars.append(row), add_text=lambda *_: None, close=lambda: scalars.append(("", 0, 0))
    )
    board = ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = lambda *_, **__: writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    train(built("mf"), DATA, OPTIONS, progress=False, callbacks=[TensorBoard(tmp_path)])
    assert scalars[0][::2] == ("loss/bpr", 1)
    assert scalars[-1] == ("", 0, 0)

    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(OptionError, match=r"infodcl-geo\[wandb\]"):
        WandB("project")
    with pytest.raises(OptionError, match=r"infodcl-geo\[tensorboard\]"):
        TensorBoard(tmp_path)


class Failing(MatrixFactorization):
    """A model that computes what is not finite in one step, in one way."""

    def __init__(self, how: str, at: int) -> None:
        from infodcl_geo.graph.graph import normalized_adjacency

        torch.manual_seed(0)
        sizes = DATA.num_users, DATA.num_items
        super().__init__(normalized_adjacency(DATA.train, *sizes), *sizes, dim=8, num_layers=1)
        self.how, self.at, self.calls = how, at, 0
        self.batches: list[Batch] = []
        self.unused = nn.Parameter(torch.ones(3))

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        terms = super().loss(batch, generator)
        self.batches.append(batch)
        terms["extra"] = self.user_embedding.weight.sum() * 0
        if self.calls == self.at:
            if self.how == "term":
                terms["extra"] = terms["extra"] + float("inf")
            elif self.how == "gradient":
                # sqrt(0) is 0, its gradient infinite.
                terms["extra"] = (self.user_embedding.weight * 0).sqrt().sum()
            elif self.how == "parameter":
                with torch.no_grad():
                    self.unused[1] = float("nan")
            elif self.how == "refusal":
                terms["extra"] = terms["extra"] * float("nan")
        if self.calls == self.at + 1 and self.how == "refusal":
            raise RuntimeError("probability tensor contains nan\nin two lines")
        self.calls += 1
        return terms


@pytest.mark.parametrize(
    ("how", "term"),
    [
        ("term", "loss term extra"),
        ("gradient", "the gradient"),
        ("parameter", "parameter unused"),
        ("refusal", "loss term extra"),
    ],
)
@pytest.mark.parametrize("epoch", [1, 5])
def test_what_is_not_finite_is_named_and_the_best_before_is_kept(
    how: str, term: str, epoch: int, tmp_path: Path
) -> None:
    step = 3
    model = Failing(how, 5 * (epoch - 1) + step - 1)
    recorder = Recorder()
    with pytest.raises(TrainingError) as caught:
        train(
            model, DATA, OPTIONS, name="mine", progress=False, callbacks=[recorder],
            checkpoint=CheckpointOptions(tmp_path, every_minutes=1e-9, keep=3) if how == "term" else None,
        )  # fmt: skip
    error = caught.value
    assert isinstance(error, InfodclGeoError)
    assert isinstance(error, FloatingPointError)
    assert str(error).startswith(f"mine: {term} is not finite in step ")
    assert str(error).endswith("a smaller lr may help")
    assert "\n" not in str(error)
    # A parameter that no loss reads is seen at the end of the epoch.
    wanted = 5 if how == "parameter" else step
    assert (error.epoch, error.step, error.term) == (epoch, wanted, term)
    for got, given in zip(error.batch, model.batches[5 * (epoch - 1) + wanted - 1], strict=True):
        assert torch.equal(torch.as_tensor(got), torch.as_tensor(given))
    assert error.result.ended == f"diverged: {term} is not finite in epoch {epoch}"
    assert len(error.result.history) == epoch - 1
    assert recorder.calls[-1][0] == "end"
    if epoch == 5:
        assert error.result.best_epoch in (2, 4)
        assert all(bool(value.isfinite().all()) for value in bits(model).values())
        train(good := Failing("never", -5), DATA, replace(OPTIONS, epochs=4), progress=False)
        assert the_same(model, good)
    if how == "term":
        kept = load_file(tmp_path / "diverged-batch.safetensors")
        assert torch.equal(kept["users"], error.batch.users)
        # No checkpoint holds anything of it: going on fails in the same step.
        with pytest.raises(TrainingError) as again:
            train(Failing(how, 0), DATA, OPTIONS, progress=False, resume=tmp_path)
        assert (again.value.epoch, again.value.step) == (epoch, step)


def test_a_diverging_learning_rate() -> None:
    with pytest.raises(TrainingError, match=r"loss term .* is not finite in step 2 of 5 of epoch 1"):
        train(built("infodcl"), DATA, TrainOptions(epochs=3, batch_size=128, lr=1e30), progress=False)
    with pytest.raises(TrainingError, match="a smaller lr may help"):
        train(built("diffrec"), DATA, TrainOptions(epochs=30, batch_size=128, lr=1e30), progress=False)
    for lr in (float("inf"), float("nan"), 0.0):
        with pytest.raises(OptionError, match="lr must be positive"):
            TrainOptions(lr=lr)


def test_the_watch_reads_by_itself_now_and_then() -> None:
    model = nn.Linear(2, 1, bias=False)
    watch = FiniteWatch(model)
    for step in range(600):
        model.weight.grad = torch.ones(1, 2)
        watch.note(
            {"a": torch.zeros(()), "b": torch.zeros(())}, torch.tensor([0.0, float("inf") if step == 300 else 1])
        )
        assert watch._since < 256
    assert watch.first_bad() == (300, "loss term b")
    watch.restart(7)
    assert watch.first_bad() is None
    model.weight.grad = torch.tensor([[1.0, float("nan")]])
    watch.note({"a": torch.zeros(())}, torch.zeros(1))
    assert watch.first_bad() == (7, "the gradient")


def test_the_model_says_which_items_its_batches_diffuse() -> None:
    model = built("mf")
    sampler, _ = set_up(model, DATA, OPTIONS)
    assert (sampler.anchors, sampler.anchor_batch) == ("items", 1024)
    model.anchors, model.anchor_batch = "positives", 7
    sampler, _ = set_up(model, DATA, OPTIONS)
    assert (sampler.anchors, sampler.anchor_batch) == ("positives", 7)
    with pytest.raises(TypeError):
        TrainOptions(anchors="items")  # type: ignore[call-arg]
