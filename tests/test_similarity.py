"""Jaccard graphs against a loop over sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from infodcl_geo.data.interactions import load_interactions
from infodcl_geo.graph import similarity
from infodcl_geo.graph.graph import Graph, csr_parts, interaction_graph, to_scipy
from infodcl_geo.graph.similarity import jaccard_graph, jaccard_mean, keep_top_k


def naive_jaccard(pairs: list[tuple[int, int]], rows: int) -> Tensor:
    sets = [{item for user, item in pairs if user == row} for row in range(rows)]
    result = torch.zeros(rows, rows)
    for a in range(rows):
        for b in range(rows):
            if a != b and sets[a] | sets[b]:
                result[a, b] = len(sets[a] & sets[b]) / len(sets[a] | sets[b])
    return result


def dense(graph: Graph) -> Tensor:
    return torch.from_numpy(to_scipy(graph.matrix).toarray())


def test_by_hand() -> None:
    # users 0: {0, 1, 2}, 1: {1, 2}, 2: {2, 3}, 3: {4}
    pairs = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 2, 3, 4]])
    graph = jaccard_graph(interaction_graph(pairs, 4, 5))
    expected = torch.tensor([[0, 2 / 3, 1 / 4, 0], [2 / 3, 0, 1 / 3, 0], [1 / 4, 1 / 3, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(dense(graph), expected)
    best = jaccard_graph(interaction_graph(pairs, 4, 5), top_k=1)
    kept = torch.tensor([[0, 2 / 3, 0, 0], [2 / 3, 0, 0, 0], [0, 1 / 3, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(dense(best), kept)


@given(
    st.sets(st.tuples(st.integers(0, 6), st.integers(0, 5)), max_size=25),
    st.integers(1, 8),
    st.one_of(st.none(), st.integers(1, 7)),
)
@settings(max_examples=50, deadline=None)
def test_any_chunking_matches_the_loop(chosen: set[tuple[int, int]], chunk: int, top_k: int | None) -> None:
    pairs = torch.tensor(sorted(chosen), dtype=torch.int64).reshape(-1, 2).T
    expected = naive_jaccard(sorted(chosen), 7)
    if top_k is not None:
        # Largest first, ties to the smaller index: a stable sort by falling value.
        order = expected.argsort(dim=1, descending=True, stable=True)[:, :top_k]
        expected = torch.zeros_like(expected).scatter(1, order, expected.gather(1, order))
    graph = jaccard_graph(interaction_graph(pairs, 7, 6), top_k=top_k, chunk_size=chunk)
    torch.testing.assert_close(dense(graph), expected)


@given(
    st.sets(st.tuples(st.integers(0, 6), st.integers(0, 5)), max_size=25),
    st.integers(1, 8),
    st.sampled_from([1, 9, 2**24]),
)
@settings(max_examples=50, deadline=None)
def test_the_mean_matches_the_loop_whatever_the_chunks(
    chosen: set[tuple[int, int]], chunk: int, block_pairs: int
) -> None:
    pairs = torch.tensor(sorted(chosen), dtype=torch.int64).reshape(-1, 2).T
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    weights = naive_jaccard(sorted(chosen), 7)
    expected = torch.stack([w @ x / w.sum() if w.sum() > 0 else own for w, own in zip(weights, x, strict=True)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "_BLOCK_PAIRS", block_pairs)
        mean = jaccard_mean(interaction_graph(pairs, 7, 6), x, chunk_size=chunk)
    torch.testing.assert_close(mean, expected)


def test_the_most_popular_columns_are_left_out_where_pairs_are_too_many() -> None:
    # Columns 0 to 3 have 4, 2, 2 and 1 entries: 16 + 4 + 4 + 1 = 25 pairs.
    pairs = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 3, 0, 1, 0, 2, 0, 2]])
    graph = interaction_graph(pairs, 4, 4)
    before = [part.clone() for part in csr_parts(graph.matrix)[:3]]
    exact = jaccard_graph(graph, max_pairs=25)
    assert torch.equal(dense(exact), dense(jaccard_graph(graph, max_pairs=None)))
    with pytest.warns(UserWarning, match="1 columns with more than 2 entries are left out"):
        fewer = jaccard_graph(graph, max_pairs=24)
    # Without column 0: users 0: {1, 3}, 1: {1}, 2: {2}, 3: {2}
    expected = torch.tensor([[0, 0.5, 0, 0], [0.5, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    torch.testing.assert_close(dense(fewer), expected)
    x = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    with pytest.warns(UserWarning, match="left out"):
        mean = jaccard_mean(graph, x, max_pairs=9)
    torch.testing.assert_close(mean, torch.tensor([[2.0], [1.0], [8.0], [4.0]]))
    # Columns 1 and 2 have as many entries as each other and would be too many together: both go.
    with pytest.warns(UserWarning, match="3 columns with more than 1 entries"):
        assert jaccard_graph(graph, max_pairs=8).num_edges == 0
    with pytest.warns(UserWarning, match="4 columns with more than 0 entries"):
        one = jaccard_mean(
            interaction_graph(torch.tensor([[0, 1] * 4, [0, 0, 1, 1, 2, 2, 3, 3]]), 2, 4), x[:2], max_pairs=3
        )
    assert torch.equal(one, x[:2])
    for part, same in zip(before, csr_parts(graph.matrix)[:3], strict=True):
        assert torch.equal(part, same)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 9), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_largest_of_each_row(seed: int, columns: int, top_k: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    # Few distinct values of both signs, so that ties are the rule.
    table = rng.integers(-3, 4, (9, columns)) / 2 * (rng.random((9, columns)) < density)
    expected = np.zeros_like(table)
    for row, values in enumerate(table):
        order = sorted(np.flatnonzero(values), key=lambda column: (-values[column], column))[:top_k]
        expected[row, order] = values[order]
    kept = keep_top_k(sp.csr_matrix(table.astype(np.float32)), top_k)
    assert np.array_equal(kept.toarray(), expected)


@pytest.mark.real_data
def test_similar_users_and_items_of_movielens(data_root: Path) -> None:
    data = load_interactions(data_root / "ml-1m")
    graph = interaction_graph(data.train, data.num_users, data.num_items)
    sets = to_scipy(graph.matrix).astype(np.float64)
    for side, matrix in ((graph, sets), (graph.t(), sets.T.tocsr())):
        kept = to_scipy(jaccard_graph(side, top_k=20).matrix)
        for row in (0, 17, matrix.shape[0] - 1):
            shared = (matrix @ matrix[row].T).toarray().ravel()
            degree = np.asarray(matrix.sum(1)).ravel()
            every = shared / np.maximum(degree + degree[row] - shared, 1)
            every[row] = 0
            best = np.sort(every)[::-1][:20]
            np.testing.assert_allclose(np.sort(kept[row].data)[::-1], best[best > 0], rtol=1e-6)


def test_errors() -> None:
    graph = interaction_graph(torch.tensor([[0], [0]]), 1, 1)
    with pytest.raises(ValueError, match="top_k"):
        jaccard_graph(graph, top_k=0)
    with pytest.raises(ValueError, match="chunk_size"):
        jaccard_graph(graph, chunk_size=0)
    with pytest.raises(ValueError, match="max_pairs"):
        jaccard_graph(graph, max_pairs=0)
    with pytest.raises(ValueError, match="1 rows need as many vectors, not 2"):
        jaccard_mean(graph, torch.ones(2, 3))
