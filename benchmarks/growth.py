"""How cost grows with the graph: generated graphs of 1, 10 and 100 times the paper's Amazon-Electronics.

    python benchmarks/growth.py --out growth.csv --scales 1 10 100 --models infodcl lightgcn mf

Each scale and model runs in a process of its own, whose peak memory is then its own: it generates a power-law graph
(32,886 users, 52,974 items and 337,837 interactions, times the scale), prepares the model with its default settings,
trains, and ranks all items for a sample of users. Seconds are of processor time, all threads together, so that other
work on the machine does not count; with one thread (OMP_NUM_THREADS=1) they are those of an idle machine. Measured are:

- ``generate_seconds``: the graph;
- ``preparation_seconds``: what happens once before training: closed-form pretraining and metadata channels (InfoDCL),
  the propagation graph, weights and optimizer, the sampler;
- ``seconds_per_step``: mean over the steps trained, a whole epoch at scale 1 and ``--steps`` of it beyond;
- ``flush_seconds``: with lazy Adam, bringing all rows up to date, once an epoch;
- ``sampling_seconds``: shuffling and negatives, which are drawn for a whole epoch at once;
- ``microseconds_per_interaction``: time of an epoch (sampling, all its steps, flush) over its interactions;
- ``evaluate_seconds``: propagation, and the ranking for the sample of users;
- ``peak_gib``, ``bytes_per_node``: the largest resident memory of the process from start to end; the optimizer's state
  is there during the evaluation, as in training.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import multiprocessing
import resource
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from infodcl_geo.configuration import configure
from infodcl_geo.data.generated import power_law_graph
from infodcl_geo.evaluation.ranking import evaluate
from infodcl_geo.experiment import prepare
from infodcl_geo.training.loop import make_optimizer, set_up, train_epoch
from infodcl_geo.training.optim import LazyAdam
from infodcl_geo.training.sampling import Batch

USERS, ITEMS, INTERACTIONS = 32_886, 52_974, 337_837


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    scale: float
    model: str
    users: int
    items: int
    interactions: int
    threads: int
    generate_seconds: float
    preparation_seconds: float
    sampling_seconds: float
    steps: int
    steps_per_epoch: int
    seconds_per_step: float
    flush_seconds: float
    microseconds_per_interaction: float
    evaluate_seconds: float
    peak_gib: float
    bytes_per_node: float


@dataclass(frozen=True)
class Drawn:
    """Batches that stand for an epoch, as the training loop asks a sampler for one."""

    batches: list[Batch]

    def draw(self) -> list[Batch]:
        return self.batches


class Stopwatch:
    """Processor seconds since the last time it was asked."""

    def __init__(self) -> None:
        self.last = time.process_time()

    def __call__(self) -> float:
        before, self.last = self.last, time.process_time()
        return self.last - before


def measure(scale: float, name: str, steps: int, sample: int) -> Row:
    """Generate, prepare, train and evaluate, in this process."""
    make_optimizer(torch.nn.Linear(1, 1), 1.0)  # imports a large part of torch, which is none of the graph's cost
    watch = Stopwatch()
    data = power_law_graph(round(USERS * scale), round(ITEMS * scale), round(INTERACTIONS * scale))
    generate = watch()

    config = configure(name)
    model = prepare(data, config).model
    sampler, optimizer = set_up(model, data, config.training)
    preparation = watch()

    batches = iter(sampler)
    first = next(batches)
    sampling = watch()
    chosen = [first, *itertools.islice(batches, (len(sampler) if scale <= 1 else min(steps, len(sampler))) - 1)]
    train_epoch(model, Drawn(chosen[:3]), optimizer, sampler.generator)  # type: ignore[arg-type]  # warm: memory and code
    watch()
    if isinstance(optimizer, LazyAdam):
        optimizer.flush()
    flush = watch()
    train_epoch(model, Drawn(chosen), optimizer, sampler.generator)  # type: ignore[arg-type]
    per_step = (watch() - flush) / len(chosen)
    interactions = sampler.interactions.size(1)
    per_interaction = (sampling + per_step * len(sampler) + flush) / interactions
    steps_per_epoch = len(sampler)
    del batches, first, chosen

    users = data.valid[0].unique()
    users = users[torch.randperm(users.numel(), generator=sampler.generator)[:sample]].sort().values
    wanted = torch.zeros(data.num_users, dtype=torch.bool)
    wanted[users] = True
    watch()
    evaluate(
        model.scorer(),
        data.valid[:, wanted[data.valid[0]]],
        num_users=data.num_users,
        num_items=data.num_items,
        seen=[data.train[:, wanted[data.train[0]]]],
    )
    ranking = watch()
    # Linux counts kilobytes, macOS bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Row(
        scale=scale,
        model=name,
        users=data.num_users,
        items=data.num_items,
        interactions=data.num_interactions,
        threads=torch.get_num_threads(),
        generate_seconds=round(generate, 2),
        preparation_seconds=round(preparation, 2),
        sampling_seconds=round(sampling, 3),
        steps=steps_per_epoch if scale <= 1 else min(steps, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        seconds_per_step=round(per_step, 5),
        flush_seconds=round(flush, 3),
        microseconds_per_interaction=round(1e6 * per_interaction, 2),
        evaluate_seconds=round(ranking, 2),
        peak_gib=round(peak / 2**30, 2),
        bytes_per_node=round(peak / (data.num_users + data.num_items), 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="CSV file; rows of scales and models in it are replaced"
    )
    parser.add_argument("--scales", type=float, nargs="+", default=[1, 10])
    parser.add_argument(
        "--models", nargs="+", default=["infodcl", "lightgcn", "mf"], choices=["infodcl", "lightgcn", "mf"]
    )
    parser.add_argument("--steps", type=int, default=50, help="steps trained at scales above 1")
    parser.add_argument("--sample", type=int, default=1000, help="users evaluated")
    options = parser.parse_args()
    names = [field.name for field in fields(Row)]
    rows: dict[tuple[float, str], dict[str, object]] = {}
    if options.out.exists():
        with open(options.out, newline="") as file:
            rows = {(float(row["scale"]), row["model"]): dict(row) for row in csv.DictReader(file)}
    context = multiprocessing.get_context("spawn")
    for scale, name in itertools.product(options.scales, options.models):
        with context.Pool(1, maxtasksperchild=1) as pool:
            row = pool.apply(measure, (scale, name, options.steps, options.sample))
        rows[scale, name] = {field: getattr(row, field) for field in names}
        print(row, flush=True)
        with open(options.out, "w", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[key] for key in sorted(rows))


if __name__ == "__main__":
    main()
