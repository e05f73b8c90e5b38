"""LATTICE: its learned graphs, its embeddings against dense algebra, and when the neighbours are found anew."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.graph.graph import Graph, csr_parts, normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.models.lattice import LATTICE, LATTICEOptions, learned_weights, nearest_items
from infodcl_geo.nn.item_graph import knn_graph

USERS, ITEMS, DIM = 4, 5, 3
PAIRS = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 1, 2, 3]])
BATCH = Batch(
    torch.tensor([0, 2, 0]), torch.tensor([1, 2, 0]), torch.tensor([3, 4, 2]), torch.empty(0, dtype=torch.int64), 1.0
)


def dense(graph: Graph) -> Tensor:
    pointers, col, value, shape = csr_parts(graph.matrix)
    return torch.sparse_csr_tensor(pointers, col, value, size=shape, check_invariants=True).to_dense()


def built(**options: object) -> LATTICE:
    features = {name: torch.randn(ITEMS, 3 + k) for k, name in enumerate("ab")}
    graph = normalized_adjacency(PAIRS, USERS, ITEMS)
    return LATTICE(graph, USERS, ITEMS, features, dim=DIM, l2=0.1, item_neighbours=3, **options)


def test_nearest_items_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0], [-1.0, 0.0], [5.0, 5.0]])
    near = nearest_items(x, torch.tensor([True, True, True, True, False]), 3)
    # Item 4 has the largest cosines, and takes no part.
    assert near.items.tolist() == [[0, 1, 0], [1, 0, 2], [2, 1, 2], [3, 3, 3], [4, 4, 4]]
    assert near.known.tolist() == [[True, True, False], [True] * 3, [True, True, False]] + [[True, False, False]] * 2


def test_weights_of_the_learned_graph_are_those_of_the_fixed_one() -> None:
    x = torch.randn(12, 4)
    near = nearest_items(x, torch.ones(12, dtype=torch.bool), 4)
    weights = learned_weights(x, near)
    matrix = torch.zeros(12, 12).scatter_add_(1, near.items, weights)
    torch.testing.assert_close(matrix, dense(knn_graph(x, 4, binary=False)))


@pytest.mark.parametrize("original", [0.0, 0.7, 1.0])
def test_embeddings_and_objective(original: float) -> None:
    model = built(original=original, item_layers=2)
    with torch.no_grad():
        model.modality.copy_(torch.tensor([0.3, -0.4]))
    share = torch.tensor([0.3, -0.4]).exp() / torch.tensor([0.3, -0.4]).exp().sum()
    a, x = dense(model.graph), model.nodes()
    s = torch.zeros(ITEMS, ITEMS)
    for weight, fixed, projection in zip(share, model.original, model.projections, strict=True):
        learned = dense(knn_graph(projection().detach(), 3, binary=False))
        s += weight * (original * dense(fixed.graph) + (1 - original) * learned)
    users, items = ((x + a @ x + a @ a @ x) / 3).split([USERS, ITEMS])
    items = items + F.normalize(s @ s @ model.item_embedding.weight, dim=1)
    torch.testing.assert_close(torch.cat(model.embeddings()), torch.cat([users, items]).detach())
    terms = model.loss(BATCH)
    u, i, j = users[BATCH.users], items[BATCH.positives], items[BATCH.negatives]
    torch.testing.assert_close(terms["bpr"], -F.logsigmoid((u * (i - j)).sum(1)).mean())
    terms["bpr"].backward()
    for projection in model.projections:
        moved = projection.linear.weight.grad
        assert (moved is None) if original == 1 else moved.abs().sum() > 0


def test_neighbours_are_found_anew_once_an_epoch_and_go_into_a_checkpoint() -> None:
    model = built()
    model.loss(BATCH)
    first = [near.items.clone() for near in model.near]
    with torch.no_grad():
        for projection in model.projections:
            projection.linear.weight.normal_(std=3, generator=torch.Generator().manual_seed(1))
    other = built()
    other.load_state_dict(model.state_dict())
    other.load_training_state(model.training_state())
    for one in (model, other):
        one.loss(BATCH)  # pairs 4 to 6, begun in the epoch of the first five
        assert all(torch.equal(a, b.items) for a, b in zip(first, one.near, strict=True))
        one.loss(BATCH)
        assert any(not torch.equal(a, b.items) for a, b in zip(first, one.near, strict=True))


def test_errors() -> None:
    for bad in ({"original": 1.5}, {"item_neighbours": 0}, {"item_layers": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            LATTICEOptions(**bad)  # type: ignore[arg-type]
