"""SGL: augmented graphs, objective term by term, and what it must learn."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.graph.graph import Graph, csr_parts, normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.models.lightgcn import LightGCN
from infodcl_geo.models.sgl import SGL, Augmentation, SGLOptions

USERS, ITEMS, DIM = 4, 5, 8
# Item 4 has no user.
PAIRS = torch.tensor([[0, 0, 1, 2, 3, 3], [0, 1, 1, 2, 3, 0]])
NONE = torch.empty(0, dtype=torch.int64)
BATCH = Batch(torch.tensor([0, 1, 0]), torch.tensor([1, 1, 0]), torch.tensor([3, 4, 2]), NONE, 1.0)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(augmentation: Augmentation = "edge", drop: float = 0.4, layers: int = 2, pairs: Tensor = PAIRS) -> SGL:
    torch.manual_seed(0)
    options = SGLOptions(augmentation=augmentation, drop=drop, contrast=0.5, temperature=0.3)
    users, items = (USERS, ITEMS) if pairs is PAIRS else (int(pairs[0].max()) + 1, int(pairs[1].max()) + 1)
    graph = normalized_adjacency(pairs, users, items)
    return SGL(graph, users, items, dim=DIM, num_layers=layers, l2=0.1, options=options)


def dense(graph: Graph) -> Tensor:
    pointers, col, value, shape = csr_parts(graph.matrix)
    return torch.sparse_csr_tensor(pointers, col, value, size=shape).to_dense()


def normalized(adjacency: Tensor) -> Tensor:
    """Symmetric normalisation by the degrees that are left; rows without edges stay zero."""
    scale = adjacency.sum(1).pow(-0.5)
    scale[adjacency.sum(1) == 0] = 0
    return scale[:, None] * adjacency * scale


def full_adjacency() -> Tensor:
    adjacency = torch.zeros(USERS + ITEMS, USERS + ITEMS)
    adjacency[PAIRS[0], USERS + PAIRS[1]] = 1
    return adjacency + adjacency.T


def twin(augmentation: str, drop: float, generator: torch.Generator) -> Tensor:
    """An augmented graph by the definition, for interactions in the order of users, then items."""
    order = (PAIRS[0] * ITEMS + PAIRS[1]).argsort()
    users, items = PAIRS[0][order], USERS + PAIRS[1][order]
    adjacency = torch.zeros(USERS + ITEMS, USERS + ITEMS)
    if augmentation == "node":
        alive = torch.rand(USERS + ITEMS, generator=generator) >= drop
        adjacency[users, items] = 1
        adjacency = adjacency * alive[:, None] * alive
    else:
        alive = torch.rand(len(users), generator=generator) >= drop
        adjacency[users[alive], items[alive]] = 1
    return normalized(adjacency + adjacency.T)


@pytest.mark.parametrize("augmentation", get_args(Augmentation))
def test_a_view_is_normalised_by_what_is_left(augmentation: Augmentation) -> None:
    for seed in range(20):
        view = dense(build(augmentation)._augmented(seeded(seed)))
        torch.testing.assert_close(view, twin(augmentation, 0.4, seeded(seed)))


def test_without_dropping_a_view_is_the_graph() -> None:
    torch.testing.assert_close(dense(build(drop=0.0)._augmented(seeded())), normalized(full_adjacency()))


def test_share_that_is_dropped() -> None:
    pairs = torch.cartesian_prod(torch.arange(60), torch.arange(60)).T
    edges = (dense(build("edge", 0.25, pairs=pairs)._augmented(seeded())) > 0).float().mean() * 2
    assert float(edges) == pytest.approx(0.75, abs=0.02)
    kept = dense(build("node", 0.25, pairs=pairs)._augmented(seeded())) > 0
    users, items = kept.any(1).float().split([60, 60])
    assert float(users.mean()) == pytest.approx(0.75, abs=0.15)
    assert float(kept.float().mean() * 2) == pytest.approx(float(users.mean() * items.mean()))


@pytest.mark.parametrize("augmentation", get_args(Augmentation))
def test_objective_term_by_term(augmentation: Augmentation) -> None:
    model = build(augmentation)
    terms = model.loss(BATCH, seeded())
    x = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    a = normalized(full_adjacency())
    final = (x + a @ x + a @ a @ x) / 3
    u, i, j = BATCH.users, USERS + BATCH.positives, USERS + BATCH.negatives
    bpr = -F.logsigmoid((final[u] * final[i]).sum(1) - (final[u] * final[j]).sum(1)).mean()
    torch.testing.assert_close(terms["bpr"], bpr)
    penalty = sum((x[k].pow(2).sum() for k in (u, i, j)), torch.zeros(())) / 3
    torch.testing.assert_close(terms["reg"], 0.1 * penalty)
    torch.testing.assert_close(torch.cat(model.embeddings()), final.detach())

    draw, views = seeded(), []
    for _ in range(2):
        first = twin(augmentation, 0.4, draw)
        second = twin(augmentation, 0.4, draw) if augmentation == "walk" else first
        views.append(F.normalize((x + first @ x + second @ first @ x) / 3))
    nce = torch.zeros(())
    for rows, block in ((u, slice(0, USERS)), (i, slice(USERS, None))):
        logits = views[0][rows] @ views[1][block].T / 0.3
        nce = nce + F.cross_entropy(logits, rows - (block.start or 0))
    torch.testing.assert_close(terms["nce"], 0.5 * nce)


def test_a_walk_draws_each_layer_anew() -> None:
    """With one layer there is nothing to tell them apart; with two there is."""
    for layers, equal in ((1, True), (2, False)):
        losses = [build(kind, layers=layers).loss(BATCH, seeded())["nce"].item() for kind in ("edge", "walk")]
        assert (losses[0] == pytest.approx(losses[1])) is equal


def test_gradients_reach_every_node_by_the_contrast() -> None:
    model = build()
    model.loss(BATCH, seeded())["nce"].backward()
    for table in (model.user_embedding, model.item_embedding):
        assert table.weight.grad is not None
        assert (table.weight.grad.abs().sum(1) > 0).all()


def test_randomness_comes_from_the_generator_alone() -> None:
    model = build()
    one, same, other = (model.loss(BATCH, seeded(seed))["nce"].item() for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_contrast_spreads_what_ranking_learns() -> None:
    """Two blocks of users and items; the contrast lowers the mean cosine within a block."""
    block = torch.arange(20) % 2
    same = block[:, None] == block[None]
    pairs = (same & (torch.rand(20, 20, generator=seeded(0)) < 0.6)).nonzero().T
    spread = []
    for weight in (0.0, 0.1):
        torch.manual_seed(0)
        graph = normalized_adjacency(pairs, 20, 20)
        model = SGL(graph, 20, 20, dim=DIM, init_std=0.1, l2=1e-3, options=SGLOptions(contrast=weight))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        draw = seeded()
        for _ in range(150):
            negatives = torch.randint(0, 20, pairs[0].shape, generator=draw)
            optimizer.zero_grad()
            sum(model.loss(Batch(*pairs, negatives, NONE, 1.0), draw).values()).backward()
            optimizer.step()
        users, items = model.embeddings()
        scores = users @ items.T
        assert scores[same].mean() > scores[~same].mean() + 1
        unit = F.normalize(users[block == 0])
        spread.append(float((unit @ unit.T).mean()))
    assert spread[1] < spread[0]


def test_without_contrast_it_is_lightgcn() -> None:
    model = build()
    plain = LightGCN(model.graph, USERS, ITEMS, dim=DIM, num_layers=2, l2=0.1)
    plain.load_state_dict(model.state_dict())
    terms = model.loss(BATCH, seeded())
    for name, value in plain.loss(BATCH).items():
        torch.testing.assert_close(terms[name], value)
    torch.testing.assert_close(model.embeddings(), plain.embeddings())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"augmentation": "feature"}, "augmentation must be"),
        ({"drop": 1.0}, "drop is a share"),
        ({"contrast": -1.0}, "contrast"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_errors(bad: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SGLOptions(**bad)  # type: ignore[arg-type]
