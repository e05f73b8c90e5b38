"""Graphs against dense matrices, in whichever of the two storage kinds is installed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from infodcl_geo.graph.graph import (
    WITH_TORCH_SPARSE,
    Graph,
    csr_parts,
    from_scipy,
    interaction_graph,
    normalized_adjacency,
    normalized_interactions,
    propagate,
    sparse_matrix,
    to_scipy,
)

PAIRS = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 3]])  # three users, four items, item 2 without a user


def dense(graph: Graph) -> Tensor:
    return torch.from_numpy(to_scipy(graph.matrix).toarray())


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, int, int]:
    users, items = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    chosen = draw(st.sets(st.tuples(st.integers(0, users - 1), st.integers(0, items - 1)), max_size=20))
    return torch.tensor(sorted(chosen), dtype=torch.int64).reshape(-1, 2).T, users, items


def test_storage_kind_is_the_installed_one() -> None:
    matrix = interaction_graph(PAIRS, 3, 4).matrix
    assert isinstance(matrix, Tensor) != WITH_TORCH_SPARSE
    if WITH_TORCH_SPARSE:
        from torch_geometric.typing import SparseTensor

        assert isinstance(matrix, SparseTensor)


def test_normalized_adjacency_by_hand() -> None:
    expected = torch.zeros(7, 7)
    for user, item, weight in ((0, 0, 1 / math.sqrt(2)), (0, 1, 0.5), (1, 1, 1 / math.sqrt(2)), (2, 3, 1.0)):
        expected[user, 3 + item] = expected[3 + item, user] = weight
    torch.testing.assert_close(dense(normalized_adjacency(PAIRS, 3, 4)), expected)
    torch.testing.assert_close(dense(normalized_interactions(PAIRS, 3, 4)), expected[:3, 3:])


def test_propagate_by_hand() -> None:
    graph = normalized_adjacency(torch.tensor([[0], [0]]), 1, 1)  # one edge of weight 1 swaps the two nodes
    x = torch.tensor([[1.0, 2.0], [5.0, -2.0]])
    torch.testing.assert_close(propagate(graph, x, 0), x)
    torch.testing.assert_close(propagate(graph, x, 1), (x + x.flip(0)) / 2)
    torch.testing.assert_close(propagate(graph, x, 2), (2 * x + x.flip(0)) / 3)


@given(pairs(), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_products_and_propagation_match_dense(case: tuple[Tensor, int, int], layers: int) -> None:
    interactions, users, items = case
    graph = interaction_graph(interactions, users, items)
    twin = torch.zeros(users, items)
    twin[interactions[0], interactions[1]] = 1.0
    x = torch.randn(items, 3)
    torch.testing.assert_close(graph @ x, twin @ x)
    torch.testing.assert_close(dense(graph.t()), twin.T)
    torch.testing.assert_close(graph.t() @ torch.ones(users, 2), twin.T @ torch.ones(users, 2))

    adjacency = normalized_adjacency(interactions, users, items)
    matrix = dense(adjacency)
    nodes = torch.randn(users + items, 2)
    expected = sum(torch.linalg.matrix_power(matrix, k) @ nodes for k in range(layers + 1)) / (layers + 1)
    torch.testing.assert_close(propagate(adjacency, nodes, layers), expected, rtol=1e-4, atol=1e-5)
    assert not torch.isnan(matrix).any()


def test_gradient_of_a_rectangular_product() -> None:
    generator = torch.Generator().manual_seed(0)
    row, col = torch.tensor([0, 1, 1, 3]), torch.tensor([2, 0, 1, 2])
    value = torch.rand(4, generator=generator, dtype=torch.float64)
    graph = Graph(sparse_matrix(row, col, value, (4, 3)))
    x = torch.randn(3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: graph @ t, (x,))
    assert torch.autograd.gradgradcheck(lambda t: (graph @ t).square(), (x,))


def test_gradient_through_propagation() -> None:
    graph = normalized_adjacency(PAIRS, 3, 4)
    x = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: propagate(graph, t, 3), (x,))


def test_scipy_round_trip_keeps_every_entry() -> None:
    graph = normalized_interactions(PAIRS, 3, 4)
    again = csr_parts(from_scipy(to_scipy(graph.matrix)))
    for first, second in zip(csr_parts(graph.matrix), again, strict=True):
        if isinstance(first, Tensor):
            torch.testing.assert_close(first, second)
        else:
            assert first == second


def test_unsorted_coordinates_are_sorted() -> None:
    matrix = sparse_matrix(torch.tensor([2, 0, 2]), torch.tensor([1, 1, 0]), torch.tensor([3.0, 1.0, 2.0]), (3, 2))
    assert to_scipy(matrix).toarray().tolist() == [[0, 1], [0, 0], [2, 3]]


def test_symmetric_graph_is_its_own_transpose() -> None:
    graph = normalized_adjacency(PAIRS, 3, 4)
    assert graph.t() is graph
    assert graph.num_edges == 8
    assert repr(graph) == "Graph(7 x 7, num_edges=8)"


def test_errors_are_clear() -> None:
    with pytest.raises(ValueError, match="column indices reach from 0 to 3, outside a 3 x 3 matrix"):
        interaction_graph(PAIRS, 3, 3)
    with pytest.raises(ValueError, match="cannot multiply a tensor of 5 rows"):
        interaction_graph(PAIRS, 3, 4) @ torch.ones(5, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 3, 64, 65])
def test_products_of_any_width_dtype_and_layout(dtype: torch.dtype, width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    matrix = (torch.rand(7, 9, generator=generator) < 0.3) * torch.randn(7, 9, generator=generator)
    matrix[2] = 0
    row, col = matrix.nonzero().T
    graph = Graph(sparse_matrix(row, col, matrix[row, col], (7, 9)))
    x = torch.randn(width, 9, generator=generator, dtype=dtype).T
    torch.testing.assert_close(graph @ x, matrix.to(dtype) @ x)
    torch.testing.assert_close(graph.t() @ (graph @ x), matrix.T.to(dtype) @ (matrix.to(dtype) @ x))


def test_products_without_edges_rows_or_columns() -> None:
    none = torch.empty(0, dtype=torch.int64)
    assert torch.equal(Graph(sparse_matrix(none, none, None, (3, 4))) @ torch.ones(4, 2), torch.zeros(3, 2))
    assert (Graph(sparse_matrix(none, none, None, (0, 4))) @ torch.ones(4, 2)).shape == (0, 2)
    assert torch.equal(Graph(sparse_matrix(none, none, None, (3, 0))) @ torch.ones(0, 2), torch.zeros(3, 2))
