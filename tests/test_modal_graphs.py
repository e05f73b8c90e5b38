"""MMGCN, DualGNN and SLMRec: their embeddings and objectives against dense algebra, and small cases by hand."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.errors import OptionError
from infodcl_geo.graph.graph import Graph, csr_parts, normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.models.dualgnn import DualGNN, shared_items_graph
from infodcl_geo.models.mmgcn import MMGCN
from infodcl_geo.models.slmrec import SLMRec, SLMRecOptions

USERS, ITEMS, DIM = 4, 5, 3
PAIRS = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 1, 2, 3]])
BATCH = Batch(
    torch.tensor([0, 2, 0]), torch.tensor([1, 2, 0]), torch.tensor([3, 4, 2]), torch.empty(0, dtype=torch.int64), 1.0
)
GRAPH = normalized_adjacency(PAIRS, USERS, ITEMS)


def dense(graph: Graph) -> Tensor:
    pointers, col, value, shape = csr_parts(graph.matrix)
    return torch.sparse_csr_tensor(pointers, col, value, size=shape, check_invariants=True).to_dense()


def features(modalities: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(ITEMS, 3 + k) for k, name in enumerate("abc"[:modalities])}


def bpr(users: Tensor, items: Tensor) -> Tensor:
    u, i, j = users[BATCH.users], items[BATCH.positives], items[BATCH.negatives]
    return -F.logsigmoid((u * (i - j)).sum(1)).mean()


@pytest.mark.parametrize("modalities", [1, 2])
def test_mmgcn_is_its_equations(modalities: int) -> None:
    model = MMGCN(GRAPH, USERS, ITEMS, features(modalities), dim=DIM, num_layers=2, init_std=1, l2=0.1)
    near = torch.zeros(USERS + ITEMS, USERS + ITEMS)
    near[PAIRS[0], PAIRS[1] + USERS] = near[PAIRS[1] + USERS, PAIRS[0]] = 1
    near = near / near.sum(1, keepdim=True).clamp(min=1)
    ids, total = model.nodes(), torch.zeros(USERS + ITEMS, DIM)
    for m in range(modalities):
        x = torch.cat([model.preferences[m], model.projections[m]()])
        for k in range(2):
            w1, w2, w3 = model.weights[m][k]
            h = F.leaky_relu(w1(near @ x))
            x = F.leaky_relu(w3(h) + F.leaky_relu(w2(x)) + ids)
        total = total + x
    torch.testing.assert_close(torch.cat(model.embeddings()), total.detach(), rtol=1e-4, atol=1e-5)
    terms = model.loss(BATCH)
    torch.testing.assert_close(terms["bpr"], bpr(*total.split([USERS, ITEMS])), rtol=1e-4, atol=1e-5)
    rows = [model.user_embedding.weight[BATCH.users], model.item_embedding.weight[torch.stack(BATCH[1:3]).flatten()]]
    expected = 0.1 * (rows[0].square().sum(1).mean() + 2 * rows[1].square().sum(1).mean())
    torch.testing.assert_close(terms["reg"], expected)


def test_users_with_shared_items_by_hand() -> None:
    # Users 0 and 1 share two items, 0 and 2 one, 1 and 2 one; user 3 shares none.
    pairs = torch.tensor([[0, 0, 0, 1, 1, 2, 3], [0, 1, 2, 0, 1, 0, 3]])
    e = math.e
    expected = torch.tensor(
        [[0, e, 1, 0], [e, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]
    ) / torch.tensor([[1 + e], [1 + e], [2.0], [1.0]])  # fmt: skip
    torch.testing.assert_close(dense(shared_items_graph(pairs, 4, 4, 5)), expected)
    best = dense(shared_items_graph(pairs, 4, 4, 1))
    torch.testing.assert_close(best[:2, :2], torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert best.sum(1).tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("modalities", [1, 3])
def test_dualgnn_is_its_equations(modalities: int) -> None:
    model = DualGNN(GRAPH, USERS, ITEMS, features(modalities), dim=DIM, num_layers=1, init_std=1, l2=0.0)
    with torch.no_grad():
        model.taste.normal_()
    a, alpha = dense(GRAPH), model.taste.softmax(1)
    users, items = model.user_embedding.weight, model.item_embedding.weight
    for m in range(modalities):
        x = torch.cat([model.preferences[m], model.projections[m]()])
        x = x + a @ x
        users = users + alpha[:, [m]] * x[:USERS]
        items = items + x[USERS:] / modalities
    users = users + dense(shared_items_graph(PAIRS, USERS, ITEMS, 40)) @ users
    torch.testing.assert_close(torch.cat(model.embeddings()), torch.cat([users, items]).detach())
    torch.testing.assert_close(model.loss(BATCH)["bpr"], bpr(users, items))


@pytest.mark.parametrize("modalities", [1, 2])
def test_slmrec_is_its_equations(modalities: int) -> None:
    options = {"contrast": 0.5, "between": 0.25, "temperature": 0.5, "drop": 0.0}
    model = SLMRec(GRAPH, USERS, ITEMS, features(modalities), dim=DIM, num_layers=1, init_std=1, l2=0.0, **options)
    a, spaces = dense(GRAPH), []
    for items in (model.item_embedding.weight, *(projection() for projection in model.projections)):
        x = torch.cat([model.user_embedding.weight, items])
        spaces.append((x + a @ x) / 2)
    fused = torch.cat(spaces, 1) @ model.fusion.weight.T + model.fusion.bias
    torch.testing.assert_close(torch.cat(model.embeddings()), fused.detach())
    terms = model.loss(BATCH, torch.Generator().manual_seed(0))
    torch.testing.assert_close(terms["bpr"], bpr(*fused.split([USERS, ITEMS])))
    chosen = torch.tensor([0, 1, 2])

    def nce(one: Tensor, other: Tensor) -> Tensor:
        logits = F.normalize(one[chosen + USERS]) @ F.normalize(other[chosen + USERS]).T / 0.5
        return F.cross_entropy(logits, torch.arange(3))

    # Without dropout the two views are the same.
    torch.testing.assert_close(terms["nce"], 0.5 * nce(fused, fused), rtol=1e-4, atol=1e-5)
    between = sum(nce(one, other) for one, other in combinations(spaces, 2))
    torch.testing.assert_close(terms["between"], 0.25 * between, rtol=1e-4, atol=1e-5)
    quiet = SLMRec(GRAPH, USERS, ITEMS, features(modalities), dim=DIM, contrast=0.0, between=0.0)
    assert set(quiet.loss(BATCH)) == {"bpr", "reg"}


def test_views_of_slmrec() -> None:
    items, generator = torch.ones(400, 3, 4), torch.Generator().manual_seed(0)
    masked = SLMRec(GRAPH, USERS, ITEMS, features(2), dim=4, view="mask")._lacking(items, generator)
    lacking = (masked == 0).all(2)
    assert (lacking.sum(1) == 1).all()
    assert (masked[~lacking] == 1).all()
    assert (lacking.float().mean(0) - 1 / 3).abs().max() < 0.1
    dropped = SLMRec(GRAPH, USERS, ITEMS, features(2), dim=4, drop=0.25)._lacking(items, generator)
    torch.testing.assert_close(dropped.unique(), torch.tensor([0.0, 4 / 3]))
    assert dropped.mean() == pytest.approx(1, abs=0.05)


def test_bad_options() -> None:
    with pytest.raises(OptionError, match="view must be one of drop, mask, not 'crop'"):
        SLMRecOptions(view="crop")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="nothing would be left"):
        SLMRecOptions(drop=1.0)
