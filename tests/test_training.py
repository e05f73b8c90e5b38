"""Training finds planted structure, selects on validation alone, and repeats itself for a seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from infodcl_geo.channels.build import channel_builders
from infodcl_geo.configuration import Config, configure
from infodcl_geo.data.generated import demo
from infodcl_geo.data.ids import IdMap
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.errors import OptionError
from infodcl_geo.experiment import fit, prepare, run
from infodcl_geo.graph.spectral import spectral_embeddings
from infodcl_geo.models.base import EmbeddingModel
from infodcl_geo.models.mf import MatrixFactorization
from infodcl_geo.pretraining import best_num_layers, pretrain, spectral_vectors
from infodcl_geo.training.options import TrainOptions


def checkerboard(users: int = 24, items: int = 24) -> Interactions:
    """Users take items of their own parity; one withheld item each must come back first."""
    pairs = [(u, i) for u in range(users) for i in range(items) if (u + i) % 2 == 0]
    held = {(u, u) for u in range(0, users)}
    train = torch.tensor([p for p in pairs if p not in held]).T
    test = torch.tensor(sorted(held)).T
    return interactions(train, test, test, users, items)


def interactions(train: Tensor, valid: Tensor, test: Tensor, users: int, items: int) -> Interactions:
    return Interactions(train, valid, test, users, items, IdMap(range(users)), IdMap(range(items)), "planted")


def config(model: str = "infodcl", **training: object) -> Config:
    """Small and from a random start."""
    chosen = configure(model)
    shared = {"init": "normal", "dim": 8, "num_layers": 1, "l2": 0.01, "init_std": 0.02, "anchor_batch": 8}
    own = {name: value for name, value in shared.items() if name in chosen.recipe.option_names}
    return chosen.changed(**own, **{"epochs": 60, "batch_size": 64, "lr": 0.02, **training})


@pytest.mark.parametrize("model", ["infodcl", "lightgcl", "lightgcn", "mf", "ncl", "sgl"])
def test_the_withheld_diagonal_comes_first(model: str) -> None:
    outcome = run(checkerboard(), config(model, monitor="recall@1"), ks=(1,), progress=False)
    assert outcome.test["recall@1"] > 0.95


def test_popularity_is_scored_without_training() -> None:
    outcome = run(checkerboard(), config("popularity"), ks=(20,), progress=False)
    assert outcome.result.best_epoch == 0
    assert not list(outcome.model.parameters())
    assert outcome.test.keys() == outcome.result.validation.keys()


def small(seed: int = 0) -> Interactions:
    generator = torch.Generator().manual_seed(seed)
    taste = torch.randn(40, 3, generator=generator) @ torch.randn(3, 50, generator=generator)
    order = (taste + 0.8 * torch.randn(40, 50, generator=generator)).topk(12, dim=1).indices
    shuffled = order.gather(1, torch.rand(40, 12, generator=generator).argsort(1))
    user = torch.arange(40)[:, None].expand(-1, 12)

    def part(window: slice) -> Tensor:
        keys = (user[:, window] * 50 + shuffled[:, window]).flatten().sort().values
        return torch.stack([keys // 50, keys % 50])

    return interactions(part(slice(0, 8)), part(slice(8, 10)), part(slice(10, 12)), 40, 50)


def test_the_seed_determines_the_numbers() -> None:
    def numbers(seed: int) -> dict[str, float]:
        chosen = config(epochs=6, eval_every=2, seed=seed)
        outcome = run(small(), chosen, progress=False)
        return {**outcome.test, "best": outcome.result.best_epoch, "weight": float(outcome.embeddings[0].sum())}

    assert numbers(1) == numbers(1)
    assert numbers(1) != numbers(2)


def test_the_test_split_has_no_say() -> None:
    data = small()
    other = replace(data, test=data.test[:, :7].clone())
    first, second = (run(d, config(epochs=20), progress=False) for d in (data, other))
    assert first.result.best_epoch == second.result.best_epoch
    torch.testing.assert_close(first.embeddings, second.embeddings)
    assert first.test != second.test


def test_the_best_epoch_on_validation_is_kept() -> None:
    chosen = config(epochs=40, eval_every=1, patience=40, monitor="recall@20")
    outcome = run(small(), chosen, progress=False)
    history = {entry["epoch"]: entry["recall@20"] for entry in outcome.result.history}
    assert outcome.result.validation["recall@20"] == max(history.values())
    assert history[outcome.result.best_epoch] == max(history.values())
    # The embeddings handed back are those of that epoch, not of the last one.
    again = run(small(), config(epochs=outcome.result.best_epoch, eval_every=1, monitor="recall@20"), progress=False)
    torch.testing.assert_close(outcome.embeddings, again.embeddings)


def test_patience_stops_early() -> None:
    outcome = run(small(), config(epochs=500, eval_every=1, patience=3, lr=0.05), progress=False)
    assert len(outcome.result.epoch_seconds) == outcome.result.best_epoch + 3 < 500


def test_without_validation_the_last_epoch_counts() -> None:
    data = small()
    empty = replace(data, valid=data.valid[:, :0])
    outcome = run(empty, config(epochs=7), progress=False)
    assert outcome.result.best_epoch == 7
    assert outcome.result.validation == {}


def test_both_ways_of_pretraining_and_all_channels() -> None:
    data = small()
    for pretraining in ("svd", "lightgcn"):
        options = config().changed(pretraining=pretraining, channels="both").options
        vectors = pretrain(data, options)[1]
        assert vectors.users.shape == (40, 8)
        channels = [build(data, vectors) for build in channel_builders(options, data)]  # type: ignore[arg-type]
        assert [channel.name for channel in channels] == ["item", "user"]
        assert all(channel.metadata.shape == (50, 8) for channel in channels)
        # Neighbours share tastes: an item's metadata is nearer to its own vector than to a random one's.
        own = torch.cosine_similarity(channels[0].metadata, vectors.items).mean()
        other = torch.cosine_similarity(channels[0].metadata, vectors.items.roll(7, 0)).mean()
        assert own > other + 0.2


def test_given_channels_are_used() -> None:
    outcome = run(small(), config(epochs=2), channels={"mine": torch.randn(50, 8)}, progress=False)
    assert list(outcome.model.channels) == ["mine"]  # type: ignore[union-attr, arg-type]
    assert outcome.preparation_seconds.keys() == {"model"}


def test_a_diverging_run_says_so() -> None:
    chosen = config(lr=1e30, epochs=50)
    with pytest.raises(FloatingPointError, match="smaller lr may help"):
        run(small(), chosen, progress=False)


def test_errors() -> None:
    with pytest.raises(ValueError, match="monitor must be one of"):
        run(small(), config(monitor="recall@7", epochs=5), progress=False)
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        TrainOptions(epochs=0)
    with pytest.raises(ValueError, match="lr must be positive"):
        TrainOptions(lr=0.0)
    with pytest.raises(OptionError, match="no model 'lightgcm': did you mean lightgcn"):
        configure("lightgcm")
    with pytest.raises(OptionError, match="dim must be at least 1"):
        configure("mf", dim=0)
    with pytest.raises(OptionError, match="mf has no option noise; simgcl, xsimgcl have it"):
        configure("mf", noise=0.1)
    with pytest.raises(OptionError, match="mf has no option learning_rate"):
        configure("mf", learning_rate=0.1)
    assert configure("lightgcn", seed=3).training.seed == 3


def test_pretrained_vectors_are_where_training_starts() -> None:
    data = demo(1, num_users=60, num_items=50).interactions
    wanted = configure("mf", "pretrained", dim=8, init_std=0.1)
    users, items = spectral_embeddings(data.train, data.num_users, data.num_items, 8)
    model = prepare(data, wanted).model
    assert isinstance(model, EmbeddingModel)
    for table, vectors in ((model.user_embedding.weight, users), (model.item_embedding.weight, items)):
        known = vectors.abs().sum(1) > 0
        cosine = torch.nn.functional.cosine_similarity(table[known], vectors[known])
        torch.testing.assert_close(cosine, torch.ones_like(cosine))
        assert table.square().mean().sqrt().item() == pytest.approx(0.1, rel=0.1)
    with pytest.raises(OptionError, match="diffrec has no embeddings"):
        configure("diffrec", "pretrained")


def test_the_precision_of_products_is_set_while_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    forward = MatrixFactorization.loss

    def watched(self, batch, generator=None):  # type: ignore[no-untyped-def]
        seen.add(torch.get_float32_matmul_precision())
        return forward(self, batch, generator)

    monkeypatch.setattr(MatrixFactorization, "loss", watched)
    fit(small(), config("mf", epochs=1, matmul_precision="medium"), progress=False)
    assert seen == {"medium"}
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(ValueError, match="matmul_precision must be"):
        TrainOptions(matmul_precision="low")  # type: ignore[arg-type]


def test_smoothing_is_chosen_on_validation() -> None:
    data = demo(num_users=200, num_items=150).interactions
    for model in ("infodcl", "svd"):
        outcome = run(data, configure(model, epochs=1), ks=(20,), progress=False)  # type: ignore[arg-type]
        chosen = outcome.config.options.smoothing  # type: ignore[attr-defined]
        found = {}
        for smoothing in (0.05, 0.25, 0.75):
            fixed = configure("svd", smoothing=smoothing, num_layers=1)
            found[smoothing] = run(data, fixed, ks=(20,), progress=False).result.validation["ndcg@20"]
        assert chosen == max(found, key=found.__getitem__)
        # What is in the test split has no bearing on it.
        blind = replace(data, test=data.test[:, :1])
        assert spectral_vectors(blind, configure(model).options)[0].smoothing == chosen
    mf = configure("mf", epochs=1)
    assert fit(data, mf, ks=(20,), progress=False).config == mf
    unseen = replace(data, valid=data.valid[:, :0])
    assert spectral_vectors(unseen, configure("svd").options)[0].smoothing == 0.75


def test_layers_are_chosen_on_validation() -> None:
    data = demo(num_users=200, num_items=150).interactions
    for smoothing in (0.05, 0.75):
        config = configure("svd", smoothing=smoothing)
        found = {}
        for num_layers in (1, 2, 3):
            fixed = config.changed(num_layers=num_layers)
            found[num_layers] = run(data, fixed, ks=(20,), progress=False).result.validation["ndcg@20"]
        outcome = run(data, config, ks=(20,), progress=False)
        assert found[outcome.config.options.num_layers] == max(found.values())
        assert outcome.result.validation["ndcg@20"] == max(found.values())
        vectors = pretrain(data, config.options)[1]
        for model in ("infodcl", "mf", "simdiff"):
            config = configure(model, "pretrained", epochs=1, smoothing=smoothing)
            trained = fit(data, config, ks=(20,), progress=False)
            assert (
                trained.config.options.num_layers == best_num_layers(data, vectors) == outcome.config.options.num_layers
            )
            assert trained.model.num_layers == trained.config.options.num_layers  # type: ignore[union-attr]
        assert best_num_layers(replace(data, test=data.test[:, :1]), vectors) == outcome.config.options.num_layers
        assert best_num_layers(replace(data, valid=data.valid[:, :0]), vectors) == 1
    given = configure("infodcl", epochs=1, num_layers=2)
    assert fit(data, given, ks=(20,), progress=False).config.options.num_layers == 2
    random = configure("mf", epochs=1, num_layers=None)
    with pytest.raises(ValueError, match="mf has no pretrained vectors to choose num_layers by"):
        fit(data, random, progress=False)
