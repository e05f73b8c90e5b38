"""Whole commands under faults: killed, interrupted, on full disks, in folders that vanish, into closed pipes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

STUDY = Path(__file__).resolve().parents[2] / "benchmarks" / "studies" / "faults"
sys.path.insert(0, str(STUDY))

import kills  # noqa: E402
from process import Ended, Runner  # noqa: E402

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")

SMALL = ["--model", "lightgcn", "--epochs", 4, "--eval_every", 2, "--dim", 8, "--batch_size", 64, "--progress=false"]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with Runner(tmp_path_factory.mktemp("runner")) as found:
        yield found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kills.write_data(tmp_path_factory.mktemp("data") / "d")


def said(ended: Ended, *words: str, code: int = 1) -> None:
    """It ended with one line on standard error that has the words."""
    lines = [line for line in ended.err.splitlines() if line and not line.startswith("warning: ")]
    assert ended.code == code, ended.err
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("infodcl-geo: ")
    for word in words:
        assert word in lines[0]


# ---------------------------------------------------------------------------------------------------------------------
# Kills


@pytest.mark.parametrize(("command", "stride"), [("train", 40), ("compare", 25), ("tune", 80)])
def test_nothing_is_lost_or_mixed_whenever_a_command_is_stopped(
    command: str, stride: int, runner: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    """A handful of the trials of benchmarks/studies/faults/kills.py, which makes all of them."""
    with capsys.disabled():
        print()
        done = kills.run([command], kills=1, stride=stride, seed=1, ways=kills.WAYS, runner=runner)
    assert [line for campaign in done for line in campaign.fallen] == []
    assert sum(campaign.counts["stopped"] for campaign in done) > 3


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "compare", "tune"])
def test_fifty_moments_and_every_file_operation(command: str, runner: Runner) -> None:
    done = kills.run([command], kills=50, stride=1, seed=0, ways=kills.WAYS, runner=runner)
    assert [line for campaign in done for line in campaign.fallen] == []


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_request_to_end_keeps_the_best_and_says_how_to_go_on(
    number: signal.Signals, name: str, runner: Runner, data: Path, tmp_path: Path
) -> None:
    words = ["train", "--data", data, *SMALL, "--checkpoint_epochs", 1]
    whole = runner.run([*words, "--out", tmp_path / "whole"])
    assert whole.code == 0
    # Operation 35 is in the midst of training, after the first validation.
    ended = runner.run([*words, "--out", tmp_path / "run"], signal_at=(number, 35))
    said(ended, name, "--resume --out", code=130)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["validation"]
    assert runner.run(["recommend", "--checkpoint", tmp_path / "run", "--users", "u1"]).code == 0
    assert runner.run([*words, "--out", tmp_path / "run", "--resume"]).code == 0
    both = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("whole", "run")]
    assert both[0]["test"] == both[1]["test"]
    assert kills.Train._weights(tmp_path / "run") == kills.Train._weights(tmp_path / "whole")


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_a_request_to_end_stops_a_comparison_or_a_search_in_one_line(
    command: str, runner: Runner, data: Path, tmp_path: Path
) -> None:
    long = ["--epochs", 200000, "--patience", 200000]
    words = {
        "compare": ["compare", "--data", data, "--models", "popularity", "mf", *long, "--out", "t.csv"],
        "tune": ["tune", "--data", data, "--models", "mf", *long, "--trials", 3, "--out", "t.yaml"],
    }[command]
    words[-1] = tmp_path / str(words[-1])
    for number in (signal.SIGINT, signal.SIGTERM):
        ended = runner.run([*words, "--dim", 8], signal_after=(number, 2.5))
        said(ended, code=130)
        assert ended.seconds < 60


# ---------------------------------------------------------------------------------------------------------------------
# Places that cannot be written


def test_a_result_is_not_overwritten_in_silence(runner: Runner, data: Path, tmp_path: Path) -> None:
    words = ["train", "--data", data, "--model", "popularity", "--out", tmp_path / "run"]
    assert runner.run(words).code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    said(runner.run(words), "has a result already", "--overwrite")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before
    (tmp_path / "run" / "metrics.json").unlink()
    said(runner.run(words), "has a result already", "--overwrite")


def test_out_is_looked_at_before_training(runner: Runner, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    long = ["--model", "mf", "--epochs", 10**6, "--progress=false"]
    for place in (file, file / "below", "/dev/full", "/proc/nothing"):
        said(runner.run(["train", "--data", data, *long, "--out", place]), str(place))
    assert file.read_text() == "kept"
    said(runner.run(["compare", "--data", data, "--models", "popularity", "--out", "/dev/full"]), "/dev/full")
    said(runner.run(["compare", "--data", data, "--models", "popularity", "--out", tmp_path]), "is a folder")
    said(runner.run(["tune", "--data", data, "--models", "ease", "--out", file / "x.yaml"]), str(file))


@pytest.mark.parametrize("model", ["lightgcn", "ease"])
def test_a_small_disk_that_gets_full(model: str, runner: Runner, data: Path, tmp_path: Path) -> None:
    """A file may have 2,000 bytes, so the weights cannot be written, and the model from before stays."""
    words = ["train", "--data", data, "--model", model, "--out", tmp_path / "run", "--overwrite"]
    words += [] if model == "ease" else [*SMALL[2:], "--seed", 1]
    assert runner.run(words).code == 0
    before = kills.Train._weights(tmp_path / "run")
    metrics = (tmp_path / "run" / "metrics.json").read_bytes()
    ended = runner.run([*words, "--l2", 3], file_bytes=2000)
    said(ended, "cannot write", "larger than a file may be")
    assert kills.Train._weights(tmp_path / "run") == before
    assert (tmp_path / "run" / "metrics.json").read_bytes() == metrics
    assert not list((tmp_path / "run").rglob("*.tmp-*"))


def _mounted(target: Path, *options: str) -> bool:
    target.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(target)], capture_output=True)
    return done.returncode == 0


def test_a_full_file_system_and_one_that_is_read_only(runner: Runner, data: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    if os.geteuid() != 0 or not _mounted(disk, "size=200k"):
        pytest.skip("mounting a small file system needs to be root")
    words = ["train", "--data", data, "--model", "ease", "--overwrite"]
    try:
        assert runner.run([*words, "--out", disk / "run"]).code == 0
        before = kills.Train._weights(disk / "run")
        filler = os.open(disk / "filler", os.O_WRONLY | os.O_CREAT)
        with pytest.raises(OSError, match="No space left"):  # noqa: PT012 - how often it writes is what is not known
            while os.write(filler, bytes(1024)):
                pass
        os.close(filler)
        for _ in range(2):
            ended = runner.run([*words, "--l2", 3, "--out", disk / "run"])
            said(ended, "the disk is full")
            assert kills.Train._weights(disk / "run") == before
        said(runner.run(["train", "--data", data, *SMALL, "--out", disk / "other"]), str(disk))
        (disk / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        said(runner.run([*words, "--out", disk / "run"]), "read-only")
        said(runner.run(["compare", "--data", data, "--models", "popularity", "--out", disk / "t.csv"]), "read-only")
        said(runner.run(["tune", "--data", data, "--models", "ease", "--out", disk / "t.yaml"]), "read-only")
        assert runner.run(["recommend", "--checkpoint", disk / "run", "--users", "u1"]).code == 0
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_folder_that_vanishes_during_training(data: Path, tmp_path: Path) -> None:
    code = """
import shutil, sys
from infodcl_geo.cli import main
from infodcl_geo.training import state
real = state.TrainState.verify
import infodcl_geo.training.callbacks as callbacks
class Vanish(callbacks.Callback):
    def on_validation(self, state):
        if state.epoch == 2:
            shutil.rmtree(sys.argv[1], ignore_errors=True)
import infodcl_geo.cli.train as command
loggers = command._loggers
command._loggers = lambda *a: [Vanish(), *loggers(*a)]
sys.exit(main(sys.argv[2:]))
"""
    words = ["train", "--data", data, *SMALL, "--epochs", 8, "--out", tmp_path / "run"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run"), *map(str, words)], capture_output=True, text=True
    )
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    # Either the folder is made again for the result, or one line says that it is gone.
    if done.returncode == 0:
        assert (tmp_path / "run" / "model.json").exists()
        assert lines == []
    else:
        assert done.returncode == 1
        assert len(lines) == 1, done.stderr
        assert str(tmp_path / "run") in lines[0]


# ---------------------------------------------------------------------------------------------------------------------
# Where it prints


def _python(words: list[object], stdout: int | object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error::BytesWarning", "-m", "infodcl_geo", *map(str, words)],
        stdout=stdout,  # type: ignore[arg-type]
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def test_a_closed_pipe_and_a_full_device_lose_no_model(data: Path, tmp_path: Path) -> None:
    words = ["train", "--data", data, "--model", "popularity", "--out"]
    reading, writing = os.pipe()
    os.close(reading)
    closed = _python([*words, tmp_path / "closed"], writing)
    os.close(writing)
    with open("/dev/full", "w") as full:
        other = _python([*words, tmp_path / "full"], full)
    for process, folder, code in ((closed, "closed", 0), (other, "full", 1)):
        err = process.communicate()[1]
        lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
        assert "Traceback" not in err
        assert (process.returncode, len(lines)) == (code, code), err
        assert json.loads((tmp_path / folder / "metrics.json").read_text())["test"]
        assert (tmp_path / folder / "model.json").exists()


def test_an_ascii_terminal_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "Größe"
    kills.write_data(folder)
    process = _python(
        ["train", "--data", folder, "--model", "popularity", "--out", tmp_path / "run"],
        subprocess.PIPE, PYTHONIOENCODING="ascii",
    )  # fmt: skip
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "on Gr??e" in out
    assert (tmp_path / "run" / "model.json").exists()


def test_one_error_stands_for_every_reason(runner: Runner, data: Path, tmp_path: Path) -> None:
    """The disk refuses for other reasons than being full."""
    words = ["train", "--data", data, "--model", "popularity", "--out"]
    for number, reason in (
        (errno.EIO, "the disk reports an error"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
    ):
        ended = runner.run([*words, tmp_path / str(number)], fail_at=8, error=number)
        said(ended, reason)
