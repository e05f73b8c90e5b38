"""LightGCL: the global view, objective term by term, edge dropout, and what it must learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.graph.graph import normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.models.lightgcl import LightGCL, LightGCLOptions
from infodcl_geo.models.lightgcn import LightGCN

USERS, ITEMS, DIM = 4, 5, 8
# Item 4 has no user.
PAIRS = torch.tensor([[0, 0, 1, 2, 3, 3], [0, 1, 1, 2, 3, 0]])
NONE = torch.empty(0, dtype=torch.int64)
BATCH = Batch(torch.tensor([0, 1, 0]), torch.tensor([1, 1, 0]), torch.tensor([3, 4, 2]), NONE, 1.0)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(layers: int = 2, init_std: float = 0.5, **options: object) -> LightGCL:
    torch.manual_seed(0)
    graph = normalized_adjacency(PAIRS, USERS, ITEMS)
    chosen = LightGCLOptions(**{"rank": 2, "contrast": 0.5, "temperature": 0.3, **options})  # type: ignore[arg-type]
    return LightGCL(graph, USERS, ITEMS, dim=DIM, num_layers=layers, l2=0.1, init_std=init_std, options=chosen)


def interactions() -> Tensor:
    """The normalised user-item matrix."""
    a = torch.zeros(USERS, ITEMS)
    a[PAIRS[0], PAIRS[1]] = 1
    return a / (a.sum(1, keepdim=True) * a.sum(0).clamp(min=1)).sqrt()


def low_rank(rank: int) -> Tensor:
    left, values, right = torch.linalg.svd(interactions(), full_matrices=False)
    return left[:, :rank] * values[:rank] @ right[:rank]


def propagate(model: LightGCL, a: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    users, items = [model.user_embedding.weight], [model.item_embedding.weight]
    for matrix in a:
        users, items = [*users, matrix @ items[-1]], [*items, matrix.T @ users[-1]]
    return users, items


def check(model: LightGCL, a: list[Tensor], cosine: bool, clamp: float) -> None:
    terms = model.loss(BATCH, seeded())
    users, items = propagate(model, a)
    view = low_rank(2)
    # The definition: each layer of the global view by its own product.
    global_users = sum((view @ layer for layer in items[:-1]), users[0])
    global_items = sum((view.T @ layer for layer in users[:-1]), items[0])
    all_users, all_items = sum(users[1:], users[0]), sum(items[1:], items[0])
    u, i, j = BATCH.users, BATCH.positives, BATCH.negatives
    bpr = -F.logsigmoid((all_users[u] * all_items[i]).sum(1) - (all_users[u] * all_items[j]).sum(1)).mean()
    torch.testing.assert_close(terms["bpr"], bpr)
    flat = [users[0][u], items[0][i], items[0][j]]
    torch.testing.assert_close(terms["reg"], 0.1 * sum((x.pow(2).sum() for x in flat), torch.zeros(())) / 3)
    nce = torch.zeros(())
    for rows, g, e in ((u, global_users, all_users), (torch.cat([i, j]), global_items, all_items)):
        if cosine:
            g, e = F.normalize(g), F.normalize(e)
        logits = g[rows] @ e.T / 0.3
        positive = logits.gather(1, rows[:, None])[:, 0]
        nce = nce + torch.logsumexp(logits, 1).mean() - positive.clamp(-clamp, clamp).mean()
    torch.testing.assert_close(terms["nce"], 0.5 * nce)


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_objective_term_by_term(layers: int, similarity: str) -> None:
    model = build(layers, similarity=similarity)
    check(model, [interactions()] * layers, similarity == "cosine", 5.0)
    users, items = propagate(model, [interactions()] * layers)
    torch.testing.assert_close(
        model.embeddings(), (sum(users[1:], users[0]).detach(), sum(items[1:], items[0]).detach())
    )


def test_dropout_term_by_term() -> None:
    """Masks are drawn for each layer, over the interactions in the order of users, then items."""
    model, draw, drawn = build(dropout=0.4), seeded(), []
    order = (PAIRS[0] * ITEMS + PAIRS[1]).argsort()
    for _ in range(2):
        mask = torch.zeros(USERS, ITEMS)
        mask[PAIRS[0][order], PAIRS[1][order]] = (torch.rand(len(order), generator=draw) >= 0.4).float() / 0.6
        drawn.append(interactions() * mask)
    check(model, drawn, False, 5.0)
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(model.embeddings(), build().embeddings())


def test_the_clamp_bounds_what_positives_are_worth() -> None:
    model = build(init_std=3.0, clamp=0.5)
    check(model, [interactions()] * 2, False, 0.5)
    assert abs(model.loss(BATCH)["nce"].item() - build(init_std=3.0, clamp=1e9).loss(BATCH)["nce"].item()) > 1


def test_the_global_view_is_the_best_of_its_rank() -> None:
    """Eckart and Young: what it misses are the singular values beyond the rank."""
    a = interactions()
    values = torch.linalg.svdvals(a)
    model = build(1, rank=3)
    torch.testing.assert_close(torch.linalg.svdvals(model.left @ model.right.T)[:3], values[:3], rtol=1e-4, atol=1e-5)
    error = torch.linalg.matrix_norm(a - model.left @ model.right.T)
    torch.testing.assert_close(error, values[3:].norm(), rtol=1e-3, atol=1e-5)


def test_gradients_reach_every_node_by_the_contrast() -> None:
    model = build()
    model.loss(BATCH, seeded())["nce"].backward()
    for table in (model.user_embedding, model.item_embedding):
        assert table.weight.grad is not None
        assert (table.weight.grad.abs().sum(1) > 0).all()


def test_without_contrast_it_ranks_as_lightgcn() -> None:
    model = build(contrast=0.0)
    plain = LightGCN(model.graph, USERS, ITEMS, dim=DIM, num_layers=2, l2=0.1)
    plain.load_state_dict(model.state_dict())
    assert model.loss(BATCH)["nce"].item() == 0
    for mine, theirs in zip(model.embeddings(), plain.embeddings(), strict=True):
        torch.testing.assert_close(mine, 3 * theirs)


def test_contrast_brings_the_views_together() -> None:
    """By that term alone, each node's global view finds its own embedding among all."""
    torch.manual_seed(0)
    block = torch.arange(20) % 2
    pairs = ((block[:, None] == block[None]) & (torch.rand(20, 20, generator=seeded(0)) < 0.6)).nonzero().T
    chosen = LightGCLOptions(contrast=0.2)
    model = LightGCL(normalized_adjacency(pairs, 20, 20), 20, 20, dim=DIM, num_layers=1, options=chosen)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    negatives = torch.randint(0, 20, pairs[0].shape, generator=seeded())
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        term = model.loss(Batch(*pairs, negatives, NONE, 1.0))["nce"]
        term.backward()
        optimizer.step()
        losses.append(term.item())
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"rank": 0}, "rank"),
        ({"contrast": -1.0}, "contrast"),
        ({"temperature": 0.0}, "temperature"),
        ({"clamp": 0.0}, "clamp"),
        ({"similarity": "euclid"}, "similarity must be"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_errors(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LightGCLOptions(**bad)  # type: ignore[arg-type]


def test_the_rank_must_fit_the_data() -> None:
    with pytest.raises(ValueError, match="rank 4"):
        build(rank=4)
