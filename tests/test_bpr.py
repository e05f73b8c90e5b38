"""BPR steps with row-wise Adam: against dense Adam and LazyAdam, by hand, and the contract with a caller."""

from __future__ import annotations

import importlib
import itertools
import math
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from infodcl_geo.errors import InfodclGeoError, OptionError
from infodcl_geo.kernels.bpr import BprEpoch, RowAdamOptions, RowAdamTable, flush_rows
from infodcl_geo.nn.losses import bpr_loss, embedding_penalty
from infodcl_geo.training.optim import LazyAdam

module = importlib.import_module("infodcl_geo.kernels.bpr")
PATHS = ["plain", pytest.param("numba", marks=pytest.mark.skipif(find_spec("numba") is None, reason="no Numba"))]


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(module, "_uses_numba", lambda weight: False)
    return str(request.param)


def fresh(rows: int, d: int, dtype: torch.dtype, seed: int) -> RowAdamTable:
    generator = torch.Generator().manual_seed(seed)
    weight = 0.3 * torch.randn(rows, d, dtype=torch.float64, generator=generator)
    return RowAdamTable(
        weight.to(dtype),
        torch.zeros(rows, d, dtype=dtype),
        torch.zeros(rows, d, dtype=dtype),
        torch.zeros(rows, dtype=torch.int32),
    )


def samples(count: int, users: int, items: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Few popular rows, so that batches hold duplicates, and an item both as positive and as negative."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> Tensor:
        return (size * torch.rand(count, generator=generator, dtype=torch.float64) ** 2).long()

    return draw(users), draw(items), draw(items)


def dense(
    tables: tuple[RowAdamTable, RowAdamTable],
    epoch: tuple[Tensor, Tensor, Tensor],
    batch: int,
    options: RowAdamOptions,
    weights: tuple[float, float],
    make: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same steps by autograd: with ``torch.optim.Adam``, or with what ``make`` makes of two embeddings."""
    embeddings = []
    for table in tables:
        embeddings.append(nn.Embedding(*table.weight.shape, dtype=table.weight.dtype))
        embeddings[-1].weight.data.copy_(table.weight)
    kwargs = {"lr": options.lr, "betas": options.betas, "eps": options.eps}
    if make is None:
        optimizer: Any = torch.optim.Adam([e.weight for e in embeddings], **kwargs)  # type: ignore[arg-type]
    else:
        optimizer = make(embeddings, [], **kwargs)
    sums = torch.zeros(2, dtype=torch.float64)
    for users, positives, negatives in zip(*(x.split(batch) for x in epoch), strict=True):
        u, p, n = embeddings[0](users), embeddings[1](positives), embeddings[1](negatives)
        terms = weights[0] * bpr_loss(u, p, n), weights[1] * embedding_penalty(u, p, n)
        optimizer.zero_grad()
        torch.stack(terms).sum().backward()
        optimizer.step()
        sums += torch.stack(terms).detach().double()
    if make is not None:
        optimizer.flush()
    return embeddings[0].weight.detach(), embeddings[1].weight.detach(), sums


def ours(
    tables: tuple[RowAdamTable, RowAdamTable],
    epoch: tuple[Tensor, Tensor, Tensor],
    batch: int,
    options: RowAdamOptions,
    weights: tuple[float, float],
    windows: list[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    users, items = (RowAdamTable(*(x.clone() for x in table)) for table in tables)
    steps = BprEpoch(
        users, items, *epoch, batch_size=batch, steps_before=0, options=options, bpr_weight=weights[0],
        penalty=weights[1],
    )  # fmt: skip
    sums = torch.zeros(2, dtype=torch.float64)
    bounds = [0, *(windows or []), len(steps)]
    for start, stop in itertools.pairwise(bounds):
        sums += steps.run(start, stop)
    for table in (users, items):
        flush_rows(table, len(steps), options)
        assert (table.last == len(steps)).all()
    return users.weight, items.weight, sums


# -- Against Adam ------------------------------------------------------------------------------------------------------


SIZES = pytest.mark.parametrize(("users", "items", "d", "batch"), [(37, 23, 60, 19), (300, 5, 64, 64), (9, 400, 1, 7)])


@SIZES
@pytest.mark.parametrize(("make", "atol"), [(None, 1e-8), (LazyAdam, 1e-11)], ids=["dense", "LazyAdam"])
def test_fifty_steps_are_adams(path: str, users: int, items: int, d: int, batch: int, make: Any, atol: float) -> None:
    tables = fresh(users, d, torch.float64, 1), fresh(items, d, torch.float64, 2)
    epoch = samples(49 * batch + 3, users, items, 3)  # the last step is short
    # Dense Adam lets epsilon's weight grow while a row is skipped.
    options = RowAdamOptions(lr=0.01, eps=1e-14)
    got = ours(tables, epoch, batch, options, (0.7, 1e-2))
    wanted = dense(tables, epoch, batch, options, (0.7, 1e-2), make)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=atol)


@SIZES
def test_fifty_steps_in_float32_are_as_exact_as_lazy_adam(
    path: str, users: int, items: int, d: int, batch: int
) -> None:
    """Where a gradient nearly vanishes, rounding decides Adam's move: measured against float64, not each other."""
    epoch, options = samples(49 * batch + 3, users, items, 3), RowAdamOptions(lr=0.01)
    tables = fresh(users, d, torch.float32, 1), fresh(items, d, torch.float32, 2)
    exact = dense(
        tuple(RowAdamTable(*(x.double() for x in table)) for table in tables),  # type: ignore[arg-type]
        epoch, batch, options, (0.7, 1e-2), LazyAdam,
    )  # fmt: skip
    lazy = dense(tables, epoch, batch, options, (0.7, 1e-2), LazyAdam)
    for got, plain, truth in zip(ours(tables, epoch, batch, options, (0.7, 1e-2)), lazy, exact, strict=True):
        error, allowed = ((x.double() - truth).abs() for x in (got, plain))
        assert error.max() <= 3 * allowed.max() + 1e-6
        assert error.mean() <= 2 * allowed.mean() + 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_bits_twice_and_in_pieces(path: str, dtype: torch.dtype) -> None:
    tables = fresh(50, 60, dtype, 1), fresh(40, 60, dtype, 2)
    epoch = samples(333, 50, 40, 3)
    options = RowAdamOptions(lr=0.01)
    whole = ours(tables, epoch, 32, options, (1.0, 1e-3))
    again = ours(tables, epoch, 32, options, (1.0, 1e-3))
    pieces = ours(tables, epoch, 32, options, (1.0, 1e-3), windows=[1, 1, 4, 9])
    for one, other, third in zip(whole[:2], again[:2], pieces[:2], strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)
    assert torch.equal(whole[2], again[2])
    torch.testing.assert_close(pieces[2], whole[2], rtol=1e-14, atol=0)


@given(
    users=st.integers(1, 30), items=st.integers(1, 30), d=st.integers(1, 33), count=st.integers(0, 90),
    batch=st.integers(1, 40), beta1=st.floats(0.1, 0.94), beta2=st.floats(0.95, 0.9999),
    weights=st.tuples(st.floats(0, 2), st.floats(0, 1)), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_any_size_and_setting(
    users: int, items: int, d: int, count: int, batch: int, beta1: float, beta2: float, weights: tuple[float, float],
    seed: int,
) -> None:  # fmt: skip
    tables = fresh(users, d, torch.float64, seed), fresh(items, d, torch.float64, seed + 1)
    epoch = samples(count, users, items, seed)
    # Drawn sizes make gradients that cancel to a rounding, which a smaller epsilon would blow up to a step. LazyAdam
    # holds epsilon by the same rule, so that it may be this large.
    options = RowAdamOptions(0.02, (beta1, beta2), 1e-6)
    got = ours(tables, epoch, batch, options, weights)
    none = tables[0].weight, tables[1].weight, got[2]
    wanted = dense(tables, epoch, batch, options, weights, LazyAdam) if count else none
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


# -- By hand -----------------------------------------------------------------------------------------------------------


def test_one_step_by_hand(path: str) -> None:
    """u.(n - p) = 0: loss ln 2, slope 1/2; Adam's first step moves every coordinate by lr against its sign."""
    users, items = fresh(2, 2, torch.float64, 0), fresh(3, 2, torch.float64, 0)
    users.weight.copy_(torch.tensor([[2.0, 0.0], [5.0, 5.0]]))
    items.weight.copy_(torch.tensor([[1.0, 3.0], [7.0, 7.0], [1.0, -1.0]]))
    one = torch.tensor([0])
    steps = BprEpoch(
        users, items, one, one, torch.tensor([2]), batch_size=4, steps_before=0, bpr_weight=3.0, penalty=0.0,
        options=RowAdamOptions(lr=0.1, eps=1e-12),
    )  # fmt: skip
    assert len(steps) == 1
    assert steps.run().tolist() == pytest.approx([3 * math.log(2), 0.0])
    # Gradients: user 1.5 (n - p) = (0, -6), positive -1.5 u = (-3, 0), negative (3, 0).
    assert users.weight.tolist() == [[2.0, pytest.approx(0.1)], [5.0, 5.0]]
    assert items.weight.tolist() == [[pytest.approx(1.1), 3.0], [7.0, 7.0], [pytest.approx(0.9), -1.0]]
    assert users.last.tolist() == [1, 0]
    assert items.last.tolist() == [1, 0, 1]
    assert users.exp_avg[0].tolist() == pytest.approx([0.0, -0.6])


def test_the_penalty_counts_a_row_as_often_as_it_occurs(path: str) -> None:
    users, items = fresh(1, 1, torch.float64, 0), fresh(2, 1, torch.float64, 0)
    users.weight.fill_(3.0)
    items.weight.copy_(torch.tensor([[1.0], [2.0]]))
    zeros, ones = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
    steps = BprEpoch(
        users, items, zeros, zeros, ones, batch_size=4, steps_before=0, bpr_weight=0.0, penalty=0.5,
        options=RowAdamOptions(lr=0.1),
    )  # fmt: skip
    assert steps.run().tolist() == pytest.approx([0.0, 0.5 * (9 + 1 + 4)])
    # The gradient of 0.5 x^2 is x whatever the number of copies, as each weighs one over the batch.
    assert (users.exp_avg / 0.1).tolist() == [[pytest.approx(3.0)]]


# -- The contract ------------------------------------------------------------------------------------------------------


def test_steps_of_the_callers_own_in_between(path: str) -> None:
    """LazyAdam makes steps 2 and 5 on the same state; all of them together are LazyAdam's."""
    options = RowAdamOptions(lr=0.02, eps=1e-12)
    tables = fresh(30, 6, torch.float64, 1), fresh(20, 6, torch.float64, 2)
    epoch = samples(8 * 10, 30, 20, 3)
    wanted = dense(tables, epoch, 10, options, (1.0, 0.01), LazyAdam)
    embeddings = [nn.Embedding(*table.weight.shape, dtype=torch.float64) for table in tables]
    for embedding, table in zip(embeddings, tables, strict=True):
        embedding.weight.data.copy_(table.weight)
    lazy = LazyAdam(embeddings, [], lr=options.lr, betas=options.betas, eps=options.eps)
    state = [
        RowAdamTable(e.weight.detach(), *(lazy.state[e.weight][name] for name in ("exp_avg", "exp_avg_sq", "last")))
        for e in embeddings
    ]
    steps = BprEpoch(*state, *epoch, batch_size=10, steps_before=0, options=options, penalty=0.01)
    done = 0
    for own in (2, 5):
        steps.run(done, own)
        lazy.steps = own
        lazy._tail[: own + 1] = torch.tensor([lazy._tail_after(s) for s in range(own + 1)], dtype=torch.float64)
        users, positives, negatives = (x[10 * own : 10 * own + 10] for x in epoch)
        u, p, n = embeddings[0](users), embeddings[1](positives), embeddings[1](negatives)
        lazy.zero_grad()
        (bpr_loss(u, p, n) + 0.01 * embedding_penalty(u, p, n)).backward()
        lazy.step()
        done = own + 1
    steps.run(done)
    for table, weight in zip(state, wanted[:2], strict=True):
        flush_rows(table, 8, options)
        torch.testing.assert_close(table.weight, weight, rtol=1e-9, atol=1e-11)


def test_epochs_go_on_where_the_last_one_stopped(path: str) -> None:
    options = RowAdamOptions(lr=0.02, eps=1e-12)
    tables = fresh(30, 6, torch.float64, 1), fresh(20, 6, torch.float64, 2)
    epoch = samples(60, 30, 20, 3)
    wanted = ours(tables, epoch, 10, options, (1.0, 0.0))
    for before in (0, 3):
        part = tuple(x[10 * before : 10 * before + 30] for x in epoch)
        BprEpoch(*tables, *part, batch_size=10, steps_before=before, options=options).run()
    for table, weight in zip(tables, wanted[:2], strict=True):
        flush_rows(table, 6, options)
        flush_rows(table, 6, options)  # changes nothing more
        torch.testing.assert_close(table.weight, weight, rtol=1e-12, atol=1e-13)


def test_a_learning_rate_holds_from_its_step_on(path: str) -> None:
    tables = fresh(3, 4, torch.float64, 1), fresh(3, 4, torch.float64, 2)
    before = tables[0].weight.clone()
    steps = BprEpoch(*tables, *samples(40, 3, 3, 3), batch_size=10, steps_before=0, options=RowAdamOptions(lr=0.0))
    steps.run(0, 2)
    assert torch.equal(tables[0].weight, before)
    steps.run(2, lr=0.1)
    assert not torch.equal(tables[0].weight, before)


def test_a_row_that_is_not_finite_shows_in_the_loss(path: str) -> None:
    tables = fresh(3, 4, torch.float32, 1), fresh(3, 4, torch.float32, 2)
    tables[1].weight[1, 2] = math.nan
    one = torch.tensor([1])
    steps = BprEpoch(*tables, one, one, one - 1, batch_size=1, steps_before=0, options=RowAdamOptions(lr=0.1))
    assert steps.run()[0].isnan()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"batch_size": 0}, OptionError, "batch_size"),
        ({"steps_before": -1}, OptionError, "steps_before"),
        ({"options": RowAdamOptions(0.1, (0.99, 0.9))}, OptionError, "betas"),
        ({"users": fresh(3, 5, torch.float32, 0)}, InfodclGeoError, "one width"),
        ({"users": fresh(3, 4, torch.float64, 0)}, InfodclGeoError, "one type"),
        ({"users": fresh(3, 4, torch.float32, 0)._replace(last=torch.zeros(3))}, InfodclGeoError, "int32"),
        ({"user_ids": torch.zeros(2, dtype=torch.int64)}, InfodclGeoError, "one length"),
        ({"negatives": torch.zeros(1)}, InfodclGeoError, "int64"),
    ],
)
def test_refuses_what_does_not_fit(change: dict[str, Any], error: type[Exception], message: str) -> None:
    one = torch.tensor([1])
    arguments = {
        "users": fresh(3, 4, torch.float32, 1), "items": fresh(3, 4, torch.float32, 2), "user_ids": one,
        "positives": one, "negatives": one, "batch_size": 1, "steps_before": 0, "options": RowAdamOptions(0.1),
    }  # fmt: skip
    with pytest.raises(error, match=message):
        BprEpoch(**(arguments | change))  # type: ignore[arg-type]


def test_refuses_steps_that_the_epoch_does_not_have() -> None:
    tables = fresh(3, 4, torch.float32, 1), fresh(3, 4, torch.float32, 2)
    steps = BprEpoch(*tables, *samples(4, 3, 3, 0), batch_size=2, steps_before=0, options=RowAdamOptions(0.1))
    with pytest.raises(OptionError, match="steps 1 to 3"):
        steps.run(1, 3)
