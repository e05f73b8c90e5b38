"""BM3: its objective by hand, and which way its gradients flow."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.graph.graph import normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.models.bm3 import BM3, BM3Options

USERS, ITEMS, DIM = 4, 5, 3
PAIRS = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 1, 2, 3]])
BATCH = Batch(
    torch.tensor([0, 2, 0]), torch.tensor([1, 2, 0]), torch.tensor([3, 4, 2]), torch.empty(0, dtype=torch.int64), 1.0
)


def built(**options: object) -> BM3:
    features = {name: torch.randn(ITEMS, 3 + k) for k, name in enumerate("ab")}
    return BM3(normalized_adjacency(PAIRS, USERS, ITEMS), USERS, ITEMS, features, dim=DIM, l2=0.1, **options)


def distance(x: Tensor, y: Tensor) -> Tensor:
    return 1 - (F.normalize(x) * F.normalize(y)).sum(1).mean()


def test_objective_term_by_term() -> None:
    model = built(dropout=0.4, modal=0.7, num_layers=2)
    terms = model.loss(BATCH, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)

    def dropped(x: Tensor) -> Tensor:
        return x * (torch.rand(x.shape, generator=generator) >= 0.4) / 0.6

    degree = torch.bincount(torch.cat([PAIRS[0], PAIRS[1] + USERS]), minlength=USERS + ITEMS)
    a = torch.zeros(USERS + ITEMS, USERS + ITEMS)
    for u, i in PAIRS.T.tolist():
        a[u, USERS + i] = a[USERS + i, u] = (degree[u] * degree[USERS + i]).float().rsqrt()
    x = model.nodes()
    h = (x + a @ x + a @ a @ x) / 3
    items = h[USERS:] + model.item_embedding.weight
    hu, hi = h[BATCH.users], items[BATCH.positives]
    user_target, item_target = dropped(hu), dropped(hi)
    w, b = model.predictor.weight, model.predictor.bias
    expected = distance(hu @ w.T + b, item_target) + distance(hi @ w.T + b, user_target)
    torch.testing.assert_close(terms["agreement"], expected)
    modal = torch.zeros(())
    for projection in model.projections:
        latent = projection(BATCH.positives)
        predicted = latent @ w.T + b
        modal = modal + distance(predicted, item_target) + distance(predicted, dropped(latent))
    torch.testing.assert_close(terms["modal"], 0.7 * modal)
    own = model.user_embedding.weight[BATCH.users], model.item_embedding.weight[BATCH.positives]
    torch.testing.assert_close(terms["reg"], 0.1 * sum(x.square().sum() for x in own) / 3)
    users, ranked = model.embeddings()
    torch.testing.assert_close(users @ ranked.T, ((h[:USERS] @ w.T + b) @ (items @ w.T + b).T).detach())


def test_negatives_are_not_read_and_targets_are_not_moved() -> None:
    model = built(dropout=0.0, num_layers=0)
    one = model.loss(BATCH, torch.Generator().manual_seed(3))
    other = model.loss(BATCH._replace(negatives=torch.tensor([1, 1, 1])), torch.Generator().manual_seed(3))
    assert {name: term.item() for name, term in one.items()} == {name: term.item() for name, term in other.items()}
    one["modal"].backward()
    # The embeddings are targets of the modalities alone.
    assert model.user_embedding.weight.grad is None
    assert model.item_embedding.weight.grad is None
    assert model.predictor.weight.grad is not None


def test_errors() -> None:
    for bad in ({"dropout": 1.0}, {"dropout": -0.1}, {"modal": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            BM3Options(**bad)
