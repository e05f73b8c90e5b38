"""NCL: k-means, objective term by term, the schedule of its E-steps, and what it must learn."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from infodcl_geo.graph.graph import csr_parts, normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.models.lightgcn import LightGCN
from infodcl_geo.models.ncl import NCL, NCLOptions, kmeans

USERS, ITEMS, DIM = 5, 6, 8
# Item 5 has no user.
PAIRS = torch.tensor([[0, 0, 1, 2, 3, 4], [0, 1, 1, 2, 3, 4]])
NONE = torch.empty(0, dtype=torch.int64)
BATCH = Batch(torch.tensor([0, 1, 0]), torch.tensor([1, 1, 0]), torch.tensor([3, 4, 2]), NONE, 1.0)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(layers: int = 2, **options: float) -> NCL:
    torch.manual_seed(0)
    given = {"structure": 0.5, "prototype": 0.3, "temperature": 0.4, "clusters": 2, "warm_up": 0, **options}
    graph = normalized_adjacency(PAIRS, USERS, ITEMS)
    return NCL(graph, USERS, ITEMS, dim=DIM, num_layers=layers, l2=0.1, options=NCLOptions(**given))  # type: ignore[arg-type]


def dense(model: NCL) -> Tensor:
    pointers, col, value, shape = csr_parts(model.graph.matrix)
    return torch.sparse_csr_tensor(pointers, col, value, size=shape).to_dense()


# -- k-means -----------------------------------------------------------------------------------------------------------


def test_kmeans_by_hand() -> None:
    x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [12.0, 0.0], [11.0, 3.0]])
    centroids, cluster = kmeans(x, torch.tensor([[1.0, 1.0], [9.0, 0.0], [-50.0, 0.0]]), 3, chunk=2)
    torch.testing.assert_close(centroids, torch.tensor([[0.0, 1.0], [11.0, 1.0], [-50.0, 0.0]]))
    assert cluster.tolist() == [0, 0, 1, 1, 1]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 5), st.integers(1, 50), st.integers(0, 1000))
def test_kmeans_never_gets_worse_and_assigns_the_nearest(n: int, k: int, d: int, chunk: int, seed: int) -> None:
    generator = seeded(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    start = torch.randn(k, d, generator=generator, dtype=torch.float64)
    errors = []
    for iterations in range(4):
        centroids, cluster = kmeans(x, start, iterations, chunk=chunk)
        distance = torch.cdist(x, centroids)
        torch.testing.assert_close(distance.gather(1, cluster[:, None])[:, 0], distance.amin(1))
        errors.append(float(distance.amin(1).square().sum()))
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(errors))


def test_kmeans_finds_separate_groups() -> None:
    group = torch.arange(60) % 3
    x = 10 * torch.eye(3)[group] + 0.1 * torch.randn(60, 3, generator=seeded())
    _, cluster = kmeans(x, x[:3], 5)
    assert torch.equal(cluster[:, None] == cluster, group[:, None] == group)


# -- Objective ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "layer"), [(2, 2), (3, 2), (1, 2), (2, 4)])
def test_objective_term_by_term(layers: int, layer: int) -> None:
    model = build(layers, layer=layer, item_share=0.7)
    terms = model.loss(BATCH, seeded())
    a, x = dense(model), torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    powers = [torch.linalg.matrix_power(a, k) @ x for k in range(5)]
    final = sum(powers[1 : layers + 1], powers[0]) / (layers + 1)
    u, i, j = BATCH.users, USERS + BATCH.positives, USERS + BATCH.negatives
    bpr = -F.logsigmoid((final[u] * final[i]).sum(1) - (final[u] * final[j]).sum(1)).mean()
    torch.testing.assert_close(terms["bpr"], bpr)
    penalty = sum((x[k].pow(2).sum() for k in (u, i, j)), torch.zeros(())) / 3
    torch.testing.assert_close(terms["reg"], 0.1 * penalty)
    torch.testing.assert_close(torch.cat(model.embeddings()), final.detach())

    unit, context = F.normalize(x), F.normalize(powers[layer])
    of_users = F.cross_entropy(context[u] @ unit[:USERS].T / 0.4, u)
    of_items = F.cross_entropy(context[i] @ unit[USERS:].T / 0.4, i - USERS)
    torch.testing.assert_close(terms["structure"], 0.5 * (of_users + 0.7 * of_items))

    prototype = torch.zeros(())
    for chosen, table, (centroids, cluster) in (
        (u, unit[:USERS], model.prototypes[0]),
        (i - USERS, unit[USERS:], model.prototypes[1]),
    ):
        assert centroids.shape == (2, DIM)
        prototype = prototype + F.cross_entropy(table[chosen] @ F.normalize(centroids).T / 0.4, cluster[chosen])
    torch.testing.assert_close(terms["prototype"], 0.3 * prototype)


def test_prototypes_are_the_means_of_their_clusters() -> None:
    model = build(iterations=20)
    model.loss(BATCH, seeded())
    for table, (centroids, cluster) in zip(
        (model.user_embedding.weight, model.item_embedding.weight), model.prototypes, strict=True
    ):
        for k in range(2):
            torch.testing.assert_close(centroids[k], table[cluster == k].mean(0).detach())
        assert not centroids.requires_grad


def test_there_are_never_more_prototypes_than_nodes() -> None:
    model = build(clusters=50)
    model.loss(BATCH, seeded())
    assert [len(centroids) for centroids, _ in model.prototypes] == [USERS, ITEMS]


# -- Schedule ----------------------------------------------------------------------------------------------------------


def test_prototypes_wait_for_the_warm_up_and_are_renewed_every_few_epochs() -> None:
    """Batches of 3 interactions of 6: an epoch is 2 steps."""
    model = build(warm_up=2, every=3)
    renewed, before = [], model.prototypes
    for step in range(18):
        assert model.epoch == step // 2
        terms = model.loss(BATCH, seeded(step))
        assert (terms["prototype"].item() > 0) is (step >= 4)
        if model.prototypes is not before:
            renewed.append(model.epoch if step % 2 == 0 else -1)
            before = model.prototypes
    assert renewed == [2, 5, 8]
    model.reset_parameters()
    assert model.epoch == 0
    assert model.loss(BATCH, seeded())["prototype"].item() == 0


def test_randomness_comes_from_the_generator_alone() -> None:
    found = [_with_prototypes(seed).prototypes[0][0] for seed in (0, 0, 1, 2, 3, 4, 5)]
    assert torch.equal(found[0], found[1])
    assert any(not torch.equal(found[0], other) for other in found[2:])


def _with_prototypes(seed: int) -> NCL:
    model = build(iterations=1)
    model.loss(BATCH, seeded(seed))
    return model


# -- Behaviour ---------------------------------------------------------------------------------------------------------


def test_gradients_of_each_contrast() -> None:
    for name, reaches_all in (("structure", True), ("prototype", False)):
        model = build()
        model.loss(BATCH, seeded())[name].backward()
        for table, rows in ((model.user_embedding, BATCH.users), (model.item_embedding, BATCH.positives)):
            assert table.weight.grad is not None
            moved = table.weight.grad.abs().sum(1) > 0
            # All nodes are candidates of the structural contrast; the prototypes are constants.
            assert moved.all() if reaches_all else moved.nonzero()[:, 0].tolist() == rows.unique().tolist()


def test_without_its_contrasts_it_is_lightgcn() -> None:
    model = build(structure=0.0, prototype=0.0)
    plain = LightGCN(model.graph, USERS, ITEMS, dim=DIM, num_layers=2, l2=0.1)
    plain.load_state_dict(model.state_dict())
    terms = model.loss(BATCH, seeded())
    assert terms["structure"].item() == terms["prototype"].item() == 0
    for name, value in plain.loss(BATCH).items():
        torch.testing.assert_close(terms[name], value)
    torch.testing.assert_close(model.embeddings(), plain.embeddings())


def test_prototype_contrast_gathers_clusters() -> None:
    """By that term alone, users move towards the prototype of their cluster."""
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    everyone = Batch(torch.arange(USERS), torch.arange(USERS), torch.arange(USERS), NONE, 1.0)
    closeness = []
    for _ in range(30):
        optimizer.zero_grad()
        model.loss(everyone, seeded())["prototype"].backward()
        centroids, cluster = model.prototypes[0]
        users = model.user_embedding.weight.detach()
        closeness.append(float(F.cosine_similarity(users, centroids[cluster]).mean()))
        optimizer.step()
    assert closeness[-1] > closeness[0] + 0.02


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"layer": 3}, "even layer"),
        ({"layer": 0}, "even layer"),
        ({"clusters": 0}, "clusters"),
        ({"every": 0}, "every"),
        ({"structure": -1.0}, "structure"),
        ({"warm_up": -1}, "warm_up"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_errors(bad: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NCLOptions(**bad)  # type: ignore[arg-type]
