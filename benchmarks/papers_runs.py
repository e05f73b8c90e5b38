"""Runs behind the tables of the papers: trained once, kept, and put beside what was published."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from papers_plan import SAMPLES, Artefact, Kept, Variant

from infodcl_geo import Config, InfodclGeoError, Interactions
from infodcl_geo.comparison import Entry, TableFile, describe, entry_of
from infodcl_geo.experiment import fit, score
from infodcl_geo.training.callbacks import Callback
from infodcl_geo.training.loop import rank
from infodcl_geo.training.state import TrainState

KS = (10, 20, 50)
METRICS = [f"{name}@{k}" for name in ("recall", "ndcg") for k in KS]
PER_USER = ("recall@20", "ndcg@20")
COLUMNS = (
    "row", "metric", "published", "measured", "ratio", "low", "high", "seeds", "sd", "best on test (no fair estimate)",
    "its ratio", "minus reference", "difference low", "difference high", "best epoch", "epochs", "seconds an epoch",
    "note",
)  # fmt: skip


ENDED = ("closed form", "patience", "time", "epochs used up", "epochs used up, still improving")
"""Why a training ended; kept as its place here, as a table of runs holds numbers."""


def _ended(why: str) -> int:
    reason = why.partition(":")[0]
    return 0 if not why else ENDED.index(reason) if reason in ENDED else len(ENDED)


@dataclass
class Budget:
    """Time that may be spent.

    Args:
        minutes: of all runs together.
        run_minutes: of one training, in CPU time, so that a busy machine trains no less.
    """

    minutes: float
    run_minutes: float
    begin: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Minutes."""
        return self.minutes - (time.monotonic() - self.begin) / 60


class BestOnTest(Callback):
    """The best of each metric on test over the validated epochs: what some programs report, and no fair estimate."""

    def __init__(self, data: Interactions) -> None:
        self.data = data
        self.best: dict[str, float] = {}

    def on_validation(self, state: TrainState) -> None:
        found = rank(self.data, state.model.scorer(), "test", ks=KS).mean()
        self.best = {name: max(found[name], self.best.get(name, 0.0)) for name in METRICS}


class CpuLimit(Callback):
    """Ends training after so much CPU time of the process, its validations included."""

    def __init__(self, minutes: float) -> None:
        self.minutes, self.begin = minutes, time.process_time()

    def on_start(self, state: TrainState) -> None:
        self.begin = time.process_time()

    def on_step(self, state: TrainState) -> None:
        if time.process_time() - self.begin >= 60 * self.minutes:
            state.stop(f"time: {self.minutes:g} CPU minutes are used up")


def published(paper: str, table: str, data: str) -> dict[tuple[str, str], float]:
    """What a table says of a data set, by row and metric."""
    with Path(__file__).with_name("papers_published.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            row for row in csv.DictReader(file) if (row["paper"], row["table"], row["data"]) == (paper, table, data)
        ]
    return {(row["row"], row["metric"]): float(row["value"]) for row in rows}


def train_one(data: Interactions, config: Config, run_minutes: float, settings: str, label: str) -> Entry:
    """One run by both protocols: the epoch chosen on validation, and the best epoch on test beside it."""
    watch = BestOnTest(data)
    callbacks = [] if config.recipe.closed_form else [watch, CpuLimit(run_minutes)]
    found = fit(data, config, ks=KS, device="cpu", progress=False, callbacks=callbacks)
    if found.result.interrupted:
        raise KeyboardInterrupt
    if not config.recipe.closed_form and found.result.best_epoch == 0:
        raise InfodclGeoError(f"no epoch was validated in {run_minutes:g} CPU minutes")
    found = score(data, found, ks=KS, device="cpu")
    entry = entry_of(found, data, settings, PER_USER, label)
    last = {name: entry.row.pop(name) for name in ("key", "settings")}
    entry.row.update({f"best on test {name}": value for name, value in (watch.best or found.test).items()})
    entry.row.update({"ended": _ended(found.result.ended), **last})
    return entry


def run_all(
    data: Interactions,
    variants: Iterable[Variant],
    seeds: Sequence[int],
    table: TableFile,
    budget: Budget,
    changes: Mapping[str, Any],
    say: Callable[[str], None] = print,
) -> tuple[dict[str, list[Entry]], dict[str, str]]:
    """The entries of each row, and why a row has none; what is in the table is not run again.

    A row that a committed study stands for is not run."""
    found: dict[str, list[Entry]] = {}
    why: dict[str, str] = {}
    plan = [(variant, seed) for seed in seeds for variant in variants if variant.kept is None]
    for number, (variant, seed) in enumerate(plan, 1):
        if variant.config is None:
            why[variant.row] = variant.absent
            continue
        config = variant.config
        if not config.recipe.closed_form:
            config = config.changed(seed=seed, **changes)
        elif seed != seeds[0]:
            continue
        settings = describe(data, config, KS, False, study="papers", cpu_minutes=budget.run_minutes)
        entry = table.find(settings, PER_USER, variant.row, studied=config.recipe.studied)
        if entry is None:
            if budget.left <= 0:
                used = f"the {budget.minutes:g} minutes were used up" if budget.minutes else "no time was given to runs"
                why.setdefault(variant.row, f"not run: {used}")
                continue
            begin = time.monotonic()
            try:
                entry = train_one(data, config, budget.run_minutes, settings, variant.row)
            except InfodclGeoError as error:
                why.setdefault(variant.row, f"not run: {error}")
                say(f"[{number}/{len(plan)}] {variant.row}: {error}")
                continue
            table.add(entry)
            say(
                f"[{number}/{len(plan)}] {variant.row}, seed {seed}: recall@20 {entry.row['test recall@20']:.4f}, "
                f"{time.monotonic() - begin:.0f} s; {max(0.0, budget.left):.0f} minutes left"
            )
        found.setdefault(variant.row, []).append(entry)
    return found, {row: text for row, text in why.items() if row not in found}


def kept(file: str, where: Mapping[str, str], metric: str) -> dict[str, float]:
    """Test values of a committed study by seed.

    Args:
        file: its CSV below ``benchmarks``.
        where: columns that name the rows.
        metric: such as ``recall@20``, or the whole name of a column.
    """
    with (Path(__file__).parent / file).open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if all(row.get(name) == value for name, value in where.items())]
    found = [
        (f"{row.get('seed', 0)}.{number}", row.get(f"test {metric}") or row.get(metric))
        for number, row in enumerate(rows)
    ]
    several = len({key.partition(".")[0] for key, _ in found}) < len(found)
    return {key if several else key.partition(".")[0]: float(value) for key, value in found if value}


def seeds_interval(values: Sequence[float]) -> tuple[float, float]:
    """95% interval of a mean over seeds, by Student's t; not a number for one seed."""
    from scipy.stats import t

    count = len(values)
    half = float(t.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def _of_study(study: Kept, metric: str, said: float | None) -> dict[str, Any]:
    values = kept(study.file, study.where, metric)
    name = study.file.removeprefix("results/").removeprefix("studies/").partition("/")[0]
    if not values:
        return {"note": f"not in the study {name}"}
    found: dict[str, Any] = {"measured": float(np.mean([*values.values()])), "seeds": len(values)}
    if len(values) > 1:
        found["sd"] = float(np.std([*values.values()], ddof=1))
    if said:
        found["ratio"] = found["measured"] / said
    before = kept(study.file, study.against, metric) if study.against else {}
    gaps = [value - before[seed] for seed, value in values.items() if seed in before]
    if gaps:
        found["minus reference"] = float(np.mean(gaps))
        if len(gaps) > 1:
            found["difference low"], found["difference high"] = seeds_interval(gaps)
    about = [f"study {name}", f"start: {study.start}" if study.start else "", "interval over seeds" if gaps else ""]
    found["note"] = "; ".join(part for part in about if part)
    return found


def interval(values: np.ndarray) -> tuple[float, float]:
    """95% interval of a mean over users, by the normal limit; it says nothing of other seeds."""
    half = 1.96 * float(values.std(ddof=1)) / math.sqrt(values.size) if values.size > 1 else math.nan
    return float(values.mean()) - half, float(values.mean()) + half


def _users(entries: Sequence[Entry], metric: str) -> np.ndarray:
    return np.mean([entry.per_user[metric] for entry in entries], axis=0)


def table_rows(
    artefact: Artefact, variants: Sequence[Variant], data: str, runs: Mapping[str, Sequence[Entry]],
    why: Mapping[str, str],
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each variant and metric: published, measured by both protocols, on the papers' data their ratio."""
    known = published(artefact.paper, artefact.table, data)
    comparable = SAMPLES.get(data, "").startswith("the papers' split")
    reference = runs.get(artefact.reference)
    rows = []
    for variant in variants:
        entries = runs.get(variant.row, ())
        for metric in METRICS:
            said = known.get((variant.row, metric))
            if metric.endswith("@10") and artefact.paper != "diffcl":
                continue
            row: dict[str, Any] = {"row": variant.row, "metric": metric, "published": "" if said is None else said}
            rows.append(row)
            if variant.kept is not None:
                row |= _of_study(variant.kept, metric, said if comparable else None)
                continue
            if not entries:
                row["note"] = why.get(variant.row, "not run")
                continue
            values = [entry.row[f"test {metric}"] for entry in entries]
            best = float(np.mean([entry.row[f"best on test {metric}"] for entry in entries]))
            row |= {"measured": float(np.mean(values)), "seeds": len(values)}
            row["sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else ""
            row["best on test (no fair estimate)"] = best
            if said and comparable:
                row |= {"ratio": row["measured"] / said, "its ratio": best / said}
            if metric in PER_USER:
                row["low"], row["high"] = interval(_users(entries, metric))
                if reference and variant.row != artefact.reference:
                    gap = _users(entries, metric) - _users(reference, metric)
                    row["minus reference"] = float(gap.mean())
                    row["difference low"], row["difference high"] = interval(gap)
            row["best epoch"] = "/".join(str(entry.row["best_epoch"]) for entry in entries)
            row["epochs"] = "/".join(str(entry.row["epochs_run"]) for entry in entries)
            row["seconds an epoch"] = float(np.median([entry.row["seconds_per_epoch"] for entry in entries]))
            row["note"] = ", ".join(dict.fromkeys((*ENDED, "ended")[entry.row["ended"]] for entry in entries))
    return rows


def cold_rows(
    data: Interactions, variants: Sequence[Variant], runs: Mapping[str, Sequence[Entry]], why: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Test Recall@20 of the users with at most so many training interactions."""
    users = data.test[0].unique()
    degree = torch.bincount(data.train[0], minlength=data.num_users)[users].numpy()
    rows = []
    for variant in variants:
        entries = runs.get(variant.row, ())
        for most in (5, 10, 15, 20, 25):
            row: dict[str, Any] = {"row": variant.row, "metric": "recall@20", "at most": most}
            rows.append(row)
            chosen = degree <= most
            row["users"] = int(chosen.sum())
            if not entries:
                row["note"] = why.get(variant.row, "not run")
            elif chosen.any():
                values = _users(entries, "recall@20")[chosen]
                row |= {"measured": float(values.mean()), "seeds": len(entries)}
                row["low"], row["high"] = interval(values)
    return rows


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as a CSV, numbers with six digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    names.sort(key=lambda name: COLUMNS.index(name) if name in COLUMNS else -1)

    def text(value: Any) -> Any:
        return f"{value:.6g}" if isinstance(value, float) else value

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: text(value) for name, value in row.items()} for row in rows)
