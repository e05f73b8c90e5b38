"""DiffCL: its objective term by term, the variants of its Table III, and what it must learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.configuration import configure
from infodcl_geo.data.ids import IdMap
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.experiment import prepare
from infodcl_geo.graph.graph import csr_parts, normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.models.diffcl import DiffCL, DiffCLOptions
from infodcl_geo.models.popularity import popularity_embeddings
from infodcl_geo.models.scoring import dot_scorer
from infodcl_geo.nn.diffusion import LinearNoise, alpha_bar
from infodcl_geo.nn.item_graph import similar_items_graph
from infodcl_geo.training.loop import TrainOptions, rank, train

USERS, ITEMS, DIM = 4, 5, 6
PAIRS = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 1, 2, 3]])
BATCH = Batch(
    torch.tensor([0, 2, 0]), torch.tensor([1, 2, 0]), torch.tensor([3, 4, 2]), torch.empty(0, dtype=torch.int64), 1.0
)
FEATURES = {name: torch.randn(ITEMS, 3 + k, generator=torch.Generator().manual_seed(k)) for k, name in enumerate("vtx")}


def graph():  # type: ignore[no-untyped-def]
    return normalized_adjacency(PAIRS, USERS, ITEMS)


def diffcl(modalities: int = 2, **options: object) -> DiffCL:
    torch.manual_seed(0)
    chosen = dict(list(FEATURES.items())[:modalities])
    return DiffCL(graph(), USERS, ITEMS, chosen, dim=DIM, l2=0.1, options=DiffCLOptions(**options))  # type: ignore[arg-type]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def dense(g) -> Tensor:  # type: ignore[no-untyped-def]
    pointers, col, value, shape = csr_parts(g.matrix)
    return torch.sparse_csr_tensor(pointers, col, value, size=shape, check_invariants=True).to_dense()


def encoded(users: Tensor, items: Tensor) -> Tensor:
    a, x = dense(graph()), torch.cat([users, items])
    return x + a @ x + a @ a @ x


def view(x: Tensor, denoiser: torch.nn.Module, noise: LinearNoise, steps: int, generator: torch.Generator) -> Tensor:
    levels = [1.0, *alpha_bar(noise, steps).tolist()]
    x = levels[-1] ** 0.5 * x + (1 - levels[-1]) ** 0.5 * torch.randn(x.shape, generator=generator)
    for t in range(steps, 0, -1):
        alpha = levels[t] / levels[t - 1]
        clean = denoiser(x, torch.full((len(x),), t))
        of_clean = levels[t - 1] ** 0.5 * (1 - alpha) / (1 - levels[t])
        x = of_clean * clean + alpha**0.5 * (1 - levels[t - 1]) / (1 - levels[t]) * x
    return x


def test_similar_items_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [-1.0, 0.2]])
    expected = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]) / 2
    torch.testing.assert_close(dense(similar_items_graph(features, 2)), expected)
    torch.testing.assert_close(dense(similar_items_graph(features, 9)), torch.full((4, 4), 0.25))
    many = torch.randn(50, 7, generator=seeded())
    torch.testing.assert_close(
        dense(similar_items_graph(many, 6, chunk_size=8)), dense(similar_items_graph(many, 6, chunk_size=50))
    )


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("candidates", ["batch", "all"])
def test_objective_term_by_term(modalities: int, candidates: str) -> None:
    options = DiffCLOptions(
        contrast=0.3, align=0.4, item_layers=2, item_neighbours=2, temperature=0.3, candidates=candidates, steps=3,
        noise_scale=0.5, noise_min=0.2, noise_max=0.9, denoising=0.6,
    )  # type: ignore[arg-type]  # fmt: skip
    model = diffcl(modalities, **{name: getattr(options, name) for name in options.__dataclass_fields__})
    with torch.no_grad():
        model.mu.add_(torch.linspace(0.2, 0.1, modalities - 1) if modalities > 1 else 0.0)
    terms = model.loss(BATCH, seeded())

    ids = encoded(model.user_embedding.weight, model.item_embedding.weight)
    plain, enhanced = [], []
    for name, modality in model.modalities.items():
        nodes = encoded(modality.users.weight, modality.items())
        s = dense(similar_items_graph(FEATURES[name], 2))
        plain.append(nodes)
        enhanced.append(torch.cat([nodes[:USERS], nodes[USERS:] + s @ s @ nodes[USERS:]]))
    share = [*model.mu.tolist(), 1 - sum(model.mu.tolist())]
    fused = sum(mu * x for mu, x in zip(share, enhanced, strict=True))
    u, i, j = BATCH.users, USERS + BATCH.positives, USERS + BATCH.negatives
    score = sum((x[u] * (x[i] - x[j])).sum(1) for x in (fused, ids))
    torch.testing.assert_close(terms["bpr"], -F.logsigmoid(score).mean())
    penalty = sum(x[rows].pow(2).sum() / 3 for x in (*enhanced, ids) for rows in (u, i, j))
    torch.testing.assert_close(terms["reg"], 0.1 * penalty)

    def spread(x: Tensor) -> Tensor:
        return (x - x.mean(0)).pow(2).mean(0).sqrt()

    align = sum((ids.mean(0) - x.mean(0)).abs().mean() + (spread(ids) - spread(x)).abs().mean() for x in enhanced)
    torch.testing.assert_close(terms["align"], 0.4 * align)

    generator, noise = seeded(), LinearNoise(0.5, 0.2, 0.9)
    nce, recon = torch.zeros(()), torch.zeros(())
    for modality, nodes in zip(model.modalities.values(), plain, strict=True):
        for rows, side in ((BATCH.users.unique(), nodes[:USERS]), (BATCH.positives.unique(), nodes[USERS:])):
            x, target = side[rows], rows if candidates == "all" else torch.arange(len(rows))
            one = view(x, modality.denoiser, noise, 3, generator)
            other = view(side if candidates == "all" else x, modality.denoiser, noise, 3, generator)
            nce = nce + F.cross_entropy(F.normalize(one) @ F.normalize(other).T / 0.3, target)
            t = torch.randint(1, 4, (len(rows),), generator=generator)
            level = alpha_bar(noise, 3).float()[t - 1][:, None]
            noised = level.sqrt() * x + (1 - level).sqrt() * torch.randn(x.shape, generator=generator)
            recon = recon + (x - modality.denoiser(noised, t)).pow(2).sum() / len(rows)
    torch.testing.assert_close(terms["nce"], 0.3 * nce, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["recon"], 0.6 * recon)
    assert set(terms) == {"bpr", "reg", "nce", "recon", "align"}

    users, items = model.embeddings()
    expected = fused[:USERS] @ fused[USERS:].T + ids[:USERS] @ ids[USERS:].T
    torch.testing.assert_close(users @ items.T, expected.detach())
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(model.scorer()(rows, slice(1, 3)), expected[rows, 1:3].detach())


def test_fusion_starts_even_and_is_learned() -> None:
    for modalities in (1, 2, 3):
        model = diffcl(modalities)
        assert model.mu.tolist() == pytest.approx([1 / modalities] * (modalities - 1))
    model = diffcl(2)
    sum(model.loss(BATCH, seeded()).values()).backward()
    assert model.mu.grad is not None
    assert model.mu.grad.abs().sum() > 0


def test_denoising_trains_the_denoiser_alone() -> None:
    model = diffcl(2)
    model.loss(BATCH, seeded())["recon"].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("denoiser" in name), name


def test_every_parameter_gets_a_gradient() -> None:
    model = diffcl(2)
    sum(model.loss(BATCH, seeded()).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("contrast", [0.0, 0.1])
@pytest.mark.parametrize("align", [0.0, 0.1])
@pytest.mark.parametrize("item_layers", [0, 1])
def test_variants_of_table_three(contrast: float, align: float, item_layers: int) -> None:
    model = diffcl(2, contrast=contrast, align=align, item_layers=item_layers)
    terms = model.loss(BATCH, seeded())
    assert ("nce" in terms, "recon" in terms, "align" in terms) == (contrast > 0, contrast > 0, align > 0)
    assert any("denoiser" in name for name, _ in model.named_parameters()) == (contrast > 0)
    modality = model.modalities["v"]
    nodes = encoded(modality.users.weight, modality.items())
    other = model.modalities["t"]
    fused = 0.5 * nodes + 0.5 * encoded(other.users.weight, other.items())
    if item_layers:
        for name in "vt":
            part = model.modalities[name]
            items = encoded(part.users.weight, part.items())[USERS:]
            smooth = dense(similar_items_graph(FEATURES[name], model.options.similar_items)) @ items
            fused = fused + 0.5 * torch.cat([torch.zeros(USERS, DIM), smooth])
    torch.testing.assert_close(torch.cat(model.embeddings())[:, :DIM], fused.detach())


def test_alignment_pulls_the_distributions_together() -> None:
    model = diffcl(1, contrast=0.0, align=5.0, item_layers=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    gaps = []
    for _ in range(60):
        optimizer.zero_grad()
        terms = model.loss(BATCH, seeded())
        sum(terms.values()).backward()
        optimizer.step()
        gaps.append(terms["align"].item())
    assert gaps[-1] < 0.3 * gaps[0]


def blocks(seed: int = 0) -> tuple[Interactions, dict[str, Tensor]]:
    """Users and items of three tastes; items' two kinds of features tell their taste, through noise."""
    generator = torch.Generator().manual_seed(seed)
    users, items, tastes = 60, 45, 3
    alike = torch.arange(users)[:, None] % tastes == torch.arange(items)[None] % tastes
    chance = torch.where(alike, 0.45, 0.02) * torch.linspace(1.3, 0.4, items)
    pairs = (torch.rand(users, items, generator=generator) < chance).nonzero()
    pairs = pairs[torch.randperm(len(pairs), generator=generator)].T
    parts = (p[:, (p[0] * items + p[1]).argsort()] for p in pairs.tensor_split([pairs.size(1) * 7 // 10], dim=1))
    truth = F.one_hot(torch.arange(items) % tastes, 12).float()
    features = {name: truth + 0.3 * torch.randn(items, 12, generator=generator) for name in ("text", "image")}
    empty, ids = torch.zeros(2, 0, dtype=torch.int64), (IdMap(np.arange(users)), IdMap(np.arange(items)))
    return Interactions(*parts, empty, users, items, *ids, "blocks"), features


def test_it_learns_planted_taste() -> None:
    data, features = blocks()
    model = prepare(data, configure("diffcl"), channels=features).model
    assert isinstance(model, DiffCL)
    train(model, data, TrainOptions(epochs=10, eval_every=5, batch_size=128, lr=0.01), progress=False)
    popular = dot_scorer(*popularity_embeddings(data.train, data.num_users, data.num_items))
    least = rank(data, popular, "valid").mean()["ndcg@10"]
    assert rank(data, model.scorer(), "valid").mean()["ndcg@10"] > 1.3 * least


def test_an_item_without_interactions_is_ranked_by_its_features() -> None:
    data, features = blocks()
    cold = data.train[1] == 0
    data = replace(data, train=data.train[:, ~cold])
    model = prepare(data, configure("diffcl"), channels=features).model
    train(model, data, TrainOptions(epochs=10, eval_every=10, batch_size=128, lr=0.01), progress=False)
    scores = model.scorer()(torch.arange(data.num_users), slice(0, 1))[:, 0]
    alike = torch.arange(data.num_users) % 3 == 0
    assert scores[alike].mean() > scores[~alike].mean()


def test_errors() -> None:
    for bad in (
        {"contrast": -1.0},
        {"align": -1.0},
        {"item_layers": -1},
        {"item_neighbours": 0},
        {"steps": 0},
        {"time_dim": 0},
        {"temperature": 0.0},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            DiffCLOptions(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must ascend"):
        DiffCLOptions(noise_scale=0.0)
    with pytest.raises(ValueError, match="got none"):
        DiffCL(graph(), USERS, ITEMS, {})
    with pytest.raises(ValueError, match="'v' are"):
        DiffCL(graph(), USERS, ITEMS, {"v": torch.ones(4, 3)})
