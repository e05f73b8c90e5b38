"""Every example runs as its first line says, and prints what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
PRINTS = {
    "quickstart.py": r"test recall@20 0\.\d+\nuser 3: items \[\d+(, \d+){4}\]\nuser 17: ",
    "psnet_in_pyg.py": r"accuracy \d\.\d+",
    "custom_channel.py": r"similar users: test recall@20 0\.\d+\nknowledge graph: test recall@20 0\.\d+",
}


def test_no_example_is_forgotten() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == PRINTS.keys()


@pytest.mark.parametrize("name", PRINTS)
def test_example(name: str, tmp_path: Path) -> None:
    epochs = "60" if name == "psnet_in_pyg.py" else "2"
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), "--epochs", epochs],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(PRINTS[name], done.stdout), done.stdout
    if name == "psnet_in_pyg.py":
        accuracy = float(re.search(r"accuracy (\d\.\d+)", done.stdout).group(1))  # type: ignore[union-attr]
        assert accuracy > 0.7  # two equal communities: 0.5 is chance
