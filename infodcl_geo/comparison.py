"""Several models and seeds on one data set: each run once and kept, all compared user by user."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from .data.interactions import Interactions
from .evaluation.significance import Test, Values, best_baseline, differences
from .experiment import CLOSED_FORMS, Config, ModelName, Run

STUDIED: frozenset[str] = frozenset({"infodcl", "simdiff", "diffcl"})
"""Models that this library is about; every other model is a baseline."""

_TEXTS = ("data", "model", "key", "settings")


@dataclass(frozen=True)
class Entry:
    """One finished run, as the table file keeps it.

    Args:
        row: the run's row of the CSV.
        per_user: test metrics of each user by name, ``[n]``, users in the order of their number.
    """

    row: dict[str, Any]
    per_user: dict[str, Values]

    @property
    def model(self) -> str:
        return str(self.row["model"])


def describe(data: Interactions, config: Config, ks: Sequence[int], mask_validation: bool) -> str:
    """All that decides a run's numbers, as JSON: the data by their hash, the cut-offs, and the model's own settings.

    Options of other models are left out; those of training and the seed too where the model is a closed form.
    """
    digest = hashlib.sha256(f"{data.num_users} {data.num_items}".encode())
    for pairs in (data.train, data.valid, data.test):
        digest.update(str(tuple(pairs.shape)).encode())
        digest.update(pairs.contiguous().numpy().tobytes())
    name = config.model.model
    used: set[str] = {name}
    if name not in CLOSED_FORMS:
        used |= set(config.to_dict()) - set(get_args(ModelName))
    if config.uses_vectors:
        used.add("svd")
    parts = {part: options for part, options in config.to_dict().items() if part in used}
    content = {
        "data": digest.hexdigest()[:16],
        "ks": list(ks),
        "mask_validation": mask_validation,
        **parts,
        "model": parts.get("model", name),
    }
    if name == "svd":
        content["model"] = {"model": name, "dim": config.model.dim, "num_layers": config.model.num_layers}
    return json.dumps(content, sort_keys=True)


def entry_of(run: Run, data: Interactions, settings: str, metrics: Sequence[str]) -> Entry:
    """What is kept of a run.

    Args:
        settings: see :func:`describe`.
        metrics: names of those that are kept for each user.
    """
    if run.ranking is None:
        raise ValueError("the run has no test metrics of the users")
    row = {
        "data": data.name,
        "model": run.config.model.model,
        "seed": run.config.training.seed,
        "best_epoch": run.result.best_epoch,
        "seconds_per_epoch": run.result.seconds_per_epoch,
        "epochs_run": len(run.result.epoch_seconds),
        "preparation_seconds": sum(run.preparation_seconds.values()),
        **{f"valid {name}": value for name, value in run.result.validation.items()},
        **{f"test {name}": value for name, value in run.test.items()},
        "key": _key(settings),
        "settings": settings,
    }
    return Entry(row, {name: run.ranking.per_user[name].cpu().numpy() for name in metrics})


def _key(settings: str) -> str:
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)


class TableFile:
    """Finished runs on disk: a CSV with a row for each, and beside it an ``.npz`` with the metrics of each user.

    A row is found again by its ``key``, the hash of its ``settings`` (:func:`describe`). Rows of other settings, and
    of files that have no keys, are kept as they are. Files are replaced whole, so an interrupted run leaves them as
    they were; each addition reads them anew, so several processes may add runs, but not at the same instant.

    Args:
        path: of the CSV.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.arrays = self.path.with_suffix(".npz")

    def rows(self) -> pd.DataFrame:
        """The CSV as it is now, every cell as text; empty if there is none."""
        if not self.path.exists():
            return pd.DataFrame(columns=["data", "model", "seed", "key"], dtype=str)
        try:
            table = pd.read_csv(self.path, dtype=str, keep_default_na=False)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.path}: no table of runs ({str(error).splitlines()[0]})") from error
        if not {"data", "model", "seed"} <= set(table.columns):
            raise ValueError(f"{self.path}: is there already, and is no table of runs")
        if "key" not in table:
            table["key"] = ""
        return table

    def find(self, settings: str, metrics: Sequence[str]) -> Entry | None:
        """The run of these settings, if it is kept with the ``metrics`` of each user."""
        key = _key(settings)
        table = self.rows()
        table = table[table["key"] == key]
        if table.empty:
            return None
        arrays = self._load(lambda name: name.startswith(key))
        per_user = {name: arrays[f"{key} {name}"] for name in metrics if f"{key} {name}" in arrays}
        if len(per_user) < len(metrics):
            return None
        cells = {str(name): text for name, text in table.iloc[-1].items() if text}
        return Entry({name: text if name in _TEXTS else _number(text) for name, text in cells.items()}, per_user)

    def others(self, entry: Entry) -> int:
        """Rows of the same data, model and seed with other settings."""
        table = self.rows()
        same = pd.Series(True, index=table.index)
        for name in ("data", "model", "seed"):
            same &= table[name] == str(entry.row[name])
        return int((same & (table["key"] != entry.row["key"])).sum())

    def add(self, entry: Entry) -> None:
        """Keep a run, in place of one with the same settings."""
        key = entry.row["key"]
        table = self.rows()
        kept = table[table["key"] != key]
        row = pd.DataFrame([{name: str(value) for name, value in entry.row.items()}])
        table = row if kept.empty else pd.concat([kept, row], ignore_index=True).fillna("")
        last = [name for name in ("key", "settings") if name in table]
        table = table[[*(name for name in table.columns if name not in last), *last]]
        arrays = self._load(lambda name: not name.startswith(key))
        arrays |= {f"{key} {name}": values for name, values in entry.per_user.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # First the arrays: a row without them counts as not run.
        new = self.arrays.with_name(f"{self.arrays.name}.{os.getpid()}")
        with new.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        os.replace(new, self.arrays)
        new = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        table.to_csv(new, index=False)
        os.replace(new, self.path)

    def _load(self, wanted: Callable[[str], bool]) -> dict[str, Values]:
        if not self.arrays.exists():
            return {}
        with np.load(self.arrays, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if wanted(name)}


def compare(
    data: Interactions,
    configs: Iterable[Config],
    execute: Callable[[Config], Run],
    *,
    metrics: Sequence[str],
    ks: Sequence[int] = (10, 20, 50),
    mask_validation: bool = False,
    table: TableFile | None = None,
    say: Callable[[str], None] = print,
) -> list[Entry]:
    """Run what is not kept yet, one configuration after the other, and keep each run as soon as it is done.

    Args:
        data: the data set.
        configs: what to run.
        execute: trains and scores one configuration; must leave the metrics of each user, as
            :func:`~infodcl_geo.experiment.run` does.
        metrics: names of those that are kept for each user.
        ks, mask_validation: with which ``execute`` scores.
        table: where runs are kept; without it all are run.
        say: told how many runs were already there, and of runs with other settings that are not part of the result.

    Returns:
        One entry for each configuration, in their order.
    """
    entries = []
    found = changed = 0
    for config in configs:
        settings = describe(data, config, ks, mask_validation)
        entry = table.find(settings, metrics) if table is not None else None
        if entry is None:
            entry = entry_of(execute(config), data, settings, metrics)
            if table is not None:
                table.add(entry)
        else:
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
    entries: Sequence[Entry], metrics: Sequence[str], *, significance: bool = False, test: Test = "t"
) -> tuple[list[str], list[list[str]]]:
    """The table of models: mean and standard deviation of test ``metrics`` over the seeds, seconds an epoch.

    Args:
        entries: runs; models are listed in the order of their first.
        metrics: names; the last one selects the baseline, on validation.
        significance: add a column for each metric with :func:`differences` to :func:`best_baseline`.
        test: see :func:`paired_test`.

    Returns:
        Headers, and the rows of cells.
    """
    runs: dict[str, list[Entry]] = {}
    for entry in entries:
        runs.setdefault(entry.model, []).append(entry)
    headers = ["model", *(f"test {name}" for name in metrics), "s/epoch"]
    rows = []
    for model, group in runs.items():
        cells = []
        for name in metrics:
            values = np.array([entry.row[f"test {name}"] for entry in group])
            spread = f" ± {values.std(ddof=1):.4f}" if len(group) > 1 else ""
            cells.append(f"{values.mean():.4f}{spread}")
        seconds = float(np.median([entry.row["seconds_per_epoch"] for entry in group]))
        rows.append([model, *cells, f"{seconds:.3f}" if seconds > 0 else "-"])
    baseline = best_baseline(entries, metrics[-1], STUDIED) if significance else None
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
    return headers, rows


def read_settings(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Options of models from a YAML or JSON file, as ``benchmarks/tune.py`` writes them.

    The file maps models to options, which are those of the command line; an option of the model itself is written
    with its dot or as a mapping of its own::

        mf: {num_layers: 1, penalty: 0.011, lr: 0.005}
        ease: {ease.l2: 200}
        infodcl:
          num_layers: 1
          infodcl: {contrast: 0.005}

    Returns:
        For each model its options by their names on the command line.

    Raises:
        ValueError: if the file is not such a mapping; one line that names it.
    """
    import yaml  # type: ignore[import-untyped]

    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: neither YAML nor JSON ({' '.join(str(error).split())})") from error
    if not isinstance(content, Mapping) or not all(isinstance(options, Mapping) for options in content.values()):
        raise ValueError(f"{path}: must map models to their options")
    unknown = [str(model) for model in content if model not in get_args(ModelName)]
    if unknown:
        raise ValueError(f"{path}: no model is called {', '.join(unknown)}")
    settings: dict[str, dict[str, Any]] = {}
    for model, options in content.items():
        settings[model] = {}
        for name, value in options.items():
            inner = value if isinstance(value, Mapping) else {}
            settings[model] |= {f"{name}.{part}": v for part, v in inner.items()} or {name: value}
    return settings
