"""Metadata channels: by hand, from planted facts, against the authors' vectors, and the closed-form pretraining."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from infodcl_geo.channels.agreement import row_agreement
from infodcl_geo.channels.base import Channel, PretrainedVectors
from infodcl_geo.channels.build import ChannelOptions, channel_builders
from infodcl_geo.channels.knowledge import Knowledge, KnowledgeGraph
from infodcl_geo.channels.modal import ItemFeatures, Modal
from infodcl_geo.channels.similarity import (
    ItemSimilarity,
    UserSimilarity,
    item_similarity_metadata,
    user_similarity_metadata,
)
from infodcl_geo.channels.social import Social, SocialGraph
from infodcl_geo.configuration import configure
from infodcl_geo.data.generated import Demo, demo
from infodcl_geo.data.ids import IdMap
from infodcl_geo.data.interactions import Interactions, load_interactions
from infodcl_geo.errors import OptionError
from infodcl_geo.experiment import prepare, run
from infodcl_geo.graph.graph import Graph, interaction_graph, to_scipy
from infodcl_geo.graph.similarity import jaccard_graph
from infodcl_geo.graph.spectral import SVDOptions, spectral_embeddings
from infodcl_geo.models.infodcl import InfoDCL
from infodcl_geo.pretraining import pretrain
from infodcl_geo.training.callbacks import OnValidation
from infodcl_geo.training.loop import train

# users 0: {0, 1}, 1: {0, 1}, 2: {1, 2}; item 3 has no user
PAIRS = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 1, 2]])


def test_item_channel_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0], [7.0, 7.0]])
    # Jaccard of items: J01 = 2/3, J12 = 1/3, J02 = 0. The two nearest of item 1 are 0 and 2.
    expected = torch.tensor([[0.0, 1.0], [2.5, 2.0], [0.0, 1.0], [7.0, 7.0]])
    torch.testing.assert_close(item_similarity_metadata(PAIRS, 3, 4, vectors, top_k=2), expected)
    nearest = item_similarity_metadata(PAIRS, 3, 4, vectors, top_k=1)
    torch.testing.assert_close(nearest[1], vectors[0])


def test_user_channel_by_hand() -> None:
    vectors = torch.tensor([[1.0], [3.0], [9.0]])
    # J01 = 1, J02 = J12 = 1/3
    s0 = (1 + (1 * 3 + 9 / 3) / (4 / 3)) / 2
    s1 = (3 + (1 * 1 + 9 / 3) / (4 / 3)) / 2
    s2 = (9 + (1 / 3 + 3 / 3) / (2 / 3)) / 2
    expected = torch.tensor([[(s0 + s1) / 2], [(s0 + s1 + s2) / 3], [s2], [(s0 + s1 + s2) / 3]])
    torch.testing.assert_close(user_similarity_metadata(PAIRS, 3, 4, vectors), expected)


def test_a_user_alone_keeps_its_vector() -> None:
    pairs = torch.tensor([[0, 1], [0, 1]])
    vectors = torch.tensor([[2.0], [5.0]])
    torch.testing.assert_close(user_similarity_metadata(pairs, 2, 2, vectors), vectors)


@pytest.mark.parametrize("options", [SVDOptions(0.0, 0.5), SVDOptions(0.5, 0.5), SVDOptions(2.0, 1.5)])
def test_spectral_embeddings_by_a_dense_decomposition(options: SVDOptions) -> None:
    generator = torch.Generator().manual_seed(1)
    ones = (torch.rand(12, 9, generator=generator) < 0.4).double()
    pairs = ones.nonzero().T
    users, items = spectral_embeddings(pairs, 12, 9, 4, options)
    row, col = (ones.sum(dim, keepdim=True) for dim in (1, 0))
    matrix = ones / ((row + options.smoothing * row.mean()) * (col + options.smoothing * col.mean())).sqrt()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    expected = (left[:, :4] * values[:4] ** (2 * options.power)) @ right[:4]
    torch.testing.assert_close(users.double() @ items.double().T, expected, rtol=1e-4, atol=1e-5)
    largest = items.gather(0, items.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()
    again = spectral_embeddings(pairs, 12, 9, 4, options)
    assert torch.equal(users, again[0])


def test_smoothing_keeps_small_components_from_leading() -> None:
    # Two tastes of twelve users each, and eight pairs that nobody shares: without smoothing each pair has a singular
    # value of one, like a taste.
    ones = torch.zeros(32, 28)
    generator = torch.Generator().manual_seed(0)
    for taste in range(2):
        ones[12 * taste : 12 * taste + 12, 10 * taste : 10 * taste + 10] = (
            torch.rand(12, 10, generator=generator) < 0.7
        ).float()
    ones[24:, 20:] = torch.eye(8)
    pairs = ones.nonzero().T
    users, items = spectral_embeddings(pairs, 32, 28, 2, SVDOptions(smoothing=0.5))
    taste = (users @ items.T)[:24, :20]
    assert taste[:12, :10].mean() > 20 * taste[:12, 10:].abs().max()
    assert taste[12:, 10:].mean() > 20 * taste[12:, :10].abs().max()
    assert users[24:].abs().max() < 0.01 * users[:24].abs().max()


@pytest.mark.parametrize("bad", [{"smoothing": -0.1}, {"power": -1.0}])
def test_bad_svd_options(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        SVDOptions(**bad)


def test_spectral_embeddings_of_a_small_matrix_are_padded() -> None:
    users, items = spectral_embeddings(PAIRS, 3, 4, 5)
    assert users.shape == (3, 5)
    assert (users[:, 2:] == 0).all()
    assert items[:, :2].abs().sum() > 0
    with pytest.raises(ValueError, match="no truncated SVD"):
        spectral_embeddings(torch.tensor([[0], [0]]), 1, 1, 2)


def by_hand(num_items: int = 4) -> Interactions:
    empty = torch.empty(2, 0, dtype=torch.int64)
    ids = IdMap(np.arange(3)), IdMap(np.arange(num_items))
    return Interactions(PAIRS, empty, empty, 3, num_items, *ids, name="by hand")


def dense(graph: Graph | None) -> np.ndarray:
    assert graph is not None
    return to_scipy(graph.matrix).toarray()


def test_builders_of_the_similarity_channels() -> None:
    data, vectors = by_hand(), PretrainedVectors(torch.randn(3, 2), torch.randn(4, 2))
    item, user = ItemSimilarity(top_k=2)(data, vectors), UserSimilarity(graph_top_k=1)(data, vectors)
    torch.testing.assert_close(item.metadata, item_similarity_metadata(PAIRS, 3, 4, vectors.items, top_k=2))
    torch.testing.assert_close(user.metadata, user_similarity_metadata(PAIRS, 3, 4, vectors.users))
    for channel, over, size in ((item, "items", 4), (user, "users", 3)):
        assert channel.covered.tolist() == [True, True, True, False]
        assert channel.over == over
        assert channel.graph is not None
        assert channel.graph.shape == (size, size)
    assert UserSimilarity(graph_top_k=0)(data, vectors).graph is None
    assert repr(item) == "Channel('item', [4, 2], coverage=0.750, the 2 most similar items by training users, 4 edges)"


def test_a_channel_checks_what_it_is_given() -> None:
    metadata, covered = torch.zeros(3, 2), torch.ones(3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"channel 'x': metadata is \[3\]"):
        Channel("x", metadata[:, 0], "nothing", covered)
    with pytest.raises(ValueError, match="covered must be bool"):
        Channel("x", metadata, "nothing", covered.float())
    with pytest.raises(ValueError, match="not finite"):
        Channel("x", metadata / 0, "nothing", covered)
    with pytest.raises(ValueError, match="go together"):
        Channel("x", metadata, "nothing", covered, over="items")


def test_social_by_hand() -> None:
    data, p = by_hand(), torch.tensor([[1.0], [3.0], [9.0]])
    vectors = PretrainedVectors(p, torch.zeros(4, 1))
    friends = SocialGraph.from_edges(torch.tensor([[0, 0], [1, 2]]), 3, torch.tensor([1.0, 3.0]))
    # Only user 0 has friends: (1 * 3 + 3 * 9) / 4 = 7.5
    s = torch.tensor([(1 + 7.5) / 2, 3.0, 9.0])
    channel = Social(friends)(data, vectors)
    expected = torch.stack([(s[0] + s[1]) / 2, s.mean(), s[2], s.mean()]).unsqueeze(1)
    torch.testing.assert_close(channel.metadata, expected)
    assert channel.covered.tolist() == [True, True, False, False]  # item 2 has only user 2, who has no friend
    assert channel.over == "users"
    # Undirected, users 1 and 2 have user 0 for a friend.
    s = torch.tensor([(1 + 7.5) / 2, (3 + 1) / 2, (9 + 1) / 2])
    both = Social(friends, directed=False)(data, vectors)
    torch.testing.assert_close(both.metadata[:3, 0], torch.stack([(s[0] + s[1]) / 2, s.mean(), s[2]]))
    assert both.covered.tolist() == [True, True, True, False]
    with pytest.raises(ValueError, match="a graph of 5 users for 3"):
        Social(SocialGraph.from_edges(torch.tensor([[0], [1]]), 5))(data, vectors)


def test_friends_who_are_the_similar_users_make_the_user_channel() -> None:
    data, vectors = by_hand(), PretrainedVectors(torch.randn(3, 4), torch.randn(4, 4))
    similar = SocialGraph(jaccard_graph(interaction_graph(PAIRS, 3, 4)))
    torch.testing.assert_close(Social(similar)(data, vectors).metadata, UserSimilarity()(data, vectors).metadata)


def facts(*rows: tuple[int, int, int], num_items: int = 4) -> KnowledgeGraph:
    return KnowledgeGraph.from_item_facts(torch.tensor(rows).T, num_items)


def test_knowledge_by_hand() -> None:
    # Relation 0: items 0 and 1 share entity 0, item 2 has entity 1, item 3 has entity 2.
    # Relation 1: all four have entity 3, which says nothing.
    graph = facts(*[(0, 0, 0), (1, 0, 0), (2, 0, 1), (3, 0, 2)], *[(i, 1, 3) for i in range(4)])
    data, vectors = by_hand(), PretrainedVectors(torch.randn(3, 2), torch.randn(4, 2))
    builder = Knowledge(graph, max_share=1.0)
    weights = builder.fact_weights().toarray()
    assert weights.shape == (4, 1)
    np.testing.assert_allclose(weights[:, 0], np.log([2, 2, 1, 1]), rtol=1e-6)
    for method in ("shared", "propagate"):
        channel = Knowledge(graph, method)(data, vectors)  # type: ignore[arg-type]
        assert channel.covered.tolist() == [True, True, False, False]
        np.testing.assert_array_equal(dense(channel.graph) > 0, np.eye(4)[[1, 0, 0, 0]] * [[1], [1], [0], [0]] > 0)
        torch.testing.assert_close(channel.metadata[2:], vectors.items[2:])
        nearest = vectors.items[[1, 0]] if method == "shared" else vectors.items[:2].mean(0).expand(2, 2)
        torch.testing.assert_close(channel.metadata[:2], nearest)


def test_rare_facts_weigh_more_than_common_ones_within_a_relation() -> None:
    # Eight items with one fact of relation 0 each; 0 and 1 share a rare one, and one of relation 1 each: 0 with 2.
    rows = [(0, 0, 0), (1, 0, 0), *((i, 0, 1) for i in range(2, 5)), *((i, 0, 2) for i in range(5, 8))]
    rows += [(i, 1, 5 if i in (0, 2, 3, 4) else 6) for i in range(8)]
    builder = Knowledge(facts(*rows, num_items=8), top_k=7)
    weights = builder.fact_weights().toarray()
    np.testing.assert_allclose(np.sort(weights[0][weights[0] > 0]), np.log([2, 4]), rtol=1e-6)
    data = replace(by_hand(), num_items=8, item_ids=IdMap(np.arange(8)))
    similar = dense(builder(data, PretrainedVectors(torch.zeros(3, 2), torch.randn(8, 2))).graph)
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    np.testing.assert_allclose(similar, unit @ unit.T * (1 - np.eye(8)), atol=1e-6)
    assert similar[0, 1] > similar[0, 2] > 0
    assert similar[0, 5] == 0


def test_a_relation_stored_with_its_inverse_counts_once() -> None:
    once = facts((0, 0, 0), (1, 0, 0), (2, 0, 1), (3, 0, 1))
    head, relation, tail = once.triples
    both = torch.cat([once.triples, torch.stack([tail, relation + 1, head])], dim=1)
    order = sorted(both.T.tolist(), key=lambda x: (x[1], x[0], x[2]))
    twice = KnowledgeGraph(torch.tensor(order).T, once.item_entity, once.entity_ids, IdMap(np.arange(2)))
    assert Knowledge(once).fact_weights().shape == (4, 2)
    assert abs(Knowledge(once).fact_weights() - Knowledge(twice).fact_weights()).max() == 0


@pytest.fixture(scope="module")
def planted() -> Demo:
    return demo(num_users=300, num_items=250, num_interests=8)


def purity(channel: Channel, made: Demo) -> float:
    """Share of an item's neighbours that have one of its topics, over that of any two items."""
    topics = made.item_interests.float().numpy()
    same = topics @ topics.T > 0
    graph = dense(channel.graph) > 0
    return float(same[graph].mean() / same.mean())


@pytest.mark.parametrize("method", ["shared", "propagate", "kge"])
def test_planted_facts_find_items_of_the_same_topic(method: str, planted: Demo) -> None:
    data = planted.interactions
    graph = KnowledgeGraph.from_item_facts(planted.knowledge, data.num_items, planted.relation_names)
    vectors = PretrainedVectors(torch.randn(data.num_users, 8), torch.randn(data.num_items, 8))
    builder = Knowledge(graph, method)  # type: ignore[arg-type]
    channel = builder(data, vectors)
    assert channel.metadata.shape == (data.num_items, 8)
    assert channel.coverage > 0.99
    assert purity(channel, planted) > 2
    state = torch.random.get_rng_state()
    again = builder(data, vectors)
    assert torch.equal(again.metadata, channel.metadata)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("model", ["TransE", "ComplEx", "RotatE"])
def test_other_entity_models(model: str, planted: Demo) -> None:
    data = planted.interactions
    graph = KnowledgeGraph.from_item_facts(planted.knowledge, data.num_items)
    vectors = PretrainedVectors(torch.randn(data.num_users, 8), torch.randn(data.num_items, 8))
    channel = Knowledge(graph, "kge", model=model, epochs=1)(data, vectors)  # type: ignore[arg-type]
    assert channel.metadata.shape == (data.num_items, 8)
    assert f"{model} of 1 epochs" in channel.source


def test_modal_neighbours_like_a_loop() -> None:
    values = torch.randn(4, 3)
    values[3] = torch.nan
    data, vectors = by_hand(), PretrainedVectors(torch.randn(3, 2), torch.randn(4, 2))
    channel = Modal(values, "neighbours", top_k=2)(data, vectors)
    known = values[:3].numpy()
    scaled = (known - known.mean(0)) / known.std(0)
    unit = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    cosine = unit @ unit.T
    expected = vectors.items.clone()
    for i in range(3):
        near = [j for j in range(3) if j != i and cosine[i, j] > 0]
        if near:
            expected[i] = sum(cosine[i, j] * vectors.items[j] for j in near) / sum(cosine[i, j] for j in near)
    torch.testing.assert_close(channel.metadata, expected, rtol=1e-4, atol=1e-5)
    assert not channel.covered[3]
    assert dense(channel.graph)[3].sum() == 0
    assert (channel.name, channel.over) == ("modal", "items")


@pytest.mark.parametrize(("items", "width"), [(4, 3), (30, 12), (6, 40)])
def test_reduced_features_keep_what_rank_d_can(items: int, width: int) -> None:
    data = replace(by_hand(), num_items=items, item_ids=IdMap(np.arange(items)))
    values = torch.randn(items, width) * 3 + 1
    channel = Modal(values)(data, PretrainedVectors(torch.zeros(3, 5), torch.zeros(items, 5)))
    scaled = (values - values.mean(0)) / values.std(0, correction=0)
    left, sizes, _ = torch.linalg.svd(scaled.double(), full_matrices=False)
    gram = (left[:, :5] * sizes[:5].square()) @ left[:, :5].T
    assert channel.metadata.shape == (items, 5)
    torch.testing.assert_close(channel.metadata.double() @ channel.metadata.double().T, gram, rtol=1e-4, atol=1e-3)
    largest = channel.metadata.gather(0, channel.metadata.abs().argmax(0, keepdim=True))
    assert (largest >= 0).all()


def test_modal_edge_cases() -> None:
    data, vectors = by_hand(), PretrainedVectors(torch.randn(3, 2), torch.randn(4, 2))
    nothing = Modal(torch.zeros(4, 3), "neighbours")(data, vectors)
    torch.testing.assert_close(nothing.metadata, vectors.items)
    assert nothing.coverage == 0
    constant = Modal(torch.full((4, 3), 7.3))(data, vectors)
    assert (constant.metadata == 0).all()
    features = ItemFeatures.from_matrix(torch.rand(4, 3), "image")
    assert Modal(features)(data, vectors).name == "image"
    assert Modal(features, name="picture")(data, vectors).name == "picture"
    with pytest.raises(ValueError, match="5 rows for 4 items"):
        Modal(torch.rand(5, 3))(data, vectors)
    with pytest.raises(ValueError, match="aggregate must be"):
        Modal(features, "mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        Modal(features, top_k=0)
    with pytest.raises(ValueError, match="method must be"):
        Knowledge(facts((0, 0, 0)), "magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="made for 7 items, not 4"):
        Knowledge(facts((0, 0, 0), num_items=7))(data, vectors)


def test_a_run_takes_builders_ready_channels_and_functions(planted: Demo) -> None:
    data = planted.interactions

    def ours(data: Interactions, vectors: PretrainedVectors) -> Channel:
        return Channel("ours", vectors.items.roll(1, 0), "one item off", torch.ones(data.num_items, dtype=torch.bool))

    config = configure("infodcl", epochs=1, dim=8)
    ready = Channel("ready", torch.randn(data.num_items, 8), "noise", torch.zeros(data.num_items, dtype=torch.bool))
    outcome = run(data, config, channels=[Social(planted.social), ours, ready], progress=False)
    assert [channel.name for channel in outcome.channels] == ["social", "ours", "ready"]
    assert list(outcome.model.channels) == ["social", "ours", "ready"]  # type: ignore[union-attr, arg-type]
    ready_metrics = outcome.metrics()["channels"]["ready"]
    assert ready_metrics.pop("mean_row_weight") < 0.15
    assert ready_metrics == {"source": "noise", "coverage": 0.0, "weight": 1.0}
    seconds = run(data, config, channels=[ready], progress=False).preparation_seconds
    assert seconds.keys() == {"pretraining", "model"}  # the start needs vectors, the channel does not
    with pytest.raises(ValueError, match="names of their own, got ready, ready"):
        run(data, config, channels=[ready, ready], progress=False)


def test_options_choose_channels_and_their_files(tmp_path: Path, planted: Demo) -> None:
    data = planted.interactions
    np.savetxt(tmp_path / "edges.txt", planted.social.T.numpy(), fmt="%d")
    np.savetxt(tmp_path / "triples.txt", (planted.knowledge + torch.tensor([[0], [0], [1000]])).T.numpy(), fmt="%d")
    for name in ("one", "two"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).random((data.num_items, 6)))
    options = ChannelOptions(
        channels="user, item,social,knowledge,modal",
        social=str(tmp_path / "edges.txt"),
        knowledge=str(tmp_path / "triples.txt"),
        features=f"{tmp_path / 'one.npy'},{tmp_path / 'two.npy'}",
        similar_items=7,
    )
    vectors = PretrainedVectors(torch.randn(data.num_users, 8), torch.randn(data.num_items, 8))
    made = [build(data, vectors) for build in channel_builders(options, data)]
    assert [channel.name for channel in made] == ["user", "item", "social", "knowledge", "one", "two"]
    assert all(channel.metadata.shape == (data.num_items, 8) for channel in made)
    assert (dense(made[3].graph) > 0).sum(1).max() == 7
    assert ChannelOptions(channels="both").channel_names == ["item", "user"]
    with pytest.raises(ValueError, match="the social channel needs a file: give social"):
        ChannelOptions(channels="social")
    with pytest.raises(ValueError, match="features is given, but channels=user has no 'modal'"):
        ChannelOptions(features="x.npy")
    with pytest.raises(ValueError, match="links is given, but channels=user has no 'knowledge'"):
        ChannelOptions(links="x.link")
    with pytest.raises(ValueError, match="not 'friends'"):
        ChannelOptions(channels="user,friends")
    for wrong, message in (
        ({"feature_ids": "ids.txt"}, "feature_ids is given, but channels=user has no 'modal'"),
        ({"channels": "modal", "features": " , "}, "features names no file"),
        (
            {"channels": "modal", "features": "a,b,c", "feature_ids": "a,b"},
            "feature_ids names 2 files for 3",
        ),
        ({"similar_items": 0}, "similar_items must be at least 1, not 0"),
        ({"knowledge_method": "guess"}, "knowledge_method must be one of shared, propagate, kge, not 'guess'"),
    ):
        with pytest.raises(OptionError, match=message):
            ChannelOptions(**wrong)  # type: ignore[arg-type]
    for ids, expected in ((None, (None, None)), ("i", ("i", "i")), ("i,j", ("i", "j"))):
        chosen = ChannelOptions(channels="modal", features="a, b", feature_ids=ids)
        assert chosen.feature_files == list(zip(("a", "b"), expected, strict=True))


@pytest.mark.real_data
def test_both_channels_reproduce_the_authors_vectors(data_root: Path) -> None:
    folder = data_root / "office"
    data = load_interactions(folder)
    items = torch.from_numpy(np.load(folder / "iEmbeds_pt.npy"))
    users = torch.from_numpy(np.load(folder / "uEmbeds_pt.npy"))
    knowledge = torch.from_numpy(np.load(folder / "item_knowledge_emb.npy"))
    social = torch.from_numpy(np.load(folder / "item_social_emb.npy"))

    ours = item_similarity_metadata(data.train, data.num_users, data.num_items, items)
    torch.testing.assert_close(ours, knowledge, rtol=1e-4, atol=1e-5)

    ours = user_similarity_metadata(data.train, data.num_users, data.num_items, users)
    # Items without a training user have arbitrary vectors there.
    known = torch.bincount(data.train[1], minlength=data.num_items) > 0
    assert int((~known).sum()) == 3
    torch.testing.assert_close(ours[known], social[known], rtol=1e-4, atol=1e-5)


def test_rows_of_noise_are_told_from_rows_that_agree(planted: Demo) -> None:
    data, means = planted.interactions, []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        tastes = planted.item_interests.float() + 0.1 * torch.randn(data.num_items, 8, generator=generator)
        noise = torch.rand(data.num_items, generator=generator) < 0.4
        random = torch.randn(data.num_items, 8, generator=generator)
        metadata = torch.where(noise.unsqueeze(1), random, tastes)
        weights = row_agreement(metadata, data.train, data.num_users, data.num_items)
        nothing = row_agreement(random, data.train, data.num_users, data.num_items)
        means.append([float(part.mean()) for part in (weights[~noise], weights[noise], nothing)])
    agreeing, noisy, unrelated = torch.tensor(means).mean(0)
    assert agreeing > 0.8
    assert noisy < 0.1
    assert unrelated < 0.1
    assert (row_agreement(metadata, data.train[:, :1], data.num_users, data.num_items) == 0).all()


def test_row_agreement_by_hand() -> None:
    # Items 0 and 1 share a user and their metadata; 2 and 3 share a user and not their metadata; nobody shares 4.
    pairs = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 2, 3, 4]])
    metadata = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-2.0, 0.0]])
    weights = row_agreement(metadata, pairs, 3, 5)
    assert weights[0] == weights[1] >= weights[2] == weights[3] == 0
    assert weights[4] == pytest.approx(float(weights[:4].mean()))


def test_learned_weights_find_the_channel_of_noise(planted: Demo) -> None:
    data = planted.interactions

    def noise(data: Interactions, vectors: PretrainedVectors) -> Channel:
        rows = torch.randn(vectors.items.shape, generator=torch.Generator().manual_seed(0))
        return Channel("noise", rows, "noise", torch.ones(data.num_items, dtype=torch.bool))

    config = configure("infodcl", epochs=60, num_layers=1, channel_weights="learned")
    vectors = pretrain(data, config.options)[1]
    channels = [noise(data, vectors), UserSimilarity()(data, vectors), Social(planted.social)(data, vectors)]
    model = prepare(data, config, channels=channels, vectors=vectors).model
    assert isinstance(model, InfoDCL)
    seen: list[list[float]] = []
    train(
        model,
        data,
        config.training,
        progress=False,
        # Not after training, which goes back to the best epoch, an early one from the pretrained start.
        callbacks=[OnValidation(lambda *_: seen.append(model.channel_weights().tolist()))],
    )
    weights = seen[-1]
    assert sum(weights) == pytest.approx(3)
    assert weights[0] < 0.5 * min(weights[1:])
