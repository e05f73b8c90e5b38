"""What a step of training and a chunk of evaluation ask of a GPU, counted on a pretended one (``pretend.py``).

No wait of the host for the device is allowed in either; launches of kernels may not become more. Both are counts and no
timings: nothing here was run on a GPU.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from pretend import CUDA, Pretended

from infodcl_geo.graph.graph import normalized_adjacency
from infodcl_geo.models.base import Model
from infodcl_geo.models.infodcl import InfoDCL
from infodcl_geo.models.lightgcn import LightGCN
from infodcl_geo.models.mf import MatrixFactorization
from infodcl_geo.training.finite import FiniteWatch
from infodcl_geo.training.loop import _steps, make_optimizer
from infodcl_geo.training.sampling import BatchSampler
from infodcl_geo.training.state import EpochProgress

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="counts need no numbers")

USERS, ITEMS, DIM, ANCHORS = 300, 200, 64, 40


@pytest.fixture(scope="module")
def pairs() -> Tensor:
    keys = torch.randperm(USERS * ITEMS, generator=torch.Generator().manual_seed(0))[:1800]
    return torch.stack([keys // ITEMS, keys % ITEMS])


def maker(name: str, pairs: Tensor) -> Callable[[], Model]:
    graph = normalized_adjacency(pairs, USERS, ITEMS)
    channels = {c: torch.randn(ITEMS, DIM) for c in ("a", "b")}
    sizes = {"candidates": 32, "anchor_batch": ANCHORS}
    makers: dict[str, Callable[[], Model]] = {
        "mf": lambda: MatrixFactorization(graph, USERS, ITEMS, dim=DIM),
        "lightgcn": lambda: LightGCN(graph, USERS, ITEMS, dim=DIM),
        "infodcl": lambda: InfoDCL(graph, USERS, ITEMS, {"a": channels["a"]}, **sizes),
        "infodcl, two channels": lambda: InfoDCL(graph, USERS, ITEMS, channels, **sizes),
        "infodcl, learned weights": lambda: InfoDCL(
            graph, USERS, ITEMS, channels, row_weights={"a": torch.rand(ITEMS)}, channel_weights="learned", **sizes
        ),
        "infodcl, all items": lambda: InfoDCL(graph, USERS, ITEMS, channels, candidates=0, anchor_batch=ANCHORS),
    }
    return makers[name]


def counted(make: Callable[[], Model], pairs: Tensor, adam: Any) -> dict[str, tuple[Counter[str], Counter[str], int]]:
    """Waits, launches and steps by the kind of step, of the last such steps of an epoch; warmed up by the first."""
    found = {}
    with Pretended(run_kernels=False) as device:
        model = make().to(CUDA)
        generator = torch.Generator().manual_seed(0)
        sampler = BatchSampler(
            pairs.to(CUDA), USERS, ITEMS, batch_size=256, anchors=model.anchors, anchor_batch=model.anchor_batch,
            generator=generator,
        )  # fmt: skip
        optimizer, watch = make_optimizer(model, 1e-3, adam=adam, anchors=ANCHORS), FiniteWatch(model)
        progress = EpochProgress(torch.empty(0), sampler.draw())
        while (before := progress.step) < len(progress.plan):
            kind = "diffusion" if isinstance(model, InfoDCL) and progress.plan[before].anchors.numel() else "plain"
            device.restart()
            _steps(model, optimizer, progress, generator, watch, lambda: False)
            found[kind] = device.waits.copy(), device.launches.copy(), progress.step - before
    return found


STEPS = [
    ("mf", "dense"), ("mf", "lazy"), ("mf", "fused"), ("lightgcn", "dense"),
    ("infodcl", "dense"), ("infodcl", "lazy"), ("infodcl", "fused"),
    ("infodcl, two channels", "fused"), ("infodcl, learned weights", "fused"), ("infodcl, all items", "dense"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "adam"), STEPS)
def test_no_step_waits_for_the_device(name: str, adam: str, pairs: Tensor) -> None:
    found = counted(maker(name, pairs), pairs, adam)
    assert ("diffusion" in found) == name.startswith("infodcl")
    for kind, (waits, launches, _) in found.items():
        assert not waits, kind
        assert launches.total() > 3


# -- That the count sees what it is for --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        (lambda x: x[0].item(), "_local_scalar_dense"),
        (lambda x: bool((x > 0).any()), "_local_scalar_dense"),
        (lambda x: x.tolist(), "_to_copy between host and device"),
        (lambda x: x.cpu(), "_to_copy between host and device"),
        (lambda x: torch.tensor([1.0], device=CUDA), "_to_copy between host and device"),
        (lambda x: torch.ones(3).to(CUDA), "_to_copy between host and device"),
        (lambda x: x.copy_(torch.ones(4)), "copy_ between host and device"),
        (lambda x: x[x > 0], "index by a mask"),
        (lambda x: x.masked_select(x > 0), "masked_select"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x.long().unique(), "_unique2"),
        (lambda x: x.long().bincount(), "bincount"),
        (lambda x: x.repeat_interleave(x.long()), "repeat_interleave"),
        (lambda x: x[torch.tensor([1, 2])], "index by an index on the host"),
        (lambda x: torch.equal(x, x + 1), "equal"),
    ],
)
def test_a_wait_is_seen(wait: Callable[[Tensor], Any], name: str) -> None:
    with Pretended() as device:
        x = torch.arange(4.0, device=CUDA)
        device.restart()
        wait(x)
        assert device.waits[name] == 1
        assert device.waits.total() == 1


def test_what_does_not_wait_is_not_counted() -> None:
    with Pretended() as device:
        x = torch.arange(4.0, device=CUDA)
        device.restart()
        x[1:] += 2 * x[:-1]
        x[x.long().clamp(max=3)] = 5.0
        x[x > 3] = 0.0  # filled where the mask says, without a list of places
        torch.ones(3).to(CUDA, non_blocking=True)
        x.repeat_interleave(torch.ones_like(x).long(), output_size=4)
        x.sort(), x.topk(2), x.cumsum(0), torch.searchsorted(x, x)
        assert not device.waits
        assert device.from_host == 1


def test_numbers_are_those_of_the_host_and_devices_do_not_mix() -> None:
    with Pretended() as device:
        table = torch.nn.Embedding(5, 3)
        own = torch.nn.Embedding(5, 3).to(CUDA)
        with torch.no_grad():
            own.weight.copy_(table.weight)
        rows = torch.tensor([0, 4, 4])
        for one, ids in ((table, rows), (own, rows.to(CUDA))):
            one(ids).square().sum().backward()
        assert own.weight.is_cuda
        assert own.weight.grad is not None
        assert own.weight.grad.device == CUDA
        assert torch.equal(own.weight.grad.cpu(), table.weight.grad)
        with pytest.raises(RuntimeError, match="on the host"):
            own.weight + table.weight.detach()
    assert device.launches["embedding"] == 1
