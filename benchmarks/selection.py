"""What a test number owes to its protocol: how the epoch is chosen, and what happens to the validation items.

    python benchmarks/selection.py --data ../shared/data/office --models lightgcn simdiff infodcl --out selection.csv

Many published programs report the epoch that is best on the test split, some leave validation items out of the test
ranking, some train on them. This script trains each model twice per seed with its validation-selected settings, on the
training split and on training and validation together, looks at the test split at every validation, and prints what
each protocol would have reported. It is for comparing with such numbers and for nothing else: nothing in the library
reads it.

Options that are not listed below are those of ``infodcl-geo train`` and hold for all models.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tabulate import tabulate
from tqdm import tqdm

from infodcl_geo.cli import config_of
from infodcl_geo.data.interactions import Interactions, load_interactions
from infodcl_geo.experiment import Config, prepare
from infodcl_geo.training.callbacks import OnValidation
from infodcl_geo.training.loop import rank, train

METRICS = ("recall@20", "ndcg@20")


def history(data: Interactions, config: Config) -> pd.DataFrame:
    """Validation metrics, test metrics, and test metrics without validation items, at each validated epoch."""
    model = prepare(data, config).model
    rows: list[dict[str, Any]] = []

    def look(epoch: int, validation: dict[str, float]) -> None:
        row: dict[str, Any] = {"epoch": epoch}
        scorer = model.scorer()
        masked = rank(data, scorer, "test", ks=(20,), mask_validation=True).mean()
        test = rank(data, scorer, "test", ks=(20,)).mean()
        for metric in METRICS:
            row |= {f"valid {metric}": validation[metric], f"test {metric}": test[metric]}
            row[f"masked {metric}"] = masked[metric]
        rows.append(row)

    train(model, data, config.training, ks=(20,), progress=False, callbacks=[OnValidation(look)])
    return pd.DataFrame(rows)


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
    chosen = epochs.loc[epochs["valid ndcg@20"].idxmax()]
    found = {}
    for metric in METRICS:
        found[f"epoch by validation, {metric}"] = chosen[f"test {metric}"]
        found[f"epoch by test, {metric}"] = epochs[f"test {metric}"].max()
        found[f"epoch by test, validation masked, {metric}"] = epochs[f"masked {metric}"].max()
        found[f"epoch by test, trained on validation too, {metric}"] = together[metric]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data set with all three splits")
    parser.add_argument("--models", nargs="+", default=["lightgcn", "simdiff", "infodcl"], metavar="MODEL")
    parser.add_argument("--settings", help="YAML of the models' options, as tune.py writes it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", required=True, type=Path, help="CSV of all runs; runs in it are not repeated")
    options, fixed = parser.parse_known_args()
    data = load_interactions(options.data)
    rows: list[dict[Any, Any]] = pd.read_csv(options.out).to_dict("records") if options.out.exists() else []
    jobs = [(model, seed) for model in options.models for seed in options.seeds]
    for model, seed in tqdm(jobs, disable=not sys.stderr.isatty()):
        key = {"data": data.name, "model": model, "seed": seed}
        if any(all(row[name] == value for name, value in key.items()) for row in rows):
            continue
        config = config_of(model, ["train", *fixed, f"--seed={seed}"], options.settings)
        rows.append({**key, **protocols(data, config)})
        options.out.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(options.out, index=False)
    table = pd.DataFrame(rows)
    table = table[(table["data"] == data.name) & table["seed"].isin(options.seeds)]
    headers = [name for name in table.columns if name not in ("data", "model", "seed")]
    lines = []
    for model in options.models:
        group = table[table["model"] == model]
        lines.append([model, *(f"{group[name].mean():.4f}" for name in headers)])
    print(tabulate(lines, headers=["model", *headers], tablefmt="github", disable_numparse=True))
    print(f"\n{data.name}: mean of {len(options.seeds)} seeds")


if __name__ == "__main__":
    main()
