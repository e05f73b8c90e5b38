"""What each choice of InfoDCL is worth: one change at a time from the defaults, several seeds, one CSV.

    python benchmarks/choices.py --data ../shared/data/office --out benchmarks/results/choices_office.csv

The epoch is chosen on validation, the test split scored once a run. Runs already in the CSV are not repeated. Options
that are not listed below are those of ``infodcl-geo train`` for InfoDCL and hold for all runs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tabulate import tabulate

from infodcl_geo.channels.base import PretrainedVectors
from infodcl_geo.cli import config_of
from infodcl_geo.data.interactions import Interactions, load_interactions
from infodcl_geo.experiment import Config, build_channels, pretrain, run

# Options of ``infodcl-geo train``.
CHOICES: dict[str, list[str]] = {
    "default": [],
    "basis: batch": ["--infodcl.basis=batch"],
    "basis: item": ["--infodcl.basis=item"],
    "pretraining: lightgcn": ["--pretraining=lightgcn", "--num_layers=1"],
    "pretraining: without smoothing": ["--svd.smoothing=0", "--num_layers=1"],
    "start: random": ["--init=normal"],
    "channel: item": ["--channels=item"],
    "channels: both": ["--channels=both"],
    "anchors: unique positives": ["--anchors=unique"],
    "anchors: positives": ["--anchors=positives"],
    "without PSNet": ["--infodcl.psnet=false"],
    "without spectral rectification": ["--infodcl.spectral=false"],
    "without contextual re-encoding": ["--infodcl.contextual=false"],
    "without balance loss": ["--infodcl.balance=0"],
    "balance as a norm (eq. 13)": ["--infodcl.balance_kind=norm"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data set, in any format the library reads")
    parser.add_argument("--out", required=True, type=Path, help="CSV of all runs; runs in it are not repeated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), choices=list(CHOICES), metavar="NAME")
    options, fixed = parser.parse_known_args()
    data = load_interactions(options.data)
    rows = pd.read_csv(options.out).to_dict("records") if options.out.exists() else []
    vectors: dict[Any, PretrainedVectors] = {}
    for seed in options.seeds:
        for name in options.choices:
            if any(row["choice"] == name and row["seed"] == seed for row in rows):
                continue
            config = config_of("infodcl", ["train", *fixed, *CHOICES[name], f"--seed={seed}"])
            rows.append({"choice": name, "seed": seed, **one_run(data, config, vectors)})
            options.out.parent.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_csv(options.out, index=False)
            print(rows[-1], file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    columns = ["valid ndcg@20", "test recall@20", "test ndcg@20"]
    summary = []
    for name in options.choices:
        group = table[table["choice"] == name]
        cells = [f"{group[column].mean():.4f} ± {group[column].std():.4f}" for column in columns]
        summary.append([name, *cells, f"{group['seconds_per_epoch'].median():.3f}"])
    print(tabulate(summary, headers=["choice", *columns, "s/epoch"], tablefmt="github", disable_numparse=True))


def one_run(data: Interactions, config: Config, vectors: dict[Any, PretrainedVectors]) -> dict[str, Any]:
    """Train once; pretrained vectors are shared between the choices that use the same ones."""
    # The closed form has no seed that matters.
    key = ("lightgcn", config.training.seed) if config.model.pretraining == "lightgcn" else config.svd
    if key not in vectors:
        vectors[key] = pretrain(data, config, device=torch.device("cpu"), progress=False)
    channels = build_channels(data, config, vectors[key])
    outcome = run(data, config, channels=channels, vectors=vectors[key], ks=(20,), progress=False)
    result = outcome.result
    return {
        "best_epoch": result.best_epoch,
        "seconds_per_epoch": result.seconds_per_epoch,
        **{f"valid {metric}": result.validation[metric] for metric in ("recall@20", "ndcg@20")},
        **{f"test {metric}": outcome.test[metric] for metric in ("recall@20", "ndcg@20")},
    }


if __name__ == "__main__":
    main()
