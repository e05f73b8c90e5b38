"""Training epochs on a GPU, eager and with the steps captured as CUDA graphs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from gpu_report import Report
from torch import Tensor

from infodcl_geo.graph.graph import normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.training.sampling import BatchSampler

if TYPE_CHECKING:
    from infodcl_geo.models.base import Model


def training_section(report: Report) -> None:
    """Epochs on a generated graph of the size of the paper's Amazon-Electronics; no bound is known for these."""
    try:
        from infodcl_geo.models.infodcl import InfoDCL, InfoDCLOptions
        from infodcl_geo.models.lightgcn import LightGCN
        from infodcl_geo.models.mf import MatrixFactorization
        from infodcl_geo.models.simgcl import SimGCL
    except ImportError as error:
        # The models need more packages than the kernels.
        print(f"training epochs are left out: {error}", flush=True)
        report.add(operation="training epoch", note=f"left out: {error}")
        return
    users, items, interactions = (60, 50, 400) if report.tiny else (32_886, 52_974, 337_837)
    pairs = power_law_pairs(users, items, interactions).to(report.device)
    graph = normalized_adjacency(pairs, users, items)
    d = 64
    channels = [torch.randn(items, d, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    options = InfoDCLOptions(candidates=8) if report.tiny else InfoDCLOptions()
    infodcl = partial(InfoDCL, graph, users, items, options=options)
    makers: dict[str, Callable[[], Model]] = {
        "mf": lambda: MatrixFactorization(graph, users, items, dim=d),
        "infodcl, one channel": lambda: infodcl({"a": channels[0]}),
        "infodcl, two channels": lambda: infodcl({"a": channels[0], "b": channels[1]}),
        "lightgcn": lambda: LightGCN(graph, users, items, dim=d, num_layers=3),
        "simgcl": lambda: SimGCL(graph, users, items, dim=d, num_layers=3),
    }
    for name, make in makers.items():
        for how, run in {"": eager_epoch, ", CUDA graphs": CapturedEpoch}.items():
            if (how and report.tiny) or not report.time_left:
                continue
            torch.manual_seed(0)
            model = make().to(report.device)
            generator = torch.Generator(report.device).manual_seed(0)
            sampler = BatchSampler(pairs, users, items, batch_size=64 if report.tiny else 2048, generator=generator)
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=not report.tiny)
            common = {
                "operation": "training epoch", "implementation": name + how, "dtype": "float32", "rows": interactions,
                "candidates": items, "dimensions": d, "pass": "both",
            }  # fmt: skip
            try:
                time_epochs(report, common, run(model, sampler, optimizer))
            except Exception as error:
                # One model's failure must not cost the others' timings.
                report.add(**common, note=f"{type(error).__name__}: {error}".splitlines()[0][:120])


def power_law_pairs(users: int, items: int, interactions: int) -> Tensor:
    """Distinct pairs ``[2, interactions]``; popularity of items and activity of users fall as rank^-0.7."""
    generator = torch.Generator().manual_seed(0)

    def draw(size: int, count: int) -> Tensor:
        cumulative = torch.arange(1, size + 1, dtype=torch.float64).pow(-0.7).cumsum(0)
        ranks = torch.rand(count, generator=generator, dtype=torch.float64) * cumulative[-1]
        return torch.randperm(size, generator=generator)[torch.searchsorted(cumulative, ranks).clamp(max=size - 1)]

    keys = torch.empty(0, dtype=torch.int64)
    while keys.numel() < interactions:
        keys = torch.cat([keys, draw(users, interactions) * items + draw(items, interactions)]).unique()
    keys = keys[torch.randperm(keys.numel(), generator=generator)[:interactions]].sort().values
    return torch.stack([keys // items, keys % items])


def train_step(model: Model, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(model.loss(batch).values())).sum().backward()
    optimizer.step()


def eager_epoch(model: Model, sampler: BatchSampler, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    def epoch() -> None:
        for batch in sampler:
            train_step(model, batch, optimizer)

    return epoch


class CapturedEpoch:
    """Epochs whose steps, sampling aside, are replayed CUDA graphs: one for every pair of batch and anchor counts."""

    def __init__(self, model: Model, sampler: BatchSampler, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.sampler, self.optimizer = model, sampler, optimizer
        self.graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Batch]] = {}

    def __call__(self) -> None:
        for batch in self.sampler:
            shape = (batch.users.numel(), batch.anchors.numel())
            if shape not in self.graphs:
                self.graphs[shape] = self.capture(batch)
            graph, static = self.graphs[shape]
            for target, source in zip(static, batch, strict=True):
                if isinstance(target, Tensor):
                    target.copy_(source)
            graph.replay()

    def capture(self, batch: Batch) -> tuple[torch.cuda.CUDAGraph, Batch]:
        static = Batch(*(x.clone() if isinstance(x, Tensor) else x for x in batch))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what is compiled, tuned or allocated at first use
            for _ in range(3):
                train_step(self.model, static, self.optimizer)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            train_step(self.model, static, self.optimizer)
        return graph, static


def time_epochs(report: Report, common: dict[str, Any], epoch: Callable[[], None]) -> None:
    def synchronised() -> float:
        begin = time.perf_counter()
        epoch()
        if not report.tiny:
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - begin)

    synchronised()
    peak = report.peak(synchronised)
    times = [synchronised() for _ in range(2 if report.tiny else 7)]
    low, _, _, high = statistics.quantiles(times, n=5)
    report.add(
        **common,
        median_ms=round(statistics.median(times), 3),
        q20_ms=round(low, 3),
        q80_ms=round(high, 3),
        peak_extra_mib=round(peak, 1),
    )
