"""What a test number owes to its protocol: how the epoch is chosen, and what happens to the validation items.

    python benchmarks/selection.py --data ../shared/data/office --models lightgcn simdiff infodcl --out selection.csv

Many published programs report the epoch that is best on the test split, some leave validation items out of the test
ranking, some train on them. This script trains each model twice per seed with its validation-selected settings, on the
training split and on training and validation together, looks at the test split at every validation, and prints what
each protocol would have reported. It is for comparing with such numbers and for nothing else: nothing in the library
reads it.

Options that are not listed below are those of ``infodcl-geo train``, of the data as well, and hold for all models. Runs
already in the CSV are not repeated, as long as their data and their settings stay the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import torch
from tabulate import tabulate
from tqdm import tqdm

from infodcl_geo import Config, InfodclGeoError, Interactions
from infodcl_geo.cli.parsing import data_of
from infodcl_geo.cli.train import parsed
from infodcl_geo.comparison import Entry, TableFile, describe, entry_with
from infodcl_geo.experiment import prepare
from infodcl_geo.models import find_recipe
from infodcl_geo.training.callbacks import OnValidation
from infodcl_geo.training.loop import rank, train

METRICS = ("recall@20", "ndcg@20")
PROTOCOLS = (
    "epoch by validation",
    "epoch by test",
    "epoch by test, validation masked",
    "epoch by test, trained on validation too",
)
COLUMNS = [f"{protocol}, {metric}" for metric in METRICS for protocol in PROTOCOLS]


def history(data: Interactions, config: Config) -> list[dict[str, float]]:
    """Validation metrics, test metrics, and test metrics without validation items, at each validated epoch."""
    model = prepare(data, config).model
    rows: list[dict[str, float]] = []

    def look(epoch: int, validation: dict[str, float]) -> None:
        row: dict[str, float] = {"epoch": epoch}
        scorer = model.scorer()
        masked = rank(data, scorer, "test", ks=(20,), mask_validation=True).mean()
        test = rank(data, scorer, "test", ks=(20,)).mean()
        for metric in METRICS:
            row |= {f"valid {metric}": validation[metric], f"test {metric}": test[metric]}
            row[f"masked {metric}"] = masked[metric]
        rows.append(row)

    train(model, data, config.training, ks=(20,), progress=False, callbacks=[OnValidation(look)])
    return rows


def merged(data: Interactions) -> Interactions:
    """Training and validation as training, and the test split where everything that is chosen looks for validation."""
    pairs = torch.cat([data.train, data.valid], dim=1)
    order = torch.argsort(pairs[0] * data.num_items + pairs[1])
    return replace(data, train=pairs[:, order], valid=data.test, test=data.test[:, :0])


def best_with_validation(data: Interactions, config: Config) -> dict[str, float]:
    """Best test metrics over the epochs of a training on training and validation items."""
    every: list[dict[str, float]] = []
    both = merged(data)
    model = prepare(both, config).model
    watch = OnValidation(lambda _, found: every.append(found))
    train(model, both, config.training, ks=(20,), progress=False, callbacks=[watch])
    return {metric: max(found[metric] for found in every) for metric in METRICS}


def protocols(data: Interactions, config: Config) -> dict[str, float]:
    """What each protocol reports of one model and seed."""
    epochs, together = history(data, config), best_with_validation(data, config)
    chosen = max(epochs, key=lambda epoch: epoch["valid ndcg@20"])
    found = {}
    for metric in METRICS:
        found[f"epoch by validation, {metric}"] = chosen[f"test {metric}"]
        found[f"epoch by test, {metric}"] = max(epoch[f"test {metric}"] for epoch in epochs)
        found[f"epoch by test, validation masked, {metric}"] = max(epoch[f"masked {metric}"] for epoch in epochs)
        found[f"epoch by test, trained on validation too, {metric}"] = together[metric]
    return found


def study(options: argparse.Namespace, words: list[str]) -> tuple[list[Entry], str]:
    """All runs, the missing ones executed, and the name of the data."""
    table = TableFile(options.out)
    plan = [
        parsed([*words, f"--seed={seed}"], find_recipe(model)) for model in options.models for seed in options.seeds
    ]
    data = data_of(plan[0][0]).load()
    entries = []
    for _, config in tqdm(plan, disable=not sys.stderr.isatty()):
        settings = describe(data, config, (20,), False, study="selection")
        entry = table.find(settings, (), config.name)
        if entry is None:
            entry = entry_with(protocols(data, config), config, data, settings)
            table.add(entry)
        entries.append(entry)
    return entries, data.name


def main(argv: Sequence[str] | None = None) -> int | str:
    """0, or what went wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--models", nargs="+", default=["lightgcn", "simdiff", "infodcl"], metavar="MODEL")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", required=True, help="CSV of all runs; runs in it are not repeated")
    options, words = parser.parse_known_args(argv)
    try:
        entries, name = study(options, words)
    except InfodclGeoError as error:
        return str(error)
    lines = []
    for model in dict.fromkeys(entry.label for entry in entries):
        rows = [entry.row for entry in entries if entry.label == model]
        lines.append([model, *(f"{fmean(row[column] for row in rows):.4f}" for column in COLUMNS)])
    print(tabulate(lines, headers=["model", *COLUMNS], tablefmt="github", disable_numparse=True))
    print(f"\n{name}: mean of {len(options.seeds)} seeds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
