"""What polars prints by itself where it panics: a trace on the process's standard error, before our one line."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

_LOCK = threading.Lock()
_HELD: list[tuple[int, IO[bytes]]] = []  # the real standard error, and what is written in its place
_USERS = [0]

_PANIC = re.compile(
    rb"\n?thread '[^'\n]*'(?: \(\d+\))? (?:has )?panicked at [^\n]*\n"  # where
    rb"(?:[^\n]+\n(?:[ \t][^\n]*\n)*)?"  # what, and what it compared
    rb"(?:stack backtrace:\n(?: +(?:\d+: |at )[^\n]*\n)*)?"
    rb"(?:note: [^\n]*RUST_BACKTRACE[^\n]*\n)?"
)


def without_panics(text: bytes) -> bytes:
    """``text`` without the traces of panics, everything else as it was."""
    return _PANIC.sub(b"", text)


@contextlib.contextmanager
def quiet_panics() -> Iterator[None]:
    """Traces of panics inside are not shown; whatever else is written to standard error is, at the end.

    Standard error belongs to the process, so threads inside share one place in which it is kept.
    """
    if not _enter():
        yield
        return
    try:
        yield
    finally:
        _leave()


def _enter() -> bool:
    with _LOCK:
        if not _USERS[0]:
            try:
                kept = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by the last that leaves
                with contextlib.suppress(AttributeError, OSError, ValueError):
                    sys.stderr.flush()
                real = os.dup(2)
                os.dup2(kept.fileno(), 2)
            except OSError:  # no place for it, or no standard error at all
                return False
            _HELD.append((real, kept))
        _USERS[0] += 1
        return True


def _leave() -> None:
    with _LOCK:
        _USERS[0] -= 1
        if _USERS[0]:
            return
        real, kept = _HELD.pop()
        with contextlib.suppress(AttributeError, OSError, ValueError):
            sys.stderr.flush()
        os.dup2(real, 2)
        os.close(real)
        with kept:
            kept.seek(0)
            said = without_panics(kept.read())
        with contextlib.suppress(OSError):
            while said:
                said = said[os.write(2, said) :]
