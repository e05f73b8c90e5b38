"""A part of the trials of every option with values that cannot be; benchmarks/studies/faults/options.py makes all."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "studies" / "faults"))

import options

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")

COMMANDS = ["train", "compare", "tune", "evaluate", "recommend", "export", "report", "inspect"]


@pytest.mark.parametrize("command", COMMANDS)
def test_one_line_for_each_value_that_cannot_be(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print()
        total, fallen = options.run([command], every=150)
    assert fallen == []
    assert total > 0


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_value_of_every_option(command: str) -> None:
    assert options.run([command])[1] == []
