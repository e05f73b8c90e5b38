"""One training epoch of each model: ``pytest benchmarks/bench_epoch.py --benchmark-only``.

The twin of ``benchmarks/epoch_time.py`` for profiling a single model; on a generated graph of a tenth of the paper's
Electronics, or on the data set that the environment variable INFODCL_GEO_BENCH_DATA names.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from epoch_time import PYG, TRAINED, Settings, prepare

from infodcl_geo.data.generated import power_law_graph
from infodcl_geo.data.interactions import Interactions, load_interactions
from infodcl_geo.training.loop import train_epoch


@pytest.fixture(scope="module")
def data() -> Interactions:
    path = os.environ.get("INFODCL_GEO_BENCH_DATA")
    return load_interactions(path) if path else power_law_graph(3_289, 5_297, 33_784)


@pytest.mark.parametrize("name", [*TRAINED, *PYG])
def test_epoch(benchmark: Any, data: Interactions, name: str) -> None:
    settings = Settings("", batch_size=2048, dim=64, layers=3, threads=torch.get_num_threads())
    contestant = prepare(name, data, settings)
    benchmark.group = f"epoch on {data.name}"
    benchmark.extra_info["threads"] = settings.threads
    benchmark.pedantic(
        train_epoch,
        (contestant.model, contestant.sampler, contestant.optimizer, contestant.sampler.generator),
        rounds=5,
        warmup_rounds=1,
    )
    benchmark.extra_info["items/s"] = data.train.size(1) / benchmark.stats.stats.median
