"""Lazy Adam against torch's own, step by step."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from infodcl_geo.configuration import configure
from infodcl_geo.data.generated import power_law_graph
from infodcl_geo.errors import OptionError
from infodcl_geo.experiment import prepare
from infodcl_geo.models.base import EmbeddingModel, Model
from infodcl_geo.training import loop as training
from infodcl_geo.training import optim
from infodcl_geo.training.loop import TrainOptions, make_optimizer, train
from infodcl_geo.training.optim import LazyAdam


def objective(users: Tensor, items: Tensor, scale: Tensor) -> Tensor:
    return -F.logsigmoid(scale * (users * items).sum(1)).mean() + 0.01 * users.square().mean()


def tables(seed: int) -> tuple[nn.Embedding, nn.Embedding, nn.Parameter]:
    torch.manual_seed(seed)
    return nn.Embedding(30, 4).double(), nn.Embedding(20, 4).double(), nn.Parameter(torch.ones((), dtype=torch.float64))


@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 6), st.floats(0.1, 0.94), st.floats(0.95, 0.9999))
@settings(max_examples=15, deadline=None)
def test_equal_to_adam_once_all_rows_are_up_to_date(
    seed: int, steps: int, batch: int, beta1: float, beta2: float
) -> None:
    options = {"lr": 0.02, "betas": (beta1, beta2), "eps": 1e-12}
    lazy_users, lazy_items, lazy_scale = tables(seed)
    users, items, scale = tables(seed)
    lazy = LazyAdam([lazy_users, lazy_items], [lazy_scale], **options)  # type: ignore[arg-type]
    adam = torch.optim.Adam([users.weight, items.weight, scale], **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        rows = torch.randint(30, (batch,), generator=generator)
        columns = torch.randint(20, (batch,), generator=generator)
        for optimizer, parts in ((lazy, (lazy_users, lazy_items, lazy_scale)), (adam, (users, items, scale))):
            optimizer.zero_grad()
            # Looked up twice: gradients of the same rows add up.
            value = objective(parts[0](rows), parts[1](columns), parts[2]) + 0.1 * parts[1](columns).pow(4).sum()
            value.backward()
            optimizer.step()
        if step == steps // 2:
            lazy.flush()
    lazy.flush()
    torch.testing.assert_close(lazy_users.weight, users.weight, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(lazy_items.weight, items.weight, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(lazy_scale, scale, rtol=1e-7, atol=1e-9)


def test_rows_are_up_to_date_when_looked_up_and_only_then() -> None:
    table = nn.Embedding(3, 2)
    lazy = LazyAdam([table], [], lr=0.1)
    table(torch.tensor([0])).sum().backward()
    lazy.step()
    lazy.zero_grad()
    for _ in range(5):
        table(torch.tensor([1])).sum().backward()
        lazy.step()
        lazy.zero_grad()
    before = table.weight.detach().clone()
    with torch.no_grad():
        table.eval()(torch.tensor([0]))
        assert torch.equal(table.weight, before)
        looked_up = table.train()(torch.tensor([0]))
    assert (looked_up < before[0]).all()  # momentum goes on
    assert torch.equal(table.weight[2], before[2])
    after = table.weight.detach().clone()
    lazy.flush()
    lazy.flush()
    assert torch.equal(table.weight, after)


def test_flushing_a_large_table_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for rows in (3, 1000):
        monkeypatch.setattr(optim, "_FLUSH_ROWS", rows)
        torch.manual_seed(0)
        table = nn.Embedding(10, 2)
        lazy = LazyAdam([table], [], lr=0.1)
        for row in range(10):
            lazy.zero_grad()
            table(torch.tensor([row])).square().sum().backward()
            lazy.step()
        lazy.flush()
        results.append(table.weight.detach())
    assert torch.equal(*results)


def test_a_table_is_an_ordinary_one_again_when_the_optimizer_is_gone() -> None:
    table = nn.Embedding(3, 2)
    lazy = LazyAdam([table], [], lr=0.1)
    table(torch.tensor([0])).sum().backward()
    lazy.step()
    alive = weakref.ref(lazy)
    del lazy
    gc.collect()
    assert alive() is None
    table.zero_grad()
    table(torch.tensor([0])).sum().backward()
    assert table.weight.grad is not None
    assert not table.weight.grad.is_sparse
    assert not table._forward_pre_hooks


def test_a_table_read_as_a_whole_is_an_error() -> None:
    table = nn.Embedding(3, 2)
    lazy = LazyAdam([table], [], lr=0.1)
    (table(torch.tensor([0])).sum() + table.weight.sum()).backward()
    with pytest.raises(OptionError, match="read as a whole"):
        lazy.step()
    with pytest.raises(ValueError, match="padding_idx"):
        LazyAdam([nn.Embedding(3, 2, padding_idx=0)], [], lr=0.1)
    with pytest.raises(ValueError, match="betas"):
        LazyAdam([table], [], lr=0.1, betas=(0.99, 0.9))


DATA = power_law_graph(60, 50, 500)
METADATA = {"given": torch.randn(50, 8, generator=torch.Generator().manual_seed(0))}


def built(model: str, candidates: int = 10) -> Model:
    more = {"candidates": candidates} if model == "infodcl" else {}
    config = configure(model, "normal", dim=8, num_layers=1, l2=0.01, init_std=0.02, **more)
    return prepare(DATA, config, channels=METADATA).model


@pytest.mark.parametrize("model", ["mf", "infodcl"])
def test_training_lazily_ends_at_the_same_weights(model: str) -> None:
    results = []
    for adam in ("dense", "lazy"):
        trained = built(model).double()
        trained.anchor_batch = 10
        options = TrainOptions(epochs=3, batch_size=64, eval_every=1, adam=adam)  # type: ignore[arg-type]
        result = train(trained, DATA, options, progress=False)
        assert isinstance(trained, EmbeddingModel)
        results.append((trained.user_embedding.weight, trained.item_embedding.weight, result.validation))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-4)
    assert results[0][2] == pytest.approx(results[1][2], abs=1e-3)


def test_what_is_lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "LAZY_ROWS", 110)

    def chosen(model: str, candidates: int = 10, *, anchors: int = 10, adam: str = "auto") -> bool:
        return isinstance(make_optimizer(built(model, candidates), 0.01, adam=adam, anchors=anchors), LazyAdam)  # type: ignore[arg-type]

    assert chosen("mf")
    assert chosen("infodcl")
    assert not chosen("infodcl", 0)  # InfoNCE over all items
    assert not chosen("infodcl", anchors=40)  # candidates and anchors are all items
    assert not chosen("lightgcn")
    assert not chosen("mf", adam="dense")
    with pytest.raises(ValueError, match="LightGCN reads whole tables"):
        chosen("lightgcn", adam="lazy")
    monkeypatch.setattr(training, "LAZY_ROWS", 111)
    assert not chosen("mf")
    assert chosen("mf", adam="lazy")
    with pytest.raises(ValueError, match="'eager'"):
        TrainOptions(adam="eager")  # type: ignore[arg-type]
