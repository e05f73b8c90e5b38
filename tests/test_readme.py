"""The README's Python runs as written, block after block, as a newcomer would paste it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_python_blocks_run(tmp_path: Path) -> None:
    code = "\n".join(blocks("python"))
    assert code.count("\n") > 20
    lines = [f"user{u},{i}" for u in range(40) for i in range(80) if i % 4 == u % 4 and (u + i) % 5]
    (tmp_path / "ratings.csv").write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_commands_in_the_readme_are_known_to_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    from infodcl_geo.cli import make_parser

    words = [line.split() for block in blocks("bash") for line in block.splitlines() if line.startswith("infodcl-geo ")]
    assert words
    for command in words:
        flags = {word.partition("=")[0].replace("-", "_") for word in command if word.startswith("--")}
        with pytest.raises(SystemExit):
            make_parser().parse_args([command[1], "--help"])
        text = capsys.readouterr().out.replace("-", "_")
        assert all(flag in text for flag in flags), (command, flags)


def test_named_files_exist() -> None:
    for path in re.findall(r"`((?:benchmarks|examples|kernels|tests)/[\w./]+)`", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"(?:python|bash) ((?:benchmarks|examples)/[\w.]+)", README):
        assert (ROOT / path).exists(), path
