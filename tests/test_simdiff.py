"""SimDiff: its objective term by term, the ablations, inference, and what it must learn."""

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
from infodcl_geo.graph.graph import normalized_adjacency, propagate
from infodcl_geo.models.base import Batch
from infodcl_geo.models.popularity import popularity_embeddings
from infodcl_geo.models.scoring import dot_scorer
from infodcl_geo.models.simdiff import SimDiff, SimDiffOptions
from infodcl_geo.nn.diffusion import time_encoding
from infodcl_geo.nn.modal import ModalEncoder
from infodcl_geo.training.loop import TrainOptions, rank, train

USERS, ITEMS, DIM, TIME = 4, 5, 8, 4
PAIRS = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 1, 2, 3]])
BATCH = Batch(torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor([3, 4]), torch.empty(0, dtype=torch.int64), 1.0)
FEATURES = {
    "text": 7 + 3 * torch.randn(ITEMS, 6, generator=torch.Generator().manual_seed(1)),
    "image": torch.randn(ITEMS, 11, generator=torch.Generator().manual_seed(2)).half(),
}


def graph():  # type: ignore[no-untyped-def]
    return normalized_adjacency(PAIRS, USERS, ITEMS)


def simdiff(pretrained: tuple[Tensor, Tensor] | None = None, **options: object) -> SimDiff:
    torch.manual_seed(0)
    chosen = SimDiffOptions(**{"time_dim": TIME, **options})  # type: ignore[arg-type]
    return SimDiff(
        graph(), USERS, ITEMS, FEATURES, dim=DIM, num_layers=2, l2=0.1, options=chosen, pretrained=pretrained
    )


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(9)


def denoised(model: SimDiff, *inputs: Tensor) -> Tensor:
    hidden = torch.cat(inputs, 1) @ model.denoiser.hidden.weight.T + model.denoiser.hidden.bias
    return (hidden * hidden.sigmoid()) @ model.denoiser.output.weight.T + model.denoiser.output.bias


def signals(model: SimDiff, items: Tensor) -> Tensor:
    scaled = []
    for values in FEATURES.values():
        centred = values.float() - values.float().mean(0)
        scaled.append(centred / centred.pow(2).mean().sqrt())
    assert model.signal is not None
    hidden = torch.cat(scaled, 1)[items] @ model.signal.hidden.weight.T + model.signal.hidden.bias
    return (hidden * hidden.sigmoid()) @ model.signal.output.weight.T + model.signal.output.bias


SOURCES = {"both": (0.6, 0.4), "item": (1.0, 0.0), "signal": (0.0, 1.0)}


@pytest.mark.parametrize("source", ["both", "item", "signal"])
@pytest.mark.parametrize("target", ["item", "both"])
def test_objective_term_by_term(source: str, target: str) -> None:
    weights = {"injection": 0.6, "reconstruction": 0.3, "collaboration": 0.2, "collaboration_kind": "norm"}
    model = simdiff(**weights, unguided=0.5, source=source, target=target)
    with torch.no_grad():
        model.denoiser.unguided.normal_()
    terms = model.loss(BATCH, seeded())
    items = torch.tensor([1, 1, 3, 4])
    user, e = model.user_embedding.weight[BATCH.users], model.item_embedding.weight[items]
    generator = seeded()
    t = torch.randint(1, 201, (4,), generator=generator)
    left_out = torch.rand(4, 1, generator=generator) < 0.5
    assert 0 < left_out.sum() < 4
    g = signals(model, items)
    goal = e if target == "item" else 0.6 * e + 0.4 * g
    share = SOURCES[source]
    level = model.diffusion.alpha_bar[t - 1][:, None]
    x = level.sqrt() * goal + (1 - level).sqrt() * (share[0] * e + share[1] * g)
    guide = torch.where(left_out, model.denoiser.unguided, g)
    generated = denoised(model, x, guide, time_encoding(t, TIME))
    score = (user * generated[:2]).sum(1) - (user * generated[2:]).sum(1)
    torch.testing.assert_close(terms["bpr"], -0.7 * F.logsigmoid(score).mean())
    torch.testing.assert_close(terms["recon"], 0.3 * (goal - generated).pow(2).sum() / 4)
    torch.testing.assert_close(terms["balance"], 0.2 * generated.pow(2).sum().sqrt() / 4)
    torch.testing.assert_close(terms["reg"], 0.1 * (user.pow(2).sum() + e.pow(2).sum()) / 2)
    assert set(terms) == {"bpr", "recon", "balance", "reg"}


def test_without_modal_it_is_gaussian_diffusion_without_a_guide() -> None:
    model = simdiff(modal=False, steps=10)
    assert model.signal is None
    terms = model.loss(BATCH, seeded())
    items = torch.tensor([1, 1, 3, 4])
    e, generator = model.item_embedding.weight[items], seeded()
    t = torch.randint(1, 11, (4,), generator=generator)
    noise = torch.randn(4, DIM, generator=generator)
    level = model.diffusion.alpha_bar[t - 1][:, None]
    generated = denoised(model, level.sqrt() * e + (1 - level).sqrt() * noise, time_encoding(t, TIME))
    torch.testing.assert_close(terms["recon"], model.options.reconstruction * (e - generated).pow(2).sum() / 4)
    one = replace(model.options, inference_steps=1)
    model.options = one
    whole = model.item_embedding.weight
    expected = denoised(model, whole, time_encoding(torch.full((ITEMS,), 10), TIME))
    torch.testing.assert_close(model.generate(), expected.detach())


def test_without_collaboration_loss() -> None:
    assert "balance" not in simdiff(collaboration=0.0).loss(BATCH, seeded())
    squared = simdiff(collaboration=1.0, collaboration_kind="squared").loss(BATCH, seeded())["balance"]
    norm = simdiff(collaboration=1.0, collaboration_kind="norm").loss(BATCH, seeded())["balance"]
    torch.testing.assert_close(squared * 4, (norm * 4) ** 2)


def test_pretrained_target_trains_the_denoiser_alone() -> None:
    vectors = torch.randn(USERS, DIM), torch.randn(ITEMS, DIM)
    model = simdiff(vectors, target="pretrained")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    before = model.denoiser.output.weight.clone()
    sum(model.loss(BATCH, seeded()).values()).backward()
    optimizer.step()
    assert torch.equal(model.user_embedding.weight, vectors[0])
    assert torch.equal(model.item_embedding.weight, vectors[1])
    assert not torch.equal(model.denoiser.output.weight, before)


@pytest.mark.parametrize("modal", [True, False])
def test_every_parameter_gets_a_gradient(modal: bool) -> None:
    model = simdiff(modal=modal, unguided=0.5)
    sum(model.loss(BATCH, seeded()).values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_inference_is_the_guided_reverse_process_and_propagation() -> None:
    model = simdiff(steps=7, inference_steps=1, guidance=2.0, injection=0.6)
    with torch.no_grad():
        model.denoiser.unguided.normal_()
    items = torch.arange(ITEMS)
    e, g = model.item_embedding.weight, signals(model, items)
    x, time = 0.6 * e + 0.4 * g, time_encoding(torch.full((ITEMS,), 7), TIME)
    without = denoised(model, x, model.denoiser.unguided.expand(ITEMS, -1), time)
    expected = 3 * denoised(model, x, g, time) - 2 * without
    torch.testing.assert_close(model.generate(), expected.detach())
    nodes = propagate(graph(), torch.cat([model.user_embedding.weight, expected]), 2)
    torch.testing.assert_close(torch.cat(model.embeddings()), nodes.detach())
    users, window = torch.tensor([2, 0]), slice(1, 4)
    scores = nodes[users] @ nodes[USERS:][window].T
    torch.testing.assert_close(model.scorer()(users, window), scores.detach())


def test_the_reverse_process_runs_once_for_all_users(monkeypatch: pytest.MonkeyPatch) -> None:
    model = simdiff(steps=6, inference_steps=0, guidance=0.0)
    calls = []
    forward = model.denoiser.forward
    monkeypatch.setattr(model.denoiser, "forward", lambda *x: calls.append(x[1][0].item()) or forward(*x))
    scorer = model.scorer()
    assert calls == [6, 5, 4, 3, 2, 1]
    for user in range(USERS):
        scorer(torch.tensor([user]), slice(0, ITEMS))
    assert len(calls) == 6
    calls.clear()
    model.options = replace(model.options, inference_steps=3)
    model.scorer()
    assert calls == [6, 4, 2]


def test_generation_in_chunks_is_generation_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = simdiff(steps=5)
    whole = model.generate()
    monkeypatch.setattr("infodcl_geo.models.simdiff._CHUNK", 2)
    torch.testing.assert_close(model.generate(), whole)


@pytest.mark.parametrize("sampler", ["mean", "ddpm", "ddim"])
def test_the_same_model_ranks_the_same_twice(sampler: str) -> None:
    model = simdiff(steps=5, sampler=sampler)
    torch.testing.assert_close(torch.cat(model.embeddings()), torch.cat(model.embeddings()), rtol=0, atol=0)


def test_modal_encoder_ignores_shift_and_scale_of_the_features() -> None:
    torch.manual_seed(0)
    encoder = ModalEncoder(FEATURES, ITEMS, DIM)
    moved = ModalEncoder({name: 5 * x.float() - 3 for name, x in FEATURES.items()}, ITEMS, DIM)
    moved.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(moved(), encoder(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoder(torch.tensor([3])), encoder()[3:4])
    assert torch.isfinite(ModalEncoder({"flat": torch.ones(3, 2)}, 3, 4)()).all()


def blocks(seed: int = 0) -> tuple[Interactions, Tensor]:
    """Users and items of three tastes; items' features tell their taste, through noise."""
    generator = torch.Generator().manual_seed(seed)
    users, items, tastes = 60, 45, 3
    alike = torch.arange(users)[:, None] % tastes == torch.arange(items)[None] % tastes
    chance = torch.where(alike, 0.45, 0.02) * torch.linspace(1.3, 0.4, items)
    pairs = (torch.rand(users, items, generator=generator) < chance).nonzero()
    pairs = pairs[torch.randperm(len(pairs), generator=generator)].T
    parts = (p[:, (p[0] * items + p[1]).argsort()] for p in pairs.tensor_split([pairs.size(1) * 7 // 10], dim=1))
    features = F.one_hot(torch.arange(items) % tastes, 12).float()
    features += 0.3 * torch.randn(items, 12, generator=generator)
    empty, ids = torch.zeros(2, 0, dtype=torch.int64), (IdMap(np.arange(users)), IdMap(np.arange(items)))
    return Interactions(*parts, empty, users, items, *ids, "blocks"), features


@pytest.mark.parametrize("options", [{}, {"inference_steps": 0, "sampler": "mean"}])
def test_it_learns_planted_taste(options: dict[str, object]) -> None:
    data, features = blocks()
    model = prepare(data, configure("simdiff", **options), channels={"text": features}).model
    train(model, data, TrainOptions(epochs=30, eval_every=10, batch_size=128, lr=0.01), progress=False)
    popular = dot_scorer(*popularity_embeddings(data.train, data.num_users, data.num_items))
    least = rank(data, popular, "valid").mean()["ndcg@10"]
    assert rank(data, model.scorer(), "valid").mean()["ndcg@10"] > 1.3 * least


def test_the_experiment_pretrains_what_the_ablation_reconstructs() -> None:
    data, features = blocks()
    config = configure("simdiff", target="pretrained", dim=8)
    model = prepare(data, config, channels={"text": features}).model
    assert isinstance(model, SimDiff)
    assert not model.item_embedding.weight.requires_grad
    scores = model.user_embedding.weight @ model.item_embedding.weight.T
    users, items = data.train
    assert scores[users, items].mean() > 2 * scores.mean()


def test_errors() -> None:
    for bad in (
        {"injection": 1.5},
        {"reconstruction": -0.1},
        {"collaboration": -1.0},
        {"guidance": -1.0},
        {"time_dim": 0},
        {"steps": 0},
        {"inference_steps": -1},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            SimDiffOptions(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without modal"):
        SimDiffOptions(modal=False, source="signal")
    with pytest.raises(ValueError, match="belong together"):
        simdiff(target="pretrained")
    with pytest.raises(ValueError, match="belong together"):
        simdiff((torch.ones(USERS, DIM), torch.ones(ITEMS, DIM)))
    with pytest.raises(ValueError, match=r"pretrained vectors are \[5, 8\], not \[4, 8\]"):
        simdiff((torch.ones(ITEMS, DIM), torch.ones(ITEMS, DIM)), target="pretrained")
    with pytest.raises(ValueError, match="got none"):
        SimDiff(graph(), USERS, ITEMS, {})
    with pytest.raises(ValueError, match="not a row for each of 5 items"):
        SimDiff(graph(), USERS, ITEMS, {"text": torch.ones(4, 3)})
