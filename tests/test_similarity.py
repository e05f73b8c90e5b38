"""Jaccard graphs against a loop over sets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from infodcl_geo.graph import interaction_graph, to_scipy
from infodcl_geo.similarity import jaccard_graph


def naive_jaccard(pairs: list[tuple[int, int]], rows: int) -> Tensor:
    sets = [{item for user, item in pairs if user == row} for row in range(rows)]
    result = torch.zeros(rows, rows)
    for a in range(rows):
        for b in range(rows):
            if a != b and sets[a] | sets[b]:
                result[a, b] = len(sets[a] & sets[b]) / len(sets[a] | sets[b])
    return result


def test_by_hand() -> None:
    # users 0: {0, 1, 2}, 1: {1, 2}, 2: {2, 3}, 3: {4}
    pairs = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 3], [0, 1, 2, 1, 2, 2, 3, 4]])
    graph = jaccard_graph(interaction_graph(pairs, 4, 5))
    expected = torch.tensor([[0, 2 / 3, 1 / 4, 0], [2 / 3, 0, 1 / 3, 0], [1 / 4, 1 / 3, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(torch.from_numpy(to_scipy(graph.matrix).toarray()), expected)
    best = jaccard_graph(interaction_graph(pairs, 4, 5), top_k=1)
    kept = torch.tensor([[0, 2 / 3, 0, 0], [2 / 3, 0, 0, 0], [0, 1 / 3, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(torch.from_numpy(to_scipy(best.matrix).toarray()), kept)


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
    torch.testing.assert_close(torch.from_numpy(to_scipy(graph.matrix).toarray()), expected)


def test_errors() -> None:
    graph = interaction_graph(torch.tensor([[0], [0]]), 1, 1)
    with pytest.raises(ValueError, match="top_k"):
        jaccard_graph(graph, top_k=0)
    with pytest.raises(ValueError, match="chunk_size"):
        jaccard_graph(graph, chunk_size=0)
