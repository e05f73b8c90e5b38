"""MGCN: its embeddings and its objective against dense algebra."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.graph.graph import Graph, csr_parts, normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.models.mgcn import MGCN, MGCNOptions
from infodcl_geo.nn.item_graph import knn_graph

USERS, ITEMS, DIM = 4, 5, 3
PAIRS = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 1, 2, 3]])
BATCH = Batch(
    torch.tensor([0, 2, 0]), torch.tensor([1, 2, 0]), torch.tensor([3, 4, 2]), torch.empty(0, dtype=torch.int64), 1.0
)


def dense(graph: Graph) -> Tensor:
    pointers, col, value, shape = csr_parts(graph.matrix)
    return torch.sparse_csr_tensor(pointers, col, value, size=shape, check_invariants=True).to_dense()


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_embeddings_and_objective(modalities: int) -> None:
    features = {name: torch.randn(ITEMS, 3 + k) for k, name in enumerate("abc"[:modalities])}
    graph = normalized_adjacency(PAIRS, USERS, ITEMS)
    options = {"item_layers": 2, "item_neighbours": 2, "contrast": 0.3, "temperature": 0.5}
    model = MGCN(graph, USERS, ITEMS, features, dim=DIM, l2=0.1, num_layers=1, **options)
    a, x = dense(graph), model.nodes()
    ids = (x + a @ x) / 2
    views, scores = [], []
    for m, f in enumerate(features.values()):
        s = dense(knn_graph(f, 2, binary=False))
        gate = torch.sigmoid(model.gates[m](model.projections[m]()))
        items = s @ s @ (model.item_embedding.weight * gate)
        views.append(torch.cat([a[:USERS, USERS:] @ items, items]))
        scores.append(torch.tanh(views[m] @ model.query[0].weight.T + model.query[0].bias) @ model.query[2].weight.T)
    total = sum(score.exp() for score in scores)
    common = sum(score.exp() / total * view for score, view in zip(scores, views, strict=True))
    modal = common
    for m, view in enumerate(views):
        modal = modal + (view - common) * torch.sigmoid(model.preferences[m](ids)) / modalities
    if modalities == 1:
        torch.testing.assert_close(modal, views[0])
    users, items = (ids + modal).split([USERS, ITEMS])
    torch.testing.assert_close(torch.cat(model.embeddings()), (ids + modal).detach())
    terms = model.loss(BATCH)
    u, i, j = users[BATCH.users], items[BATCH.positives], items[BATCH.negatives]
    torch.testing.assert_close(terms["bpr"], -F.logsigmoid((u * (i - j)).sum(1)).mean())
    nce = torch.zeros(())
    for rows in ([0, 2], [USERS, USERS + 1, USERS + 2]):
        logits = F.normalize(modal[rows]) @ F.normalize(ids[rows]).T / 0.5
        nce = nce + F.cross_entropy(logits, torch.arange(len(rows)))
    torch.testing.assert_close(terms["nce"], 0.3 * nce, rtol=1e-4, atol=1e-5)


def test_errors() -> None:
    for bad in ({"contrast": -1.0}, {"temperature": 0.0}, {"item_neighbours": 0}, {"item_layers": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            MGCNOptions(**bad)  # type: ignore[arg-type]
