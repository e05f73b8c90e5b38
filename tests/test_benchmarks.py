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


def call(script: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"benchmarks/{script}.py", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_epoch_time(folder: Path, tmp_path: Path) -> None:
    names = ["infodcl", "infodcl-two", "mf", "lightgcn", "simgcl", "pyg-lightgcn", "pyg-lightgcn-edge-index"]
    words = ["--data", folder, "--models", ",".join(names), "--no-memory", "--rounds", "2", "--threads", "1"]
    words += ["--dim", "16", "--batch-size", "256", "--out", tmp_path / "t.csv"]
    words += ["--quality", tmp_path / "q.csv", "--quality-models", "infodcl,lightgcn", "--epochs", "4"]
    done = call("epoch_time", *words, "--eval-every", "2", "--figure", tmp_path / "f.png")
    assert done.returncode == 0, done.stderr
    times = pd.read_csv(tmp_path / "t.csv").set_index("model")
    assert times.index.tolist() == names
    # How long anything took is up to the machine; that it was measured and with what is not.
    assert (times["seconds_per_epoch"] > 0).all()
    assert (times["ratio_to_pyg_lightgcn"] > 0).all()
    assert times["train"].eq(times["train"].iloc[0]).all()
    assert times["steps"].eq(-(-times["train"].iloc[0] // 256)).all()
    assert (
        times["steps_measured"].drop(["pyg-lightgcn", "pyg-lightgcn-edge-index"]).eq(2 * times["steps"].iloc[0]).all()
    )
    assert times.loc["infodcl", "once_pretraining_seconds"] > 0
    quality = pd.read_csv(tmp_path / "q.csv")
    assert quality.groupby("model")["epoch"].apply(list).to_dict() == {"infodcl": [2, 4], "lightgcn": [2, 4]}
    assert quality.groupby("model")["best"].sum().eq(1).all()
    for _, curve in quality.groupby("model"):
        assert curve["seconds"].is_monotonic_increasing
        assert (curve["seconds"] > curve["once_seconds"]).all()
    assert (tmp_path / "f.png").stat().st_size > 1000


def test_unknown_model_is_refused(folder: Path, tmp_path: Path) -> None:
    answer = call("epoch_time", "--data", folder, "--models", "nothing", "--out", tmp_path / "t.csv")
    assert answer.returncode == 2
    assert "unknown models nothing" in answer.stderr


def test_growth(tmp_path: Path) -> None:
    done = call("growth", "--out", tmp_path / "g.csv", "--scales", "0.02", "--sample", "50", "--models", "infodcl")
    assert done.returncode == 0, done.stderr
    (row,) = pd.read_csv(tmp_path / "g.csv").to_dict("records")
    assert (row["model"], row["users"], row["items"]) == ("infodcl", 658, 1059)
    assert row["seconds_per_step"] > 0
    assert row["steps"] == row["steps_per_epoch"]


def test_channels_are_compared_and_runs_kept(
    tmp_path: Path, script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    out, study = tmp_path / "channels.csv", script("channels").main
    words = ["--data", "demo", "--social", "planted", "--epochs", "1", "--seeds", "0", "--out", str(out)]
    words += ["--variants", "no channel", "similarity and noise"]
    learned = [*words, "--channel_weights", "learned"]
    assert study(learned) == 0
    printed = capsys.readouterr()
    assert "| similarity and noise" in printed.out
    assert printed.err.count("best_epoch") == 2
    rows = pd.read_csv(out).set_index("label")
    assert rows["model"].to_dict() == {"no channel": "mf", "similarity and noise": "infodcl"}
    assert rows.loc["similarity and noise", "weight user"] > 1
    assert rows.loc["similarity and noise", "weight social"] < 1
    # The second time nothing is left to train.
    assert study(learned) == 0
    again = capsys.readouterr()
    assert again.out == printed.out
    assert "best_epoch" not in again.err
    # Other settings are another run, but for the model that does not have them, and so is other metadata.
    assert study(words) == 0
    assert study([*learned, "--similarity", "item"]) == 0
    assert pd.read_csv(out)["label"].tolist() == ["no channel", *["similarity and noise"] * 3]


def test_choosing_the_epoch_on_test_is_never_worse(
    folder: Path, tmp_path: Path, script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    out, study = tmp_path / "selection.csv", script("selection").main
    words = ["--data", str(folder), "--seeds", "0", "--out", str(out), "--epochs", "6", "--eval_every", "2"]
    assert study([*words, "--models", "mf", "infodcl", "--dim", "8"]) == 0
    capsys.readouterr()
    rows = pd.read_csv(out)
    assert rows["model"].tolist() == ["mf", "infodcl"]
    for metric in ("recall@20", "ndcg@20"):
        assert (rows[f"epoch by test, {metric}"] >= rows[f"epoch by validation, {metric}"]).all()
        masked = rows[f"epoch by test, validation masked, {metric}"]
        assert (masked >= rows[f"epoch by test, {metric}"]).all()
        assert rows[f"epoch by test, trained on validation too, {metric}"].between(0, 1).all()
    # The same command finds its rows; another size of the embeddings does not.
    assert study([*words, "--models", "mf", "--dim", "8"]) == 0
    assert f"| mf      | {rows['epoch by validation, recall@20'].iloc[0]:.4f}" in capsys.readouterr().out
    assert len(pd.read_csv(out)) == 2
    assert study([*words, "--models", "mf", "--dim", "9"]) == 0
    assert len(pd.read_csv(out)) == 3


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("selection", ["--data", "no/such/folder", "--models", "mf", "--seeds", "0"], "no/such/folder"),
        ("selection", ["--models", "nothing"], "there is no model 'nothing'"),
        ("channels", ["--data", "no/such/folder", "--social", "x.tsv"], "no/such/folder"),
    ],
)
def test_errors_are_one_line(
    name: str, words: list[str], message: str, tmp_path: Path, script: Callable[[str], ModuleType]
) -> None:
    answer = script(name).main([*words, "--out", str(tmp_path / "t.csv")])
    assert message in answer
    assert "\n" not in answer


def test_merged_data_train_on_validation_and_choose_on_test(folder: Path, script: Callable[[str], ModuleType]) -> None:
    data = load_interactions(folder)
    both = script("selection").merged(data)
    pairs = {tuple(pair) for pair in torch.cat([data.train, data.valid], dim=1).T.tolist()}
    assert {tuple(pair) for pair in both.train.T.tolist()} == pairs
    assert torch.equal(both.valid, data.test)
    assert both.test.size(1) == 0


def test_the_tables_of_the_item_term_are_those_of_the_kept_rows() -> None:
    """Its README shows what the script prints, and the differences that are kept."""
    folder = ROOT / "benchmarks" / "studies" / "item_term"
    text = (folder / "README.md").read_text(encoding="utf-8")
    names = [path.stem.removeprefix("table-") for path in sorted((folder / "results").glob("table-*.csv"))]
    done = call("studies/item_term/summary", *names)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(lines) > 40
    assert [line for line in lines if line not in text] == []
    kept = pd.concat(pd.read_csv(path, dtype=str) for path in (folder / "results").glob("differences-*.csv"))
    shown = [f"{float(gap):+.4f}, p {p}" for gap, p in kept[["difference of test ndcg@20", "p (Holm)"]].values]
    assert [cell for cell in shown if cell not in text] == []
