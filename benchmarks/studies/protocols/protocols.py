"""What a model's test figures are under other protocols than this library's: one training, several readings of it.

    python benchmarks/studies/protocols/protocols.py DATA --model giffcf --seeds 0 1 2 --out protocols.csv

Each run gives one row: the test metrics of the epoch that validation chooses (this library's), the same with the
validation items left out of the ranking, and both again for the epoch that is best on test, as programs that read no
validation file report it. Training never depends on the test split. Options of the model follow as ``name=value``.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import torch
import yaml

from infodcl_geo.configuration import configure
from infodcl_geo.data.interactions import Interactions, load_interactions
from infodcl_geo.experiment import fit
from infodcl_geo.training.callbacks import Callback
from infodcl_geo.training.loop import rank
from infodcl_geo.training.state import TrainState

METRICS = ("recall@20", "ndcg@20")


class Readings(Callback):
    """Test metrics after each validation, with and without the validation items in the ranking."""

    def __init__(self, data: Interactions) -> None:
        self.data = data
        self.found: dict[int, dict[str, float]] = {}

    def on_validation(self, state: TrainState) -> None:
        row = {}
        for masked in (False, True):
            metrics = rank(
                self.data, state.model.scorer(), "test", ks=(20,), mask_validation=masked, device="cpu", name=state.name
            ).mean()
            row |= {f"{name}{' masked' if masked else ''}": metrics[name] for name in METRICS}
        self.found[state.epoch] = row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("options", nargs="*", help="name=value")
    parser.add_argument("--model", default="giffcf")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load_interactions(args.data)
    changes: dict[str, Any] = dict(option.split("=", 1) for option in args.options)
    changes = {name: yaml.safe_load(value) for name, value in changes.items()}
    rows = list(csv.DictReader(args.out.open(newline=""))) if args.out.exists() else []
    for seed in args.seeds:
        key = {"data": data.name, "model": args.model, "seed": str(seed), "options": " ".join(args.options)}
        if any(all(row[name] == value for name, value in key.items()) for row in rows):
            continue
        readings = Readings(data)
        config = configure(args.model, seed=seed, **changes)
        run = fit(data, config, ks=(20,), device="cpu", progress=False, callbacks=[readings])
        row: dict[str, Any] = {**key, "epochs": len(run.result.epoch_seconds), "best_epoch": run.result.best_epoch}
        row |= {f"valid {name}": run.result.validation[name] for name in METRICS}
        row |= {f"chosen on validation, {name}": v for name, v in readings.found[run.result.best_epoch].items()}
        for masked in ("", " masked"):
            best = max(readings.found, key=lambda epoch: readings.found[epoch][f"recall@20{masked}"])
            row[f"best epoch on test{masked}"] = best
            row |= {f"chosen on test, {m}{masked}": readings.found[best][f"{m}{masked}"] for m in METRICS}
        rows.append({name: str(value) for name, value in row.items()})
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print({name: value for name, value in row.items() if "@" in name}, flush=True)


if __name__ == "__main__":
    main()
