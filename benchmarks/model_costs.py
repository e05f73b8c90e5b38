"""What an epoch of each model costs, as a ratio to LightGCN's: processor time, side by side in one run.

    python benchmarks/model_costs.py --out benchmarks/results/epoch_time_office/epochs.csv

An epoch of LightGCN is run before and after one of the model, with the same data, batches, dimensions and number of
layers as far as models have them; the ratio is that of the model's user time to the mean of the two, the median over
the rounds. User time of one thread is little moved by what else the machine does, wall-clock would be. Each model makes
one step before. Rows that are in the file stay: a run that was stopped goes on. What comes late in training, such as
codes or prototypes after some epochs, is in no row. Without ``--data`` the graph is a generated one of Amazon-Office's
size.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
from pathlib import Path

import torch

from infodcl_geo.configuration import configure
from infodcl_geo.data.generated import power_law_graph
from infodcl_geo.data.interactions import Interactions, load_interactions
from infodcl_geo.experiment import prepare
from infodcl_geo.models import RECIPES, find_recipe
from infodcl_geo.models.base import Model
from infodcl_geo.training.loop import set_up, train_epoch
from infodcl_geo.training.options import TrainOptions

COLUMNS = ["model", "ratio", "seconds", "lightgcn_seconds", "rounds", "users", "items", "interactions"]
BASE = "lightgcn"


def user_seconds() -> float:
    return os.times().user


class Timed:
    """A model that trains epoch by epoch.

    Args:
        name: of the model.
        data: the data set.
        dim, num_layers: options, where it has them.
    """

    def __init__(self, name: str, data: Interactions, dim: int, num_layers: int) -> None:
        recipe = find_recipe(name)
        wanted = {"dim": dim, "num_layers": num_layers}
        config = configure(recipe, **{key: value for key, value in wanted.items() if key in recipe.option_names})
        self.model: Model = prepare(data, config).model
        self.generator = torch.Generator().manual_seed(0)
        self.sampler, self.optimizer = set_up(self.model, data, TrainOptions())
        # What a first step makes once, such as compiled code, is no cost of an epoch.
        sum(self.model.loss(self.sampler.draw()[0], self.generator).values()).backward()

    def epoch(self) -> float:
        begin = user_seconds()
        train_epoch(self.model, self.sampler, self.optimizer, self.generator)
        return user_seconds() - begin


def measured(name: str, data: Interactions, base: Timed, rounds: int, dim: int, num_layers: int) -> dict[str, object]:
    timed = Timed(name, data, dim, num_layers)
    ratios, own, others = [], [], [base.epoch()]
    for _ in range(rounds):
        own.append(timed.epoch())
        others.append(base.epoch())
        ratios.append(own[-1] / statistics.mean(others[-2:]))
    return {
        "model": name,
        "ratio": round(statistics.median(ratios), 3),
        "seconds": round(statistics.median(own), 3),
        "lightgcn_seconds": round(statistics.median(others), 3),
        "rounds": len(ratios),
        "users": data.num_users,
        "items": data.num_items,
        "interactions": data.train.size(1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="data set in any format the library reads; a generated one by default")
    parser.add_argument("--models", default=",".join(recipe.name for recipe in RECIPES if not recipe.closed_form))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--num_layers", type=int, default=2)
    parser.add_argument("--users", type=int, default=4905)
    parser.add_argument("--items", type=int, default=2420)
    parser.add_argument("--interactions", type=int, default=40_877)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sizes = args.users, args.items, args.interactions
    data = load_interactions(args.data) if args.data else power_law_graph(*sizes)
    kept = list(csv.DictReader(args.out.open(newline=""))) if args.out.exists() else []
    base = Timed(BASE, data, args.dim, args.num_layers)
    for name in args.models.split(","):
        if any(row["model"] == name for row in kept):
            continue
        row = measured(name, data, base, args.rounds, args.dim, args.num_layers)
        kept.append({key: str(value) for key, value in row.items()})
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
        print(name, row["ratio"], flush=True)


if __name__ == "__main__":
    main()
