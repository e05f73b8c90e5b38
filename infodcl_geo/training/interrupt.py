"""Ctrl-C and SIGTERM as a request to end after the step under way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interruption:
    """Whether the process was asked to end."""

    signal: str = ""
    """name of the first signal, 'Ctrl-C' or 'SIGTERM'; empty while there was none"""

    def __bool__(self) -> bool:
        return bool(self.signal)


@contextmanager
def stoppable() -> Iterator[Interruption]:
    """Within it, the first Ctrl-C (SIGINT) or SIGTERM is only noted; the second is a ``KeyboardInterrupt`` at once.

    Signals reach the main thread alone: in another one nothing is changed. A signal that is ignored (``nohup``) stays
    ignored. The handlers from before are put back at the end.
    """
    noted = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.signal = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        # None: set by other code than Python's, which cannot be put back.
        if handler not in (None, signal.SIG_IGN):
            before[number] = handler
    try:
        for number in before:
            signal.signal(number, note)
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
