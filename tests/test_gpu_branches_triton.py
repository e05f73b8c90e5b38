"""What the library does on a GPU, against what it does on a CPU: on a pretended device, and on a real one if there is.

Without a GPU these tests need ``TRITON_INTERPRET=1`` from the start of the process: ``test_compiled.py`` runs this file
in a process of its own. The pretended device (``pretend.py``) takes every branch for a GPU, draws the CPU's random
numbers and runs the Triton kernels in the interpreter, so that training must arrive at the CPU's weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from interpreter import INTERPRETED
from pretend import CUDA, Pretended, host

from infodcl_geo.data.generated import power_law_graph
from infodcl_geo.evaluation.ordering import by_factors
from infodcl_geo.evaluation.ranking import rank_items
from infodcl_geo.graph.graph import normalized_adjacency
from infodcl_geo.models.base import Model
from infodcl_geo.models.infodcl import InfoDCL
from infodcl_geo.models.lightgcn import LightGCN
from infodcl_geo.models.mf import MatrixFactorization
from infodcl_geo.models.scoring import FactorScorer, UserRows, dot_scorer, with_popular_fallback
from infodcl_geo.training.finite import FiniteWatch
from infodcl_geo.training.loop import _steps, make_optimizer, train
from infodcl_geo.training.optim import LazyAdam
from infodcl_geo.training.options import CheckpointOptions, TrainOptions
from infodcl_geo.training.row_adam import RowAdam
from infodcl_geo.training.sampling import BatchSampler
from infodcl_geo.training.state import EpochProgress, TrainResult

interpreted = pytest.mark.skipif(not INTERPRETED, reason="test_compiled.py runs this in the interpreter")

USERS, ITEMS, DIM = 40, 30, 16


def make(name: str, pairs: Tensor) -> Model:
    torch.manual_seed(0)
    graph = normalized_adjacency(pairs, USERS, ITEMS)
    if name == "mf":
        return MatrixFactorization(graph, USERS, ITEMS, dim=DIM)
    if name == "lightgcn":
        return LightGCN(graph, USERS, ITEMS, dim=DIM)
    return InfoDCL(
        graph, USERS, ITEMS, {"a": torch.randn(ITEMS, DIM)}, row_weights={"a": torch.rand(ITEMS)}, candidates=8,
        anchor_batch=12,
    )  # fmt: skip


def trained(
    name: str, adam: Any, device: torch.device, generator: torch.Generator, epochs: int, around: Callable[[], Any]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights after some epochs, and the sums of the last one's loss terms."""
    keys = torch.randperm(USERS * ITEMS, generator=torch.Generator().manual_seed(0))[:300]
    pairs = torch.stack([keys // ITEMS, keys % ITEMS])
    model = make(name, pairs).to(device)
    sampler = BatchSampler(
        pairs.to(device), USERS, ITEMS, batch_size=64, anchors=model.anchors, anchor_batch=model.anchor_batch,
        generator=generator,
    )  # fmt: skip
    optimizer, watch = make_optimizer(model, 1e-2, adam=adam, anchors=12), FiniteWatch(model)
    for _ in range(epochs):
        progress = EpochProgress(torch.empty(0), sampler.draw())
        with around():
            _steps(model, optimizer, progress, generator, watch)
        optimizer.zero_grad(set_to_none=True)
        if isinstance(optimizer, LazyAdam | RowAdam):
            optimizer.flush()
    return {key: x.detach() for key, x in model.state_dict().items()}, progress.sums


STEPS = [("mf", "dense"), ("mf", "lazy"), ("mf", "fused"), ("lightgcn", "dense"), ("infodcl", "dense"),
         ("infodcl", "lazy"), ("infodcl", "fused")]  # fmt: skip


@interpreted
@pytest.mark.parametrize(("name", "adam"), STEPS)
def test_training_arrives_where_the_cpu_does(name: str, adam: str) -> None:
    def own() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    wanted, sums = trained(name, adam, torch.device("cpu"), own(), 2, contextlib.nullcontext)
    with Pretended() as device:
        found, own_sums = trained(name, adam, CUDA, own(), 2, contextlib.nullcontext)
        assert all(x.is_cuda for x in found.values())
    assert (device.launches["move_kernel"] > 0) == (adam == "fused")
    assert (device.launches["candidate_kernel"] > 0) == (device.launches["backward_kernel"] > 0) == (name == "infodcl")
    for key, value in host(found).items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-3, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")
    for key, value in host(own_sums).items():
        torch.testing.assert_close(value, sums[key], rtol=1e-4, atol=1e-6)


@interpreted
def test_a_whole_run_with_validation_is_kept_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``train`` as the commands call it; the state of the GPU's own random numbers is kept beside the others."""
    data = power_law_graph(40, 30, 400)
    kept: list[Tensor] = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([7], dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: kept.append(state))
    generator = torch.Generator
    options = TrainOptions(epochs=4, batch_size=128, lr=0.01, eval_every=2)

    def run(device: torch.device, options: TrainOptions, **how: Any) -> tuple[dict[str, Tensor], TrainResult]:
        torch.manual_seed(0)
        graph = normalized_adjacency(data.train, data.num_users, data.num_items)
        model = MatrixFactorization(graph, data.num_users, data.num_items, dim=DIM).to(device)
        result = train(model, data, options, ks=(5, 20), progress=False, **how)
        return host({key: x.detach() for key, x in model.state_dict().items()}), result

    wanted, on_host = run(torch.device("cpu"), replace(options, adam="fused"))
    monkeypatch.setattr(torch, "Generator", lambda device: generator())  # whose numbers are the CPU's
    with Pretended() as device:
        _, first = run(CUDA, replace(options, epochs=2), checkpoint=CheckpointOptions(tmp_path, every_epochs=1))
        found, second = run(CUDA, options, resume=tmp_path)
        assert device.launches["select_kernel"] == device.launches["order_kernel"] == 2  # one of each validation
        assert device.launches["move_kernel"] > 0
    assert [len(first.epoch_seconds), len(second.epoch_seconds)] == [2, 4]
    assert [x.tolist() for x in kept] == [[7]]
    for key, value in found.items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-3, atol=1e-4)
    for one, other in zip(second.history, on_host.history, strict=True):
        assert one.keys() == other.keys()
        assert one["bpr"] == pytest.approx(other["bpr"], rel=1e-4)
    assert second.validation == pytest.approx(on_host.validation, abs=1e-6)


# -- Evaluation --------------------------------------------------------------------------------------------------------


def ranked(users: Tensor, items: Tensor, pairs: Tensor, k: int, device: torch.device) -> Any:
    """The scorer of evaluation with popular items for users of whom nothing is known, and its lists of all users."""
    degree, counts = (torch.bincount(pairs[i], minlength=n).to(device) for i, n in ((0, len(users)), (1, len(items))))
    scorer = with_popular_fallback(dot_scorer(users.to(device), items.to(device)), degree, counts)
    rows = UserRows(pairs.to(device), len(users), len(items))
    everyone = torch.arange(len(users), device=device)
    return scorer, rows, everyone, k


def nearly_equal() -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings with equal and nearly equal scores, and interactions of all users but three."""
    generator = torch.Generator().manual_seed(0)
    users = torch.randint(-1, 2, (30, 5), generator=generator) / 3
    items = torch.randint(-1, 2, (200, 5), generator=generator) * torch.tensor([1.0, 1 + 2**-23]).repeat(100)[:, None]
    return users, items, torch.stack([torch.arange(3, 30).repeat(4), torch.arange(4 * 27) * 7 % 200])


@interpreted
@pytest.mark.parametrize("k", [7, 190])
def test_lists_are_those_of_the_cpu(k: int) -> None:
    found = []
    for device, around in ((torch.device("cpu"), contextlib.nullcontext()), (CUDA, Pretended())):
        with around as pretended:
            scorer, rows, everyone, k = ranked(*nearly_equal(), k, device)
            if pretended is not None:
                pretended.restart()
            lists = rank_items(scorer, everyone, k, num_users=30, num_items=200, seen=rows)
            assert all(x.device == device for x in lists)
            found.append(host(lists))
            if pretended is not None:
                assert pretended.launches["select_kernel"] == 1
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@interpreted
def test_no_chunk_of_evaluation_waits() -> None:
    """Users of whom nothing is known among them. Who is uncertain is read once, when all users have their lists."""
    with Pretended() as device:
        scorer, rows, everyone, k = ranked(*nearly_equal(), 7, CUDA)
        assert isinstance(scorer, FactorScorer)
        for _ in range(2):  # what is made once is made by then
            device.restart()
            _, _, uncertain = by_factors(scorer, everyone, k, 200, rows, False)
        assert not device.waits
        assert uncertain[:3].all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_no_chunk_of_evaluation_waits_for_a_real_gpu() -> None:
    scorer, rows, everyone, k = ranked(*nearly_equal(), 7, torch.device("cuda"))
    by_factors(scorer, everyone, k, 200, rows, False)
    torch.cuda.set_sync_debug_mode("error")
    by_factors(scorer, everyone, k, 200, rows, False)
    torch.cuda.set_sync_debug_mode("default")


# -- On a GPU ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("name", "adam"), STEPS)
def test_no_step_waits_for_a_real_gpu(name: str, adam: str) -> None:
    device = torch.device("cuda")
    epochs = 0

    @contextlib.contextmanager
    def around() -> Any:
        nonlocal epochs
        torch.cuda.set_sync_debug_mode("error" if epochs else "default")  # kernels are compiled in the first one
        epochs += 1
        yield
        torch.cuda.set_sync_debug_mode("default")

    trained(name, adam, device, torch.Generator(device).manual_seed(1), 3, around)
