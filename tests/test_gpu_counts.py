"""What a step of training and a chunk of evaluation ask of a GPU, counted on a pretended one (``pretend.py``).

No wait of the host for the device is allowed in either; launches of kernels may not become more. Both are counts and no
timings: nothing here was run on a GPU.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

pytest.importorskip("triton")

from conftest import ROOT, module_at
from pretend import CUDA, Pretended

from infodcl_geo.distributed import command, group
from infodcl_geo.environment import device_of
from infodcl_geo.errors import OptionError
from infodcl_geo.graph import item_item
from infodcl_geo.graph.graph import normalized_adjacency
from infodcl_geo.kernels import batched_svd, infonce_launch
from infodcl_geo.models.infodcl import InfoDCL
from infodcl_geo.training.loop import make_optimizer
from infodcl_geo.training.row_adam import RowAdam

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="counts need no numbers")

USERS, ITEMS, DIM, ANCHORS = 300, 200, 64, 40


@pytest.fixture(scope="module")
def pairs() -> Tensor:
    keys = torch.randperm(USERS * ITEMS, generator=torch.Generator().manual_seed(0))[:1800]
    return torch.stack([keys // ITEMS, keys % ITEMS])


@pytest.fixture(scope="module")
def counts() -> ModuleType:
    return module_at(ROOT / "benchmarks" / "gpu_counts.py")


MOST: dict[tuple[str, str], dict[str, int]] = {
    ("mf", "dense"): {"plain": 59},
    ("mf", "lazy"): {"plain": 226},
    ("mf", "fused"): {"plain": 3},
    ("lightgcn", "dense"): {"plain": 84},
    ("infodcl", "dense"): {"plain": 59, "diffusion": 233},
    ("infodcl", "lazy"): {"plain": 226, "diffusion": 496},
    ("infodcl", "fused"): {"plain": 3, "diffusion": 246},
    ("infodcl, two channels", "dense"): {"plain": 59, "diffusion": 372},
    ("infodcl, two channels", "fused"): {"plain": 3, "diffusion": 386},
}
"""Launches of a step at the sizes of this test; of fused plain steps those of each, and EXTRA once for all."""
EXTRA = 40


@pytest.mark.parametrize(("name", "adam"), list(MOST))
def test_no_step_waits_and_none_launches_more(name: str, adam: str, pairs: Tensor, counts: ModuleType) -> None:
    make = counts.makers(pairs, USERS, ITEMS, 32)[name]
    found = counts.counted(make, pairs, (USERS, ITEMS), 256, ANCHORS, adam, 7)
    assert set(found) == set(MOST[name, adam])
    for kind, (waits, launches, from_host, many) in found.items():
        assert not waits, kind
        # What is copied from the host in a step no CUDA graph could hold.
        assert adam != "dense" or not from_host
        allowed = MOST[name, adam][kind] * many + (EXTRA if adam == "fused" and kind == "plain" else 0)
        assert 0 < launches.total() <= allowed, (kind, launches)


def test_every_option_of_a_diffusion_step_waits_for_nothing(pairs: Tensor, counts: ModuleType) -> None:
    graph = normalized_adjacency(pairs, USERS, ITEMS)
    channels = {c: torch.randn(ITEMS, DIM) for c in ("a", "b")}
    for options in (
        {"channel_weights": "learned", "candidates": 32}, {"candidates": 0}, {"psnet": False}, {"basis": "item"},
        {"spectral": False}, {"contextual": False}, {"balance_kind": "norm"}, {"contrast": 0.0},
    ):  # fmt: skip
        make = partial(InfoDCL, graph, USERS, ITEMS, channels, row_weights={"a": torch.rand(ITEMS)}, **options)
        found = counts.counted(make, pairs, (USERS, ITEMS), 256, ANCHORS, "dense", 2)
        assert not found["diffusion"].waits, options
        assert not found["diffusion"].from_host, options


def test_on_a_gpu_plain_steps_are_fused_at_any_size(pairs: Tensor, counts: ModuleType) -> None:
    with Pretended(run_kernels=False):
        for name in ("mf", "infodcl"):
            model = counts.makers(pairs, USERS, ITEMS, 32)[name]()
            assert not isinstance(make_optimizer(model, 1e-3, adam="auto"), RowAdam)
            assert isinstance(make_optimizer(model.to(CUDA), 1e-3, adam="auto"), RowAdam)


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


# -- Branches for a GPU that are no kernels ----------------------------------------------------------------------------


def test_matrices_in_double_precision_are_decomposed_by_pytorch() -> None:
    y = torch.randn(3, 4, 4, dtype=torch.float64)
    with Pretended(run_kernels=False) as device:
        left, values, right = batched_svd(y.to(CUDA))
        assert not device.launches["svd_kernel"]
        assert device.waits  # it checks whether it converged
        product = left * values.unsqueeze(1) @ right
        torch.testing.assert_close(product.cpu(), y)


def test_memory_that_is_free_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (123, 456) if device == CUDA else (0, 0))
    assert item_item._free_bytes(CUDA) == 123


@pytest.mark.parametrize(("capability", "hip", "arch"), [((9, 0), None, 90), ((8, 6), None, 86), ((9, 4), "6.0", 0)])
def test_what_tiles_are_chosen_by(
    capability: tuple[int, int], hip: str | None, arch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(multi_processor_count=78))
    assert infonce_launch.arch_of(CUDA) == arch
    assert infonce_launch.multiprocessors(CUDA) == 78


def test_a_device_is_one_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device_of(None).type == "cuda"
    assert device_of("cuda:0").index == 0
    with pytest.raises(OptionError, match="1 CUDA devices"):
        device_of("cuda:1")


def test_each_of_several_processes_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to where the processes would meet."""
    chosen: list[Any] = []

    class Met(Exception):
        pass

    def start(device: torch.device) -> None:
        chosen.append(device)
        raise Met

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(command, "start", start)
    with pytest.raises(Met):
        command.together(lambda group: 0, None)
    assert chosen == [torch.device("cuda:3")] * 2


def test_processes_with_gpus_talk_by_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def init(backend: str, **_: Any) -> None:
        asked.append(backend)
        raise RuntimeError("no GPU")

    monkeypatch.setattr(dist, "init_process_group", init)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for device in (CUDA, torch.device("cpu")):
        with pytest.raises(group.DistributedError):
            group.start(url=f"tcp://127.0.0.1:{port}", rank=0, size=1, device=device)
    assert asked == ["nccl", "gloo"]
