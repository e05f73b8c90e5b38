"""SimGCL and XSimGCL: perturbation, objective term by term, and what they must learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.graph.graph import Graph, csr_parts, normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.models.simgcl import SimGCL, SimGCLOptions, perturbed_layers
from infodcl_geo.models.xsimgcl import XSimGCL, XSimGCLOptions

USERS, ITEMS, DIM = 4, 5, 8
# Item 4 has no user.
PAIRS = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 1, 2, 3]])
BATCH = Batch(
    torch.tensor([0, 1, 0]), torch.tensor([1, 1, 0]), torch.tensor([3, 4, 2]), torch.empty(0, dtype=torch.int64), 1.0
)


def graph() -> Graph:
    return normalized_adjacency(PAIRS, USERS, ITEMS)


def dense() -> Tensor:
    pointers, col, value, shape = csr_parts(graph().matrix)
    return torch.sparse_csr_tensor(pointers, col, value, size=shape).to_dense()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def noise_like(x: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    return epsilon * torch.sign(x) * F.normalize(torch.rand(x.shape, generator=generator))


def test_perturbation_moves_each_node_by_epsilon_in_its_orthant() -> None:
    first = torch.randn(USERS + ITEMS, DIM, generator=seeded())
    first[-1] = 0
    (moved,) = perturbed_layers(graph(), first, 1, 0.3, seeded())
    step = moved - first
    torch.testing.assert_close(step[:-1].norm(dim=1), torch.full((USERS + ITEMS - 1,), 0.3))
    assert (step[:-1].sign() == first[:-1].sign()).all()
    assert (step[-1] == 0).all()
    torch.testing.assert_close(moved, first + noise_like(first, 0.3, seeded()))
    plain = perturbed_layers(graph(), first, 3, 0.0)
    torch.testing.assert_close(plain[2], dense() @ dense() @ first)


def contrast(batch: Batch, one: Tensor, other: Tensor, tau: float) -> Tensor:
    total = torch.zeros(())
    for rows in (batch.users.unique(), USERS + batch.positives.unique()):
        a, b = F.normalize(one[rows]), F.normalize(other[rows])
        total = total + F.cross_entropy(a @ b.T / tau, torch.arange(len(rows)))
    return total


def ranking(model: SimGCL, nodes: Tensor) -> tuple[Tensor, Tensor]:
    u, i, j = BATCH.users, USERS + BATCH.positives, USERS + BATCH.negatives
    bpr = -F.logsigmoid((nodes[u] * nodes[i]).sum(1) - (nodes[u] * nodes[j]).sum(1)).mean()
    flat = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    return bpr, sum((flat[x].pow(2).sum() for x in (u, i, j)), torch.zeros(())) / 3


def test_simgcl_objective_term_by_term() -> None:
    torch.manual_seed(0)
    options = SimGCLOptions(contrast=0.4, temperature=0.3, noise=0.2)
    model = SimGCL(graph(), USERS, ITEMS, dim=DIM, num_layers=2, l2=0.1, options=options)
    terms = model.loss(BATCH, seeded())
    a, x = dense(), torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    clean = (a @ x + a @ a @ x) / 2
    bpr, penalty = ranking(model, clean)
    torch.testing.assert_close(terms["bpr"], bpr)
    torch.testing.assert_close(terms["reg"], 0.1 * penalty)
    generator, views = seeded(), []
    for _ in range(2):
        one = a @ x
        one = one + noise_like(one, 0.2, generator)
        two = a @ one
        two = two + noise_like(two, 0.2, generator)
        views.append((one + two) / 2)
    torch.testing.assert_close(terms["nce"], 0.4 * contrast(BATCH, *views, 0.3))
    torch.testing.assert_close(torch.cat(model.embeddings()), clean.detach())


def test_xsimgcl_objective_term_by_term() -> None:
    torch.manual_seed(0)
    options = XSimGCLOptions(contrast=0.4, temperature=0.3, noise=0.2, layer=1)
    model = XSimGCL(graph(), USERS, ITEMS, dim=DIM, num_layers=2, l2=0.1, options=options)
    terms = model.loss(BATCH, seeded())
    a, x = dense(), torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    generator = seeded()
    one = a @ x
    one = one + noise_like(one, 0.2, generator)
    two = a @ one
    two = two + noise_like(two, 0.2, generator)
    final = (one + two) / 2
    torch.testing.assert_close(terms["bpr"], ranking(model, final)[0])
    torch.testing.assert_close(terms["nce"], 0.4 * contrast(BATCH, final, one, 0.3))
    torch.testing.assert_close(torch.cat(model.embeddings()), ((a @ x + a @ a @ x) / 2).detach())


@pytest.mark.parametrize("kind", [SimGCL, XSimGCL])
def test_gradients_reach_every_node_with_an_edge(kind: type[SimGCL]) -> None:
    torch.manual_seed(0)
    model = kind(graph(), USERS, ITEMS, dim=DIM, num_layers=2)
    sum(model.loss(BATCH, seeded()).values()).backward()
    users = model.user_embedding.weight.grad
    assert users is not None
    assert torch.isfinite(users).all()
    assert (users[:2].abs().sum(1) > 0).all()


@pytest.mark.parametrize("kind", [SimGCL, XSimGCL])
def test_contrast_spreads_the_embeddings(kind: type[SimGCL]) -> None:
    """Two blocks of users and items; the contrast must lower the mean cosine (Wang and Isola's uniformity)."""
    generator = torch.Generator().manual_seed(0)
    block = torch.arange(20) % 2
    pairs = ((block[:, None] == block[None]) & (torch.rand(20, 20, generator=generator) < 0.6)).nonzero().T
    spread = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        chosen = SimGCLOptions(contrast=weight) if kind is SimGCL else XSimGCLOptions(contrast=weight)
        model = kind(normalized_adjacency(pairs, 20, 20), 20, 20, dim=DIM, num_layers=2, options=chosen)  # type: ignore[arg-type]
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        draw = seeded()
        for _ in range(80):
            negatives = torch.randint(0, 20, pairs[0].shape, generator=draw)
            optimizer.zero_grad()
            sum(model.loss(Batch(*pairs, negatives, BATCH.anchors, 1.0), draw).values()).backward()
            optimizer.step()
        users, items = model.embeddings()
        scores = users @ items.T
        same = block[:, None] == block[None]
        assert scores[same].mean() > scores[~same].mean()
        unit = F.normalize(users[block == 0])
        spread.append(float((unit @ unit.T).mean()))
    assert spread[1] < spread[0]


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        SimGCL(graph(), USERS, ITEMS, num_layers=0)
    with pytest.raises(ValueError, match="layer 3 cannot be contrasted: there are 2"):
        XSimGCL(graph(), USERS, ITEMS, num_layers=2, options=XSimGCLOptions(layer=3))
    for bad in ({"contrast": -1.0}, {"noise": -1.0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            SimGCLOptions(**bad)
    with pytest.raises(ValueError, match="layer must be at least 1"):
        XSimGCLOptions(layer=0)
