"""Generated data: a demo with planted tastes and power-law graphs of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .download import DatasetError
from .ids import IdMap, IntArray
from .interactions import Interactions, Split, split_interactions


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


def power_law_graph(
    num_users: int = 32_886,
    num_items: int = 52_974,
    num_interactions: int = 337_837,
    *,
    user_exponent: float = 3.2,
    item_exponent: float = 2.8,
    valid: float = 0.05,
    test: float = 0.05,
    seed: int = 0,
) -> Interactions:
    r"""Generate interactions of a given size with power-law degrees and no taste at all, to measure cost and growth.

    Every user and item first gets one interaction (as far as ``num_interactions`` reaches), the smaller side by its
    popularity. The others are drawn with a user and an item independent of each other, node of rank
    :math:`r = 0, 1, \dots` with probability

    .. math:: p_r \propto \int_r^{r+1} (1 + x)^{-1/(\gamma - 1)} \, dx,

    which makes the number of nodes of degree :math:`k` fall as :math:`k^{-\gamma}` (Newman, Contemporary Physics 46,
    2005, appendix A); pairs drawn before are drawn again. Ranks are shuffled over the ids. The first interactions are
    always training ones; validation and test are random others. The default sizes are those of the InfoDCL paper's
    Amazon-Electronics; the default exponents are those of the largest tenth of the nodes of its 10-core.

    The work is that of a few sorts, without a loop over nodes or pairs: 17 s and 1.7 GB for 34 million interactions.

    Args:
        num_users: number of users.
        num_items: number of items.
        num_interactions: distinct pairs over the three splits, exactly.
        user_exponent: :math:`\gamma` of the users' degrees, above 1; larger is more even.
        item_exponent: the same of the items' degrees.
        valid: share of the interactions for validation, rounded; less where not enough may leave training.
        test: the same for test.
        seed: of everything random.

    Raises:
        DatasetError: if there are more interactions than pairs, or an argument is out of its range.
    """
    if min(num_users, num_items, num_interactions) < 1:
        raise DatasetError("a graph needs at least one user, one item and one interaction")
    if num_interactions > num_users * num_items:
        raise DatasetError(f"{num_users} users and {num_items} items have no {num_interactions} distinct pairs")
    if min(user_exponent, item_exponent) <= 1:
        raise DatasetError(f"exponents must be above 1, not {user_exponent} and {item_exponent}")
    if not (0 <= valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise DatasetError(f"shares must be in [0, 1) and sum below 1, not valid={valid}, test={test}")
    rng = np.random.default_rng(seed)
    user_of_rank, item_of_rank = rng.permutation(num_users), rng.permutation(num_items)

    def pick_users(count: int) -> IntArray:
        return user_of_rank[_power_law_ranks(rng, num_users, user_exponent, count)]

    def pick_items(count: int) -> IntArray:
        return item_of_rank[_power_law_ranks(rng, num_items, item_exponent, count)]

    # The larger side is run through once, which makes the pairs distinct; the smaller is covered before it repeats.
    users, items = rng.permutation(num_users), rng.permutation(num_items)
    users = np.concatenate([users, pick_users(max(0, num_items - num_users))])[:num_interactions]
    items = np.concatenate([items, pick_items(max(0, num_users - num_items))])[:num_interactions]
    first = np.sort(users * num_items + items)
    rest = _distinct_keys(rng, pick_users, pick_items, first, num_users, num_items, num_interactions - len(first))
    rest = rest[rng.permutation(len(rest))]
    held_test = min(round(test * num_interactions), len(rest))
    held_valid = min(round(valid * num_interactions), len(rest) - held_test)
    train, valid_pairs, test_pairs = (
        _pairs_of_keys(part, num_items)
        for part in (
            np.concatenate([first, rest[held_test + held_valid :]]),
            rest[held_test : held_test + held_valid],
            rest[:held_test],
        )
    )
    return Interactions(
        train,
        valid_pairs,
        test_pairs,
        num_users=num_users,
        num_items=num_items,
        user_ids=IdMap(np.arange(num_users)),
        item_ids=IdMap(np.arange(num_items)),
        name="power law (generated)",
        generated=True,
    )


def _pairs_of_keys(keys: IntArray, num_items: int) -> Tensor:
    """Sorted pairs ``[2, E]`` of keys ``user * num_items + item``."""
    return torch.from_numpy(np.stack(np.divmod(np.sort(keys), num_items)))


def _power_law_ranks(rng: np.random.Generator, size: int, exponent: float, count: int) -> IntArray:
    """``count`` ranks below ``size`` by the probabilities of :func:`power_law_graph`, from the inverse of their sum."""
    rest = 1 - 1 / (exponent - 1)
    uniform = rng.random(count)
    if abs(rest) < 1e-9:
        x = np.exp(uniform * np.log(1.0 + size))
    else:
        x = (1 + uniform * ((1.0 + size) ** rest - 1)) ** (1 / rest)
    return np.minimum((x - 1).astype(np.int64), size - 1)


def _distinct_keys(
    rng: np.random.Generator,
    pick_users: Callable[[int], IntArray],
    pick_items: Callable[[int], IntArray],
    taken: IntArray,
    num_users: int,
    num_items: int,
    count: int,
) -> IntArray:
    """``count`` distinct keys ``user * num_items + item``, none of the ascending ``taken``."""
    keys = np.empty(0, dtype=np.int64)
    for _ in range(20):
        missing = count - len(keys)
        if missing <= 0:
            break
        tries = missing + missing // 8 + 16
        keys = np.concatenate([keys, pick_users(tries) * num_items + pick_items(tries)])
        keys.sort()
        keys = keys[np.diff(keys, prepend=-1) > 0]
        place = np.minimum(np.searchsorted(taken, keys), len(taken) - 1)
        keys = keys[taken[place] != keys]
    if len(keys) > count:
        return keys[rng.permutation(len(keys))[:count]]
    if len(keys) < count:
        # Nearly all likely pairs are there: the rest is drawn evenly among the pairs that are left. The r-th of those
        # is r plus the number of used keys with at most r unused ones before them.
        used = np.sort(np.concatenate([taken, keys]))
        rank = rng.choice(num_users * num_items - len(used), count - len(keys), replace=False)
        extra = rank + np.searchsorted(used - np.arange(len(used)), rank, side="right")
        keys = np.concatenate([keys, extra])
    return keys


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
