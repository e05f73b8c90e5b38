"""Several models and seeds on one data set: each run once and kept, all compared user by user."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .configuration import Config
from .data.interactions import Interactions
from .errors import NO_MEMORY, FileError, InfodclGeoError, is_own_fault
from .evaluation.significance import Test, best_baseline, differences
from .files import locked, make_folder, read_file, write_atomically
from .outcome import Run
from .resuming import Unfinished, forget
from .text import csv_cell, csv_lines, csv_text

Values = npt.NDArray[np.float64]

_NAMES = ("data", "model", "label")
_TEXTS = (*_NAMES, "key", "settings")


class TableError(InfodclGeoError):
    """A table of runs that cannot be read or written; the message is one line and names the file."""


@dataclass(frozen=True)
class Planned:
    """One run of a comparison.

    Args:
        config: what is run.
        label: what the table calls it; runs of one label are seeds of one variant.
    """

    config: Config
    label: str

    @classmethod
    def of(cls, config: Config, label: str | None = None) -> Planned:
        """Called by the model's name where nothing else is said."""
        return cls(config, label or config.name)


@dataclass(frozen=True)
class Entry:
    """One finished run, as the table file keeps it.

    Args:
        row: the run's row of the CSV.
        per_user: test metrics of each user by name, ``[n]``, users in the order of their number.
        label: what the table calls it.
        studied: whether the model is one that the library is about, and no baseline.
    """

    row: dict[str, Any]
    per_user: dict[str, Values]
    label: str
    studied: bool = False


@dataclass(frozen=True)
class Failure:
    """A run that ended in an error.

    Args:
        label: what the table calls it.
        seed: of the run.
        error: its message.
    """

    label: str
    seed: int
    error: str


def describe(data: Interactions, config: Config, ks: Sequence[int], mask_validation: bool, **more: Any) -> str:
    """All that decides a run's numbers, as JSON: the data by their hash, the cut-offs, and what the model uses.

    Args:
        more: whatever else a study varies, such as the channels that it builds itself.
    """
    content = {
        "data": data.fingerprint,
        "ks": list(ks),
        "mask_validation": mask_validation,
        **config.identity(),
        **more,
    }
    return json.dumps(content, sort_keys=True)


def entry_of(run: Run, data: Interactions, settings: str, metrics: Sequence[str], label: str | None = None) -> Entry:
    """What is kept of a run.

    Args:
        settings: see :func:`describe`.
        metrics: names of those that are kept for each user.
        label: what the table calls it; the model's name by default.
    """
    if run.ranking is None:
        raise ValueError("the run has no test metrics of the users")
    numbers = {
        "best_epoch": run.result.best_epoch,
        "seconds_per_epoch": run.result.seconds_per_epoch,
        "epochs_run": len(run.result.epoch_seconds),
        "preparation_seconds": sum(run.preparation_seconds.values()),
        **{f"valid {name}": value for name, value in run.result.validation.items()},
        **{f"test {name}": value for name, value in run.test.items()},
    }
    per_user = {name: run.ranking.per_user[name].cpu().numpy() for name in metrics}
    return entry_with(numbers, run.config, data, settings, per_user, label)


def entry_with(
    numbers: Mapping[str, Any],
    config: Config,
    data: Interactions,
    settings: str,
    per_user: Mapping[str, Values] = MappingProxyType({}),
    label: str | None = None,
) -> Entry:
    """An entry of numbers of any kind, for studies that measure something of their own.

    Args:
        numbers: columns of the table by name.
        config: what was run.
        settings: see :func:`describe`.
        per_user: metrics of each user by name.
        label: what the table calls it; the model's name by default.
    """
    label = label or config.name
    row = {
        "data": data.name,
        "model": config.name,
        "label": label,
        "seed": config.training.seed,
        **numbers,
        "key": _key(settings),
        "settings": settings,
    }
    return Entry(row, dict(per_user), label, config.recipe.studied)


def _key(settings: str) -> str:
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)


class TableFile:
    """Finished runs on disk: a CSV with a row for each, and beside it an ``.npz`` with the metrics of each user.

    A row is found again by its ``key``, the hash of its ``settings`` (:func:`describe`). Rows of other settings, and
    of files that have no keys, are kept as they are. Files are replaced whole under a lock, so an interrupted run
    leaves them as they were and several processes may add runs.

    Args:
        path: of the CSV.

    Raises:
        TableError: if the path cannot be that of a table.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.arrays = self.path.with_suffix(".npz")
        if self.path.suffix == ".npz":
            raise TableError(f"{self.path}: the table is a CSV, the .npz lies beside it: give another ending")
        if self.path.is_dir():
            raise TableError(f"{self.path}: is a folder; give a file for the table")
        if self.path.exists() and not self.path.is_file():
            raise TableError(f"{self.path}: is no regular file; give another for the table")

    def rows(self) -> list[dict[str, str]]:
        """The rows of the CSV as it is now, every cell as text; empty if there is none."""
        try:
            text = read_file(self.path).decode() if self.path.exists() else None
        except FileError as error:
            raise TableError(str(error)) from error
        except UnicodeDecodeError as error:
            raise TableError(f"{self.path}: no table of runs ({' '.join(str(error).split())})") from error
        if text is None:
            return []
        if "\0" in text:
            raise TableError(f"{self.path}: no table of runs (it has a NUL)")
        try:
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            rows = list(reader)
        except csv.Error as error:
            raise TableError(f"{self.path}: no table of runs ({error})") from error
        if not {"data", "model", "seed"} <= set(reader.fieldnames or ()):
            raise TableError(f"{self.path}: is there already, and is no table of runs")
        for line, row in enumerate(rows, 2):
            if None in row or None in row.values():
                raise TableError(f"{self.path}:{line}: not as many cells as the header has; was it cut short?")
            row.setdefault("key", "")
            row |= {name: csv_text(row[name]) for name in _NAMES if name in row}
        return rows

    def find(self, settings: str, metrics: Sequence[str], label: str, *, studied: bool = False) -> Entry | None:
        """The run of these settings, if it is kept with the ``metrics`` of each user."""
        key = _key(settings)
        found = [row for row in self.rows() if row["key"] == key]
        if not found:
            return None
        arrays = self._load(lambda name: name.startswith(key))
        per_user = {name: arrays[f"{key} {name}"] for name in metrics if f"{key} {name}" in arrays}
        if len(per_user) < len(metrics):
            return None
        try:
            row = {name: v if name in _TEXTS else _number(v) for name, v in found[-1].items() if v}
        except ValueError as error:
            raise TableError(f"{self.path}: the row of {label} is damaged ({error})") from error
        return Entry(row, per_user, label, studied)

    def unfinished(self, settings: str) -> Path:
        """Folder of the checkpoints of a run of these settings, as long as it is not kept."""
        return self.path.with_name(f"{self.path.name}.checkpoints") / _key(settings)

    def others(self, entry: Entry) -> int:
        """Rows of the same data, model and seed with other settings."""
        same = ("data", "model", "seed")
        rows = (row for row in self.rows() if all(row[name] == str(entry.row[name]) for name in same))
        return sum(row["key"] != entry.row["key"] for row in rows)

    def add(self, entry: Entry) -> None:
        """Keep a run, in place of one with the same settings."""
        key = entry.row["key"]
        make_folder(self.path.parent)
        with locked(self.path):
            rows = [row for row in self.rows() if row["key"] != key]
            rows.append({name: str(value) for name, value in entry.row.items()})
            names = list(dict.fromkeys(name for row in rows for name in row))
            last = [name for name in ("key", "settings") if name in names]
            names = [*(name for name in names if name not in last), *last]
            arrays = self._load(lambda name: not name.startswith(key))
            arrays |= {f"{key} {name}": values for name, values in entry.per_user.items()}

            def save_arrays(file: BinaryIO) -> None:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

            # First the arrays: a row without them counts as not run.
            write_atomically(self.arrays, save_arrays)
            # Names come from files and folders of others, and tables are looked at in spreadsheets.
            cells = ([csv_cell(row.get(n, "")) if n in _NAMES else row.get(n, "") for n in names] for row in rows)
            write_atomically(self.path, csv_lines([names, *cells]).encode())

    def _load(self, wanted: Callable[[str], bool]) -> dict[str, Values]:
        if not self.arrays.exists():
            return {}
        try:
            # Opened here, as numpy leaves a file open that it cannot read.
            with self.arrays.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                return {name: file[name] for name in file.files if wanted(name)}
        except Exception as error:  # whatever numpy and zlib meet in damaged bytes
            reason = " ".join(str(error).split()) or type(error).__name__
            raise TableError(f"{self.arrays}: damaged ({reason}); remove it to run its models again") from error


def compare(
    data: Interactions,
    plan: Iterable[Planned | Config],
    execute: Callable[..., Run],
    *,
    metrics: Sequence[str],
    ks: Sequence[int] = (10, 20, 50),
    mask_validation: bool = False,
    table: TableFile | None = None,
    say: Callable[[str], None] = print,
    failures: list[Failure] | None = None,
    more: Mapping[str, Any] = {},
    every: tuple[float | None, int | None] | None = None,
) -> list[Entry]:
    """Run what is not kept yet, one configuration after the other, and keep each run as soon as it is done.

    Args:
        data: the data set.
        plan: what to run.
        execute: trains and scores one configuration; must leave the metrics of each user, as
            :func:`~infodcl_geo.experiment.run` does. Where ``every`` is given it takes ``checkpoint`` and ``resume``
            of that function as well.
        metrics: names of those that are kept for each user.
        ks, mask_validation: with which ``execute`` scores.
        table: where runs are kept; without it all are run.
        say: told how many runs were already there, and of runs with other settings that are not part of the result.
        failures: a list that takes the runs that end in an error of the library's, so that the others go on; without
            it the first error ends the comparison.
        more: what else decides the numbers of ``execute``, see :func:`describe`.
        every: minutes and epochs from one checkpoint to the next of a run that is trained, with which a comparison
            that was stopped goes on in the midst of it; they lie beside the table until the run is kept.

    Returns:
        One entry for each configuration that did not fail, in their order.
    """
    entries = []
    found = changed = 0
    for planned in plan:
        one = Planned.of(planned) if isinstance(planned, Config) else planned
        settings = describe(data, one.config, ks, mask_validation, **more)
        studied = one.config.recipe.studied
        entry = table.find(settings, metrics, one.label, studied=studied) if table is not None else None
        if entry is None:
            kept: Unfinished | None = None
            if table is not None and every is not None and not one.config.recipe.closed_form:
                kept = Unfinished(table.unfinished(settings), *every)
            keeping = False
            try:
                with kept or nullcontext() as unfinished:
                    work = partial(execute, one.config)
                    run = work() if unfinished is None else unfinished.run(work)
                    if run.result.interrupted:
                        # Its numbers are those of a shorter training: they are no result.
                        raise KeyboardInterrupt
                    keeping = True
                    entry = entry_of(run, data, settings, metrics, one.label)
                    if table is not None:
                        table.add(entry)
            except (InfodclGeoError, MemoryError, RuntimeError) as error:
                if failures is None or keeping or isinstance(error, FileError) or not is_own_fault(error):
                    raise
                reason = str(error) if isinstance(error, InfodclGeoError) else NO_MEMORY
                failures.append(Failure(one.label, one.config.training.seed, reason))
                say(f"{one.label}, seed {one.config.training.seed}, failed: {reason}")
                continue
        else:
            assert table is not None
            forget(table.unfinished(settings))  # of a process that was killed right after it kept the run
            found += 1
        if table is not None:
            changed += table.others(entry)
        entries.append(entry)
    if table is not None and found:
        say(f"{found} of {len(entries)} runs were already in {table.path}")
    if table is not None and changed:
        say(f"{table.path} also holds {changed} runs of these models and seeds with other settings, not shown here")
    return entries


def summary(
    entries: Sequence[Entry],
    metrics: Sequence[str],
    *,
    significance: bool = False,
    test: Test = "t",
    failures: Sequence[Failure] = (),
) -> tuple[list[str], list[list[str]]]:
    """The table of models: mean and standard deviation of test ``metrics`` over the seeds, seconds an epoch.

    Args:
        entries: runs; models are listed in the order of their first.
        metrics: names; the last one selects the baseline, on validation.
        significance: add a column for each metric with the differences to the best baseline.
        test: see :func:`~infodcl_geo.evaluation.significance.paired_test`.
        failures: runs that ended in an error; each model that has none but these gets a row that says so.

    Returns:
        Headers, and the rows of cells.
    """
    runs: dict[str, list[Entry]] = {}
    for entry in entries:
        runs.setdefault(entry.label, []).append(entry)
    headers = ["model", *(f"test {name}" for name in metrics), "s/epoch"]
    rows = []
    for model, group in runs.items():
        cells = []
        for name in metrics:
            values = np.array([entry.row[f"test {name}"] for entry in group])
            spread = f" ± {values.std(ddof=1):.4f}" if len(group) > 1 else ""
            cells.append(f"{values.mean():.4f}{spread}" if np.isfinite(values).all() else "-")
        seconds = float(np.median([entry.row["seconds_per_epoch"] for entry in group]))
        rows.append([model, *cells, f"{seconds:.3f}" if seconds > 0 else "-"])
    baseline = None
    if significance and entries:
        # Among variants of one model there is no baseline: then the first is what the others are compared with.
        baseline = best_baseline(entries, metrics[-1]) or entries[0].label
    if baseline is not None and len(runs) > 1:
        for name in metrics:
            gaps = differences(entries, name, baseline, test)
            headers.append(f"{name} - {baseline}")
            for row in rows:
                gap = gaps.get(row[0])
                if gap is None:
                    row.append("")
                else:
                    row.append(f"{gap.mean:+.4f}, p {'< 0.0001' if gap.p_value < 1e-4 else f'= {gap.p_value:.2g}'}")
    for label in dict.fromkeys(failure.label for failure in failures):
        count = sum(failure.label == label for failure in failures)
        done = next((row for row in rows if row[0] == label), None)
        if done is not None:
            done[0] = f"{label} ({count} failed)"
        else:
            rows.append([label, "failed", *[""] * (len(headers) - 2)])
    return headers, rows
