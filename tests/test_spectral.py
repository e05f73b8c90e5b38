"""Truncated SVD: the randomized method against the exact one, and both against a dense decomposition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from infodcl_geo.data.interactions import load_interactions
from infodcl_geo.graph import spectral
from infodcl_geo.graph.graph import Graph, normalized_interactions, sparse_matrix
from infodcl_geo.graph.spectral import SVDMethod, spectral_embeddings, truncated_svd


def graph_of(table: Tensor) -> Graph:
    row, column = table.nonzero().T
    return Graph(sparse_matrix(row, column, table[row, column], (table.size(0), table.size(1))))


def decaying(rows: int, columns: int, rate: float) -> Tensor:
    """A dense matrix with singular values 1, rate, rate^2, ..."""
    generator = torch.Generator().manual_seed(rows)
    size = min(rows, columns)
    left = torch.linalg.qr(torch.randn(rows, size, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, size, generator=generator, dtype=torch.float64)).Q
    return ((left * rate ** torch.arange(size, dtype=torch.float64)) @ right.T).float()


@pytest.mark.parametrize(("rows", "columns"), [(60, 90), (90, 60)])
@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_the_product_is_the_best_approximation(
    method: SVDMethod, rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectral, "_BLOCK", 32)  # several blocks
    table = decaying(rows, columns, 0.8)
    left, values, right = truncated_svd(graph_of(table), 12, method=method)
    assert (left.shape, values.shape, right.shape) == ((rows, 12), (12,), (columns, 12))
    exact = torch.linalg.svd(table.double())
    torch.testing.assert_close(values.double(), exact.S[:12], rtol=1e-5, atol=1e-6)
    best = (exact.U[:, :12] * exact.S[:12]) @ exact.Vh[:12]
    torch.testing.assert_close(((left * values) @ right.T).double(), best, rtol=1e-4, atol=1e-5)
    for vectors in (left, right):
        torch.testing.assert_close(vectors.T @ vectors, torch.eye(12), rtol=0, atol=2e-6)


def test_iterations_are_what_makes_a_slow_decay_accurate() -> None:
    graph = graph_of(decaying(200, 150, 0.97))
    exact = truncated_svd(graph, 10, method="exact")[1].square().sum()
    missed = [
        float(1 - truncated_svd(graph, 10, method="randomized", iterations=q)[1].square().sum() / exact)
        for q in (0, 2, 6)
    ]
    assert missed[0] > 3 * missed[1] > 9 * missed[2] >= 0
    assert missed[2] < 0.01


def test_fewer_components_than_asked_for() -> None:
    table = torch.zeros(40, 30)
    table[:, :3] = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    left, values, right = truncated_svd(graph_of(table), 8, method="randomized")
    torch.testing.assert_close((left * values) @ right.T, table, rtol=1e-4, atol=1e-5)
    assert (values[3:] < 1e-4).all()
    assert left.isfinite().all()
    assert right.isfinite().all()


def test_the_switch_and_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    pairs = (torch.rand(80, 50, generator=generator) < 0.1).nonzero().T
    exact = spectral_embeddings(pairs, 80, 50, 6)
    assert torch.equal(exact[0], spectral_embeddings(pairs, 80, 50, 6, method="exact")[0])
    monkeypatch.setattr(spectral, "EXACT_NODES", 129)
    randomized = spectral_embeddings(pairs, 80, 50, 6, seed=4)
    assert torch.equal(randomized[0], spectral_embeddings(pairs, 80, 50, 6, method="randomized", seed=4)[0])
    assert not torch.equal(randomized[0], spectral_embeddings(pairs, 80, 50, 6, seed=5)[0])
    difference = randomized[0] @ randomized[1].T - exact[0] @ exact[1].T
    assert difference.norm() < 0.1 * (exact[0] @ exact[1].T).norm()


def test_errors() -> None:
    graph = graph_of(torch.eye(5))
    with pytest.raises(ValueError, match="rank 5"):
        truncated_svd(graph, 5)
    with pytest.raises(ValueError, match="'qr'"):
        truncated_svd(graph, 2, method="qr")  # type: ignore[arg-type]


def test_lanczos_that_does_not_converge_is_tried_with_a_wider_basis(monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.sparse.linalg as linalg

    table, svds, calls = decaying(40, 30, 0.7), linalg.svds, []

    def stubborn(matrix, k, **options):  # type: ignore[no-untyped-def]
        calls.append(options)
        if len(calls) == 1:
            raise linalg.ArpackNoConvergence("No convergence", np.empty(0), np.empty((0, 0)))
        return svds(matrix, k=k, **options)

    monkeypatch.setattr(linalg, "svds", stubborn)
    values = truncated_svd(graph_of(table), 5)[1]
    torch.testing.assert_close(values, torch.linalg.svdvals(table)[:5], rtol=1e-5, atol=1e-6)
    assert len(calls) == 2
    assert calls[1]["ncv"] == 29


@pytest.mark.real_data
def test_tiktok_with_its_many_equal_singular_values(data_root: Path) -> None:
    data = load_interactions(data_root / "tiktok")
    graph = normalized_interactions(data.train, data.num_users, data.num_items)
    left, values, right = truncated_svd(graph, 30)
    torch.testing.assert_close(left.T @ left, torch.eye(30), rtol=0, atol=1e-5)
    torch.testing.assert_close(graph @ right, left * values, rtol=0, atol=1e-5)
    assert (values[:10] - 1).abs().max() < 1e-6
