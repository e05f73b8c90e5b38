"""What may watch a training run and end it: one protocol, and the callbacks that come with the library."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm.auto import tqdm

from ..errors import OptionError
from ..files import make_folder, write_atomically
from .state import TrainState


class Callback:
    """Base of what is called as training goes on; each hook does nothing unless a subclass says otherwise.

    A hook may call ``state.stop(reason)`` to end training once all callbacks were called, or raise
    :class:`~infodcl_geo.training.state.StopTraining` to end it at once; both count as an ordinary end. Any other
    exception passes through ``train`` (a pruned trial, say), which loads the best weights into the model first.

    Within an epoch the order is: ``on_step`` after each step, ``on_validation`` if the epoch is validated,
    ``on_epoch`` at its end. ``on_end`` is always called once for each callback whose ``on_start`` was, whatever ended
    training (``state.error`` if an exception did); the model then still has the weights of its last step,
    ``state.best_weights`` are those of its best epoch.
    """

    def on_start(self, state: TrainState) -> None:
        """Before the first step, of a resumed run too: ``state.epoch`` are the epochs behind it."""

    def on_step(self, state: TrainState) -> None:
        """After a step. Reading a tensor's value here waits for the device."""

    def on_validation(self, state: TrainState) -> None:
        """After an epoch's validation, whose metrics are in ``state.history[-1]``."""

    def on_epoch(self, state: TrainState) -> None:
        """After an epoch: ``state.history[-1]`` has its loss terms."""

    def on_end(self, state: TrainState) -> None:
        """When training has ended, ``state.result.ended`` says why."""


class OnValidation(Callback):
    """Calls a function after each validation.

    Args:
        function: of the epoch and what the history has of it (seconds, loss terms, metrics).
    """

    def __init__(self, function: Callable[[int, dict[str, float]], object]) -> None:
        self.function = function

    def on_validation(self, state: TrainState) -> None:
        self.function(state.epoch, state.history[-1])


class EarlyStopping(Callback):
    """Ends training after so many epochs without a better validation.

    Args:
        patience: number of epochs.
    """

    def __init__(self, patience: int) -> None:
        if patience < 1:
            raise OptionError(f"patience must be at least 1, not {patience}")
        self.patience = patience

    def on_start(self, state: TrainState) -> None:
        if state.validated:  # a resumed run, which may have ended so before
            self.on_validation(state)

    def on_validation(self, state: TrainState) -> None:
        waited = state.epoch - state.result.best_epoch
        if waited >= self.patience:
            state.stop(f"patience: no better validation for {waited} epochs")


class TimeLimit(Callback):
    """Ends training after so much time, at the end of a step.

    Args:
        minutes: since training started, without what a resumed run took before.
    """

    def __init__(self, minutes: float) -> None:
        if not minutes > 0:
            raise OptionError(f"minutes must be positive, not {minutes}")
        self.minutes = minutes

    def on_step(self, state: TrainState) -> None:
        if state.seconds - state.seconds_before >= 60 * self.minutes:
            state.stop(f"time: {self.minutes:g} minutes are used up")


class ProgressBar(Callback):
    """A bar with the epoch, the monitored metric, its best value and the time left; its last line says why it ended.

    Args:
        file: where to; standard error if missing.
        always: also where ``file`` is no terminal.
        ncols: width; that of the terminal if missing.
    """

    def __init__(self, *, file: TextIO | None = None, always: bool = False, ncols: int | None = None) -> None:
        self.file, self.always, self.ncols = file, always, ncols
        self._bar: Any = None

    def on_start(self, state: TrainState) -> None:
        name = state.name if len(state.name) <= 20 else f"{state.name[:17]}..."
        self._bar = tqdm(
            total=state.options.epochs,
            initial=state.epoch,
            desc=name,
            file=self.file or sys.stderr,
            disable=False if self.always else None,
            dynamic_ncols=self.ncols is None,
            ncols=self.ncols,
            leave=False,
            bar_format="{desc}: {n_fmt}/{total_fmt} |{bar}|{postfix} {remaining} left",
        )

    def on_validation(self, state: TrainState) -> None:
        monitor = state.options.monitor
        now, best = state.history[-1][monitor], state.best
        # The bar writes a comma before it.
        self._bar.set_postfix_str(f"{monitor} {now:.4f}, best {best:.4f},", refresh=False)

    def on_epoch(self, state: TrainState) -> None:
        self._bar.update()

    def on_end(self, state: TrainState) -> None:
        if self._bar is None:
            return
        shown = not self._bar.disable
        self._bar.close()
        if shown:
            result, monitor = state.result, state.options.monitor
            best = result.validation.get(monitor)
            found = "" if best is None else f"; best {monitor} {best:.4f} in epoch {result.best_epoch}"
            print(f"{state.name}: {result.ended}{found}", file=self.file or sys.stderr)


class HistoryCsv(Callback):
    """Writes the history as CSV, one row an epoch, after each validation and at the end.

    Args:
        path: the file, replaced each time as a whole.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows = -1

    def on_start(self, state: TrainState) -> None:
        make_folder(self.path.parent)
        self._write(state)

    def on_validation(self, state: TrainState) -> None:
        self._write(state)

    def on_end(self, state: TrainState) -> None:
        self._write(state)

    def _write(self, state: TrainState) -> None:
        if self._rows != len(state.history):
            self._rows = len(state.history)
            write_atomically(self.path, history_csv(state.history).encode())


def history_csv(history: list[dict[str, float]]) -> str:
    """The rows of a history under the names of all their columns, losses before metrics."""
    metrics = [name for name in _columns(history) if "@" in name]
    columns = [name for name in _columns(history) if "@" not in name] + metrics
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if columns:
        writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def _columns(history: list[dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for row in history for name in row))


class TensorBoard(Callback):
    """Logs losses and metrics for TensorBoard (extra ``tensorboard``).

    Args:
        folder: of the run's log.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise OptionError("logging for it needs TensorBoard: pip install 'infodcl-geo[tensorboard]'") from None
        self.folder = Path(folder)
        self._writer_of = SummaryWriter
        self._writer: Any = None

    def on_start(self, state: TrainState) -> None:
        make_folder(self.folder)
        # A resumed run replaces what was logged after its checkpoint.
        self._writer = self._writer_of(str(self.folder), purge_step=state.epoch + 1)

    def on_epoch(self, state: TrainState) -> None:
        for name, value in _logged(state).items():
            self._writer.add_scalar(name, value, state.epoch)

    def on_end(self, state: TrainState) -> None:
        if self._writer is not None:
            self._writer.add_text("ended", state.result.ended)
            self._writer.close()


class WandB(Callback):
    """Logs losses and metrics to Weights & Biases (extra ``wandb``).

    Args:
        project: name of the project.
        config: settings to show beside the run.
        init: further arguments of ``wandb.init``.
    """

    def __init__(self, project: str, config: Mapping[str, Any] | None = None, **init: Any) -> None:
        try:
            import wandb  # type: ignore[import-not-found]
        except ImportError:
            raise OptionError("logging to Weights & Biases needs wandb: pip install 'infodcl-geo[wandb]'") from None
        self._wandb = wandb
        self._arguments = {"project": project, "config": dict(config or {}), **init}
        self._run: Any = None

    def on_start(self, state: TrainState) -> None:
        self._run = self._wandb.init(**{"name": state.name, **self._arguments})

    def on_epoch(self, state: TrainState) -> None:
        self._run.log(_logged(state), step=state.epoch)

    def on_end(self, state: TrainState) -> None:
        if self._run is not None:
            self._run.summary["ended"] = state.result.ended
            self._run.finish(exit_code=0 if state.error is None else 1)


def _logged(state: TrainState) -> dict[str, float]:
    """What the last epoch has, under ``loss/`` or ``validation/``."""
    row = {name: value for name, value in state.history[-1].items() if name not in ("epoch", "seconds")}
    return {f"{'validation' if '@' in name else 'loss'}/{name}": value for name, value in row.items()}
