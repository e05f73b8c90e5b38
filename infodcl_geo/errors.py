"""The library's own errors. All share one base, and the message of each is one line that says what to do."""

from __future__ import annotations

from typing import Any

from .text import escape


class InfodclGeoError(ValueError):
    """Base of every error that the library raises on purpose; the message is one line.

    Names of files and ids of strangers are part of messages: what would end the line, or what a terminal would obey, is
    escaped (:func:`~infodcl_geo.text.escape`).
    """

    def __init__(self, *parts: object) -> None:
        super().__init__(*(escape(part) if isinstance(part, str) else part for part in parts))


class OptionError(InfodclGeoError):
    """An option, alone or beside others, that cannot be; the message names it."""


class FileError(InfodclGeoError):
    """A file or folder that cannot be written, read or locked; the message names it and says what is wrong."""


class TrainingError(InfodclGeoError, FloatingPointError):
    """Training met a value that is not finite; the message names the model, the step and the term.

    The model that was trained holds the weights of its best epoch before that, if one was validated.
    """

    epoch: int = 0
    """epoch, from 1"""
    step: int = 0
    """step of the epoch, from 1"""
    term: str = ""
    """loss term, 'gradient', parameter or buffer"""
    batch: Any = None
    """:class:`~infodcl_geo.models.base.Batch` of that step"""
    result: Any = None
    """:class:`~infodcl_geo.training.state.TrainResult` up to there"""
    run: Any = None
    """:class:`~infodcl_geo.outcome.Run` with the best epoch before, if one was validated"""


class ScoreError(InfodclGeoError):
    """A model gave a score that is no finite number; the message names the model, the user and the item."""


class CheckpointError(InfodclGeoError):
    """A checkpoint that cannot be read; the message is one line and names the file."""


NO_MEMORY = "there is not enough memory; smaller dim, batch_size or data need less"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was refused; torch has a RuntimeError for it."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    words = ("can't allocate memory", "out of memory", "not enough memory", "storage size calculation overflowed")
    return isinstance(error, RuntimeError) and any(word in text for word in words)


def is_own_fault(error: BaseException) -> bool:
    """Whether an error tells of one model with its options, and not of the library: others may go on."""
    return isinstance(error, InfodclGeoError) or out_of_memory(error)
