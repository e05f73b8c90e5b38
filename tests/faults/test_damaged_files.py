"""Whole commands given damaged files; benchmarks/studies/faults/commands.py makes a thousand such trials."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "studies" / "faults"))

import commands
from process import Runner

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with Runner(tmp_path_factory.mktemp("runner")) as found:
        yield found


def test_one_line_or_a_result_whatever_a_command_finds(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print()
        total, fallen = commands.run(60, runner=runner)
    assert fallen == []
    assert total == 60


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE is a whole number that torchrun sets, not 'two'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is a whole number that torchrun sets, not '-1'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is below WORLD_SIZE, not 2 of 2"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "1_000", "MASTER_PORT": "29711"},
            "'1_000':29711 is known here",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"},
            "MASTER_PORT is a whole number",
        ),
    ],
)
def test_variables_of_several_processes_that_cannot_be(
    variables: dict[str, str], said: str, runner: Runner, tmp_path: Path
) -> None:
    data = commands.write_data(tmp_path / "data")
    ended = runner.run(["train", "--data", data, "--model", "mf", "--epochs", 1], environment=variables)
    assert ended.code == 1
    assert [line for line in ended.err.splitlines() if not line.startswith("warning: ")] == [ended.err.splitlines()[-1]]
    assert said in ended.err


def test_options_to_begin_a_search_with_that_cannot_be(runner: Runner, tmp_path: Path) -> None:
    data = commands.write_data(tmp_path / "data")
    (tmp_path / "begin.yaml").write_text("mf: {lr: '', l2: 0.001}\n")
    words = ["tune", "--data", data, "--models", "mf", "--trials", 1, "--epochs", 1, "--dim", 4]
    ended = runner.run([*words, "--begin", tmp_path / "begin.yaml", "--out", tmp_path / "found.yaml"])
    assert ended.code == 2
    assert ended.err == "infodcl-geo: --lr takes a number, not ''\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"model,trial,options\n\xff,1,{}\n", "no table of trials"),
        (b"user,item\n1,2\n", "is no table of trials"),
        (b"model,trial,options\nmf,1\n", "was it cut short"),
        (b"model,trial,options\nmf,1," + b"x" * 200_000 + b"\n", "no table of trials"),
        (None, "no regular file"),
    ],
)
def test_a_table_of_trials_that_is_none_is_said_before_the_search(
    content: bytes | None, said: str, runner: Runner, tmp_path: Path
) -> None:
    data = commands.write_data(tmp_path / "data")
    table = tmp_path / "found.csv"
    if content is None:
        os.mkfifo(table)
    else:
        table.write_bytes(content)
    words = ["tune", "--data", data, "--models", "svd", "--trials", 2, "--out", tmp_path / "found.yaml"]
    ended = runner.run(words, limit=60)
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert said in ended.err
    assert str(table) in ended.err
    assert not (tmp_path / "found.yaml").exists()
    assert content is None or table.read_bytes() == content


@pytest.mark.parametrize("option", ["data", "train_file", "valid_file", "test_file"])
def test_a_name_that_no_file_can_have_is_one_line(option: str, runner: Runner, tmp_path: Path) -> None:
    data = commands.write_data(tmp_path / "data")
    (tmp_path / "c.json").write_text('{"' + option + '": "a\\u0000b"}')
    for words in ([f"--{option}=a\0b"], ["--config", tmp_path / "c.json"]):
        given = [] if option == "data" else ["--data", data]
        ended = runner.run(["train", *given, "--model", "popularity", *words])
        assert ended.code in (1, 2)
        assert len(ended.err.splitlines()) == 1, ended.err
        assert ended.err.startswith("infodcl-geo: ")
