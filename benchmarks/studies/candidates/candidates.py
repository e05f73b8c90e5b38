"""What a smaller sample of InfoNCE's candidates costs in quality, and what it saves.

    python benchmarks/studies/candidates/candidates.py --data ../shared/data/office --out candidates.csv

One row a run: validation and test of InfoDCL with its defaults but for ``candidates``, and the CPU time of an epoch.
Pretraining is that of all runs of a data set. 0 stands for all items.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from pathlib import Path

import torch

from infodcl_geo.configuration import configure
from infodcl_geo.data.interactions import load_interactions
from infodcl_geo.experiment import prepare, run
from infodcl_geo.pretraining import pretrain
from infodcl_geo.training.loop import set_up, train_epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--candidates", default="0,4096,2048,1024,512")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--patience", type=int, default=25)
    parser.add_argument("--timed", type=int, default=3, help="epochs whose CPU time is taken, beside the run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load_interactions(arguments.data)
    options, vectors = pretrain(data, configure("infodcl").options)
    with arguments.out.open("a", newline="") as file:
        for seed in map(int, arguments.seeds.split(",")):
            for candidates in map(int, arguments.candidates.split(",")):
                config = configure("infodcl").changed(
                    candidates=candidates, seed=seed, epochs=arguments.epochs, patience=arguments.patience,
                    smoothing=options.smoothing,
                )  # fmt: skip
                cpu = []
                if arguments.timed:
                    model = prepare(data, config, vectors=vectors).model
                    sampler, optimizer = set_up(model, data, config.training)
                    for _ in range(arguments.timed + 1):
                        begun = time.process_time()
                        train_epoch(model, sampler, optimizer, sampler.generator)
                        cpu.append(time.process_time() - begun)
                found = run(data, config, vectors=vectors, progress=False)
                row = {
                    "data": data.name, "candidates": candidates, "seed": seed, "best_epoch": found.result.best_epoch,
                    "valid_ndcg20": found.result.validation["ndcg@20"], "test_recall20": found.test["recall@20"],
                    "test_ndcg20": found.test["ndcg@20"],
                    "cpu_seconds_per_epoch": statistics.median(cpu[1:]) if cpu else "",
                }  # fmt: skip
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                if file.tell() == 0:
                    writer.writeheader()
                writer.writerow(row)
                file.flush()
                print(row, flush=True)


if __name__ == "__main__":
    main()
