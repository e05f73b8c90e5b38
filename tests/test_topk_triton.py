"""The Triton kernels of top-k against a sort of all scores, ties included, on a GPU or in Triton's interpreter.

Without a GPU these tests need ``TRITON_INTERPRET=1`` from the start of the process: ``test_compiled.py`` runs this file
in a process of its own, and compiles ahead of time what it launched there.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from interpreter import DEVICE, needs_kernels
from test_topk import brute_force, integers, listed

from infodcl_geo.kernels import infonce_launch
from infodcl_geo.kernels.ties import tie_order
from infodcl_geo.kernels.topk import _uses_triton
from infodcl_geo.kernels.topk_common import LONGEST_ON_GPU, ItemTable
from infodcl_geo.kernels.topk_triton import top_k_triton

pytestmark = needs_kernels


def found_by(
    users: Tensor, items: Tensor, k: int, rows: Tensor | None = None, hidden: list[set[int]] | None = None
) -> tuple[Tensor, Tensor]:
    rows = torch.arange(len(users)) if rows is None else rows
    seen = tuple(x.to(DEVICE) for x in listed(hidden or [set() for _ in users]))
    users, table = users.to(DEVICE), ItemTable(items.to(DEVICE))
    found, values = top_k_triton(users, table.reach(users), table, k, rows.to(DEVICE), seen)
    return found.cpu(), values.cpu()


@pytest.mark.parametrize(
    ("count", "total", "d", "k"), [(7, 50, 3, 5), (5, 4, 3, 4), (3, 333, 4, 34), (66, 45, 2, 3), (2, 300, 40, 70)]
)
def test_is_the_head_of_a_sort_with_many_ties(count: int, total: int, d: int, k: int) -> None:
    users, items = integers(count, d, 1, torch.float32), integers(total, d, 2, torch.float32)
    rows = torch.randperm(10_000, generator=torch.Generator().manual_seed(3))[:count]
    hidden = [set(range(b % 4, total, 1 + b % 5)) for b in range(count)]
    found, values = found_by(users, items, k, rows, hidden)
    assert found.tolist() == brute_force(users, items, k, rows, hidden)
    exact = torch.where(found >= 0, (users @ items.T).gather(1, found.clamp(min=0)), -math.inf)
    assert torch.equal(values, exact)
    assert not (values.signbit() & (values == 0)).any()


def test_lists_of_seen_items_of_every_length() -> None:
    total, k = 40, 6
    users, items = integers(total + 1, 3, 1, torch.float32), integers(total, 3, 2, torch.float32)
    hidden = [set(torch.randperm(total)[:length].tolist()) for length in range(total + 1)]
    found, values = found_by(users, items, k, hidden=hidden)
    assert found.tolist() == brute_force(users, items, k, torch.arange(total + 1), hidden)
    assert ((found == -1) == (values == -math.inf)).all()
    assert (found[-1] == -1).all()


@pytest.mark.parametrize("multiprocessors", [1, 8])
def test_buffers_that_overflow_and_parts_that_are_merged(multiprocessors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rising scores: every tile beats all before it. And the best of all are those that were seen."""
    monkeypatch.setattr(infonce_launch, "multiprocessors", lambda device: multiprocessors)
    items = torch.randperm(1100).float()[:, None].repeat(1, 2) / 1100
    items[:, 1] = 1 - items[:, 0]
    users = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 1.0]])
    hidden = [set((users[b] @ items.T).topk(300).indices.tolist()) if b else set() for b in range(4)]
    found, _ = found_by(users, items, 20, hidden=hidden)
    assert found[:3].tolist() == brute_force(users, items, 20, torch.arange(4), hidden)[:3]
    # The sums of the last user's are one but for rounding: only what is the best of these can be asked for.
    scores = users[3] @ items.T
    assert not set(found[3].tolist()) & hidden[3]
    assert len(set(found[3].tolist())) == 20
    torch.testing.assert_close(scores[found[3]], torch.ones(20))


def test_all_equal_is_the_order_of_ties() -> None:
    users, items = torch.tensor([[0.0], [-0.0]]), torch.tensor([[1.0], [-1.0]]).repeat(250, 1)
    found, values = found_by(users, items, 12)
    for b in range(2):
        assert found[b].tolist() == tie_order(torch.tensor(b), torch.arange(500)).argsort()[:12].tolist()
    assert torch.equal(values, torch.zeros(2, 12))
    assert not values.signbit().any()


def test_real_numbers_the_shortest_items_and_the_same_twice() -> None:
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, 70, generator=generator) for n in (3, 500))
    items *= torch.logspace(0, -3, 500)[torch.randperm(500, generator=generator), None]
    found, values = found_by(users, items, 11)
    wanted = (users.double() @ items.double().T).sort(dim=1, descending=True)
    torch.testing.assert_close(values.double(), wanted.values[:, :11], rtol=1e-4, atol=1e-6)
    assert torch.equal(found, wanted.indices[:, :11])
    assert torch.equal(found_by(users, items, 11)[0], found)
    # All scores negative: the shortest items are the best.
    found, _ = found_by(-users[:, :1].abs(), items[:, :1].abs(), 9)
    assert torch.equal(found, items[:, 0].abs().argsort()[:9].expand(3, -1))


def test_numbers_that_are_none_end_it() -> None:
    items = torch.ones(100, 3)
    items[::3] = math.nan
    found, _ = found_by(torch.tensor([[1.0, math.inf, 2.0], [1.0, 1.0, 1.0]]), items, 5)
    assert found.shape == (2, 5)
    assert ((found >= -1) & (found < 100)).all()


def test_what_it_takes() -> None:
    class Like:
        is_cuda, dtype = True, torch.float32

    assert _uses_triton(Like(), LONGEST_ON_GPU)  # type: ignore[arg-type]
    assert not _uses_triton(Like(), LONGEST_ON_GPU + 1)  # type: ignore[arg-type]
