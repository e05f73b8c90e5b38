"""The Triton kernels of BPR steps against the plain ones, on a GPU or in Triton's interpreter.

Without a GPU these tests need ``TRITON_INTERPRET=1`` from the start of the process: ``test_compiled.py`` runs this file
in a process of its own, and compiles ahead of time what it launched there.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from interpreter import DEVICE, needs_kernels

from infodcl_geo.kernels.bpr import BprEpoch, RowAdamOptions, RowAdamTable, flush_rows

module = importlib.import_module("infodcl_geo.kernels.bpr")
pytestmark = needs_kernels


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """Fresh memory holds NaN: a kernel that reads what it has not written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def trained(
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    users: int,
    items: int,
    d: int,
    batch: int,
    steps: int,
    dtype: torch.dtype,
    windows: tuple[int, ...] = (),
) -> list[Tensor]:
    """Weights, moments and loss after some steps; ``how`` is 'triton' or 'plain'."""
    monkeypatch.setattr(module, "_uses_triton", lambda weight: how == "triton")
    monkeypatch.setattr(module, "_uses_numba", lambda weight: False)
    generator = torch.Generator().manual_seed(users + items + d)
    device = DEVICE if how == "triton" else torch.device("cpu")
    tables = []
    for rows in (users, items):
        weight = (0.3 * torch.randn(rows, d, dtype=torch.float64, generator=generator)).to(device, dtype)
        last = torch.zeros(rows, dtype=torch.int32, device=device)
        tables.append(RowAdamTable(weight, torch.zeros_like(weight), torch.zeros_like(weight), last))
    count = steps * batch - batch // 3  # the last step is short
    epoch = [(rows * torch.rand(count, generator=generator) ** 2).long().to(device) for rows in (users, items, items)]
    options = RowAdamOptions(0.01, eps=1e-12 if dtype == torch.float64 else 1e-8)
    part = count // 2 // batch
    total = torch.zeros(2, dtype=torch.float64)
    for before, stop in ((0, part), (part, steps)):  # two epochs
        taken = [x[before * batch : stop * batch] for x in epoch]
        run = BprEpoch(
            *tables, *taken, batch_size=batch, steps_before=before, options=options, bpr_weight=0.7, penalty=1e-2
        )
        bounds = [0, *(w for w in windows if w < len(run)), len(run)]
        for a, b in itertools.pairwise(bounds):
            total += run.run(a, b).cpu()
    for table in tables:
        flush_rows(table, steps, options)
    return [x.cpu() for table in tables for x in table] + [total]


@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(torch.float64, 1e-9, 1e-11), (torch.float32, 1e-4, 2e-6)])
@pytest.mark.parametrize(("users", "items", "d", "batch"), [(13, 9, 60, 7), (40, 30, 64, 20), (3, 80, 7, 5)])
def test_steps_are_the_plain_ones(
    monkeypatch: pytest.MonkeyPatch,
    users: int,
    items: int,
    d: int,
    batch: int,
    dtype: torch.dtype,
    rtol: float,
    atol: float,
) -> None:
    got, wanted = (trained(how, monkeypatch, users, items, d, batch, 8, dtype) for how in ("triton", "plain"))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def test_fifty_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    got, wanted = (trained(how, monkeypatch, 9, 7, 16, 4, 50, torch.float64) for how in ("triton", "plain"))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_the_same_bits_twice_and_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [
        trained("triton", monkeypatch, 20, 15, 60, 9, 6, torch.float32, windows=windows) for windows in ((), (), (1, 2))
    ]
    for one, other, third in zip(*runs, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, third, rtol=1e-14 if one.dtype == torch.float64 else 0, atol=0)


@pytest.mark.parametrize("d", [200])
def test_wide_rows(monkeypatch: pytest.MonkeyPatch, d: int) -> None:
    got, wanted = (trained(how, monkeypatch, 8, 8, d, 6, 4, torch.float32) for how in ("triton", "plain"))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-6)
