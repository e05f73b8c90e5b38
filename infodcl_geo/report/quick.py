"""A few models on one data set within a budget of time, kept so that a second report reuses them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from ..comparison import Failure, Planned, TableFile, compare
from ..configuration import Config, configure
from ..data.interactions import Interactions
from ..data.options import DataOptions
from ..errors import TrainingError
from ..experiment import fit, score
from ..files import make_folder, write_atomically
from ..models import QUICK
from ..outcome import Run
from ..recommender import Recommender
from ..text import json_ready
from ..training.callbacks import HistoryCsv, TimeLimit

_KS = (10, 20, 50)
_DENSE_ITEMS = 20_000
"""Items from which on the closed forms that invert a matrix over items are left out: 20,000 take 3 GB in float64."""


def train_quickly(
    data: Interactions,
    options: DataOptions,
    folder: str | Path,
    *,
    minutes: float = 10.0,
    epochs: int = 30,
    say: Callable[[str], None] = print,
) -> list[Failure]:
    """Train the models of :data:`~infodcl_geo.models.QUICK` that are not in the folder yet.

    Each trained model may take an equal share of the time that is left; what it has then is kept. Preparations and
    closed forms cannot be cut short, so the budget is one of training epochs.

    Args:
        data, options: the interactions and where they came from.
        folder: takes ``runs.csv`` with its ``.npz``, and a folder for each run.
        minutes: budget of all runs.
        epochs: of the models that are trained, at most.
        say: told how far it is, and what is left out.

    Returns:
        The runs that ended in an error; they are not kept.
    """
    place, begin = make_folder(folder), time.monotonic()
    plan = []
    for name in QUICK:
        config = configure(name)
        if config.recipe.closed_form and "l2" in config.recipe.option_names and data.num_items > _DENSE_ITEMS:
            say(f"{name} is left out: it would invert a matrix over {data.num_items} items")
            continue
        if not config.recipe.closed_form:
            config = config.changed(epochs=epochs, eval_every=min(2, epochs))
        plan.append(Planned.of(config))
    names = [planned.label for planned in plan]

    def execute(config: Config) -> Run:
        left = 60 * minutes - (time.monotonic() - begin)
        position = names.index(config.name)
        waiting = sum(not planned.config.recipe.closed_form for planned in plan[position:])
        gone = time.monotonic() - begin
        say(f"[{position + 1}/{len(plan)}] {config.name}; {gone:.0f} s gone, at most {max(0, left):.0f} s left")
        if left <= 0:
            raise TrainingError(f"{config.name}: the {minutes:g} minutes are used up; give more --minutes")
        own = make_folder(place / f"{config.name}-{data.fingerprint[:8]}")
        callbacks = [HistoryCsv(own / "history.csv"), TimeLimit(max(left / 60 / max(1, waiting), 1e-3))]
        run = fit(data, config, ks=_KS, progress=False, callbacks=[] if config.recipe.closed_form else callbacks)
        if run.result.interrupted:
            raise KeyboardInterrupt
        if not config.recipe.closed_form and run.result.best_epoch == 0:
            raise TrainingError(f"{config.name}: no epoch was validated in its time; give more --minutes")
        run = score(data, run, ks=_KS)
        content = {**run.metrics(options), "data": data.name, "generated": data.generated}
        Recommender.from_run(run, data, options).save(own)
        write_atomically(own / "metrics.json", (json.dumps(json_ready(content), allow_nan=False) + "\n").encode())
        return run

    failures: list[Failure] = []
    metrics = [f"{name}@{k}" for name in ("recall", "ndcg") for k in _KS]
    table = TableFile(place / "runs.csv")
    compare(
        data, plan, execute, metrics=metrics, ks=_KS, table=table, say=say, failures=failures,
        more={"quick": minutes},
    )  # fmt: skip
    return failures
