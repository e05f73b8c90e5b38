"""A rank that is killed, hangs, is missing, or has something else: one clear line, no hang, nothing lost."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ranks import CONTEXT

from infodcl_geo.data.generated import demo
from infodcl_geo.distributed.checkpoint import checkpoints

WAIT = 240.0


def _command(words: list[str], environment: dict[str, str], said: str) -> None:
    os.environ.update(environment)
    from infodcl_geo.cli import main

    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    code = main(words)
    sys.stderr.flush()
    os._exit(code)


class Ranks:
    """The command on two ranks that meet through a file; each writes what it says into a file of its own."""

    def __init__(self, folder: Path, words: list[list[str]], *, size: int = 2, timeout: float = 60.0) -> None:
        folder.mkdir(parents=True)
        self.said = [folder / f"said-{rank}" for rank in range(len(words))]
        self.processes = []
        for rank, own in enumerate(words):
            environment = {
                "RANK": str(rank),
                "WORLD_SIZE": str(size),
                "INFODCL_GEO_MEET": f"file://{folder}/meet",
                "INFODCL_GEO_TIMEOUT": str(timeout),
            }
            process = CONTEXT.Process(target=_command, args=(["train", *own], environment, str(self.said[rank])))
            process.start()
            self.processes.append(process)

    def ended(self, *ranks: int) -> list[Any]:
        """Exit codes once they have ended."""
        for rank in ranks:
            self.processes[rank].join(WAIT)
        return [self.processes[rank].exitcode for rank in ranks]

    def lines(self) -> list[str]:
        """Lines of errors of all ranks."""
        text = "\n".join(path.read_text() for path in self.said if path.exists())
        return [line for line in text.splitlines() if line.startswith("infodcl-geo:")]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    data = demo(1, num_users=120, num_items=81, num_interests=6).interactions
    folder = tmp_path / "data"
    folder.mkdir()
    for part in ("train", "valid", "test"):
        pairs = getattr(data, part).T.tolist()
        (folder / f"{part}.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i in pairs))
    words = ["--data", str(folder), "--model", "mf", "--num_layers", "1", "--dim", "8", "--tables", "sharded"]
    return [*words, "--device", "cpu", "--batch_size", "300", "--progress", "false"]


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


@pytest.mark.parametrize(("how", "timeout"), [(signal.SIGKILL, 60.0), (signal.SIGSTOP, 4.0)])
def test_a_lost_rank_ends_all_and_the_run_resumes(
    how: signal.Signals, timeout: float, tmp_path: Path, words: list[str]
) -> None:
    out = tmp_path / "out"
    words += ["--out", str(out), "--checkpoint_epochs", "1", "--epochs", "15", "--eval_every", "5"]
    ranks = Ranks(tmp_path / "first", [words] * 2, timeout=timeout)
    folder = out / "checkpoints"
    wait_for(lambda: folder.is_dir() and checkpoints(folder) and checkpoints(folder)[0].name > "checkpoint-000001")
    pid = ranks.processes[1].pid
    assert pid is not None
    os.kill(pid, how)
    begun = time.monotonic()
    assert ranks.ended(0) == [1]
    # Two seconds are for signs of life; a killed process closes its connections, so nobody waits for the time-out.
    assert time.monotonic() - begun < 30 + timeout * (how == signal.SIGSTOP)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    ranks.ended(1)
    (line,) = ranks.lines()
    assert f"rank 1 is gone or did not answer within {timeout:g} s" in line
    assert "--resume" in line
    assert checkpoints(folder)
    again = Ranks(tmp_path / "again", [[*words, "--resume"]] * 2)
    assert again.ended(0, 1) == [0, 0], again.lines()
    history = (out / "history.csv").read_text().splitlines()
    assert len(history) == 16
    assert (out / "model.json").exists()
    assert not checkpoints(folder)


def test_an_unreachable_rank(tmp_path: Path, words: list[str]) -> None:
    ranks = Ranks(tmp_path / "first", [words], timeout=2.0)
    assert ranks.ended(0) == [1]
    (line,) = ranks.lines()
    assert "the processes did not meet" in line
    assert "1 of 2 processes came" in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--lr", "0.02"], "rank 1 has another options training lr (0.02) than rank 0 (0.005)"),
        (["--seed", "7"], "rank 1 has another options training seed (7) than rank 0 (0)"),
        ([], "rank 1 has another data ("),
    ],
)
def test_other_options_or_data(change: list[str], said: str, tmp_path: Path, words: list[str]) -> None:
    if not change:
        other = tmp_path / "other"
        other.mkdir()
        for path in (tmp_path / "data").iterdir():
            (other / path.name).write_text(path.read_text().replace("\n3,", "\n4,", 1))
        change = ["--data", str(other)]
    ranks = Ranks(tmp_path / "first", [words, [*words, *change]])
    assert ranks.ended(0, 1) == [1, 1]
    (line,) = ranks.lines()
    assert said in line
