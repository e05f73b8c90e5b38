"""What a step of training and a chunk of evaluation ask of a GPU, counted without one: waits of the host and launches.

    PYTHONPATH=tests python benchmarks/gpu_counts.py

prints a CSV at the size of the paper's Amazon-Electronics (random pairs), a batch of 2048, 1024 items diffused at a
time. The rules of counting are those of ``tests/pretend.py``. These are counts and no timings.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pretend import CUDA, Pretended
from torch import Tensor

from infodcl_geo.graph.graph import normalized_adjacency
from infodcl_geo.models.base import Model
from infodcl_geo.models.infodcl import InfoDCL
from infodcl_geo.models.lightgcn import LightGCN
from infodcl_geo.models.mf import MatrixFactorization
from infodcl_geo.training.finite import FiniteWatch
from infodcl_geo.training.loop import _steps, make_optimizer
from infodcl_geo.training.sampling import BatchSampler
from infodcl_geo.training.state import EpochProgress

STEPS = [
    ("mf", "dense"), ("mf", "lazy"), ("mf", "fused"), ("lightgcn", "dense"), ("infodcl", "dense"),
    ("infodcl", "lazy"), ("infodcl", "fused"), ("infodcl, two channels", "dense"), ("infodcl, two channels", "fused"),
]  # fmt: skip
"""Models and which Adam they are trained by."""


class Count(NamedTuple):
    waits: Counter[str]
    launches: Counter[str]
    from_host: int
    """copies to the device for which the host does not wait"""
    steps: int
    """made at once"""


def counted(
    make: Callable[[], Model], pairs: Tensor, sizes: tuple[int, int], batch: int, anchors: int, adam: Any, steps: int
) -> dict[str, Count]:
    """Counts by kind of step, of the last such ones of some steps."""
    found = {}
    with Pretended(run_kernels=False) as device:
        model = make().to(CUDA)
        generator = torch.Generator().manual_seed(0)
        sampler = BatchSampler(
            pairs.to(CUDA), *sizes, batch_size=batch, anchors=model.anchors, anchor_batch=anchors, generator=generator
        )
        optimizer, watch = make_optimizer(model, 1e-3, adam=adam, anchors=anchors), FiniteWatch(model)
        progress = EpochProgress(torch.empty(0), sampler.draw())
        while (before := progress.step) < min(steps, len(progress.plan)):
            kind = "diffusion" if isinstance(model, InfoDCL) and progress.plan[before].anchors.numel() else "plain"
            device.restart()
            _steps(model, optimizer, progress, generator, watch, lambda: False)
            made = progress.step - before
            found[kind] = Count(device.waits.copy(), device.launches.copy(), device.from_host, made)
    return found


def makers(pairs: Tensor, users: int, items: int, candidates: int) -> dict[str, Callable[[], Model]]:
    graph = normalized_adjacency(pairs, users, items)
    channels = {c: torch.randn(items, 64) for c in ("a", "b")}
    one = {"a": channels["a"]}
    return {
        "mf": lambda: MatrixFactorization(graph, users, items, dim=64),
        "lightgcn": lambda: LightGCN(graph, users, items, dim=64),
        "infodcl": lambda: InfoDCL(graph, users, items, one, candidates=candidates),
        "infodcl, two channels": lambda: InfoDCL(graph, users, items, channels, candidates=candidates),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", action="store_true", help="which operations launch how often, too")
    arguments = parser.parse_args()
    users, items, interactions = 32_886, 52_974, 337_837
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(users * items, (interactions,), generator=generator).unique()
    pairs = torch.stack([keys // items, keys % items])
    print("model,adam,step,steps_at_once,waits,copies_from_host,launches,launches_a_step")
    for name, adam in STEPS:
        make = makers(pairs, users, items, 16_384)[name]
        for kind, count in counted(make, pairs, (users, items), 2048, 1024, adam, 9).items():
            total, waits = count.launches.total(), count.waits.total()
            row = [f'"{name}"', adam, kind, count.steps, waits, count.from_host, total, f"{total / count.steps:.1f}"]
            print(*row, sep=",", flush=True)
            if arguments.names:
                print("  ", dict(count.launches.most_common()), dict(count.waits))


if __name__ == "__main__":
    main()
