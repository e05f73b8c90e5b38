"""The command line as scripts and newcomers use it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from infodcl_geo import Recommender, configure
from infodcl_geo.cli import COMMANDS, main
from infodcl_geo.cli.train import parsed
from infodcl_geo.configuration import TRAINING
from infodcl_geo.models import RECIPES
from infodcl_geo.training.checkpoint import checkpoints

QUICK = ["--epochs", "2", "--dim", "8", "--eval-every", "1", "--progress", "false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty users with string ids who take items of their own group of three."""
    path = tmp_path_factory.mktemp("data") / "ratings.csv"
    lines = [f"user{u},{i}" for u in range(30) for i in range(60) if i % 3 == u % 3 and (u + i) % 5]
    path.write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    return path


def read_metrics(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content: dict[str, Any] = json.loads((path / "metrics.json").read_text(), parse_constant=refuse)
    return content


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command is refused, before anything was trained."""
    try:
        code = main(words)
    except SystemExit as stop:
        code = int(stop.code or 0)
    printed = capsys.readouterr()
    assert code in (1, 2)
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith("infodcl-geo: ")
    return printed.err


def table_rows(printed: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]


# -- Train -------------------------------------------------------------------------------------------------------------


def test_train_leaves_metrics_and_weights(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    code = main(["train", "--data", str(folder), "--model", "infodcl", "--seed", "3", "--out", str(out), *QUICK])
    assert code == 0
    metrics = read_metrics(out)
    assert metrics["model"] == "infodcl"
    assert metrics["seed"] == 3
    assert metrics["best_epoch"] in (1, 2)
    assert metrics["seconds_per_epoch"] > 0
    for split in ("validation", "test"):
        assert {"recall@20", "ndcg@50", "precision@10", "mrr@20", "hit@20"} <= metrics[split].keys()
    assert [point["epoch"] for point in metrics["history"]] == [1, 2]
    assert {"python", "torch", "scipy"} <= metrics["versions"].keys()
    assert metrics["config"]["data"]["data"] == str(folder)
    assert set(metrics["config"]) == {"data", "model", "options", "training"}
    printed = capsys.readouterr().out
    assert f"{metrics['test']['recall@20']:.4f}" in printed
    assert "generated" not in printed
    assert "training ended: " in printed
    assert not checkpoints(out / "checkpoints"), "a finished training needs none"
    with (out / "history.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]

    assert main(["evaluate", "--checkpoint", str(out), "--data", str(folder)]) == 0
    assert f"{metrics['test']['ndcg@20']:.4f}" in capsys.readouterr().out

    assert main(["recommend", "--checkpoint", str(out), "--users", "user3", "user4", "--k", "4", "--json", "true"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [answer["user"] for answer in answers] == ["user3", "user4"]
    assert all(len(answer["items"]) == 4 for answer in answers)
    assert main(["recommend", "--checkpoint", str(out), "--users", "user3", "--k", "2"]) == 0
    assert capsys.readouterr().out.count("user3") == 2


@pytest.mark.parametrize("model", ["popularity", "mf", "lightgcn", "ease"])
def test_every_kind_of_model_trains(folder: Path, tmp_path: Path, model: str) -> None:
    quick = QUICK if model in ("mf", "lightgcn") else QUICK[-2:]
    assert main(["train", "--data", str(folder), "--model", model, "--out", str(tmp_path), *quick]) == 0
    metrics = read_metrics(tmp_path)
    assert metrics["model"] == model
    assert 0 <= metrics["test"]["recall@20"] <= 1
    assert ("training" in metrics["config"]) == (model in ("mf", "lightgcn"))


def test_the_same_seed_gives_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        main(["train", "--data", str(folder), "--seed", seed, "--out", str(tmp_path / name), *QUICK])
        metrics = read_metrics(tmp_path / name)
        found.append((metrics["validation"], metrics["test"]))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_each_model_has_its_own_defaults() -> None:
    assert parsed(["--model", "lightgcn"])[1] == configure("lightgcn")
    assert parsed(["--model", "mf"])[1] == configure("mf")
    assert parsed(["--model", "mf", "--num_layers", "3"])[1].options.num_layers == 3
    assert parsed([])[1].recipe is RECIPES[0]


def test_the_defaults_are_those_of_the_start(tmp_path: Path) -> None:
    def rates(model: str, *words: str) -> tuple[float, float]:
        config = parsed(["--model", model, *words])[1]
        return config.training.lr, config.options.init_std

    assert rates("mf") == rates("mf", "--init", "normal") == (0.005, 0.006)
    assert rates("mf", "--init", "pretrained") == rates("infodcl") == (0.0005, 0.2)
    assert rates("infodcl", "--init=normal") == (0.005, 0.02)
    assert rates("mf", "--init", "pretrained", "--lr", "0.1") == (0.1, 0.2)
    file = tmp_path / "config.yaml"
    file.write_text("init: pretrained\ninit_std: 0.3\n")
    assert rates("mf", "--config", str(file)) == (0.0005, 0.3)


# -- Configurations ----------------------------------------------------------------------------------------------------


def test_a_configuration_file_and_flags_over_it(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"data: {folder}\nepochs: 3\ndim: 8\nprogress: false\ninfodcl:\n  basis: item\n")
    out = tmp_path / "out"
    assert main(["train", "--config", str(file), "--epochs", "1", "--out", str(out)]) == 0
    config = read_metrics(out)["config"]
    assert config["training"]["epochs"] == 1
    assert config["options"]["basis"] == "item"
    assert config["options"]["dim"] == 8


@pytest.mark.parametrize("model", ["infodcl", "mf", "svd"])
def test_a_printed_configuration_gives_the_same_run(
    model: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--model", model, "--data", str(folder), "--split_seed", "2", "--dim", "8"]
    if model != "svd":
        words += ["--epochs", "2", "--eval_every", "1", "--lr", "0.003", "--seed", "4"]
    assert main([*words, "--print_config"]) == 0
    printed = capsys.readouterr().out
    content = yaml.safe_load(printed)
    assert content["model"] == model
    assert list(content) == ["data", "model", "options", *([] if model == "svd" else ["training"])]
    file = tmp_path / "printed.yaml"
    file.write_text(printed)
    assert main(["train", "--config", str(file), "--print_config"]) == 0
    assert capsys.readouterr().out == printed

    found = []
    own = tmp_path / "a" / "metrics.json"
    for name, given in (("a", words), ("b", ["train", "--config", str(file)]), ("c", ["train", "--config", str(own)])):
        assert main([*given, "--progress", "false", "--out", str(tmp_path / name)]) == 0
        metrics = read_metrics(tmp_path / name)
        found.append((metrics["test"], metrics["validation"], metrics["config"], metrics["best_epoch"]))
    assert found[0] == found[1]
    # What a run has chosen on the way is in its metrics, so that it need not be chosen again.
    assert found[2][:2] == found[0][:2]
    assert found[2][2] == found[0][2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch: 3\n", "did you mean --epochs?"),
        ("infodcl:\n  bases: item\n", "did you mean --basis?"),
        ("infodcl:\n  basis: items\n", "--basis takes one of"),
        ("epochs: many\n", "--epochs takes a whole number, not 'many'"),
        ("- 1\n", "holds no names with values"),
        ("a: [\n", "neither YAML nor JSON"),
        ("options: {dim: {x: 1}}\n", "dim is an option"),
    ],
)
def test_a_wrong_configuration_is_one_line(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    assert message in refused(["train", "--config", str(file)], capsys)


# -- What is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--data", "no/such/folder"], "no/such/folder"),
        (["train", "--epochs", "0"], "epochs must be at least 1"),
        (["recommend", "--checkpoint", "nowhere", "--users", "1"], "nowhere"),
        (["evaluate", "--checkpoint", "nowhere"], "nowhere"),
        # Another model's option, by itself and under its name; one of training for a closed form; channels for none.
        (["train", "--model", "mf", "--basis", "item"], "mf has no option basis; infodcl has it"),
        (["train", "--model", "mf", "--infodcl.basis", "item"], "mf has no option basis; infodcl has it"),
        (["train", "--model", "ease", "--lr", "0.1"], "ease has no option lr: it is fitted at once"),
        (["train", "--model", "lightgcn", "--channels", "item"], "lightgcn has no option channels"),
        # Typing errors.
        (["train", "--epcohs", "3"], "there is no option --epcohs; did you mean --epochs?"),
        (["train", "--model", "lightgnc"], "there is no model 'lightgnc': did you mean lightgcn?"),
        (["trian"], "there is no command 'trian'; did you mean train?"),
        (["train", "--epochs", "three"], "--epochs takes a whole number, not 'three'"),
        (["train", "demo"], "'demo' is no option"),
        (["compare", "--models", "mf", "--basis", "item"], "none of these models has the option basis"),
        (["compare", "--models", "mf", "mf"], "stands twice"),
        (["train", "--ks", "0"], "ks are whole numbers from 1, not '0'"),
        (["train", "--device", "gpu"], "device"),
        (["train", "--device", "cuda:99"], "device"),
        (["train", "--threads", "0"], "--threads takes a whole number from 1, not '0'"),
    ],
)
def test_errors_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(words, capsys)


# -- Help --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_the_help_of_a_model_is_short(recipe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--model", recipe.name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 130
    names = {line.split()[0] for line in text.splitlines() if line.startswith("  --")}
    # Options of one value of another option are shown where that is chosen.
    idle = {
        f"--{part.name}"
        for part in fields(recipe.options)
        if "of" in part.metadata and getattr(recipe.options(), part.metadata["of"][0]) not in part.metadata["of"][1]
    }
    assert {f"--{name}" for name in recipe.option_names} - idle <= names
    assert not idle & names
    assert (f"--{TRAINING[0]}" in names) == (not recipe.closed_form)
    others = {f"--{name}" for other in RECIPES for name in other.option_names} - {f"--{n}" for n in recipe.option_names}
    assert not names & (others - {"--ks", *(f"--{name}" for name in TRAINING)})


def test_the_help_shows_the_options_of_the_loss_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--model", "lightgcn", "--ranking_loss", "slk", "--help"])
    text = capsys.readouterr().out
    assert "--threshold_k" in text
    assert "--ranking_temperature" in text
    assert "--uniformity" not in text


def test_the_help_shows_the_models_own_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("lightgcn", "infodcl"):
        with pytest.raises(SystemExit):
            main(["train", "--model", model, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert f"[{configure(model).training.lr}]" in text
        assert "propagation layers, K" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_works_for_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: infodcl-geo {command}")


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in COMMANDS)
    assert main([]) == 2


# -- Compare, evaluate, inspect ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("models", [["popularity", "mf"], ["popularity,mf"], ["[popularity,mf]"]], ids=len)
def test_lists_are_written_with_spaces_or_commas(
    models: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.csv"
    words = ["compare", "--data", str(folder), "--models", *models, "--seeds", "0,1", "--out", str(out), *QUICK]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert [row[0] for row in table_rows(printed)][2:] == ["popularity", "mf"]
    assert "±" in printed
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["seed"]) for row in rows] == [("popularity", "0"), ("mf", "0"), ("mf", "1")]


def test_groups_with_and_without_true(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "--data", str(folder), "--model", "popularity", "--out", str(out)]) == 0
    capsys.readouterr()
    found = []
    for flag in (["--groups"], ["--groups", "true"], ["--groups=true"], []):
        assert main(["evaluate", "--checkpoint", str(out), *flag]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] == found[2]
    assert len(found[0]) > len(found[3])


def test_inspect_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--data", str(folder)]) == 0
    numbers = {line.split()[0]: line.split()[1] for line in capsys.readouterr().out.splitlines()}
    assert (numbers["users"], numbers["items"], numbers["interactions"]) == ("30", "60", "480")


def test_the_demo_is_said_to_be_generated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect"]) == 0
    assert "generated" in capsys.readouterr().out


# -- The folder of a run -----------------------------------------------------------------------------------------------


def test_a_result_is_not_written_over(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["train", "--data", str(folder), "--model", "mf", "--out", str(out), *QUICK]
    assert "has no training to go on with" in refused([*words, "--resume"], capsys)
    assert main(words) == 0
    capsys.readouterr()
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert "has a result already; give another folder, or --overwrite" in refused([*words, "--seed", "1"], capsys)
    assert "has no training to go on with" in refused([*words, "--resume"], capsys)
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert main([*words, "--seed", "1", "--overwrite"]) == 0
    assert read_metrics(out)["seed"] == 1
    capsys.readouterr()
    assert "--resume goes on with the training in a folder: give --out" in refused(
        ["train", "--resume", "--data", str(folder)], capsys
    )


def test_an_interrupted_training_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    from infodcl_geo.training.callbacks import HistoryCsv

    words = ["train", "--data", str(folder), "--model", "mf", *QUICK, "--epochs", "4"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "run"
    after_epoch = HistoryCsv.on_epoch

    def interrupt(self: HistoryCsv, state: Any) -> None:
        after_epoch(self, state)
        if state.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(HistoryCsv, "on_epoch", interrupt)
        assert main([*words, "--out", str(out)]) == 130
    printed = capsys.readouterr()
    assert f"--resume --out {out} goes on" in printed.err
    assert Recommender.load(out).name == "mf", "the best epoch so far is kept"
    assert "has an unfinished training; --resume goes on with it" in refused([*words, "--out", str(out)], capsys)
    assert "lr" in refused([*words, "--out", str(out), "--resume", "--lr", "0.5"], capsys)
    assert main([*words, "--out", str(out), "--resume"]) == 0
    whole, resumed = read_metrics(tmp_path / "whole"), read_metrics(out)
    assert resumed["test"] == whole["test"]
    assert resumed["best_epoch"] == whole["best_epoch"]
    assert not checkpoints(out / "checkpoints")


def test_data_without_validation_and_test(tmp_path: Path) -> None:
    path = tmp_path / "one.csv"
    path.write_text("user_id,item_id\n" + "\n".join(f"{u},{i}" for u in range(9) for i in range(u, u + 4)) + "\n")
    words = ["train", "--data", str(path), "--valid_share", "0", "--test_share", "0", "--out", str(tmp_path / "run")]
    assert main([*words, "--model", "mf", *QUICK]) == 0
    metrics = read_metrics(tmp_path / "run")
    assert metrics["validation"] == {}
    assert all(value is None for value in metrics["test"].values())


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_closed_pipe_and_a_plain_terminal_lose_no_model(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "größe.csv"
    path.write_text("user_id,item_id\n" + "\n".join(f"é{u},{i}" for u in range(20) for i in range(u, u + 9)) + "\n")
    words = ["train", "--data", str(path), "--model", "popularity", "--out", str(tmp_path / "run")]
    reading, writing = os.pipe()
    os.close(reading)  # whoever should read has gone
    output = writing if encoding == "utf-8" else subprocess.PIPE
    done = subprocess.run(
        [sys.executable, "-m", "infodcl_geo", *words],
        stdout=output,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"},
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert read_metrics(tmp_path / "run")["model"] == "popularity"
    assert Recommender.load(tmp_path / "run").recommend(["é3"], k=2)[0].user == "é3"
