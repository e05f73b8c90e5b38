"""The generated demo: what is planted must be there to be found."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import svds
from torch import Tensor

from infodcl_geo.datasets import Demo, demo


@pytest.fixture(scope="module")
def data() -> Demo:
    return demo()


def dense(pairs: Tensor, shape: tuple[int, int]) -> np.ndarray:
    matrix = np.zeros(shape)
    matrix[pairs[0], pairs[1]] = 1
    return matrix


def recall(scores: np.ndarray, data: Demo, k: int = 20) -> float:
    """Mean over users of the share of their test items among the best k that are not in training."""
    shape = (data.interactions.num_users, data.interactions.num_items)
    train, test = dense(data.interactions.train, shape), dense(data.interactions.test, shape)
    best = np.argsort(-np.where(train > 0, -np.inf, scores), axis=1)[:, :k]
    found, wanted = np.take_along_axis(test, best, axis=1).sum(1), test.sum(1)
    return float((found[wanted > 0] / wanted[wanted > 0]).mean())


def ease(train: np.ndarray, ridge: float = 200.0) -> np.ndarray:
    """Steck (2019): the closed-form linear autoencoder without a diagonal."""
    inverse = np.linalg.inv(train.T @ train + ridge * np.eye(train.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return train @ weights


def digest(data: Demo) -> str:
    parts = (data.interactions.train, data.interactions.valid, data.interactions.test, data.social, data.knowledge)
    return hashlib.sha256(b"".join(p.numpy().tobytes() for p in parts)).hexdigest()


def test_it_has_the_promised_size_and_says_that_it_is_generated(data: Demo) -> None:
    interactions = data.interactions
    assert interactions.num_users == 2000
    assert 1450 <= interactions.num_items <= 1500
    assert 35_000 <= interactions.num_interactions <= 45_000
    assert interactions.generated
    assert "generated" in interactions.name
    assert interactions.train.size(1) / interactions.num_interactions == pytest.approx(0.7, abs=0.02)
    assert int(torch.bincount(interactions.train[0], minlength=2000).min()) >= 4


def test_a_seed_gives_the_same_data_everywhere(data: Demo) -> None:
    assert digest(demo(0)) == digest(data)
    assert digest(demo(1)) != digest(data)
    # A change here changes every number that was ever measured on the demo.
    assert digest(data)[:16] == "a7240171fec4ed1e"


def test_collaborative_models_beat_popularity_but_not_trivially(data: Demo) -> None:
    shape = (data.interactions.num_users, data.interactions.num_items)
    train = dense(data.interactions.train, shape)
    popularity = recall(np.broadcast_to(train.sum(0), shape), data)
    assert 0.05 <= popularity <= 0.12
    assert 2 * popularity <= recall(ease(train), data) <= 4 * popularity
    normalised = train / np.sqrt(train.sum(1, keepdims=True)) / np.sqrt(np.maximum(train.sum(0), 1))
    left, values, right = svds(normalised, k=24, random_state=0)
    assert 2 * popularity <= recall((left * values) @ right, data) <= 4 * popularity


def test_interactions_follow_the_planted_tastes(data: Demo) -> None:
    users, items = data.interactions.train
    shared = (data.user_interests[users] * data.item_interests[items]).sum(1) > 0
    by_chance = ((data.user_interests > 0).float() @ data.item_interests.float().T > 0).float().mean()
    assert shared.float().mean() > 4 * by_chance
    assert torch.allclose(data.user_interests.sum(1), torch.ones(2000))
    assert set(data.item_interests.sum(1).tolist()) == {1, 2}


def test_popularity_is_a_power_law(data: Demo) -> None:
    degree = torch.bincount(torch.cat([data.interactions.train[1], data.interactions.test[1]])).double()
    degree = degree.sort(descending=True).values
    assert degree[: len(degree) // 10].sum() > 0.3 * degree.sum()
    rank = torch.arange(1, len(degree) + 1, dtype=torch.float64)
    body = slice(20, 1000)
    slope = np.polyfit(torch.log(rank[body] + 10), torch.log(degree[body].clamp(min=1)), 1)[0]
    assert -1.2 < slope < -0.4


def test_friends_share_interests(data: Demo) -> None:
    a, b = data.social
    count = data.interactions.num_users
    assert not (a == b).any()
    keys = a * count + b
    assert len(torch.unique(keys)) == len(keys)
    assert torch.equal(torch.unique(keys), torch.unique(b * count + a))
    main = data.user_interests.argmax(1)
    assert 0.6 < (main[a] == main[b]).float().mean() < 0.9  # three in four, and some by chance


def test_items_of_an_interest_share_entities(data: Demo) -> None:
    heads, relations, tails = data.heads, data.relations, data.tails
    assert heads.max() < data.interactions.num_items
    assert relations.max() < len(data.relation_names)
    assert tails.max() < len(data.entity_names)
    assert torch.unique(data.knowledge, dim=1).size(1) == data.knowledge.size(1)
    for relation, tail in zip(relations[:50].tolist(), tails[:50].tolist(), strict=True):
        assert data.entity_names[tail].startswith(data.relation_names[relation] + "-")
    has = np.zeros((data.interactions.num_items, len(data.entity_names)), dtype=bool)
    has[heads, tails] = True
    share_entity = (has.astype(int) @ has.astype(int).T) > 0
    topics = data.item_interests.numpy().astype(int)
    same, other = (topics @ topics.T) > 0, (topics @ topics.T) == 0
    np.fill_diagonal(same, False)
    assert share_entity[same].mean() > 4 * share_entity[other].mean()
    assert share_entity[other].mean() > 0.01  # noise


def test_its_size_can_be_chosen() -> None:
    small = demo(3, num_users=50, num_items=40, num_interests=4, mean_interactions=10)
    assert small.interactions.num_users == 50
    assert small.user_interests.shape == (50, 4)
    assert small.item_interests.shape == (small.interactions.num_items, 4)
