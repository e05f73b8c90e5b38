"""Whole runs of the command line in processes that can be killed: one interpreter imports the library and forks.

A fork starts in milliseconds what a fresh interpreter needs seconds for, and dies like any process. Before a run a
hook counts the operations that change files (what Python audits of them, and ``fsync``) and, if asked, kills the
process at the k-th, or makes it fail there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for the files of trials: in memory where that can be, since waiting for a disk tests nothing."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


def trial_options(text: str | None) -> argparse.ArgumentParser:
    """Options of a command that makes random trials for a while; ``text`` says what it does."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="of all trials together, after which it stops")
    return parser


def conclude(total: int, fell: int) -> int:
    """Say what came of the trials; the exit status."""
    print(f"{total} trials, {fell} fell")
    return 1 if fell else 0


@dataclass(frozen=True)
class Ended:
    """How a run of the command line ended.

    Args:
        code: exit status; negative is the number of the signal that killed it.
        operations: on files, where they were counted and the run lived to tell.
        out, err: what it printed.
        seconds: from the fork to the end.
    """

    code: int
    operations: int
    out: str
    err: str
    seconds: float


class Runner:
    """Runs ``infodcl-geo`` in forks of one interpreter; a context manager.

    Args:
        folder: for what the runs print.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
        self._process = subprocess.Popen(
            # In that folder: a word that is taken for a name of a file writes there.
            [sys.executable, os.path.abspath(__file__)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(
        self,
        words: Sequence[object],
        *,
        kill_at: int | None = None,
        torn: bool = False,
        fail_at: int | None = None,
        error: int = 28,
        kill_after: float | None = None,
        signal_after: tuple[int, float] | None = None,
        signal_at: tuple[int, int] | None = None,
        file_bytes: int | None = None,
        counted: bool = False,
        limit: float = 120.0,
        memory: int | None = None,
        cpu: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> Ended:
        """Run one command.

        Args:
            words: behind ``infodcl-geo``.
            kill_at: number of the file operation, from 0, before which the process is gone.
            torn: what was last written and not yet flushed is cut in half as well, as a loss of power does.
            fail_at: number of the file operation from which all fail with ``error`` (a full disk by default).
            error: number of that error.
            kill_after: seconds to SIGKILL.
            signal_after: number of a signal, and seconds to it.
            signal_at: number of a signal, and of the file operation before which it is sent.
            file_bytes: largest size of a file that can be written.
            counted: count the file operations.
            limit: seconds after which the run counts as hanging.
            memory: bytes of address space beyond those that the interpreter has already.
            cpu: seconds of the processor after which the run counts as hanging, whatever else the machine does.
            environment: variables beside those of this process.
        """
        order = {
            "words": [str(word) for word in words], "kill_at": kill_at, "torn": torn, "fail_at": fail_at,
            "error": error, "kill_after": kill_after, "signal_after": signal_after, "signal_at": signal_at,
            "file_bytes": file_bytes, "counted": counted, "limit": limit, "folder": str(self.folder),
            "memory": memory, "cpu": cpu, "environment": environment or {},
        }  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the interpreter that forks the runs has ended")
        answer = json.loads(line)
        texts = [(self.folder / name).read_text(errors="replace") for name in ("out", "err")]
        return Ended(answer["code"], answer["operations"], *texts, answer["seconds"])


_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "fcntl.flock"}


class _Counter:
    """Counts file operations, and ends the process, fails or signals at one."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order, self.count, self.quiet = order, 0, False
        self._fsync = os.fsync
        os.fsync = self.fsync
        sys.addaudithook(self.audit)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ):
            self.happens()

    def fsync(self, descriptor: int) -> None:
        self.happens(descriptor)
        self._fsync(descriptor)

    def happens(self, descriptor: int | None = None) -> None:
        if self.quiet:
            return
        number = self.count
        self.count += 1
        if number == self.order["kill_at"]:
            if self.order["torn"] and descriptor is not None:
                self.quiet = True
                import fcntl

                size = os.fstat(descriptor).st_size
                # What was appended to was flushed before: of that only the last line is under way.
                appended = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
                os.ftruncate(descriptor, max(0, size - 9) if appended else size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        signal_at = self.order["signal_at"]
        if signal_at is not None and number == signal_at[1]:
            os.kill(os.getpid(), signal_at[0])
        if self.order["fail_at"] is not None and number >= self.order["fail_at"]:
            raise OSError(self.order["error"], os.strerror(self.order["error"]))


def _child(order: dict[str, Any], pipe: int) -> None:
    folder = Path(order["folder"])
    for name, descriptor in (("out", 1), ("err", 2)):
        opened = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(order["environment"])
    if order["file_bytes"] is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"], order["file_bytes"]))
    if order["memory"] is not None:
        import resource

        with open("/proc/self/status") as status:
            own = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmSize"))
        resource.setrlimit(resource.RLIMIT_AS, (own + order["memory"], own + order["memory"]))
    if order["cpu"] is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (order["cpu"], order["cpu"]))
    asked = any(order[name] is not None for name in ("kill_at", "fail_at", "signal_at"))
    counter = _Counter(order) if order["counted"] or asked else None
    from infodcl_geo.cli import main

    code = 70
    try:
        code = main(order["words"])
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        if counter is not None:
            counter.quiet = True
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.write(pipe, str(counter.count if counter is not None else 0).encode())
        os._exit(code)


def _load() -> None:
    """Have ready what each run would load by itself, which takes a run of a small data set most of its time.

    Modules alone: threads, such as those of polars once it computes, do not live on in a fork.
    """
    import contextlib
    import importlib

    import torch

    for name in ("compare", "evaluate", "export", "inspect", "recommend", "report", "train", "tune"):
        importlib.import_module(f"infodcl_geo.cli.{name}")
    for name in (
        "torch._dynamo",
        "torch.distributed",
        "scipy.sparse.linalg",
        "scipy.stats",
        "docstring_parser",
        "safetensors.torch",
        "optuna.storages.journal",
    ):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.suppress(ImportError):
        from infodcl_geo.kernels.topk_numba import _compiled

        _compiled(torch.float32)


def _serve() -> None:
    """Answer one order a line."""
    _load()
    for line in sys.stdin:
        order = json.loads(line)
        receiving, sending = os.pipe()
        start = time.monotonic()
        process = os.fork()
        if process == 0:
            os.close(receiving)
            _child(order, sending)
        os.close(sending)
        due = [(order["limit"], signal.SIGKILL)]
        if order["kill_after"] is not None:
            due.append((order["kill_after"], signal.SIGKILL))
        if order["signal_after"] is not None:
            due.append((order["signal_after"][1], order["signal_after"][0]))
        due.sort()
        hung = False
        while True:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                break
            passed = time.monotonic() - start
            while due and passed >= due[0][0]:
                hung |= due[0][0] == order["limit"]
                os.kill(process, due.pop(0)[1])
            time.sleep(0.001)
        count = os.read(receiving, 32)
        os.close(receiving)
        code = os.waitstatus_to_exitcode(status)
        answer = {
            "code": -1000
            if hung or (order["cpu"] is not None and code in (-signal.SIGXCPU, -signal.SIGKILL))
            else code,
            "operations": int(count or b"0"),
            "seconds": time.monotonic() - start,
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
