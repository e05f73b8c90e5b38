"""A part of the fuzzing of everything that reads; benchmarks/studies/faults/fuzz.py makes 200,000 inputs of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "studies" / "faults"))

import fuzz


@pytest.mark.filterwarnings("ignore")
def test_only_errors_of_ours_whatever_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print()
        every, fallen = fuzz.fuzz(5000)
    assert fallen == []
    assert all(target.counts["inputs"] >= 200 for target in every)
    # Mutations that are all refused at once would test little.
    assert all(target.counts["read"] > 0 for target in every)
