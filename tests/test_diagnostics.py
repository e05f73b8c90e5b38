"""Diagnostics of channels: shuffles that keep degrees, agreement by hand, and what must not be taken for knowledge."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from infodcl_geo.channels import beyond
from infodcl_geo.channels.base import Channel, ChannelError, PretrainedVectors
from infodcl_geo.channels.beyond import beyond_vectors
from infodcl_geo.channels.diagnostics import (
    ChannelWarning,
    agreement,
    degrees,
    inspect_channel,
    shuffled,
    signal_to_noise,
)
from infodcl_geo.channels.similarity import ItemSimilarity, UserSimilarity
from infodcl_geo.cli import main
from infodcl_geo.data.generated import Demo, demo
from infodcl_geo.data.ids import IdMap
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.graph.graph import (
    Graph,
    interaction_graph,
    normalized_adjacency,
    propagate,
    sparse_matrix,
    to_scipy,
)
from infodcl_geo.graph.spectral import SVDOptions, spectral_embeddings


def graph_of(edges: Tensor, size: int, weight: Tensor | None = None) -> Graph:
    return Graph(sparse_matrix(edges[0], edges[1], weight, (size, size)))


def dense(graph: Graph) -> np.ndarray:
    return to_scipy(graph.matrix).toarray()


def both_ways(edges: Tensor) -> Tensor:
    return torch.cat([edges, edges.flip(0)], 1).unique(dim=1)


def tiny(train: Tensor, valid: Tensor, users: int, items: int) -> Interactions:
    empty = torch.zeros(2, 0, dtype=torch.int64)
    return Interactions(train, valid, empty, users, items, IdMap(np.arange(users)), IdMap(np.arange(items)), "tiny")


@pytest.fixture(scope="module")
def planted() -> Demo:
    return demo(num_users=600, num_items=400)


# ---------------------------------------------------------------------------------------------------------------------
# Shuffles


@given(st.integers(0, 10_000), st.integers(2, 14), st.floats(0.05, 0.9), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_shuffle_keeps_degrees_loops_and_weights(seed: int, size: int, density: float, symmetric: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.rand(size, size, generator=generator) * (torch.rand(size, size, generator=generator) < density)
    if symmetric:
        matrix = torch.maximum(matrix, matrix.T)
    edges = matrix.nonzero().T
    graph = graph_of(edges, size, matrix[edges[0], edges[1]])
    before, after = dense(graph), dense(shuffled(graph, generator))
    assert ((before > 0).sum(0) == (after > 0).sum(0)).all()
    assert ((before > 0).sum(1) == (after > 0).sum(1)).all()
    assert (np.diag(before) == np.diag(after)).all()
    assert sorted(before[before > 0]) == sorted(after[after > 0])
    if (before == before.T).all():
        assert (after == after.T).all()
    else:
        np.testing.assert_allclose(before.sum(1), after.sum(1), rtol=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_shuffle_forgets_what_was_joined(symmetric: bool) -> None:
    # Two halves without an edge between them; edges placed at random would join the halves half the time.
    generator = torch.Generator().manual_seed(0)
    block = torch.rand(2, 60, 60, generator=generator) < 0.15
    edges = torch.block_diag(*block.float()).fill_diagonal_(0).nonzero().T
    if symmetric:
        edges = both_ways(edges)
    after = dense(shuffled(graph_of(edges, 120), generator))
    across = after[:60, 60:].sum() + after[60:, :60].sum()
    assert 0.4 < across / after.sum() < 0.6


def test_a_shuffle_is_its_generators() -> None:
    edges = (torch.rand(20, 20, generator=torch.Generator().manual_seed(0)) < 0.2).fill_diagonal_(False).nonzero().T
    graph = graph_of(edges, 20)
    one, two, other = (dense(shuffled(graph, torch.Generator().manual_seed(seed))) for seed in (1, 1, 2))
    assert (one == two).all()
    assert (one != other).any()


def test_edges_that_cannot_be_exchanged_stay() -> None:
    follow_two = torch.tensor([[u, hub] for u in range(2, 9) for hub in (0, 1)]).T
    star = both_ways(torch.tensor([[0] * 8, list(range(1, 9))]))
    for edges in (follow_two, star):
        graph = graph_of(edges, 9)
        assert (dense(shuffled(graph)) == dense(graph)).all()
    assert shuffled(graph_of(torch.zeros(2, 0, dtype=torch.int64), 3)).num_edges == 0
    with pytest.raises(ValueError, match="square"):
        shuffled(Graph(sparse_matrix(torch.tensor([0]), torch.tensor([1]), None, (1, 2))))


# ---------------------------------------------------------------------------------------------------------------------
# Agreement


def test_agreement_by_hand() -> None:
    # User 0 has item 0 and 1, user 1 has item 2; held out are (0, 2), (0, 3) and (1, 3).
    data = tiny(torch.tensor([[0, 0, 1], [0, 1, 2]]), torch.tensor([[0, 0, 1], [2, 3, 3]]), 2, 4)
    # Item 2 is described by 0 (weight 3) and by 3 (weight 1), item 3 by item 2; the loop and the zero do not count.
    edges, weight = torch.tensor([[2, 2, 2, 3, 3], [0, 3, 2, 2, 1]]), torch.tensor([3.0, 1.0, 9.0, 2.0, 0.0])
    found = agreement(data, graph_of(edges, 4, weight), "items", shuffles=2)
    assert found.share == pytest.approx((3 / 4 + 0 + 1) / 3)
    assert found.reach == pytest.approx(2 / 3)
    assert found.pairs == 3
    # User 1 has item 2 and follows user 0, who has not; nobody follows user 1 but user 0.
    follows = torch.tensor([[0, 1], [1, 0]])
    found = agreement(data, graph_of(follows, 2), "users", shuffles=2)
    assert found.share == pytest.approx(1 / 3)  # user 1 has item 2, which user 0 holds out
    assert found.z == 0  # two users can be joined in no other way


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=25, deadline=None)
def test_agreement_matches_the_loop(seed: int, over_items: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    users, items = 9, 11
    kind = torch.rand(users, items, generator=generator)
    train, valid = (kind < 0.4).nonzero().T, (kind > 0.8).nonzero().T
    size = items if over_items else users
    weight = torch.rand(size, size, generator=generator) * (torch.rand(size, size, generator=generator) < 0.3)
    edges = weight.nonzero().T
    if valid.size(1) == 0 or edges.size(1) == 0:
        return
    taken = {(u, i) for u, i in train.T.tolist()}
    shares = []
    for u, i in valid.T.tolist():
        row = i if over_items else u
        near = [n for n in range(size) if n != row and weight[row, n] > 0]
        speaks = [n for n in near if ((u, n) if over_items else (n, i)) in taken]
        total = sum(float(weight[row, n]) for n in near)
        shares.append(sum(float(weight[row, n]) for n in speaks) / total if near else 0.0)
    graph = graph_of(edges, size, weight[edges[0], edges[1]])
    # A user who has all that is held out in training is no longer looked at, which so few items can bring about.
    found = agreement(tiny(train, valid, users, items), graph, "items" if over_items else "users", shuffles=2)
    if found.pairs == valid.size(1):
        assert found.share == pytest.approx(float(np.mean(shares)), abs=1e-6)
        assert found.reach == pytest.approx(float(np.mean(np.array(shares) > 0)))
    assert found.advantage == pytest.approx(found.share - found.share_random)


def test_agreement_of_planted_friends(planted: Demo) -> None:
    data = planted.interactions
    friends = graph_of(both_ways(planted.social), data.num_users)
    found = agreement(data, friends, "users")
    assert found.lift > 1.5
    assert found.z > 5
    noise = [agreement(data, shuffled(friends, torch.Generator().manual_seed(s)), "users", seed=s).z for s in range(12)]
    assert max(noise) < 3.5
    assert abs(np.mean(noise)) < 1.2  # twelve standard normal numbers have a mean within 0.29 twice in three times


def test_a_graph_that_knows_popularity_alone_does_not_agree() -> None:
    """Users differ by chance alone; the most popular items are in nearly everybody's training."""
    rng = np.random.default_rng(0)
    users, items, each = 400, 200, 15
    arrival = rng.exponential(size=(users, items)) * (1 + np.arange(items))
    taken = rng.permuted(np.argsort(arrival, axis=1)[:, :each], axis=1)
    rows = np.repeat(np.arange(users), each).reshape(users, each)
    train, valid = (
        torch.from_numpy(np.stack([rows[:, part].ravel(), np.sort(taken[:, part], axis=1).ravel()]))
        for part in (slice(0, 12), slice(12, each))
    )
    data = tiny(train, valid, users, items)
    item = torch.arange(items)
    # Each item beside those of its own popularity: a shuffle alone would be fooled.
    ladder = torch.cat([torch.stack([item[step:], item[:-step]]) for step in range(1, 6)], 1)
    found = agreement(data, graph_of(both_ways(ladder), items), "items")
    assert found.share > 1.2 * found.share_shuffled
    assert found.z < 3
    # Each item beside the most popular: a hub.
    hubs = torch.cat([torch.stack([item[6:], torch.full_like(item[6:], hub)]) for hub in range(6)], 1)
    found = agreement(data, graph_of(hubs, items), "items")
    assert found.share > 0.3
    assert found.z < 2


def test_what_cannot_be_compared_is_an_error() -> None:
    data = tiny(torch.tensor([[0, 1], [0, 1]]), torch.tensor([[0], [1]]), 2, 2)
    graph = graph_of(torch.tensor([[0], [1]]), 2)
    nothing = replace(data, valid=torch.zeros(2, 0, dtype=torch.int64))
    for arguments, message in (
        ((data, graph_of(torch.tensor([[0], [1]]), 3), "users"), "a graph over 2 users"),
        ((nothing, graph, "items"), "no validation"),
    ):
        with pytest.raises(ValueError, match=message):
            agreement(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 2"):
        agreement(data, graph, "items", shuffles=1)
    everything = tiny(torch.tensor([[0, 0], [0, 1]]), torch.tensor([[1], [0]]), 2, 2)
    assert agreement(everything, graph, "items").pairs == 1
    with pytest.raises(ValueError, match="nothing can be compared"):
        agreement(tiny(torch.tensor([[0], [0]]), torch.tensor([[0], [0]]), 1, 2), graph, "items")


# ---------------------------------------------------------------------------------------------------------------------
# Degrees, signal to noise, report


def test_degrees_by_hand() -> None:
    edges = torch.tensor([[0, 0, 0, 1, 2, 3], [1, 2, 0, 2, 3, 2]])  # with a loop of node 0
    found = degrees(graph_of(edges, 5))
    assert (found.min, found.median, found.mean, found.max) == (0, 1.0, 1.0, 2)
    assert found.p90 == pytest.approx(np.quantile([2, 1, 1, 1, 0], 0.9))
    assert found.isolated == 1
    assert found.most_used == 3


def test_signal_to_noise_is_the_spread_of_the_metadata() -> None:
    # With the signed gate at its start, the informative noise is the Gaussian plus the metadata and nothing else.
    generator = torch.Generator().manual_seed(0)
    metadata = torch.randn(500, 16, generator=generator) * torch.linspace(0.1, 2, 16) + 1.0
    options = {"gate": "signed", "scale": 1.5}
    scaled = metadata * 1.5 / metadata.square().mean().sqrt()
    expected = float(scaled.var(0).sum() / 16)
    assert signal_to_noise(metadata, **options, draws=64) == pytest.approx(expected, rel=0.05)
    # Without bias: hardly any draws give the same.
    assert signal_to_noise(metadata, **options, draws=2) == pytest.approx(expected, rel=0.15)
    assert signal_to_noise(7 * metadata, **options, draws=64) == pytest.approx(expected, rel=0.05)
    assert signal_to_noise(metadata[:1].expand(500, 16), **options, draws=64) < 0.01
    louder = {"gate": "signed", "scale": 3.0}
    assert signal_to_noise(metadata, **louder, draws=64) == pytest.approx(4 * expected, rel=0.05)


def test_signal_to_noise_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    value = signal_to_noise(torch.randn(30, 8, generator=torch.Generator().manual_seed(1)))
    assert torch.rand(1) == before
    assert value > 0
    with pytest.raises(ValueError, match="at least 2"):
        signal_to_noise(torch.ones(1, 8))


def friends_channel(planted: Demo) -> Channel:
    data = planted.interactions
    graph = graph_of(both_ways(planted.social), data.num_users)
    metadata = torch.randn(data.num_items, 16, generator=torch.Generator().manual_seed(0))
    covered = torch.ones(data.num_items, dtype=torch.bool)
    covered[:40] = False
    return Channel("friends", metadata, "planted friendships", covered, graph, "users")


def test_a_planted_graph_is_trusted_and_its_shuffle_warned_of(planted: Demo) -> None:
    channel = friends_channel(planted)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ChannelWarning)
        report = inspect_channel(planted.interactions, channel)
    assert not report.carries_nothing
    assert report.without_metadata == 40
    assert report.coverage == pytest.approx(channel.coverage)
    assert report.agreement is not None
    text = report.summary()
    for part in (
        "friends",
        "planted friendships",
        "40 without",
        f"{report.agreement.lift:.2f} times",
        "signal to noise",
    ):
        assert part in text
    assert channel.graph is not None
    shuffle = replace(channel, graph=shuffled(channel.graph, torch.Generator().manual_seed(3)))
    with pytest.warns(ChannelWarning, match="'friends' carries nothing.*of these users"):
        report = inspect_channel(planted.interactions, shuffle)
    assert report.carries_nothing
    assert "CARRIES NOTHING" in report.summary()


def test_without_a_graph_the_nearest_items_stand_for_it(planted: Demo) -> None:
    data = planted.interactions
    covered = torch.ones(data.num_items, dtype=torch.bool)
    covered[::10] = False
    topics = Channel("topics", planted.item_interests.float(), "planted topics", covered)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ChannelWarning)
        report = inspect_channel(data, topics, neighbours=5)
    assert report.from_metadata
    assert report.over == "items"
    assert report.degrees.max == 5
    assert report.degrees.isolated == int((~covered).sum())
    noise = torch.randn(data.num_items, 16, generator=torch.Generator().manual_seed(2))
    with pytest.warns(ChannelWarning, match="of these items"):
        inspect_channel(data, Channel("noise", noise, "nothing", covered))


def test_without_validation_nothing_is_claimed(planted: Demo) -> None:
    data = replace(planted.interactions, valid=torch.zeros(2, 0, dtype=torch.int64))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ChannelWarning)
        report = inspect_channel(data, friends_channel(planted))
    assert report.agreement is None
    assert not report.carries_nothing
    assert "not measured" in report.summary()


def test_inspect_prints_the_channels_that_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = tmp_path / "pairs.csv"
    lines = [f"{u},{i}" for u in range(30) for i in range(60) if i % 3 == u % 3 and (u + i) % 5]
    pairs.write_text("user_id,item_id\n" + "\n".join(lines) + "\n")
    assert main(["inspect", "--data", str(pairs)]) == 0
    assert "channel " not in capsys.readouterr().out
    assert main(["inspect", "--data", str(pairs), "--channels", "item,user", "--dim", "8"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[1] for line in printed.splitlines() if line.startswith("channel ")] == ["item:", "user:"]
    # A file is enough, and shuffled friends are warned of.
    rng = np.random.default_rng(0)
    friends = tmp_path / "friends.csv"
    friends.write_text(
        "user,friend\n" + "\n".join(f"{u},{v}" for u in range(30) for v in rng.permutation(30)[:4]) + "\n"
    )
    assert main(["inspect", "--data", str(pairs), "--social", str(friends), "--dim", "8"]) == 0
    printed = capsys.readouterr()
    assert "channel       social: friends.csv" in printed.out
    assert "'social' carries nothing" in printed.err


# ---------------------------------------------------------------------------------------------------------------------
# Beyond the vectors


@pytest.fixture(scope="module")
def started(planted: Demo) -> PretrainedVectors:
    """Vectors of fewer dimensions than there are interests: they cannot know all."""
    data = planted.interactions
    return PretrainedVectors(*spectral_embeddings(data.train, data.num_users, data.num_items, 16, SVDOptions(0.25)))


def channel_of(metadata: Tensor, name: str = "x") -> Channel:
    return Channel(name, metadata, "made for the test", torch.ones(len(metadata), dtype=torch.bool))


def test_new_truth_is_found_beyond_the_vectors(planted: Demo, started: PretrainedVectors) -> None:
    told = beyond_vectors(planted.interactions, channel_of(planted.item_interests.float()), started)
    assert told.z > 5
    assert told.share > 0.2
    assert told.weight > 0.5
    assert told.auc > told.auc_vectors + 0.01
    assert told.gain == pytest.approx(told.z * told.standard_error)
    report = inspect_channel(planted.interactions, channel_of(planted.item_interests.float()), vectors=started)
    assert report.beyond == told
    assert not report.adds_nothing
    assert f"{100 * told.share:+.2f}% of what the vectors know" in report.summary()


def test_the_vectors_in_other_words_add_nothing(planted: Demo, started: PretrainedVectors) -> None:
    data, items = planted.interactions, started.items
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    graph = normalized_adjacency(data.train, data.num_users, data.num_items)
    nodes = propagate(graph, torch.cat([started.users, items]), 1)
    for name, metadata in (
        ("themselves", items),
        ("turned and scaled", 7 * items @ turn),
        ("mixed", items @ torch.randn(16, 16, generator=generator)),
        ("averaged over neighbours", nodes[data.num_users :]),
        ("averaged over similar users", UserSimilarity()(data, started).metadata),
        ("averaged over similar items", ItemSimilarity()(data, started).metadata),
    ):
        report = inspect_channel(data, channel_of(metadata), vectors=started, shuffles=5)
        assert report.agreement is not None
        assert report.agreement.z > 3, name  # by itself it agrees with the interactions
        assert report.adds_nothing, name
        assert "ADDS NOTHING to them" in report.summary()


def test_noise_adds_nothing_beyond_the_vectors(planted: Demo, started: PretrainedVectors) -> None:
    data = planted.interactions
    found = []
    for seed in range(10):
        noise = torch.randn(data.num_items, 16, generator=torch.Generator().manual_seed(seed))
        found.append(beyond_vectors(data, channel_of(noise), started, seed=seed))
    assert sum(told.z > 2 for told in found) <= 1
    assert np.mean([told.z for told in found]) < 0.5
    assert max(told.share for told in found) < 0.02
    constant = beyond_vectors(data, channel_of(torch.ones(data.num_items, 3)), started)
    assert (constant.gain, constant.z, constant.weight) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1.5), 0)


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_logit_is_where_its_slope_is_zero(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(rng.integers(2, 60), 4, 3)) * rng.choice([0.1, 1.0, 5.0])
    weights = beyond._logit(scores)
    chance = np.exp(scores @ weights)
    chance /= chance.sum(1, keepdims=True)
    slope = (scores[:, 0] - (chance[..., None] * scores).sum(1)).sum(0) - weights
    assert np.abs(slope).max() < 1e-2
    np.testing.assert_allclose(beyond._log_likelihood(scores @ weights), np.log(chance[:, 0]), atol=1e-9)


def test_the_score_of_a_channel_by_hand() -> None:
    train = torch.tensor([[0, 0, 1], [0, 1, 2]])
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])  # centred and of length one already
    profiles, unit = beyond._profiles(interaction_graph(train, 2, 4), rows)
    torch.testing.assert_close(unit, rows)
    torch.testing.assert_close(profiles, torch.tensor([[0.5**0.5, 0.5**0.5], [-1.0, 0.0]]))
    scores = beyond._scores(profiles, unit, np.array([0, 1]), np.array([[3, 0], [0, 2]]))
    np.testing.assert_allclose(scores, [[-(0.5**0.5), 0.5**0.5], [-1, 1]], rtol=1e-6)
    assert beyond._auc(np.array([[1.0, 0.0, 1.0, 2.0]])) == pytest.approx(0.5)


def test_what_cannot_be_measured_beyond_the_vectors_is_an_error(planted: Demo, started: PretrainedVectors) -> None:
    data = planted.interactions
    with pytest.raises(ChannelError, match=r"channel 'x': metadata of \[3, 2\], not \["):
        beyond_vectors(data, channel_of(torch.ones(3, 2)), started)
    few = replace(data, valid=data.valid[:, :1])
    with pytest.raises(ChannelError, match="1 users hold something out; two halves need at least 4"):
        beyond_vectors(few, channel_of(started.items), started)
    with pytest.raises(ChannelError, match="no validation"):
        beyond_vectors(replace(data, valid=data.valid[:, :0]), channel_of(started.items), started)


def test_what_is_printed_has_no_control_characters(planted: Demo) -> None:
    data = planted.interactions
    channel = replace(channel_of(planted.item_interests.float()), source="file\x1b[2J\nsecond\u202eline")
    for text in (repr(channel), inspect_channel(data, channel).summary().splitlines()[0]):
        assert r"file\x1b[2J\nsecond\u202eline" in text
        assert text.isprintable()
    with pytest.raises(ChannelError, match=r"channel 'a\\x1bb': a name is one line"):
        channel_of(planted.item_interests.float(), "a\x1bb")
