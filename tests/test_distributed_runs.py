"""Whole runs on several processes: metrics, checkpoints that another number goes on from, models with copies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks

from infodcl_geo import configure
from infodcl_geo.data.generated import demo
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.distributed.checkpoint import checkpoints
from infodcl_geo.distributed.evaluation import full_ranking, mean_metrics, own_pairs
from infodcl_geo.distributed.group import Group
from infodcl_geo.distributed.partition import partition
from infodcl_geo.distributed.run import run_several
from infodcl_geo.distributed.workers import take_part
from infodcl_geo.experiment import prepare
from infodcl_geo.training.callbacks import Callback
from infodcl_geo.training.loop import rank
from infodcl_geo.training.options import CheckpointOptions
from infodcl_geo.training.state import TrainState

RUNS: dict[str, dict[str, Any]] = {
    "mf": {"num_layers": 1, "adam": "lazy"},
    "simgcl": {},
    "infodcl": {"num_layers": 1, "anchor_batch": 64, "smoothing": 0.75},
}


def data_of() -> Interactions:
    return demo(1, num_users=120, num_items=81, num_interests=6).interactions


def config_of(name: str) -> Any:
    return configure(
        name, **{"dim": 8, "batch_size": 300, "seed": 3, "lr": 0.01, "epochs": 4, "eval_every": 2, **RUNS[name]}
    )


class StopAt(Callback):
    """Ends a run on one rank alone, in the midst of an epoch."""

    def __init__(self, epoch: int, step: int) -> None:
        self.at = (epoch, step)

    def on_step(self, state: TrainState) -> None:
        assert state.progress is not None
        if (state.epoch, state.progress.step) == self.at:
            state.stop("here")


def outcome(group: Group, name: str, folder: str | None = None, resume: bool = False, stop: bool = False) -> Any:
    data = data_of()
    run = run_several(
        data,
        config_of(name),
        group,
        tables="sharded",
        progress=False,
        callbacks=[StopAt(2, 2)] if stop else (),
        checkpoint=CheckpointOptions(folder, None) if folder else None,
        resume=folder if resume else None,
    )
    state = run.model.state()
    losses = [{k: v for k, v in row.items() if k != "seconds"} for row in run.result.history]
    return run.test, losses, (state["users"], state["items"]), run.result.ended, run.ranking and run.ranking.beyond


def all_runs(group: Group, folder: str) -> list[Any]:
    return [(outcome(group, name), outcome(group, name, f"{folder}/{name}", stop=True)) for name in RUNS]


def all_resumed(group: Group, folder: str) -> list[Any]:
    return [outcome(group, name, f"{folder}/{name}", resume=True) for name in RUNS]


def rows(history: list[dict[str, float]]) -> list[list[float]]:
    return [list(row.values()) for row in history]


def test_saved_by_two_resumed_by_four(tmp_path: Path) -> None:
    """The run goes on as if nothing had been, and what it finds is what one process finds with the same batches."""
    two = run_ranks(all_runs, 2, tmp_path / "two", str(tmp_path))
    for name in RUNS:
        (path,) = checkpoints(tmp_path / name)
        assert path.name == "checkpoint-000002-00000002"
    four = run_ranks(all_resumed, 4, tmp_path / "four", str(tmp_path))
    for place, name in enumerate(RUNS):
        whole, stopped = two[0][place]
        assert stopped[3] == "here"
        assert two[1][place][1][3] == "another process ended it"
        test, history, tables, ended, beyond = four[0][place]
        one = outcome(Group(0, 1, None, 1.0), name)
        assert ended.startswith("epochs used up")
        for other in (whole, one):
            assert len(history) == len(other[1]) == 4
            for row, wanted in zip(rows(history), rows(other[1]), strict=True):
                assert row == pytest.approx(wanted, abs=2e-3)
            assert test == pytest.approx(other[0], abs=5e-3)
            assert beyond == pytest.approx(other[4], rel=0.02)
            for table, wanted in zip(tables, other[2], strict=True):
                torch.testing.assert_close(table, wanted, rtol=1e-3, atol=2e-4)
        assert four[1][place][0] == {}


def copies(group: Group, name: str) -> Any:
    config = configure(name, dim=8, batch_size=300, epochs=2, eval_every=2, seed=3, num_layers=1)
    run = run_several(data_of(), config, group, progress=False)
    return run.test, [p.detach().clone() for p in run.model.parameters()], run.result.history


@pytest.mark.parametrize("name", ["ngcf", "mf"])
def test_whole_tables_stay_the_same_on_all_ranks(name: str, tmp_path: Path) -> None:
    one, other = run_ranks(copies, 2, tmp_path, name)
    for a, b in zip(one[1], other[1], strict=True):
        assert torch.equal(a, b)
    assert one[0]["recall@20"] > 0.1
    assert one[2][0]["bpr"] > one[2][1]["bpr"]


def of_a_model(group: Group) -> Any:
    """Metrics of a model as it starts, where a third of the users have no training interaction; and of one process."""
    data = data_of()
    data = replace(data, train=data.train[:, data.train[0] % 3 > 0])
    config = config_of("mf").changed(init="pretrained", smoothing=0.75)
    found: list[Any] = []
    for sharded in (True, False):
        model = prepare(data, config, progress=False).model
        alone = rank(data, model.scorer(), "test", ks=(5, 20))
        part = partition(data.num_users, data.num_items, group.size, group.rank)
        if sharded:
            take_part(model, own_pairs(data.train, part.users), part, group)
        how: Any = {"part": part, "group": group, "sharded": sharded, "ks": (5, 20)}
        whole = full_ranking(model, data, "test", **how)
        mean = mean_metrics(model, data, "test", **how)
        found.append((alone.mean(), alone.cold_users, mean, whole and (whole.mean(), whole.cold_users)))
    return found


def test_users_without_training_get_what_is_popular_among_all(tmp_path: Path) -> None:
    first, other = run_ranks(of_a_model, 2, tmp_path)
    for alone, cold, mean, whole in first:
        assert cold > 20
        assert mean == pytest.approx(alone, rel=1e-12)
        assert whole == (pytest.approx(alone, rel=1e-12), cold)
    assert [(mean, whole) for _, _, mean, whole in other] == [(mean, None) for _, _, mean, _ in first]
