"""Latency and throughput of recommendations: ``pytest benchmarks/bench_serving.py --benchmark-only``.

A model of the paper's Electronics size (20,247 users, 11,589 items, 64 dimensions) with 150,000 seen pairs: the exact
20 best items of one known user, and of batches; a FAISS index over the items beside it.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest
import torch

from infodcl_geo.data.ids import IdMap
from infodcl_geo.recommender import Recommender

USERS, ITEMS, DIM, PAIRS, K = 20_247, 11_589, 64, 150_000, 20


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    return electronics()


def electronics() -> Recommender:
    """A model of that size that nobody trained."""
    generator = torch.Generator().manual_seed(0)
    # Items as popular as a power law makes them, each user with at least one.
    users = torch.cat([torch.arange(USERS), torch.randint(USERS, (PAIRS - USERS,), generator=generator)])
    items = (ITEMS * torch.rand(PAIRS, generator=generator) ** 3).long().clamp(max=ITEMS - 1)
    keys = (users * ITEMS + items).unique()
    pairs = torch.stack([keys // ITEMS, keys % ITEMS])
    state = {
        "users": torch.randn(USERS, DIM, generator=generator),
        "items": torch.randn(ITEMS, DIM, generator=generator),
    }
    found = Recommender(state, IdMap(range(USERS)), IdMap(range(ITEMS)), pairs, pairs[:, :0])
    found.recommend([0], K)  # makes what is made once
    return found


def seconds_of(ask: Any, runs: int) -> np.ndarray:
    """CPU seconds of the calling thread for each of some runs: other processes' work does not count."""
    found = []
    for _ in range(runs):
        start = time.thread_time()
        ask()
        found.append(time.thread_time() - start)
    return np.array(found)


def test_one_user(benchmark: Any, recommender: Recommender) -> None:
    user = itertools.cycle(range(0, USERS, 7))
    benchmark.group = "serving"
    benchmark.extra_info["threads"] = torch.get_num_threads()
    benchmark.extra_info["cpu_median_ms"] = 1e3 * float(
        np.median(seconds_of(lambda: recommender.recommend([next(user)], K), 500))
    )
    benchmark(lambda: recommender.recommend([next(user)], K))


def test_one_history(benchmark: Any, recommender: Recommender) -> None:
    start = itertools.cycle(range(0, ITEMS - 10, 7))
    recommender.recommend_for([[0]], K)  # fits what is fitted once
    benchmark.group = "serving"

    def ask() -> object:
        first = next(start)
        return recommender.recommend_for([range(first, first + 10)], K)

    benchmark.extra_info["cpu_median_ms"] = 1e3 * float(np.median(seconds_of(ask, 200)))
    benchmark(ask)


@pytest.mark.parametrize("size", [32, 512, 4096])
def test_batches(benchmark: Any, recommender: Recommender, size: int) -> None:
    users = list(range(0, size * 4, 4))
    benchmark.group = "serving"
    benchmark.extra_info["threads"] = torch.get_num_threads()
    benchmark.extra_info["users/cpu second"] = size / float(
        np.median(seconds_of(lambda: recommender.recommend(users, K), 8))
    )
    benchmark(lambda: recommender.recommend(users, K))
    if benchmark.stats is not None:
        benchmark.extra_info["users/s"] = size / benchmark.stats.stats.median


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_index(benchmark: Any, recommender: Recommender, kind: str) -> None:
    pytest.importorskip("faiss")
    from infodcl_geo.index import ItemIndex, build_index

    index = ItemIndex(recommender, build_index(recommender, kind))  # type: ignore[arg-type]
    users = list(range(0, 2048, 4))
    wanted, found = recommender.recommend(users, K), index.recommend(users, K)
    benchmark.group = "serving"
    benchmark.extra_info["recall@20 of the exact lists"] = float(
        np.mean([len(set(a.items.tolist()) & set(b.items.tolist())) / K for a, b in zip(wanted, found, strict=True)])
    )
    one = itertools.cycle(range(0, USERS, 7))
    benchmark.extra_info["one user, cpu_median_ms"] = 1e3 * float(
        np.median(seconds_of(lambda: index.recommend([next(one)], K), 200))
    )
    benchmark(lambda: index.recommend(users, K))
