"""Throughput of the sparse product behind propagation: ``pytest benchmarks/bench_graph.py --benchmark-only``.

One product of the normalised adjacency of a graph of the paper's Electronics size with 64 columns: the library's
choice, torch-sparse's, scipy's and torch's CSR product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from infodcl_geo.data.generated import power_law_graph
from infodcl_geo.graph.graph import WITH_TORCH_SPARSE, Graph, csr_parts, normalized_adjacency, to_scipy

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def graph() -> Graph:
    data = power_law_graph()
    return normalized_adjacency(data.train, data.num_users, data.num_items).to(DEVICE)


def product(graph: Graph, kind: str) -> Callable[[Tensor], Any]:
    if kind == "library":
        return lambda x: graph @ x
    if kind == "torch-sparse":
        if not WITH_TORCH_SPARSE:
            pytest.skip("torch-sparse is not installed")
        return lambda x: graph.matrix @ x
    if kind == "scipy":
        if DEVICE.type != "cpu":
            pytest.skip("scipy multiplies on the CPU")
        matrix = to_scipy(graph.matrix)
        return lambda x: matrix @ x.numpy()
    pointers, col, value, shape = csr_parts(graph.matrix)
    csr = torch.sparse_csr_tensor(pointers, col, value, size=shape, check_invariants=False)
    return lambda x: csr @ x


@pytest.mark.parametrize("kind", ["library", "torch-sparse", "scipy", "torch-csr"])
def test_spmm(benchmark: Any, graph: Graph, kind: str) -> None:
    x = torch.randn(graph.shape[1], 64, device=DEVICE)
    multiply = product(graph, kind)

    def once() -> None:
        multiply(x)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.group = "SpMM"
    benchmark.extra_info["device"] = str(DEVICE)
    benchmark(once)
    seconds = benchmark.stats.stats.median
    benchmark.extra_info["items/s"] = graph.num_edges / seconds
    # Every entry reads a row of x; the result is written once.
    benchmark.extra_info["bytes/s"] = 4 * 64 * (graph.num_edges + graph.shape[0]) / seconds
