"""Data sets that come by name: the generated demo."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from infodcl_geo.interactions import IdMap, Interactions, Split, split_interactions

__all__ = ["Demo", "demo"]

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Demo:
    """Generated interactions with the side information that goes with them.

    Args:
        interactions: the interactions, split; ``generated`` is set.
        social: friendships ``[2, S]`` int64 between user rows, both directions, no user with itself, distinct.
        knowledge: triples ``[3, T]`` int64, rows are item row, relation and entity; distinct.
        relation_names: what each relation is called.
        entity_names: what each entity is called.
        user_interests: planted tastes ``[M, K]`` float32, the share of each interest, rows sum to 1.
        item_interests: planted topics ``[N, K]`` bool, one or two interests an item.
    """

    interactions: Interactions
    social: Tensor
    knowledge: Tensor
    relation_names: tuple[str, ...]
    entity_names: tuple[str, ...] = field(repr=False)
    user_interests: Tensor = field(repr=False)
    item_interests: Tensor = field(repr=False)

    @property
    def heads(self) -> Tensor:
        """Item row of each triple, ``[T]``."""
        return self.knowledge[0]

    @property
    def relations(self) -> Tensor:
        """Relation of each triple, ``[T]``."""
        return self.knowledge[1]

    @property
    def tails(self) -> Tensor:
        """Entity of each triple, ``[T]``."""
        return self.knowledge[2]


def demo(
    seed: int = 0,
    *,
    num_users: int = 2000,
    num_items: int = 1500,
    num_interests: int = 24,
    mean_interactions: float = 20.0,
) -> Demo:
    r"""Generate interactions with planted tastes, and a social and a knowledge graph that agree with them.

    User ``u`` has one to three of ``K`` interests with shares :math:`\theta_u`, item ``i`` one or two topics
    :math:`\phi_i \in \{0, 1\}^K`, and a popularity :math:`\pi_i` that falls with its rank as a power law. A user takes
    :math:`n_u` distinct items (a power law again, at least five), one after the other with probability proportional to

    .. math:: w_{ui} = \pi_i \, (\theta_u \cdot \phi_i + b)

    so that :math:`b` is the share of taste that is mere popularity. Three in four friendships are between users with
    the same main interest; four in five facts about an item point to an entity of one of its topics; the rest is
    random. Interactions are split 70/10/20 in each user.

    The same seed gives the same data on every machine.

    Args:
        seed: of everything random.
        num_users: number of users ``M``.
        num_items: number of items before those that nobody took are left out.
        num_interests: number of planted interests ``K``.
        mean_interactions: about how many interactions a user has, at least 10.

    Returns:
        The data with what was planted.
    """
    rng = np.random.default_rng(seed)
    shares = _shares(rng, num_users, num_interests)
    tastes = shares / shares.sum(axis=1, keepdims=True)
    topics = _topics(rng, num_items, num_interests)
    popularity = (10.0 + rng.permutation(num_items)) ** -0.7
    background = 0.02
    # The product is of small whole numbers, so no order of summation rounds it differently on another machine.
    weights = popularity * (shares @ topics.T / 20 + background)

    # n_u successive draws without replacement are the n_u smallest of exponential times with rates w_ui.
    arrival = -np.log1p(-rng.random(weights.shape)) / weights
    # A Pareto tail with shape 2 has a mean of twice its minimum.
    count = np.minimum(mean_interactions / 2 / np.sqrt(1 - rng.random(num_users)), num_items / 5).astype(np.int64)
    taken = np.argsort(np.argsort(arrival, axis=1), axis=1) < np.maximum(count, 5)[:, None]

    used = np.flatnonzero(taken.any(axis=0))
    topics, taken = topics[used], taken[:, used]
    pairs = torch.from_numpy(np.stack(np.nonzero(taken)))
    train, valid, test = split_interactions(pairs, Split("ratio", valid=0.1, test=0.2), seed=seed)
    interactions = Interactions(
        train,
        valid,
        test,
        num_users=num_users,
        num_items=len(used),
        user_ids=IdMap(np.arange(num_users)),
        item_ids=IdMap(np.arange(len(used))),
        name="demo (generated)",
        generated=True,
    )
    relation_names = ("genre", "maker", "theme")
    knowledge, entity_names = _knowledge(rng, topics, relation_names)
    return Demo(
        interactions,
        social=torch.from_numpy(_friends(rng, tastes)),
        knowledge=torch.from_numpy(knowledge),
        relation_names=relation_names,
        entity_names=entity_names,
        user_interests=torch.from_numpy(tastes.astype(np.float32)),
        item_interests=torch.from_numpy(topics > 0),
    )


def _shares(rng: np.random.Generator, num_users: int, num_interests: int) -> npt.NDArray[np.float64]:
    """How a user's taste divides over one to three interests, in twentieths; the first has the largest share."""
    chosen = np.argsort(rng.random((num_users, num_interests)), axis=1)[:, :3]
    how_many = 1 + (rng.random(num_users) < 0.7).astype(int) + (rng.random(num_users) < 0.3)
    shares = np.zeros((num_users, num_interests))
    np.put_along_axis(shares, chosen, np.array([[20.0, 0, 0], [13, 7, 0], [10, 6, 4]])[how_many - 1], axis=1)
    return shares


def _topics(rng: np.random.Generator, num_items: int, num_interests: int) -> npt.NDArray[np.float64]:
    """One topic for each item, a second one for a fifth of them."""
    chosen = np.argsort(rng.random((num_items, num_interests)), axis=1)[:, :2]
    topics = np.zeros((num_items, num_interests))
    topics[np.arange(num_items), chosen[:, 0]] = 1
    second = rng.random(num_items) < 0.2
    topics[second, chosen[second, 1]] = 1
    return topics


def _friends(rng: np.random.Generator, tastes: npt.NDArray[np.float64], per_user: int = 6) -> IntArray:
    """Friendships ``[2, S]``, both directions: three in four between users of the same main interest."""
    num_users = len(tastes)
    main = tastes.argmax(axis=1)
    by_interest = np.argsort(main, kind="stable")
    size = np.bincount(main, minlength=tastes.shape[1])
    start = np.cumsum(size) - size
    user = np.repeat(np.arange(num_users), per_user)
    alike = by_interest[start[main[user]] + (rng.random(len(user)) * size[main[user]]).astype(np.int64)]
    anyone = (rng.random(len(user)) * num_users).astype(np.int64)
    friend = np.where(rng.random(len(user)) < 0.75, alike, anyone)
    user, friend = user[user != friend], friend[user != friend]
    both = np.unique(np.concatenate([user * num_users + friend, friend * num_users + user]))
    return np.stack([both // num_users, both % num_users])


def _knowledge(
    rng: np.random.Generator, topics: npt.NDArray[np.float64], relation_names: tuple[str, ...]
) -> tuple[IntArray, tuple[str, ...]]:
    """Triples ``[3, T]``: two facts for each item and relation; each topic has four entities of each relation."""
    num_items, num_interests = topics.shape
    entities, facts = 4, 2
    shape = (num_items, len(relation_names), facts)
    item, relation, _ = np.indices(shape)
    first, last = topics.argmax(axis=1), num_interests - 1 - topics[:, ::-1].argmax(axis=1)
    own = np.where(rng.random(shape) < 0.5, first[item], last[item])
    random = (rng.random(shape) * num_interests).astype(np.int64)
    topic = np.where(rng.random(shape) < 0.8, own, random)
    entity = (relation * num_interests + topic) * entities + (rng.random(shape) * entities).astype(np.int64)
    triples = np.unique(np.stack([item.ravel(), relation.ravel(), entity.ravel()]), axis=1)
    names = tuple(f"{r}-{k}-{e}" for r in relation_names for k in range(num_interests) for e in range(entities))
    return triples, names
