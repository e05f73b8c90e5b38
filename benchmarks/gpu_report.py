"""What every part of ``gpu.py`` uses: the report that times and writes rows, and the check before a timing."""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infodcl_geo.graph.graph import WITH_TORCH_SPARSE

try:
    import triton
except ImportError:  # needed on a GPU alone
    triton = None

COLUMNS = [
    "operation", "implementation", "dtype", "rows", "candidates", "dimensions", "pass",
    "median_ms", "q20_ms", "q80_ms", "peak_extra_mib", "bound_ms", "share_of_bound", "note",
]  # fmt: skip
Timings = list[float]


class Report:
    """Collects rows, prints them as they come and writes the file after every section."""

    def __init__(self, path: Path, device: torch.device, quick: bool, minutes: float) -> None:
        self.path, self.device, self.quick = path, device, quick
        self.tiny = device.type == "cpu"
        self.deadline = time.monotonic() + 60 * minutes
        self.rows: list[dict[str, Any]] = []
        self.header: dict[str, Any] = {
            "gpu": "none, tiny sizes: no timings" if self.tiny else torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "triton": triton.__version__ if triton else "none",
            "cuda": torch.version.cuda or torch.version.hip,
            "sparse products": "torch-sparse" if WITH_TORCH_SPARSE else "torch CSR",
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

    def quantiles(self, call: Callable[[], Any]) -> Timings:
        """Median, 20 and 80 percent quantile of a call, in ms."""
        if not self.tiny:
            return triton.testing.do_bench(call, warmup=20, rep=80, quantiles=[0.5, 0.2, 0.8])
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begin)
        return [1e3 * statistics.median(seconds), 1e3 * min(seconds), 1e3 * max(seconds)]

    def rate(self, amount: float, call: Callable[[], Any]) -> float:
        """Amount per second."""
        return 1e3 * amount / self.quantiles(call)[0]

    def peak(self, call: Callable[[], Any]) -> float:
        """MiB that a call allocates beyond what is there."""
        if self.tiny:
            call()
            return 0.0
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def time_passes(
        self,
        common: dict[str, Any],
        forward: Callable[[], Any],
        backward: Callable[[Any], Any] | None,
        bound: Callable[[str], float],
    ) -> None:
        """Rows of the forward pass and, with gradients, of the backward pass from its result and of both; bound in s.

        Peers and a lack of memory give a row that says what happened, and the run goes on; our own failures do not.
        """
        passes: dict[str, Callable[[], Any]] = {"forward": forward}
        try:
            if backward is not None:
                passes["both"] = lambda: backward(forward())
                value = forward()
                passes["backward"] = lambda: backward(value)
            peak = self.peak(passes.get("both", forward))
            timed = {which: self.quantiles(call) for which, call in passes.items()}
        except Exception as error:
            if common.get("ours"):
                raise
            self.add(**_without_mark(common), note=f"{type(error).__name__}: {error}".splitlines()[0][:120])
            return
        for which, (median, low, high) in timed.items():
            limit = 1e3 * bound(which)
            self.add(
                **_without_mark(common),
                **{"pass": which},
                median_ms=round(median, 4),
                q20_ms=round(low, 4),
                q80_ms=round(high, 4),
                peak_extra_mib=round(peak, 1),
                bound_ms=round(limit, 4),
                share_of_bound=round(limit / median, 3),
            )


def _without_mark(common: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in common.items() if key != "ours"}


def compiled(function: Callable[..., Any], report: Report) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False, backend="aot_eager" if report.tiny else "inductor")


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def refuse_if_wrong(what: str, got: list[Tensor], plain: list[Tensor], exact: list[Tensor], small: float) -> None:
    for one, other, truth in zip(got, plain, exact, strict=True):
        error = (one - truth).abs().max()
        allowed = (other - truth).abs().max() + small * truth.abs().max()
        if not error <= allowed:
            raise SystemExit(f"{what} is wrong by {error:.3g}, allowed {allowed:.3g}: not timed")
