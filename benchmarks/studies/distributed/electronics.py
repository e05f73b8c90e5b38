"""The same models on one process and on two: metrics of a real data set, and how much seeds change them.

    python benchmarks/studies/distributed/electronics.py ELECTRONICS --out electronics.csv

Runs are short (the point is that both find the same, not the best): batches of 8192 and a few epochs.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing as mp
import os
import tempfile
from pathlib import Path
from typing import Any

EPOCHS = {"mf": 20, "lightgcn": 8, "simgcl": 5, "infodcl": 8}
METRICS = ("recall@20", "ndcg@20")


def settings(name: str, seed: int) -> Any:
    from infodcl_geo import configure

    return configure(name, batch_size=8192, epochs=EPOCHS[name], eval_every=EPOCHS[name], seed=seed, num_layers=2)


def alone(folder: str, name: str, seed: int) -> dict[str, float]:
    from infodcl_geo import load_interactions
    from infodcl_geo.experiment import run

    return run(load_interactions(folder), settings(name, seed), progress=False, device="cpu").test


def of_rank(rank: int, size: int, meet: str, out: str, folder: str, name: str, seed: int) -> None:
    import torch

    from infodcl_geo import load_interactions
    from infodcl_geo.distributed.group import start, stop
    from infodcl_geo.distributed.run import run_several

    torch.set_num_threads(1)
    os.environ["INFODCL_GEO_TIMEOUT"] = "3000"
    group = start(rank=rank, size=size, url=f"file://{meet}")
    data = load_interactions(folder)
    test = run_several(data, settings(name, seed), group, tables="sharded", progress=False).test
    if group.first:
        Path(out).write_text("\n".join(f"{key} {value}" for key, value in test.items()))
    stop()


def together(folder: str, name: str, seed: int, size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as place:
        arguments = (size, f"{place}/meet", f"{place}/out", folder, name, seed)
        ranks = [mp.get_context("spawn").Process(target=of_rank, args=(rank, *arguments)) for rank in range(size)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        lines = (Path(place) / "out").read_text().splitlines()
    return {key: float(value) for key, value in (line.split() for line in lines)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--out", required=True)
    parser.add_argument("--models", nargs="+", default=list(EPOCHS))
    options = parser.parse_args()
    with open(options.out, "a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not file.tell():
            writer.writerow(["model", "processes", "seed", "epochs", *METRICS])
        for name in options.models:
            for processes, seed in ((1, 0), (2, 0), (1, 1), (1, 2)):
                found = (
                    alone(options.data, name, seed) if processes == 1 else together(options.data, name, seed, processes)
                )
                writer.writerow([name, processes, seed, EPOCHS[name], *(f"{found[m]:.5f}" for m in METRICS)])
                file.flush()


if __name__ == "__main__":
    main()
