"""Timings of the kernels on one GPU, each next to its bound; run by ``gpu.sh``, which arranges the imports.

Writes ``DIR/<name of the GPU>.csv``: one row per operation, implementation, type, size and pass with the median and
the 20 and 80 percent quantiles, the peak memory beyond the inputs, the bound and the share of it that was reached.
Lines that begin with ``#`` hold the versions, the commit and the measured rates from which the bounds are computed.

A section is a function that takes a ``Report``; add it to ``SECTIONS``.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.testing import do_bench

from infodcl_geo.kernels import InfoNCEOptions, infonce

COLUMNS = [
    "operation", "implementation", "dtype", "anchors", "candidates", "dimensions", "pass",
    "median_ms", "q20_ms", "q80_ms", "peak_extra_mib", "bound_ms", "share_of_bound", "note",
]  # fmt: skip
Timings = list[float]


class Report:
    """Collects rows, prints them as they come and writes the file after every section."""

    def __init__(self, path: Path, quick: bool, minutes: float) -> None:
        self.path, self.quick = path, quick
        self.deadline = time.monotonic() + 60 * minutes
        self.rows: list[dict[str, Any]] = []
        self.header: dict[str, Any] = {
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "triton": triton.__version__,
            "cuda": torch.version.cuda or torch.version.hip,
            "python": sys.version.split()[0],
            "commit": _commit(),
        }

    @property
    def time_left(self) -> bool:
        return time.monotonic() < self.deadline

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)

    def write(self) -> None:
        with self.path.open("w", newline="") as file:
            for key, value in self.header.items():
                file.write(f"# {key}: {value}\n")
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


# -- Rates of the device -----------------------------------------------------------------------------------------------


@triton.jit
def _exponentials(out: Any, ROUNDS: tl.constexpr, BLOCK: tl.constexpr) -> None:
    offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = offset.to(tl.float32) * 1e-9
    for _ in range(ROUNDS):
        value = tl.exp2(-value)
    tl.store(out + offset, value)


def rates(report: Report) -> None:
    """What the device does at best: bytes copied, products and exponentials per second."""
    size = 1 << 28
    source, target = torch.empty(2, size, device="cuda", dtype=torch.uint8)
    report.header["copy_bytes_per_s"] = 2 * size / _median_seconds(lambda: target.copy_(source))
    n = 4096
    for dtype in (torch.bfloat16, torch.float32):
        a = torch.randn(n, n, device="cuda", dtype=dtype)
        report.header[f"{_name(dtype)}_flop_per_s"] = 2 * n**3 / _median_seconds(partial(torch.matmul, a, a))
    programs, rounds, block = 4096, 512, 1024
    out = torch.empty(programs * block, device="cuda")
    seconds = _median_seconds(lambda: _exponentials[(programs,)](out, ROUNDS=rounds, BLOCK=block))
    report.header["exponentials_per_s"] = programs * rounds * block / seconds


def _median_seconds(call: Callable[[], Any]) -> float:
    return do_bench(call, quantiles=[0.5]) / 1e3


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# -- InfoNCE -----------------------------------------------------------------------------------------------------------

TAU = 0.5
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def eager(x: Tensor, y: Tensor, positives: Tensor) -> Tensor:
    return F.cross_entropy(F.normalize(x) @ F.normalize(y).T / TAU, positives)


def ours(x: Tensor, y: Tensor, positives: Tensor) -> Tensor:
    return infonce(x, y, positives, TAU)


def infonce_section(report: Report) -> None:
    dtypes = (torch.bfloat16, torch.float32)
    sizes = [(115, 2_420), (2_048, 11_589), (4_096, 50_000), (4_096, 1_000_000), (16_384, 50_000), (16_384, 16_384)]
    compared = {(2_048, 11_589), (4_096, 50_000)}
    for dtype in dtypes:
        check_infonce(dtype)
        for anchors, candidates in sizes[2:3] if report.quick else sizes:
            implementations: dict[str, Loss] = {"infonce": ours}
            if anchors * candidates <= 1 << 30:
                implementations["eager"] = eager
            if (anchors, candidates) in compared:
                implementations["torch.compile"] = torch.compile(eager, dynamic=False)
            implementations |= peers(anchors, candidates, dtype)
            for name, loss in implementations.items():
                if report.time_left:
                    time_infonce(report, name, loss, dtype, anchors, candidates)
    if not report.quick:
        tune_infonce(report)
        check_graph_capture(report)


def check_infonce(dtype: torch.dtype) -> None:
    """Refuse to time what is wrong: error against float64 at most that of eager PyTorch, plus a small constant."""
    x, y, positives = inputs(257, 5003, 60, dtype)

    def run(loss: Loss, dtype: torch.dtype) -> list[Tensor]:
        a, b = (v.detach().to(dtype).requires_grad_() for v in (x, y))
        value = loss(a, b, positives)
        return [part.double() for part in (value.detach(), *torch.autograd.grad(value, (a, b)))]

    small = 1e-5 if dtype == torch.float32 else 4e-3
    for exact, plain, got in zip(run(eager, torch.float64), run(eager, dtype), run(ours, dtype), strict=True):
        error = (got - exact).abs().max()
        allowed = (plain - exact).abs().max() + small * exact.abs().max()
        if not error <= allowed:
            raise SystemExit(f"infonce in {dtype} is wrong by {error:.3g}, allowed {allowed:.3g}: not timed")


def inputs(anchors: int, candidates: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    x, y = (
        torch.randn(rows, d, device="cuda", generator=generator).to(dtype).requires_grad_()
        for rows in (anchors, candidates)
    )
    return x, y, torch.randint(0, candidates, (anchors,), device="cuda", generator=generator)


def peers(anchors: int, candidates: int, dtype: torch.dtype) -> dict[str, Loss]:
    """Other people's kernels where they are installed and answer the same question."""
    found: dict[str, Loss] = {}
    if dtype == torch.bfloat16:
        try:
            linear_cross_entropy = importlib.import_module("cut_cross_entropy").linear_cross_entropy
            found["cut-cross-entropy"] = lambda x, y, p: linear_cross_entropy(F.normalize(x) / TAU, F.normalize(y), p)
        except ImportError:
            pass
    if anchors == candidates:
        try:
            flash = importlib.import_module("inf_cl").cal_flash_loss
            found["inf-cl (positives on the diagonal)"] = lambda x, y, p: flash(
                F.normalize(x), F.normalize(y), scale=1 / TAU
            ).mean()
        except (ImportError, AttributeError):
            pass
    return found


def time_infonce(
    report: Report,
    name: str,
    loss: Loss,
    dtype: torch.dtype,
    anchors: int,
    candidates: int,
    d: int = 64,
    note: str = "",
) -> None:
    x, y, positives = inputs(anchors, candidates, d, dtype)

    def forward() -> Tensor:
        return loss(x, y, positives)

    def both() -> None:
        torch.autograd.grad(forward(), (x, y))

    common = {
        "operation": "infonce", "implementation": name, "dtype": _name(dtype),
        "anchors": anchors, "candidates": candidates, "dimensions": d,
    }  # fmt: skip
    try:
        both()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        both()
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20
        value = forward()
        passes = {
            "forward": _quantiles(forward),
            "backward": _quantiles(lambda: torch.autograd.grad(value, (x, y), retain_graph=True)),
            "both": _quantiles(both),
        }
    except Exception as error:
        # Peers and out-of-memory: one row says what happened, the rest of the run goes on.
        if name == "infonce":
            raise
        report.add(**common, note=f"{type(error).__name__}: {error}".splitlines()[0][:120])
        return
    for which, (median, low, high) in passes.items():
        bound = 1e3 * infonce_bound(report, dtype, anchors, candidates, d, which)
        report.add(
            **common,
            **{"pass": which},
            median_ms=round(median, 4),
            q20_ms=round(low, 4),
            q80_ms=round(high, 4),
            peak_extra_mib=round(peak, 1),
            bound_ms=round(bound, 4),
            share_of_bound=round(bound / median, 3),
            note=note,
        )


def _quantiles(call: Callable[[], Any]) -> Timings:
    return do_bench(call, warmup=20, rep=80, quantiles=[0.5, 0.2, 0.8])


def infonce_bound(report: Report, dtype: torch.dtype, anchors: int, candidates: int, d: int, which: str) -> float:
    """Seconds no program can beat: the largest of bytes, products and exponentials over their measured rates.

    Forward one product and one exponential per pair, backward three products (the logits again, both gradients) and
    one exponential.
    """
    products, exponentials = {"forward": (1, 1), "backward": (3, 1), "both": (4, 2)}[which]
    pairs = anchors * candidates
    touched = (anchors + candidates) * d * torch.finfo(dtype).bits // 8 * (1 if which == "forward" else 2)
    return max(
        touched / report.header["copy_bytes_per_s"],
        2 * products * pairs * d / report.header[f"{_name(dtype)}_flop_per_s"],
        exponentials * pairs / report.header["exponentials_per_s"],
    )


def tune_infonce(report: Report) -> None:
    """Other tilings at the size of the goal; the shipped ones were chosen without a GPU, by registers and traffic."""
    forward = [(128, 64, 4, 3), (128, 128, 8, 3), (64, 64, 4, 3), (128, 64, 8, 2)]
    candidate = [(64, 64, 4, 3), (64, 128, 8, 2), (128, 64, 8, 3), (64, 128, 4, 3)]
    trials = [InfoNCEOptions(forward_tiling=tiling) for tiling in forward]
    trials += [InfoNCEOptions(candidate_tiling=tiling) for tiling in candidate]
    for options in trials:
        if report.time_left:
            note = f"forward {options.forward_tiling}, candidate {options.candidate_tiling}"
            time_infonce(
                report,
                "infonce, other tiling",
                partial(infonce, temperature=TAU, options=options),
                torch.bfloat16,
                4_096,
                50_000,
                note=note,
            )


def check_graph_capture(report: Report) -> None:
    """Forward and backward in one CUDA graph: captured without a synchronisation, replayed with the same numbers."""
    x, y, positives = inputs(2_048, 11_589, 64, torch.float32)
    expected = torch.autograd.grad(ours(x, y, positives), (x, y))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = torch.autograd.grad(ours(x, y, positives), (x, y))
    graph.replay()
    torch.cuda.synchronize()
    for got, wanted in zip(captured, expected, strict=True):
        if not torch.equal(got, wanted):
            raise SystemExit("infonce replayed from a CUDA graph differs")
    median, low, high = _quantiles(graph.replay)
    report.add(
        operation="infonce", implementation="infonce, one CUDA graph", dtype="float32",
        anchors=2_048, candidates=11_589, dimensions=64, **{"pass": "both"},
        median_ms=round(median, 4), q20_ms=round(low, 4), q80_ms=round(high, 4),
    )  # fmt: skip


# -- All ---------------------------------------------------------------------------------------------------------------

#: Sections in the order of running; the small-matrix SVD, PSNet and the models' training epochs are to be added here.
SECTIONS: list[Callable[[Report], None]] = [rates, infonce_section]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV file")
    parser.add_argument("--quick", action="store_true", help="one size of each operation")
    parser.add_argument("--minutes", type=float, default=8.0, help="start no further timing after this long")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU: nothing to time")
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    report = Report(arguments.out / f"{name}.csv", arguments.quick, arguments.minutes)
    for section in SECTIONS:
        section(report)
        report.write()
    print(report.path)


if __name__ == "__main__":
    main()
