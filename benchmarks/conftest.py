"""What the throughput benchmarks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

Profile = Callable[[Callable[[], object], int, int], None]


@pytest.fixture
def profile(benchmark: Any) -> Profile:
    """``profile(run, items, moved)`` times ``run`` until the device is done and fills ``extra_info``.

    ``items/s`` and ``bytes/s`` by the median (``moved`` are the bytes of what must be read and written), the device,
    the number of threads, and, on a GPU, the peak memory beyond what was there.
    """

    def profiled(run: Callable[[], object], items: int, moved: int) -> None:
        on_gpu = torch.cuda.is_available()

        def step() -> None:
            run()
            if on_gpu:
                torch.cuda.synchronize()

        step()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            step()
            benchmark.extra_info["peak_extra_bytes"] = torch.cuda.max_memory_allocated() - before
        benchmark.extra_info["device"] = torch.cuda.get_device_name() if on_gpu else "cpu"
        benchmark.extra_info["threads"] = torch.get_num_threads()
        benchmark(step)
        if benchmark.stats is None:  # --benchmark-disable
            return
        seconds = benchmark.stats.stats.median
        benchmark.extra_info["items/s"] = items / seconds
        benchmark.extra_info["bytes/s"] = moved / seconds

    return profiled
