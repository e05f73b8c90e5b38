"""FREEDOM: its graphs and its objective against dense algebra."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.graph.graph import Graph, csr_parts, normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.models.freedom import FREEDOM, FREEDOMOptions, modality_weights
from infodcl_geo.nn.item_graph import knn_graph, weighted_sum

USERS, ITEMS = 4, 5
PAIRS = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 1, 2, 3]])
BATCH = Batch(
    torch.tensor([0, 2, 0]), torch.tensor([1, 2, 0]), torch.tensor([3, 4, 2]), torch.empty(0, dtype=torch.int64), 1.0
)


def dense(graph: Graph) -> Tensor:
    pointers, col, value, shape = csr_parts(graph.matrix)
    return torch.sparse_csr_tensor(pointers, col, value, size=shape, check_invariants=True).to_dense()


def test_similar_items_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]])
    # Item 0 is nearest to 1 (0.6), 1 to 2 (0.8), 2 to 1; item 3 has no positive cosine, item 4 no features.
    ones = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1.0]])
    scale = torch.tensor([2, 2, 2, 1, 1]).rsqrt()
    torch.testing.assert_close(dense(knn_graph(x, 2, binary=True)), scale[:, None] * ones * scale)
    cosines = ones.clone()
    cosines[0, 1], cosines[1, 2], cosines[2, 1] = 0.6, 0.8, 0.8
    scale = torch.tensor([1.6, 1.8, 1.8, 1, 1]).rsqrt()
    torch.testing.assert_close(dense(knn_graph(x, 2, binary=False)), scale[:, None] * cosines * scale)
    torch.testing.assert_close(dense(knn_graph(x, 1, binary=True)), torch.eye(5))


def test_weights_of_the_modalities() -> None:
    assert modality_weights(1, 0.1) == [1.0]
    assert modality_weights(3, None) == pytest.approx([1 / 3] * 3)
    assert modality_weights(3, 0.1) == pytest.approx([0.1, 0.45, 0.45])
    one, other = (knn_graph(torch.randn(6, 3), k, binary=True) for k in (2, 4))
    torch.testing.assert_close(dense(weighted_sum([one, other], [0.3, 0.7])), 0.3 * dense(one) + 0.7 * dense(other))


@pytest.mark.parametrize("pruning", [0.0, 0.5])
def test_objective_term_by_term(pruning: float) -> None:
    features = {name: torch.randn(ITEMS, 3 + k) for k, name in enumerate("ab")}
    graph = normalized_adjacency(PAIRS, USERS, ITEMS)
    model = FREEDOM(
        graph, USERS, ITEMS, features, dim=3, l2=0.1, item_layers=2, item_neighbours=2, first_share=0.2,
        pruning=pruning, modal=0.3,
    )  # fmt: skip
    seed = torch.Generator().manual_seed(3)
    terms = model.loss(BATCH, seed)
    a = dense(model.pruned(torch.Generator().manual_seed(3)) if pruning else graph)
    nodes = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    s = sum(w * dense(knn_graph(f, 2, binary=True)) for w, f in zip((0.2, 0.8), features.values(), strict=True))
    out = (nodes + a @ nodes + a @ a @ nodes) / 3
    users, items = out[:USERS], out[USERS:] + s @ s @ model.item_embedding.weight
    u, i, j = users[BATCH.users], items[BATCH.positives], items[BATCH.negatives]
    torch.testing.assert_close(terms["bpr"], -F.logsigmoid((u * (i - j)).sum(1)).mean())
    modal = 0
    for projection in model.projections:
        f = projection.features @ projection.linear.weight.T + projection.linear.bias
        modal = modal - F.logsigmoid((u * (f[BATCH.positives] - f[BATCH.negatives])).sum(1)).mean()
    torch.testing.assert_close(terms["modal"], 0.3 * modal)
    if not pruning:
        torch.testing.assert_close(torch.cat(model.embeddings()), torch.cat([users, items]))


def test_pruning_leaves_a_share_of_the_edges_normalised_by_what_is_left() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = (torch.rand(20, 15, generator=generator) < 0.3).nonzero().T
    graph = normalized_adjacency(pairs, 20, 15)
    model = FREEDOM(graph, 20, 15, {"a": torch.randn(15, 3)}, dim=3, pruning=0.7)
    kept = dense(model.pruned(generator))
    assert torch.equal(kept, kept.T)
    left = (kept[:20, 20:] > 0).nonzero().T
    assert left.size(1) == round(0.3 * pairs.size(1))
    torch.testing.assert_close(kept, dense(normalized_adjacency(left, 20, 15)).nan_to_num())
    assert (dense(graph)[kept > 0] > 0).all()


def test_much_connected_pairs_are_pruned_more_often() -> None:
    # User 0 has three items, user 1 one of them that nobody else has.
    pairs = torch.tensor([[0, 0, 0, 1, 2], [0, 1, 2, 3, 0]])
    model = FREEDOM(normalized_adjacency(pairs, 3, 4), 3, 4, {"a": torch.randn(4, 2)}, dim=2, pruning=0.8)
    generator = torch.Generator().manual_seed(0)
    counts = sum((dense(model.pruned(generator))[:3, 3:] > 0).float() for _ in range(2000))
    rates = dense(normalized_adjacency(pairs, 3, 4))[:3, 3:]
    torch.testing.assert_close(counts / 2000, rates / rates.sum(), atol=0.04, rtol=0)


def test_errors() -> None:
    for bad in ({"pruning": 1.0}, {"pruning": 1.5}, {"first_share": 2.0}, {"item_neighbours": 0}, {"modal": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            FREEDOMOptions(**bad)  # type: ignore[arg-type]
