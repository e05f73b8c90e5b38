"""A comparison or a search that was stopped goes on in the midst of the training it was at, and past what fails."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from infodcl_geo.cli import main
from infodcl_geo.comparison import Entry, Failure, TableFile, compare, summary
from infodcl_geo.configuration import Config, configure
from infodcl_geo.data.generated import power_law_graph
from infodcl_geo.errors import TrainingError
from infodcl_geo.experiment import fit, score
from infodcl_geo.files import locked
from infodcl_geo.outcome import Run
from infodcl_geo.training.callbacks import Callback
from infodcl_geo.training.checkpoint import CheckpointWarning, checkpoints
from infodcl_geo.training.state import TrainState

DATA = power_law_graph(60, 50, 700)
METRICS = ("recall@20", "ndcg@20")


class Killed(BaseException):
    """Stands for a process that is gone: nothing is written or removed any more."""


class Watch(Callback):
    """Notes the epochs that are trained, and ends the process after one of them.

    Args:
        last: the epoch.
        error: what ends it.
    """

    def __init__(self, last: int | None = None, error: type[BaseException] = Killed) -> None:
        self.last, self.error = last, error
        self.epochs: list[int] = []

    def on_epoch(self, state: TrainState) -> None:
        self.epochs.append(state.epoch)

    def on_step(self, state: TrainState) -> None:
        if self.last is not None and state.epoch == self.last:
            raise self.error


def plan(*models: str) -> list[Config]:
    options = {"epochs": 6, "eval_every": 2, "dim": 8, "batch_size": 128}
    return [configure(model, **({} if model == "popularity" else options)) for model in models]


def compared(table: Path, watch: Watch, models: Sequence[str] = ("popularity", "lightgcn"), **how: Any) -> list[Entry]:
    def execute(config: Config, **checkpoints: Any) -> Run:
        run = fit(DATA, config, progress=False, callbacks=[watch], **checkpoints)
        return score(DATA, run)

    settings = {"metrics": METRICS, "table": TableFile(table), "say": lambda _: None, "every": (None, 1), **how}
    return compare(DATA, plan(*models), execute, **settings)


def numbers(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    names = ("model", "best_epoch", "epochs_run")
    return [{k: v for k, v in e.row.items() if k in names or k.startswith(("test ", "valid "))} for e in entries]


@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
def test_a_stopped_comparison_goes_on_in_the_midst_of_its_training(error: type[BaseException], tmp_path: Path) -> None:
    whole = compared(tmp_path / "whole.csv", Watch())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.csv", "whole.csv.lock", "whole.npz"]
    with pytest.raises(error):
        compared(tmp_path / "table.csv", Watch(4, error))
    rest = Watch()
    found = compared(tmp_path / "table.csv", rest)
    assert rest.epochs == [5, 6] or rest.epochs == [4, 5, 6]
    assert numbers(found) == numbers(whole)
    for one, other in zip(found, whole, strict=True):
        for name in METRICS:
            np.testing.assert_array_equal(one.per_user[name], other.per_user[name])
    assert not (tmp_path / "table.csv.checkpoints").exists()


def test_a_damaged_checkpoint_of_a_comparison_is_begun_anew(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        compared(tmp_path / "table.csv", Watch(4))
    (folder,) = (tmp_path / "table.csv.checkpoints").iterdir()
    checkpoints(folder)[0].write_bytes(b"damaged")
    rest = Watch()
    with pytest.warns(CheckpointWarning, match="begins anew"):
        found = compared(tmp_path / "table.csv", rest)
    assert rest.epochs == [1, 2, 3, 4, 5, 6]
    assert numbers(found) == numbers(compared(tmp_path / "whole.csv", Watch()))


def test_a_training_that_another_process_is_at_is_done_beside_it(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        compared(tmp_path / "table.csv", Watch(4))
    (folder,) = (tmp_path / "table.csv.checkpoints").iterdir()
    rest = Watch()
    with locked(folder / "training"):
        found = compared(tmp_path / "table.csv", rest)
    assert rest.epochs == [1, 2, 3, 4, 5, 6]
    assert checkpoints(folder)  # which belong to that other process
    assert numbers(found) == numbers(compared(tmp_path / "whole.csv", Watch()))


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (TrainingError("diverged"), "diverged"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
    ],
)
def test_a_model_that_fails_is_named_and_leaves_no_checkpoints(raised: Exception, said: str, tmp_path: Path) -> None:
    def execute(config: Config, **more: Any) -> Run:
        if config.name == "mf":
            raise raised
        return score(DATA, fit(DATA, config, progress=False, **more))

    failures: list[Failure] = []
    found = compare(
        DATA, plan("mf", "lightgcn"), execute, metrics=METRICS, table=TableFile(tmp_path / "t.csv"),
        say=lambda _: None, failures=failures, every=(None, 1),
    )  # fmt: skip
    assert [e.label for e in found] == ["lightgcn"]
    assert [f.label for f in failures] == ["mf"]
    assert said in failures[0].error
    assert ["mf", "failed"] in [row[:2] for row in summary(found, METRICS, failures=failures)[1]]
    assert not (tmp_path / "t.csv.checkpoints").exists()


def test_what_is_no_fault_of_a_model_ends_the_comparison(tmp_path: Path) -> None:
    def execute(config: Config, **more: Any) -> Run:
        raise RuntimeError("a mistake in the library")

    with pytest.raises(RuntimeError, match="a mistake"):
        compare(
            DATA, plan("mf"), execute, metrics=METRICS, table=TableFile(tmp_path / "t.csv"), failures=[],
            every=(None, 1),
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Searches


optuna = pytest.importorskip("optuna")

from infodcl_geo import tuning  # noqa: E402
from infodcl_geo.cli.tune import _storage  # noqa: E402
from infodcl_geo.tuning import Budget, Search, trial_rows  # noqa: E402


def make(options: Any) -> Config:
    return configure("mf", **{"epochs": 6, "eval_every": 2, "dim": 8, "batch_size": 128, **options})


def searched(place: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch, trials: int = 2) -> Any:
    def watched(*given: Any, callbacks: Sequence[Callback] = (), checkpoint: Any = None, **more: Any) -> Run:
        if checkpoint is not None:
            checkpoint = type(checkpoint)(checkpoint.folder, None, 1)
        return fit(*given, callbacks=[*callbacks, watch], checkpoint=checkpoint, **more)

    monkeypatch.setattr(tuning, "fit", watched)
    storage = _storage(str(place / "journal"))
    folder = place / "journal.checkpoints"
    return Search(DATA).run(make, Budget(trials), storage=storage, say=lambda _: None, checkpoints=folder)


@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
@pytest.mark.parametrize("epoch", [3, 5])
def test_a_stopped_search_goes_on_in_the_midst_of_its_trial(
    error: type[BaseException], epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = searched(tmp_path / "whole", Watch(), monkeypatch, trials=1)
    with pytest.raises(error):
        searched(tmp_path / "stopped", Watch(epoch, error), monkeypatch, trials=1)
    rest = Watch()
    found = searched(tmp_path / "stopped", rest, monkeypatch, trials=1)
    assert rest.epochs[0] >= epoch
    assert rest.epochs[-1] == 6
    assert [t.state.name for t in found.trials] == ["COMPLETE"] * len(whole.trials)
    assert found.trials[0].value == whole.trials[0].value
    assert found.trials[0].user_attrs == whole.trials[0].user_attrs
    assert found.trials[0].intermediate_values == whole.trials[0].intermediate_values
    assert not (tmp_path / "stopped" / "journal.checkpoints").exists()


def test_a_trial_that_another_process_is_at_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        searched(tmp_path, Watch(4), monkeypatch, trials=1)
    with locked(tmp_path / "journal.checkpoints" / "mf-0" / "training"):
        found = searched(tmp_path, Watch(), monkeypatch, trials=1)
    assert found.trials[0].state.name == "RUNNING"
    assert "COMPLETE" in [t.state.name for t in found.trials]


def test_a_search_whose_trials_all_fail_ends_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Run:
        raise TrainingError("mf: the loss is not finite")

    monkeypatch.setattr(tuning, "fit", fails)
    said: list[str] = []
    study = Search(DATA).run(make, Budget(40), say=said.append)
    assert len(study.trials) == tuning.MOST_FAILURES
    assert all("not finite" in line for line in said)
    assert {row["state"] for row in trial_rows(study)} == {"fail"}
    assert {row["error"] for row in trial_rows(study)} == {"mf: the loss is not finite"}


def test_tune_goes_on_past_a_model_that_fails_and_names_it_in_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"{u},{i}\n" for u, i in zip(*DATA.train.tolist(), strict=True))
    (tmp_path / "ratings.csv").write_text("user,item\n" + rows)
    real: Callable[..., Run] = fit

    def fails(data: Any, config: Config, **more: Any) -> Run:
        if config.name == "gfcf":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(data, config, **more)

    monkeypatch.setattr(tuning, "fit", fails)
    words = ["tune", "--data", tmp_path / "ratings.csv", "--models", "gfcf", "ease", "--trials", 2, "--out"]
    assert main([*map(str, words), str(tmp_path / "found.yaml")]) == 1
    assert "gfcf: no trial was completed" in capsys.readouterr().out
    with (tmp_path / "found.csv").open(newline="") as file:
        table = [(row["model"], row["state"], row["error"]) for row in csv.DictReader(file)]
    assert {state for model, state, _ in table if model == "gfcf"} == {"fail"}
    assert all("not enough memory" in error for model, _, error in table if model == "gfcf")
    assert {state for model, state, _ in table if model == "ease"} == {"complete"}
