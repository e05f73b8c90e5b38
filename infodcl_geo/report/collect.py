"""What a folder of runs holds, put together by data set: numbers, histories, models."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..comparison import Entry, TableError, TableFile
from ..data.interactions import Interactions
from ..errors import FileError, InfodclGeoError
from ..evaluation.significance import best_baseline, differences
from ..files import read_file
from ..models import RECIPES
from ..recommender import Recommender

_LARGEST = 1 << 28
"""Bytes of a ``metrics.json`` beyond which it is not read."""


@dataclass
class Trained:
    """The folder of one run, as ``train --out`` writes it."""

    folder: Path
    content: dict[str, Any]
    """of ``metrics.json``"""
    label: str
    """what tables call it"""
    recommender: Recommender | None = None

    @property
    def seed(self) -> int:
        seed = self.content.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    @property
    def history(self) -> list[dict[str, float]]:
        """A row an epoch, numbers alone; empty for closed forms."""
        rows = self.content.get("history") or []
        return [{k: float(v) for k, v in row.items() if is_number(v)} for row in rows if isinstance(row, dict)]

    def groups(self, what: str) -> dict[str, dict[str, float]]:
        """``test_by_user_degree`` or ``test_by_item_degree``."""
        found = self.content.get(what)
        return {str(k): v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}


@dataclass
class Material:
    """All that is known of the runs on one data set and one split of it."""

    name: str
    fingerprint: str = ""
    """of the data and the split; empty where no run says it"""
    entries: list[Entry] = field(default_factory=list)
    runs: list[Trained] = field(default_factory=list)
    trials: list[dict[str, str]] = field(default_factory=list)
    """of searches, as ``tune --out`` writes them"""
    data: Interactions | None = None
    """the interactions themselves, where they were given"""

    @property
    def k(self) -> int:
        """The cut-off that is shown: 20 where all runs have it, otherwise the largest that all have."""
        kept = [{int(n.rpartition("@")[2]) for n in e.row if n.startswith("test ndcg@")} for e in self.entries]
        common = set.intersection(*kept) if kept else set()
        return 20 if 20 in common or not common else max(common)

    @property
    def labels(self) -> list[str]:
        """What the models are called, in the order of their first run."""
        return list(dict.fromkeys(entry.label for entry in self.entries))

    @property
    def numbers(self) -> dict[str, int]:
        """A number for each label, so that it looks alike in all figures."""
        return {label: number for number, label in enumerate(self.labels)}

    @property
    def models(self) -> dict[str, Recommender]:
        """One saved model of each label."""
        found: dict[str, Recommender] = {}
        for run in self.runs:
            if run.recommender is not None:
                found.setdefault(run.label, run.recommender)
        return found

    @property
    def generated(self) -> bool:
        return any(run.content.get("generated") is True for run in self.runs) or bool(self.data and self.data.generated)


def collect(folder: str | Path, notes: list[str]) -> list[Material]:
    """Read every ``metrics.json`` with its model, and every table of ``compare --out``, in a folder and below it.

    Args:
        folder: where to look.
        notes: takes a line for each thing that is there and could not be used.

    Raises:
        FileError: if there is no such folder, or no run in it.
    """
    place = Path(folder)
    if not place.is_dir():
        raise FileError(f"{place}: there is no such folder; give one with what train --out or compare --out wrote")
    kept: dict[tuple[str, str], Material] = {}

    def material(name: str, fingerprint: str) -> Material:
        same = [m for (other, _), m in kept.items() if other == name]
        if not fingerprint and len(same) == 1:
            return same[0]
        unknown = kept.get((name, ""))
        if fingerprint and unknown is not None and len(same) == 1:
            unknown.fingerprint = fingerprint
            kept[name, fingerprint] = kept.pop((name, ""))
            return unknown
        return kept.setdefault((name, fingerprint), Material(name, fingerprint))

    trials: list[dict[str, str]] = []
    for path in sorted(place.rglob("*.csv")):
        if path.name == "history.csv":
            continue
        searched = _trials(path)
        trials += searched
        for entry in [] if searched else _entries(path, notes):
            material(str(entry.row["data"]), settings_of(entry).get("data", "")).entries.append(entry)
    for path in sorted(place.rglob("metrics.json")):
        run = _trained(path, notes)
        if run is not None:
            record = None if run.recommender is None else run.recommender.record
            material(str(run.content.get("data", "")), record.fingerprint if record else "").runs.append(run)
    if not kept:
        why = f" ({notes[0]})" if notes else ""
        raise FileError(f"{place}: holds no metrics.json and no table of runs{why}; train --out, or report --quick")
    found = list(kept.values())
    if len(found) == 1:
        found[0].trials = trials
    elif trials:
        notes.append(f"{len(trials)} trials of searches do not say which of the {len(found)} data sets they are of")
    for one in found:
        _unite(one, notes)
        if sum(other.name == one.name for other in kept.values()) > 1:
            notes.append(f"{one.name} is here in several splits or versions, which are not compared with each other")
    return found


def _entries(path: Path, notes: list[str]) -> list[Entry]:
    """The runs of a table; none where it is some other CSV."""
    table = TableFile(path)
    studied = {recipe.name: recipe.studied for recipe in RECIPES}
    try:
        rows = table.rows()
    except TableError as error:
        notes.append(str(error))
        return []
    found = []
    for row in rows:
        label = row.get("label") or row["model"]
        metrics = [n.removeprefix("test ") for n, v in row.items() if n.startswith("test ") and v]
        if not metrics:
            continue
        entry = None
        try:
            for wanted in ([m for m in metrics if m.partition("@")[0] in ("recall", "ndcg")], []):
                if entry is None and row.get("settings"):
                    entry = table.find(row["settings"], wanted, label, studied=studied.get(row["model"], False))
        except InfodclGeoError as error:
            notes.append(str(error))
        if entry is None:
            numbers = {name: _cell(value) for name, value in row.items() if value}
            entry = Entry(numbers, {}, label, studied.get(row["model"], False))
        found.append(entry)
    return found


def _trials(path: Path) -> list[dict[str, str]]:
    """The trials of a search; none where it is some other CSV."""
    try:
        text = read_file(path, limit=_LARGEST).decode()
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (InfodclGeoError, UnicodeDecodeError, csv.Error):
        return []  # whatever else it is, it is said where tables of runs are read
    whole = [row for row in rows if None not in row and None not in row.values()]
    return whole if whole and {"model", "trial", "state", "options"} <= set(whole[0]) else []


def _cell(text: str) -> Any:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return text


def _trained(path: Path, notes: list[str]) -> Trained | None:
    try:
        content = json.loads(read_file(path, limit=_LARGEST))
    except (ValueError, RecursionError) as error:  # also the library's own
        notes.append(f"{path}: not read ({' '.join(str(error).split())})")
        return None
    if not isinstance(content, dict) or not isinstance(content.get("model"), str) or not content.get("test"):
        notes.append(f"{path}: left out, it is not what a finished train --out writes")
        return None
    run = Trained(path.parent, content, content["model"])
    try:
        run.recommender = Recommender.load(path.parent)
    except (InfodclGeoError, OSError) as error:
        notes.append(f"{path.parent}: its numbers are shown, its model could not be read ({error})")
    return run


def settings_of(entry: Entry) -> dict[str, Any]:
    """What decided the numbers of an entry; empty where it was not kept."""
    try:
        found = json.loads(entry.row.get("settings") or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _identity(content: Mapping[str, Any]) -> str:
    """What a run is, but for its seed."""
    training = {k: v for k, v in (content.get("training") or {}).items() if k != "seed"}
    return json.dumps([content.get("model"), content.get("options"), training], sort_keys=True, default=str)


def _unite(material: Material, notes: list[str]) -> None:
    """One entry for each run, whether a table or a folder holds it; different settings get different labels."""
    kept = [(entry.label, _identity(settings_of(entry)), entry) for entry in material.entries]
    of_folder: list[tuple[Trained, int]] = []
    for run in material.runs:
        entry = _entry(run, material.name)
        same = [n for n, (_, _, other) in enumerate(kept) if _is_same(entry.row, other.row)]
        if same:
            of_folder.append((run, same[0]))
        else:
            of_folder.append((run, len(kept)))
            kept.append((run.label, _identity(run.content.get("config") or {}), entry))
    variants: dict[str, list[str]] = {}
    for label, identity, _ in kept:
        known = variants.setdefault(label, [])
        if identity not in known:
            known.append(identity)
    labels = [
        label if len(variants[label]) == 1 else f"{label} ({1 + variants[label].index(identity)})"
        for label, identity, _ in kept
    ]
    for label, known in variants.items():
        if len(known) > 1:
            notes.append(f"{material.name}: {label} ran with {len(known)} different settings, numbered here")
    material.entries = [replace(e, label=label) for label, (_, _, e) in zip(labels, kept, strict=True)]
    for run, place in of_folder:
        run.label = labels[place]


def _entry(run: Trained, name: str) -> Entry:
    content = run.content
    seconds = content.get("preparation_seconds") or {}
    row = {
        "data": name,
        "model": content["model"],
        "seed": run.seed,
        "best_epoch": content.get("best_epoch", 0),
        "epochs_run": content.get("epochs_run", 0),
        "seconds_per_epoch": content.get("seconds_per_epoch", 0.0),
        "preparation_seconds": sum(v for v in seconds.values() if is_number(v)),
    }
    for part, of in (("validation", "valid"), ("test", "test")):
        row |= {f"{of} {n}": v for n, v in (content.get(part) or {}).items() if is_number(v)}
    studied = any(recipe.name == content["model"] and recipe.studied for recipe in RECIPES)
    return Entry(row, {}, run.label, studied)


def _is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    tests = [name for name in one if name.startswith("test ")]
    same = one["model"] == other["model"] and one["seed"] == other["seed"] and bool(tests)
    return same and all(
        is_number(other.get(name)) and math.isclose(one[name], other[name], rel_tol=1e-9) for name in tests
    )


def is_number(value: object) -> bool:
    """Whether it is a finite number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def values(entries: Sequence[Entry], name: str) -> list[float]:
    """The finite values of a column."""
    return [float(entry.row[name]) for entry in entries if is_number(entry.row.get(name))]


def seconds_of(entry: Entry) -> float:
    """Training time: all epochs and what happens once before them; NaN where it was not kept."""
    row = entry.row
    parts = [row.get(name) for name in ("epochs_run", "seconds_per_epoch", "preparation_seconds")]
    if not all(is_number(part) for part in parts):
        return math.nan
    epochs, each, before = (float(part) for part in parts)  # type: ignore[arg-type]
    return epochs * each + before


def model_table(material: Material) -> tuple[list[str], list[list[str]], str]:
    """The table of models: means and standard deviations over seeds, time, and differences to the best baseline.

    Returns:
        Headers, rows, and what the columns of significance are, in words.
    """
    k, groups = material.k, {label: [e for e in material.entries if e.label == label] for label in material.labels}
    shown = [f"valid ndcg@{k}", *(f"test {metric}@{k}" for metric in ("recall", "ndcg", "hit", "mrr"))]
    shown = [name for name in shown if values(material.entries, name)]
    headers, rows = ["model", "runs", *shown, "training seconds"], []
    for label, entries in groups.items():
        cells = []
        for name in shown:
            found = values(entries, name)
            spread = f" ± {np.std(found, ddof=1):.4f}" if len(found) > 1 else ""
            cells.append(f"{np.mean(found):.4f}{spread}" if found else "-")
        seconds = float(np.median([seconds_of(entry) for entry in entries]))
        rows.append([label, str(len(entries)), *cells, "-" if math.isnan(seconds) else f"{seconds:.3g}"])
    metric = f"ndcg@{k}"
    sizes = {entry.per_user[metric].size if metric in entry.per_user else 0 for entry in material.entries}
    baseline = best_baseline(material.entries, metric)
    if len(groups) < 2 or len(sizes) != 1 or 0 in sizes or baseline is None:
        return headers, rows, "No test of significance: it needs the metrics of each user, see compare --out."
    gaps = differences(material.entries, metric, baseline)
    headers += [f"{metric} minus {baseline}", "p"]
    for row in rows:
        gap = gaps.get(row[0])
        p = "" if gap is None else "< 0.0001" if gap.p_value < 1e-4 else f"{gap.p_value:.2g}"
        row += ["", ""] if gap is None else [f"{gap.mean:+.4f}", p]
    words = (
        f"The last two columns compare with {baseline}, the best baseline on validation: mean difference over the "
        "users and p of the paired two-sided t-test over the users, adjusted by Holm's method. It speaks of other "
        "users, not of other seeds."
    )
    return headers, rows, words
