"""Layers for other people's PyG models: every form of adjacency gives the same numbers, and PyG's own layers agree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import LGConv, SAGEConv, SimpleConv

from infodcl_geo.channels.similarity import user_similarity_metadata
from infodcl_geo.graph.graph import WITH_TORCH_SPARSE, Graph, interaction_graph, sparse_matrix
from infodcl_geo.graph.similarity import jaccard_graph
from infodcl_geo.nn import NeighbourMean, Propagation, PSNet, UserToItem, as_graph


def random_edges(sources: int, targets: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A directed weighted graph whose first target has no source."""
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(sources, targets, generator=generator) < 0.3
    present[:, 0] = False
    edge_index = present.nonzero().T
    return edge_index, torch.rand(edge_index.size(1), generator=generator) + 0.1


def forms(edge_index: Tensor, weight: Tensor, sources: int, targets: int) -> dict[str, tuple[Any, Tensor | None]]:
    """The same graph in every form a layer takes: adjacency and edge weights."""
    rows, cols = edge_index[1], edge_index[0]
    coo = torch.sparse_coo_tensor(torch.stack([rows, cols]), weight, (targets, sources)).coalesce()
    found: dict[str, tuple[Any, Tensor | None]] = {
        "edge_index": (edge_index, weight),
        "shuffled edge_index": (edge_index.flip(1), weight.flip(0)),
        "torch CSR": (coo.to_sparse_csr(), None),
        "Graph": (Graph(sparse_matrix(rows, cols, weight, (targets, sources))), None),
    }
    try:
        from torch_sparse import SparseTensor
    except (ImportError, OSError):
        return found
    found["SparseTensor"] = (SparseTensor(row=rows, col=cols, value=weight, sparse_sizes=(targets, sources)), None)
    return found


def all_equal(results: dict[str, Tensor]) -> Tensor:
    first = results["edge_index"]
    for name, result in results.items():
        assert torch.allclose(result, first, rtol=1e-5, atol=1e-6), name
    return first


def test_propagation_takes_any_adjacency_and_agrees_with_lgconv() -> None:
    edge_index, weight = random_edges(12, 12)
    edge_index = torch.cat([edge_index, edge_index.flip(0)], dim=1).unique(dim=1)
    weight = (edge_index.sum(0) + 1).float()
    x = torch.randn(12, 5)
    layer = Propagation(3)
    result = all_equal({name: layer(x, *adj) for name, adj in forms(edge_index, weight, 12, 12).items()})
    total, current = x, x
    for _ in range(3):
        current = LGConv()(current, edge_index, weight)
        total = total + current
    torch.testing.assert_close(result, total / 4)
    plain = Propagation(1, normalize=False)
    results = {name: plain(x, *adj) for name, adj in forms(edge_index, weight, 12, 12).items()}
    torch.testing.assert_close(all_equal(results), (x + SimpleConv(aggr="sum")(x, edge_index, weight)) / 2)


def test_neighbour_mean_takes_any_adjacency_and_keeps_what_has_no_neighbours() -> None:
    edge_index, weight = random_edges(9, 6)
    x, own = torch.randn(9, 4), torch.randn(6, 4)
    layer = NeighbourMean()
    result = all_equal({name: layer((x, own), *adj) for name, adj in forms(edge_index, weight, 9, 6).items()})
    torch.testing.assert_close(result[0], own[0])
    into = edge_index[1] == 3
    expected = (weight[into, None] * x[edge_index[0, into]]).sum(0) / weight[into].sum()
    torch.testing.assert_close(result[3], expected)
    square, _ = random_edges(9, 9)
    unweighted = layer(x, square)
    mean = SimpleConv(aggr="mean")(x, square)
    torch.testing.assert_close(unweighted[1:], mean[1:])
    assert torch.equal(unweighted[0], x[0])


def test_user_to_item_takes_any_adjacency_and_is_the_user_channel() -> None:
    friends, weight = random_edges(8, 8)
    taken, ones = random_edges(8, 5, seed=1)
    x = torch.randn(8, 3)
    layer = UserToItem()
    between = forms(friends, weight, 8, 8)
    bipartite = forms(taken, torch.ones_like(ones), 8, 5)
    results = {}
    for name, (adj, values) in between.items():
        user_item = bipartite[name][0]
        results[name] = layer(x, adj, user_item, values, num_items=5)
    all_equal(results)

    interactions = taken.unique(dim=1)
    graph = interaction_graph(interactions, 8, 5)
    ours = layer(x, jaccard_graph(graph), graph.t())
    torch.testing.assert_close(ours, user_similarity_metadata(interactions, 8, 5, x))
    torch.testing.assert_close(UserToItem(0.0)(x, friends, graph.t()), NeighbourMean()((x, x.mean(0)[None]), graph.t()))


@pytest.mark.parametrize("name", ["edge_index", "torch CSR", "Graph", "SparseTensor"])
def test_gradients_reach_the_vectors(name: str) -> None:
    edge_index, weight = random_edges(6, 6)
    adjacency = forms(edge_index, weight.double(), 6, 6)
    if name not in adjacency:
        pytest.skip("torch-sparse is not installed")
    adj, values = adjacency[name]
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    for layer in (Propagation(2), NeighbourMean()):
        assert torch.autograd.gradcheck(lambda v, layer=layer: layer(v, adj, values), (x,))


def test_layers_follow_the_conventions() -> None:
    shown = {
        "Propagation(2, normalize=True)": Propagation(2),
        "NeighbourMean()": NeighbourMean(),
        "UserToItem(smoothing=0.5)": UserToItem(),
    }
    for text, layer in shown.items():
        assert repr(layer) == text
        assert isinstance(layer, nn.Module)
        layer.reset_parameters()
        assert list(layer.parameters()) == []
    psnet: Any = PSNet(8)
    before = [p.clone() for p in psnet.parameters()]
    torch.manual_seed(1)
    psnet.reset_parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, psnet.parameters(), strict=True))
    assert repr(psnet).startswith("PSNet(")
    with pytest.raises(ValueError, match="number of sources and targets"):
        as_graph(torch.zeros(2, 0, dtype=torch.int64))
    with pytest.raises(ValueError, match="goes with edge_index"):
        as_graph(interaction_graph(torch.tensor([[0], [0]]), 1, 1), torch.ones(1))
    with pytest.raises(ValueError, match="an adjacency of 1 targets and 1 sources"):
        Propagation(1)(torch.randn(3, 2), interaction_graph(torch.tensor([[0], [0]]), 1, 1))
    with pytest.raises(ValueError, match="edge_index must be"):
        as_graph(torch.zeros(2, 3), size=(3, 3))
    with pytest.raises(ValueError, match="num_layers cannot be negative"):
        Propagation(-1)
    with pytest.raises(ValueError, match="smoothing is a share"):
        UserToItem(2.0)


def test_the_layers_work_beside_pygs_in_one_model() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.propagation, self.conv, self.psnet = Propagation(2), SAGEConv(8, 8), PSNet(8)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            hidden = self.conv(self.propagation(x, edge_index), edge_index).relu()
            return self.psnet(torch.randn_like(hidden), hidden)

    edge_index, _ = random_edges(20, 20)
    x = torch.randn(20, 8)
    net = Net()
    net.psnet.fit(x)
    net(x, edge_index).sum().backward()
    assert net.conv.lin_l.weight.grad is not None
    assert net.conv.lin_l.weight.grad.abs().sum() > 0


@pytest.mark.skipif(not WITH_TORCH_SPARSE, reason="these are the numbers without torch-sparse already")
def test_the_same_without_torch_sparse() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", __file__],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "INFODCL_GEO_TORCH_SPARSE": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout
