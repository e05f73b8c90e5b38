"""Trainings inside longer work: a comparison or a search that was stopped goes on in the midst of one of them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from .errors import CheckpointError, FileError, is_own_fault
from .files import locked, make_folder
from .training.checkpoint import CheckpointWarning, checkpoints, remove_checkpoints
from .training.options import CheckpointOptions

T = TypeVar("T")


class Unfinished:
    """The checkpoints of one training, which are there as long as its result is not kept; a context manager.

    They stay where the process dies, is asked to end or cannot write, and go where the training ends in a result or in
    an error of its own. A training that another process is at is done without checkpoints.

    Args:
        folder: of this training alone.
        minutes, epochs: how often checkpoints are written, as in
            :class:`~infodcl_geo.training.options.CheckpointOptions`.
    """

    def __init__(self, folder: Path, minutes: float | None = 10.0, epochs: int | None = None) -> None:
        self.options = CheckpointOptions(folder, minutes, epochs)
        self.folder = folder
        self._held = ExitStack()
        self._own = False

    def __enter__(self) -> Unfinished:
        make_folder(self.folder)
        with suppress(FileError):
            self._held.enter_context(locked(self.folder / "training", wait=False))
            self._own = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._held:
            failed = error is not None and is_own_fault(error) and not isinstance(error, FileError)
            if self._own and (error is None or failed):
                forget(self.folder)

    @property
    def begun(self) -> bool:
        """Whether there is something to go on from, and nobody else is at it."""
        return self._own and bool(checkpoints(self.folder))

    def run(self, training: Callable[..., T]) -> T:
        """Call ``training`` with ``checkpoint`` and ``resume`` of :func:`~infodcl_geo.experiment.fit`.

        What cannot be gone on from, such as a damaged checkpoint, is begun anew with a warning.
        """
        if not self._own:
            return training()
        given: dict[str, Any] = {"checkpoint": self.options}
        if not self.begun:
            return training(**given)
        try:
            return training(**given, resume=self.folder)
        except CheckpointError as error:
            warnings.warn(f"{error}; this training begins anew", CheckpointWarning, stacklevel=2)
        remove_checkpoints(self.folder)
        return training(**given)


def is_left(folder: Path) -> bool:
    """Whether a folder holds a training to go on with that no other process is at."""
    try:
        with locked(folder / "training", wait=False):
            return bool(checkpoints(folder))
    except FileError:
        return False


def forget(folder: Path) -> None:
    """Remove the checkpoints of a training whose result is kept, and the folder of such folders with the last one."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()
