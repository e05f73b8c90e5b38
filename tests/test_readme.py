"""The README does what it says: every block runs as written, its tables are those of the code and of the results."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from infodcl_geo.cli import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(info: str) -> list[str]:
    return re.findall(rf"```{info}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def ratings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a newcomer's ratings.csv, which is where the commands run."""
    lines = [f"user{u},{i}" for u in range(40) for i in range(80) if i % 4 == u % 4 and (u + i) % 5]
    (tmp_path / "ratings.csv").write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    kinds = set(re.findall(r"^```([^\n]+)$", README, flags=re.MULTILINE))
    assert kinds <= {"python", "bash", "console"}


def test_python_blocks_run(ratings: Path) -> None:
    code = "\n".join(blocks("python"))
    assert code.count("\n") > 8
    done = subprocess.run([sys.executable, "-c", code], cwd=ratings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(r"\d+ [01]\.\d+\nuser3 \[", done.stdout)


def test_bash_blocks_run(ratings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.partition("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    ours = [shlex.split(line) for line in lines if line.startswith("infodcl-geo ")]
    assert len(ours) >= 3
    assert {line for line in lines if not line.startswith("infodcl-geo ")} == {"bash run.sh", "bash run.sh test"}
    for words in ours:
        assert main(words[1:]) == 0, words
    printed = capsys.readouterr().out
    assert "user17" in printed
    assert (ratings / "runs" / "mine" / "metrics.json").exists()
    assert subprocess.run(["bash", "-n", str(ROOT / "run.sh")], check=False).returncode == 0


def shape(text: str) -> list[str]:
    """Lines without what may differ from machine to machine: digits and the width of columns."""
    lines = [re.sub(r"[-\s]+", " ", re.sub(r"\d+", "0", line)).strip() for line in text.splitlines()]
    return [line for line in lines if line]


def test_console_block_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("console")
    commands = re.findall(r"^\$ infodcl-geo (.*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE)
    assert len(commands) == 5
    for command, says in commands:
        assert main(shlex.split(command)) == 0, command
        printed = capsys.readouterr().out
        assert set(shape(says)) <= set(shape(printed)), command
        numbers = [float(number) for number in re.findall(r"0\.\d{4}", says)]
        found = [float(number) for number in re.findall(r"0\.\d{4}", printed)]
        # Scores of metrics within 0.02: another processor or version rounds otherwise.
        assert all(any(abs(number - other) < 0.02 for other in found) for number in numbers), (command, printed)


def test_tables_are_those_of_the_code_and_of_the_results(doc_script: Callable[[str], ModuleType]) -> None:
    assert doc_script("front").readme(README) == README, "run: python docs/front.py"


def test_it_is_short_and_names_what_exists() -> None:
    assert len(README.splitlines()) <= 160
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    assert (ROOT / "docs" / "images" / "front.png").stat().st_size < 100 * 1024
