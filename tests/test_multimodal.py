"""What every multimodal recommender must do: learn what is planted, take any number of modalities, rank again."""

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
from infodcl_geo.graph.graph import normalized_adjacency
from infodcl_geo.models import Inputs, Model, find_recipe
from infodcl_geo.models.base import Batch
from infodcl_geo.models.popularity import popularity_embeddings
from infodcl_geo.models.scoring import dot_scorer
from infodcl_geo.training.loop import TrainOptions, rank, train

NAMES = ["vbpr", "freedom", "bm3", "mgcn", "lattice", "diffmm", "lgmrec", "mmssl", "slmrec", "dualgnn", "mmgcn"]
LEARNING = TrainOptions(epochs=10, eval_every=10, batch_size=128, lr=0.01)
USERS, ITEMS = 4, 5
PAIRS = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 1, 2, 3]])
BATCH = Batch(
    torch.tensor([0, 2, 0]), torch.tensor([1, 2, 0]), torch.tensor([3, 4, 2]), torch.empty(0, dtype=torch.int64), 1.0
)


def features(count: int) -> dict[str, Tensor]:
    return {name: torch.randn(ITEMS, 3 + k, generator=torch.Generator().manual_seed(k)) for k, name in
            enumerate(["text", "items", "image.raw"][:count])}  # fmt: skip


def built(name: str, modalities: int = 2, **options: object) -> Model:
    torch.manual_seed(0)
    recipe = find_recipe(name)
    inputs = Inputs(PAIRS, USERS, ITEMS, features(modalities))
    return recipe.build(inputs, recipe.options(dim=6, **options))


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
    described = {name: truth + 0.3 * torch.randn(items, 12, generator=generator) for name in ("text", "image")}
    empty, ids = torch.zeros(2, 0, dtype=torch.int64), (IdMap(np.arange(users)), IdMap(np.arange(items)))
    return Interactions(*parts, empty, users, items, *ids, "blocks"), described


def learned(name: str, data: Interactions, described: dict[str, Tensor]) -> Model:
    model = prepare(data, configure(name, seed=0), channels=described).model
    train(model, data, LEARNING, progress=False)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_planted_taste_and_ranks_again(name: str) -> None:
    data, described = blocks()
    model = learned(name, data, described)
    popular = dot_scorer(*popularity_embeddings(data.train, data.num_users, data.num_items))
    least = rank(data, popular, "valid").mean()["ndcg@10"]
    assert rank(data, model.scorer(), "valid").mean()["ndcg@10"] > 1.3 * least
    users = torch.tensor([5, 0, 31])
    state = {key: value.clone() for key, value in model.state().items()}
    again = dot_scorer(state["users"], state["items"])
    assert torch.equal(again(users, slice(3, 40)), model.scorer()(users, slice(3, 40)))
    assert state["users"].isfinite().all()
    assert state["items"].isfinite().all()


# BM3 reads features in training alone, LGMRec sees such an item through a few hyperedges.
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("bm3", "lgmrec")])
def test_an_item_without_interactions_is_ranked_by_its_features(name: str) -> None:
    data, described = blocks()
    data = replace(data, train=data.train[:, data.train[1] != 0])
    scores = learned(name, data, described).scorer()(torch.arange(data.num_users), slice(0, 1))[:, 0]
    alike = torch.arange(data.num_users) % 3 == 0
    assert scores[alike].mean() > scores[~alike].mean()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_model(name: str) -> None:
    data, described = blocks()
    options = replace(LEARNING, epochs=2, eval_every=1)
    states = []
    for _ in range(2):
        model = prepare(data, configure(name, seed=3), channels=described).model
        train(model, data, options, progress=False)
        states.append(model.state())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_modalities(name: str, modalities: int) -> None:
    model = built(name, modalities)
    sum(model.loss(BATCH, torch.Generator().manual_seed(1)).values()).backward()
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), key
    scores = model.scorer()(torch.arange(USERS), slice(0, ITEMS))
    assert scores.shape == (USERS, ITEMS)
    assert scores.isfinite().all()
    assert scores.std() > 0


@pytest.mark.parametrize("name", NAMES)
def test_an_item_without_features_is_ranked_too(name: str) -> None:
    recipe = find_recipe(name)
    given = {key: torch.where(torch.arange(ITEMS)[:, None] == 2, 0.0, x) for key, x in features(2).items()}
    model = recipe.build(Inputs(PAIRS, USERS, ITEMS, given), recipe.options(dim=6))
    assert all(term.isfinite() for term in model.loss(BATCH, torch.Generator().manual_seed(1)).values())
    assert model.scorer()(torch.arange(USERS), slice(0, ITEMS)).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_features_have_to_be_given_for_each_item(name: str) -> None:
    recipe = find_recipe(name)
    with pytest.raises(ValueError, match="got none"):
        recipe.build(Inputs(PAIRS, USERS, ITEMS, {}), recipe.options(dim=6))
    with pytest.raises(ValueError, match=r"'text' are \[4, 3\]"):
        recipe.build(Inputs(PAIRS, USERS, ITEMS, {"text": torch.ones(4, 3)}), recipe.options(dim=6))


@pytest.mark.parametrize("name", NAMES)
def test_with_the_similarity_channels_where_there_are_no_features(name: str) -> None:
    data, _ = blocks()
    model = prepare(data, configure(name, channels="item,user", seed=0, dim=8)).model
    train(model, data, replace(LEARNING, epochs=1, eval_every=1), progress=False)
    assert normalized_adjacency(data.train, data.num_users, data.num_items).num_edges == 2 * data.train.size(1)
    assert model.scorer()(torch.arange(3), slice(0, 9)).isfinite().all()
