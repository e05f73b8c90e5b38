"""Item-item weights as graphs: the local form against the dense one and a plain solve, the strongest by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from infodcl_geo.channels.base import PretrainedVectors
from infodcl_geo.channels.ease import EaseChannel
from infodcl_geo.data.ids import IdMap
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.errors import InfodclGeoError, OptionError
from infodcl_geo.graph import item_item
from infodcl_geo.graph.graph import Graph, csr_parts, sparse_matrix, to_scipy
from infodcl_geo.graph.item_item import (
    dense_bytes,
    ease_weights,
    item_weights,
    local_ease_graph,
    slim_graph,
    strongest_into,
)


def random_pairs(seed: int, num_users: int, num_items: int, share: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(num_users, num_items, generator=generator) < share).nonzero().T


def interactions(pairs: Tensor, num_users: int, num_items: int) -> Interactions:
    none = pairs[:, :0]
    return Interactions(
        pairs, none, none, num_users, num_items, IdMap(range(num_users)), IdMap(range(num_items)), "random"
    )


def table(graph: Graph) -> Tensor:
    return torch.from_numpy(to_scipy(graph.matrix).toarray())


cases = given(
    seed=st.integers(0, 10_000),
    users=st.integers(1, 25),
    items=st.integers(1, 15),
    share=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
    l2=st.sampled_from([0.5, 20.0]),
)


@settings(max_examples=40, deadline=None)
@cases
def test_with_all_items_as_neighbours_the_local_form_is_ease_where_items_share_users(
    seed: int, users: int, items: int, share: float, l2: float
) -> None:
    pairs = random_pairs(seed, users, items, share)
    # One user with everything: every two items share it.
    everything = torch.stack([torch.full((items,), users), torch.arange(items)])
    pairs = torch.cat([pairs, everything], 1)
    local = local_ease_graph(pairs, users + 1, items, l2, neighbours=items)
    torch.testing.assert_close(table(local).T, ease_weights(pairs, users + 1, items, l2), atol=1e-4, rtol=1e-3)


@settings(max_examples=40, deadline=None)
@cases
def test_a_column_is_a_ridge_regression_on_the_items_of_largest_cosine(
    seed: int, users: int, items: int, share: float, l2: float
) -> None:
    pairs, size = random_pairs(seed, users, items, share), 3
    graph = local_ease_graph(pairs, users, items, l2, neighbours=size)
    found, (pointers, columns, _, _) = table(graph).double(), csr_parts(graph.matrix)
    x = torch.zeros(users, items, dtype=torch.float64)
    x[pairs[0], pairs[1]] = 1
    gram, degree = x.T @ x, x.sum(0)
    for i in range(items):
        cosine = {j: float(gram[j, i] / (degree[j] * degree[i]).sqrt()) for j in range(items) if j != i and gram[j, i]}
        chosen = columns[pointers[i] : pointers[i + 1]].tolist()  # a weight may be zero
        assert len(chosen) == min(size, len(cosine))
        if not chosen:
            continue
        # Which of equal cosines are taken is told by rounding: those left out are no nearer.
        assert min(cosine[j] for j in chosen) >= max([cosine[j] for j in cosine if j not in chosen] or [0.0]) - 1e-6
        block = gram[chosen][:, chosen] + l2 * torch.eye(len(chosen), dtype=torch.float64)
        torch.testing.assert_close(found[i, chosen], torch.linalg.solve(block, gram[chosen, i]), atol=1e-5, rtol=1e-4)


def test_top_k_keeps_the_weights_of_largest_absolute_value() -> None:
    pairs = random_pairs(3, 40, 12)
    whole, cut = (table(local_ease_graph(pairs, 40, 12, 1.0, neighbours=12, top_k=k)) for k in (None, 4))
    assert (whole < 0).any()
    for row, kept in zip(whole, cut, strict=True):
        expected = torch.zeros(12)
        place = row.abs().topk(4).indices
        expected[place] = row[place]
        torch.testing.assert_close(kept, expected)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    share=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
    l1=st.sampled_from([0.0, 0.5, 2.0]),
    l2=st.sampled_from([0.5, 20.0]),
)
def test_slim_meets_its_conditions_of_optimality(seed: int, share: float, l1: float, l2: float) -> None:
    pairs = random_pairs(seed, 20, 9, share)
    b = table(slim_graph(pairs, 20, 9, l1=l1, l2=l2, sweeps=5000, tolerance=1e-9)).double().T
    x = torch.zeros(20, 9, dtype=torch.float64)
    x[pairs[0], pairs[1]] = 1
    slope = x.T @ x @ b - x.T @ x + l2 * b + l1  # of the objective, by each weight
    assert (b >= 0).all()
    assert (b.diagonal() == 0).all()
    others = ~torch.eye(9, dtype=torch.bool)
    assert (slope[others] > -1e-3).all()
    torch.testing.assert_close(slope[b > 0], torch.zeros(int((b > 0).sum()), dtype=torch.float64), atol=1e-3, rtol=0)


def test_slim_of_two_items_by_hand() -> None:
    # Item 0 has users 0, 1, item 1 user 0: G = [[2, 1], [1, 1]]. Weight of 1 for 0: (1 - l1) / (1 + l2); of 0 for 1:
    # (1 - l1) / (2 + l2).
    pairs = torch.tensor([[0, 0, 1], [0, 1, 0]])
    weights = table(slim_graph(pairs, 2, 2, l1=0.25, l2=1.0))
    torch.testing.assert_close(weights, torch.tensor([[0.0, 0.75 / 2], [0.75 / 3, 0.0]]))
    assert not table(slim_graph(pairs, 2, 2, l1=1.0)).any()


@pytest.mark.parametrize("neighbours", [1, 2, 5, 11])
def test_slim_over_the_nearest_items(neighbours: int) -> None:
    pairs = random_pairs(5, 40, 12)
    gram = (incidence := torch.zeros(40, 12).index_put_(tuple(pairs), torch.tensor(1.0))).T @ incidence
    cosine = gram / gram.diagonal().sqrt()
    least = cosine.fill_diagonal_(0).topk(neighbours, dim=1).values[:, -1:]
    found = table(slim_graph(pairs, 40, 12, l1=0.1, l2=2.0, neighbours=neighbours, sweeps=500, tolerance=1e-9))
    assert not (found[cosine < least - 1e-6] != 0).any()
    assert ((found != 0).sum(1) <= neighbours).all()
    # Among the nearest alone the conditions of a minimum hold; which of equal cosines are taken is told by rounding.
    slope = found @ gram + 2 * found - gram + 0.1
    assert (slope[found > 0].abs() < 1e-4).all()
    assert (slope[(cosine > least + 1e-6) & (cosine > 0)] > -1e-4).all()
    with pytest.raises(OptionError, match="neighbours must be at least 1"):
        slim_graph(pairs, 40, 12, neighbours=0)


def test_slim_without_a_compiler_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = random_pairs(3, 40, 12)
    compiled = slim_graph(pairs, 40, 12)
    monkeypatch.setattr(item_item, "_compiled", lambda function: function)
    torch.testing.assert_close(table(slim_graph(pairs, 40, 12)), table(compiled))
    with pytest.raises(InfodclGeoError, match="l1 cannot be negative"):
        slim_graph(pairs, 40, 12, l1=-1.0)


def test_memory_decides_between_the_forms() -> None:
    pairs = random_pairs(0, 30, 10, 0.6)  # every two items share a user
    dense = item_weights(pairs, 30, 10, 2.0, max_bytes=dense_bytes(10))
    local = item_weights(pairs, 30, 10, 2.0, max_bytes=dense_bytes(10) - 1)
    assert isinstance(dense, Tensor)
    assert isinstance(local, Graph)
    torch.testing.assert_close(table(local).T, dense, atol=1e-5, rtol=1e-4)
    assert dense_bytes(1000) == 12_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"l2": 0.0}, "l2 must be positive"),
        ({"neighbours": 0}, "neighbours must be at least 1, not 0"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
    ],
)
def test_wrong_options_are_named(change: dict[str, float], message: str) -> None:
    with pytest.raises(InfodclGeoError, match=message):
        local_ease_graph(random_pairs(0, 5, 4), 5, 4, **change)  # type: ignore[arg-type]


def by_hand() -> Tensor:
    #                       into 0    1     2     3
    return torch.tensor([[0.0, 0.2, -0.5, 0.1], [0.4, 0.0, 0.3, 0.1], [0.1, 0.2, 0.0, 0.1], [-0.2, 0.2, 0.3, 0.0]])


@pytest.mark.parametrize("sparse", [False, True])
def test_the_strongest_weights_into_an_item_by_hand(sparse: bool) -> None:
    weights: Tensor | Graph = by_hand()
    if sparse:
        into = by_hand().T
        row, column = into.nonzero().unbind(1)
        weights = Graph(sparse_matrix(row, column, into[row, column], (4, 4)))
    expected = torch.tensor(
        # Item 1 hears 0, 2 and 3 with the same weight, item 3 all three: the smaller indices stay.
        [[0.0, 0.4, 0.1, 0.0], [0.2, 0.0, 0.2, 0.0], [0.0, 0.3, 0.0, 0.3], [0.1, 0.1, 0.0, 0.0]]
    )
    torch.testing.assert_close(table(strongest_into(weights, 2)), expected)
    torch.testing.assert_close(table(strongest_into(weights, 9)), by_hand().T.clamp(min=0))
    with pytest.raises(InfodclGeoError, match="top_k must be at least 1"):
        strongest_into(weights, 0)


def test_dense_and_sparse_weights_have_the_same_strongest() -> None:
    pairs = random_pairs(5, 60, 20)
    dense = ease_weights(pairs, 60, 20, 3.0)
    row, column = dense.T.nonzero().unbind(1)
    sparse = Graph(sparse_matrix(row, column, dense.T[row, column], (20, 20)))
    torch.testing.assert_close(table(strongest_into(dense, 5)), table(strongest_into(sparse, 5)), atol=0, rtol=0)


def test_the_channel_is_the_weighted_mean_of_the_strongest_items_by_hand() -> None:
    pairs = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 0, 1, 3]])
    q = torch.tensor([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0], [7.0, 7.0]])
    channel = EaseChannel(top_k=2, weights=by_hand())(
        interactions(pairs, 3, 4), PretrainedVectors(torch.zeros(3, 2), q)
    )
    expected = torch.tensor(
        [
            [(0.1 * 5) / 0.5, (0.4 * 1 + 0.1 * 5) / 0.5],
            [(1 + 5) / 2, 5 / 2],
            [7 / 2, (1 + 7) / 2],
            [1 / 2, 1 / 2],
        ]
    )
    torch.testing.assert_close(channel.metadata, expected)
    assert channel.from_interactions
    assert channel.over == "items"
    assert channel.covered.all()


def test_a_channel_reads_training_alone_and_leaves_lonely_items_their_own_vector() -> None:
    pairs = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 0, 1, 3]])  # items 0 and 1 together, 3 alone, 2 nowhere
    data = interactions(pairs, 3, 4)
    vectors = PretrainedVectors(torch.zeros(3, 5), torch.randn(4, 5))
    channel = EaseChannel(l2=1.0)(data, vectors)
    assert channel.covered.tolist() == [True, True, False, False]
    torch.testing.assert_close(channel.metadata, vectors.items[[1, 0, 2, 3]])
    held = torch.tensor([[0, 1], [2, 3]])
    other = Interactions(pairs, held, held, 3, 4, data.user_ids, data.item_ids, "held")
    torch.testing.assert_close(EaseChannel(l2=1.0)(other, vectors).metadata, channel.metadata, atol=0, rtol=0)
    for change in ({"top_k": 0}, {"l2": 0.0}):
        with pytest.raises(InfodclGeoError, match="EASE channel"):
            EaseChannel(**change)  # type: ignore[arg-type]
