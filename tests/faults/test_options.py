"""A part of the trials of every option with values that cannot be; benchmarks/studies/faults/options.py makes all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "studies" / "faults"))

import options
from process import Runner

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")

COMMANDS = ["train", "compare", "tune", "evaluate", "recommend", "export", "report", "inspect"]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with Runner(tmp_path_factory.mktemp("runner")) as found:
        yield found


@pytest.mark.parametrize("command", COMMANDS)
def test_one_line_for_each_value_that_cannot_be(
    command: str, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        print()
        total, fallen = options.run([command], every=150, runner=runner)
    assert fallen == []
    assert total > 0


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_value_of_every_option(command: str, runner: Runner) -> None:
    assert options.run([command], runner=runner)[1] == []
