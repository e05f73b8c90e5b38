"""Why does training from the vectors fall below them? Validation by epoch, a part of the objective changed at a time.

    python benchmarks/studies/item_term/start.py ../shared/data/ml-1m

Validation NDCG@20 of the vectors (epoch 0) and after some epochs of matrix factorisation and InfoDCL, with their
defaults, another learning rate, and lighter weights of the regulariser and of the diffusion's losses. The test split is
not read. Rows are added to ``results/start-DATA.csv``, in place of older ones of the same variant.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import torch

from infodcl_geo.channels.base import PretrainedVectors
from infodcl_geo.configuration import configure
from infodcl_geo.data.options import DataOptions
from infodcl_geo.experiment import fit, prepare
from infodcl_geo.pretraining import pretrain
from infodcl_geo.training.loop import rank

METRIC = "ndcg@20"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "MF": ("mf", {}),
    "MF, a fifth of lr": ("mf", {"lr": 1e-4}),
    "MF, a tenth of l2": ("mf", {"l2": 0.0011}),
    "MF, no l2": ("mf", {"l2": 0.0}),
    "MF, no l2, 4 times lr": ("mf", {"l2": 0.0, "lr": 2e-3}),
    "MF, 256 dimensions": ("mf", {"dim": 256}),
    "InfoDCL": ("infodcl", {}),
    "InfoDCL, no l2": ("infodcl", {"l2": 0.0}),
    "InfoDCL, no l2, no contrast": ("infodcl", {"l2": 0.0, "contrast": 0.0}),
    "InfoDCL, lighter": ("infodcl", {"l2": 0.0, "contrast": 0.01, "reconstruction": 0.0005}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), help="variants that are run")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--eval_every", type=int, default=5)
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = DataOptions(data=arguments.folder).load()
    path = Path(arguments.out) / f"start-{data.name}.csv"
    rows: list[dict[str, Any]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    known: dict[int, tuple[float | None, PretrainedVectors]] = {}
    for label in arguments.only:
        model, changes = VARIANTS[label]
        begin = time.process_time()
        config = configure(
            model, "pretrained", epochs=arguments.epochs, patience=arguments.epochs, eval_every=arguments.eval_every,
            **changes,
        )  # fmt: skip
        if config.options.dim not in known:
            options, vectors = pretrain(data, config.options, seed=0)
            known[options.dim] = options.smoothing, vectors
        smoothing, vectors = known[config.options.dim]
        ready = prepare(data, config.changed(smoothing=smoothing), vectors=vectors)
        found = {0: rank(data, ready.model.scorer(), "valid", ks=(20,)).mean()[METRIC]}
        run = fit(data, ready.config, vectors=vectors, ks=(20,), device="cpu", progress=False)
        found |= {int(row["epoch"]): row[METRIC] for row in run.result.history if METRIC in row}
        seconds = time.process_time() - begin
        rows = [row for row in rows if row["label"] != label]
        for epoch, value in found.items():
            rows.append(
                {"label": label, "seed": 0, "epoch": epoch, f"valid {METRIC}": value, "CPU seconds": f"{seconds:.0f}"}
            )
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(
            f"{data.name}, {label}: {', '.join(f'{e} {v:.4f}' for e, v in found.items())}, {seconds:.0f} s", flush=True
        )


if __name__ == "__main__":
    main()
