"""The benchmark scripts run as the README calls them, on a small graph."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch

from infodcl_geo.data.generated import power_law_graph
from infodcl_geo.data.interactions import load_interactions

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph")
    data = power_law_graph(120, 150, 1500)
    for name in ("train", "valid", "test"):
        lines = "".join(f"{user} {item}\n" for user, item in getattr(data, name).T.tolist())
        (path / f"{name}.txt").write_text(lines)
    return path


def test_epoch_time(folder: Path, tmp_path: Path) -> None:
    names = ["infodcl", "infodcl-two", "mf", "lightgcn", "simgcl", "pyg-lightgcn", "pyg-lightgcn-edge-index"]
    command = ["benchmarks/epoch_time.py", "--data", str(folder), "--models", ",".join(names), "--no-memory"]
    command += [
        "--rounds",
        "2",
        "--threads",
        "1",
        "--dim",
        "16",
        "--batch-size",
        "256",
        "--out",
        str(tmp_path / "t.csv"),
    ]
    command += ["--quality", str(tmp_path / "q.csv"), "--quality-models", "infodcl,lightgcn", "--epochs", "4"]
    command += ["--eval-every", "2", "--figure", str(tmp_path / "f.png")]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True, text=True)
    times = pd.read_csv(tmp_path / "t.csv")
    assert times["model"].tolist() == names
    assert (times["seconds_per_epoch"] > 0).all()
    assert (times["fastest_epoch"] <= times["seconds_per_epoch"]).all()
    assert (times["train"] > 0).all()
    reference = times.set_index("model")["ratio_to_pyg_lightgcn"]
    assert reference[["pyg-lightgcn", "pyg-lightgcn-edge-index"]].min() == pytest.approx(1)
    assert times.set_index("model").loc["infodcl", "once_pretraining_seconds"] > 0
    quality = pd.read_csv(tmp_path / "q.csv")
    assert quality.groupby("model")["epoch"].apply(list).to_dict() == {"infodcl": [2, 4], "lightgcn": [2, 4]}
    assert quality.groupby("model")["best"].sum().eq(1).all()
    for _, curve in quality.groupby("model"):
        assert curve["seconds"].is_monotonic_increasing
        assert (curve["seconds"] > curve["once_seconds"]).all()
    assert (tmp_path / "f.png").stat().st_size > 1000


def test_unknown_model_is_refused(folder: Path, tmp_path: Path) -> None:
    command = [
        "benchmarks/epoch_time.py",
        "--data",
        str(folder),
        "--models",
        "nothing",
        "--out",
        str(tmp_path / "t.csv"),
    ]
    answer = subprocess.run([sys.executable, *command], cwd=ROOT, check=False, capture_output=True, text=True)
    assert answer.returncode == 2
    assert "unknown models nothing" in answer.stderr


def test_channels_are_compared_and_runs_kept(tmp_path: Path) -> None:
    out = tmp_path / "channels.csv"
    command = [sys.executable, "benchmarks/channels.py", "--data", "demo", "--social", "planted", "--epochs", "1"]
    command += ["--seeds", "0", "--variants", "no channel", "similarity and noise", "--out", str(out)]
    command += ["--infodcl.channel_weights", "learned"]
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "similarity and noise" in done.stdout
    # The second time nothing was left to train.
    assert "best_epoch" not in done.stderr
    rows = pd.read_csv(out).set_index("variant")
    assert rows.loc["similarity and noise", "weight user"] > 1
    assert rows.loc["similarity and noise", "weight social"] < 1


def test_choosing_the_epoch_on_test_is_never_worse(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "selection.csv"
    command = [sys.executable, "benchmarks/selection.py", "--data", str(folder), "--models", "mf", "infodcl"]
    command += ["--seeds", "0", "--out", str(out), "--epochs", "6", "--eval_every", "2", "--dim", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = pd.read_csv(out)
    assert len(rows) == 2
    for metric in ("recall@20", "ndcg@20"):
        assert (rows[f"epoch by test, {metric}"] >= rows[f"epoch by validation, {metric}"]).all()
        masked = rows[f"epoch by test, validation masked, {metric}"]
        assert (masked >= rows[f"epoch by test, {metric}"]).all()
        assert rows[f"epoch by test, trained on validation too, {metric}"].between(0, 1).all()


def test_merged_data_train_on_validation_and_choose_on_test(folder: Path, script: Callable[[str], ModuleType]) -> None:
    data = load_interactions(folder)
    both = script("selection").merged(data)
    pairs = {tuple(pair) for pair in torch.cat([data.train, data.valid], dim=1).T.tolist()}
    assert {tuple(pair) for pair in both.train.T.tolist()} == pairs
    assert torch.equal(both.valid, data.test)
    assert both.test.size(1) == 0
