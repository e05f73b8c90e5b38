"""The command line as scripts and newcomers use it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from infodcl_geo.cli import config_of, main
from infodcl_geo.experiment import ModelName

QUICK = ["--epochs", "2", "--dim", "8", "--eval-every", "1", "--progress", "false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty users with string ids who take items of their own group of three."""
    path = tmp_path_factory.mktemp("data") / "ratings.csv"
    lines = [f"user{u},{i}" for u in range(30) for i in range(60) if i % 3 == u % 3 and (u + i) % 5]
    path.write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    return path


def test_train_leaves_metrics_and_weights(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    code = main(["train", "--data", str(folder), "--model", "infodcl", "--seed", "3", "--out", str(out), *QUICK])
    assert code == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["model"] == "infodcl"
    assert metrics["seed"] == 3
    assert metrics["best_epoch"] in (1, 2)
    assert metrics["seconds_per_epoch"] > 0
    for split in ("validation", "test"):
        assert {"recall@20", "ndcg@50", "precision@10", "mrr@20", "hit@20"} <= metrics[split].keys()
    assert list(out.glob("*.safetensors"))
    printed = capsys.readouterr().out
    assert f"{metrics['test']['recall@20']:.4f}" in printed
    assert "generated" not in printed

    assert main(["evaluate", "--checkpoint", str(out), "--data", str(folder)]) == 0
    assert f"{metrics['test']['ndcg@20']:.4f}" in capsys.readouterr().out

    assert main(["recommend", "--checkpoint", str(out), "--users", "user3", "user4", "--k", "4", "--json", "true"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [answer["user"] for answer in answers] == ["user3", "user4"]
    assert all(len(answer["items"]) == 4 for answer in answers)
    assert main(["recommend", "--checkpoint", str(out), "--users", "user3", "--k", "2"]) == 0
    assert capsys.readouterr().out.count("user3") == 2


@pytest.mark.parametrize("model", ["popularity", "mf", "lightgcn"])
def test_every_model_trains(folder: Path, tmp_path: Path, model: str) -> None:
    assert main(["train", "--data", str(folder), "--model", model, "--out", str(tmp_path), *QUICK]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["model"] == model
    assert 0 <= metrics["test"]["recall@20"] <= 1


def test_the_same_seed_gives_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        main(["train", "--data", str(folder), "--seed", seed, "--out", str(tmp_path / name), *QUICK])
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        found.append((metrics["validation"], metrics["test"]))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_compare_prints_a_table_and_keeps_the_runs(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv = tmp_path / "table.csv"
    words = ["compare", "--data", str(folder), "--models", "[popularity,mf]", "--seeds", "[0,1]", "--out", str(csv)]
    assert main([*words, *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "| popularity" in printed
    assert "±" in printed
    table = pd.read_csv(csv)
    assert table["model"].tolist() == ["popularity", "mf", "mf"]
    assert table["seed"].tolist() == [0, 0, 1]


def test_a_configuration_file_and_flags_over_it(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"data: {folder}\nepochs: 3\ndim: 8\nprogress: false\ninfodcl:\n  basis: item\n")
    out = tmp_path / "out"
    assert main(["train", "--config", str(file), "--epochs", "1", "--out", str(out)]) == 0
    config = json.loads((out / "metrics.json").read_text())["config"]
    assert config["training"]["epochs"] == 1
    assert config["infodcl"]["basis"] == "item"
    assert config["model"]["dim"] == 8


def test_each_model_has_its_own_defaults(folder: Path, tmp_path: Path) -> None:
    layers = {}
    for model in ("lightgcn", "mf"):
        main(["train", "--data", str(folder), "--model", model, "--out", str(tmp_path), *QUICK])
        layers[model] = json.loads((tmp_path / "metrics.json").read_text())["config"]["model"]["num_layers"]
    assert layers == {"lightgcn": 2, "mf": 1}
    main(["train", "--data", str(folder), "--model", "mf", "--num_layers", "3", "--out", str(tmp_path), *QUICK])
    assert json.loads((tmp_path / "metrics.json").read_text())["config"]["model"]["num_layers"] == 3


def test_the_defaults_are_those_of_the_start(tmp_path: Path) -> None:
    def rates(model: ModelName, *words: str) -> tuple[float, float]:
        config = config_of(model, ["train", *words])
        return config.training.lr, config.model.init_std

    assert rates("mf") == rates("mf", "--init", "normal") == (0.005, 0.006)
    assert rates("mf", "--init", "pretrained") == rates("infodcl") == (0.0005, 0.2)
    assert rates("infodcl", "--init=normal") == (0.005, 0.02)
    assert rates("mf", "--init", "pretrained", "--lr", "0.1") == (0.1, 0.2)
    file = tmp_path / "config.yaml"
    file.write_text("init: pretrained\ninit_std: 0.3\n")
    assert rates("mf", "--config", str(file)) == (0.0005, 0.3)


def test_inspect_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--data", str(folder)]) == 0
    numbers = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert (numbers["users"], numbers["items"], numbers["interactions"]) == ("30", "60", "480")


def test_the_demo_is_said_to_be_generated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect"]) == 0
    assert "generated" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", ["epoch: 3\n", "infodcl:\n  bases: item\n", "infodcl:\n  basis: items\n", "epochs: many\n"]
)
def test_a_wrong_configuration_is_an_error(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config", str(file)])
    assert stop.value.code == 2
    assert "error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--data", "no/such/folder"], "no/such/folder"),
        (["train", "--epochs", "0"], "epochs must be at least 1"),
        (["recommend", "--checkpoint", "nowhere", "--users", "1"], "no checkpoint here"),
        (["evaluate", "--checkpoint", "nowhere"], "no checkpoint here"),
    ],
)
def test_errors_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error


def test_help_works_for_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["train"], ["compare"], ["evaluate"], ["recommend"], ["inspect"]):
        with pytest.raises(SystemExit) as stop:
            main([*words, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert "usage" in text
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    # Each option has its help from the docstrings.
    for words_of_help in ("learning rate of Adam", "ablation", "propagation layers", "header name of the user"):
        assert words_of_help in " ".join(text.split())
