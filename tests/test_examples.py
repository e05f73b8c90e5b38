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
    "custom_channel.py": r"baskets: test recall@20 0\.\d+\nbaskets and similar users: test recall@20 0\.\d+",
    "social.py": r"similar users: test .* 0\.\d+\nfriends: test .* 0\.\d+\nboth: test .* 0\.\d+\nChannel\('user'",
    "knowledge.py": r"shared: test recall@20 0\.\d+, .* facts shared by items\npropagate: .*\nkge: .* 0\.\d+",
    "serve.py": r"user 3: items .*\nunknown user: .* False\nnew user .*\nlike item \d+: items .*\nnew item: .*\n200 us",
    "own_model.py": r"test recall@20 0\.\d+",
    "schedules.py": r"linear: .* step \d+ of 200\nexp: .*\ncosine: .*\nsqrt: .* step \d+ of 200",
    "theory_renoising.py": r"Gaussian items, k = 2: .* error 0\.\d%.*\n(.*\n)*trained: Lipschitz constant at least \d",
    "theory_preference.py": r"curved: .*the bound holds\nlinear.*the bound fails\ntrained SimDiff: gamma at least \d",
    "modal.py": r"audio: .* 96 features\nimage: .* 96 features\ntest recall@20 0\.\d+",
}


def test_no_example_is_forgotten() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == PRINTS.keys()


def run_example(name: str, *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *options],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=900,
        check=False,
    )


@pytest.mark.parametrize("name", PRINTS)
def test_example(name: str, tmp_path: Path) -> None:
    epochs = {"psnet_in_pyg.py": ["--epochs", "60"], "schedules.py": []}.get(name, ["--epochs", "2"])
    done = run_example(name, *epochs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(PRINTS[name], done.stdout), done.stdout
    if name == "psnet_in_pyg.py":
        accuracy = float(re.search(r"accuracy (\d\.\d+)", done.stdout).group(1))  # type: ignore[union-attr]
        assert accuracy > 0.7  # two equal communities: 0.5 is chance


def test_examples_are_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 100, path.name


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "folder", "options", "prints"),
    [
        ("social.py", "lastfm", (), r"friends: test recall@20 0\.\d+(.|\n)*25226 of 25434 edges"),
        ("knowledge.py", "ml-100k", ("--methods", "shared"), r"shared: test recall@20 0\.\d+, .*91631 triples"),
        ("modal.py", "tiktok", (), r"audio_feat: .* 128 features\nimage_feat: .* 128 features\ntest recall@20 0\.\d+"),
    ],
)
def test_example_on_real_side_information(
    name: str, folder: str, options: tuple[str, ...], prints: str, data_root: Path, tmp_path: Path
) -> None:
    done = run_example(name, "--data", str(data_root / folder), "--epochs", "1", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(prints, done.stdout), done.stdout
