"""Several processes compute what one computes: losses, gradients, weights, metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import run_ranks
from torch import Tensor

from infodcl_geo import configure
from infodcl_geo.data.generated import demo
from infodcl_geo.data.interactions import Interactions
from infodcl_geo.distributed.batches import SharedSampler
from infodcl_geo.distributed.evaluation import own_pairs
from infodcl_geo.distributed.group import Group
from infodcl_geo.distributed.partition import partition
from infodcl_geo.distributed.plan import Shape, bytes_of_step
from infodcl_geo.distributed.workers import Workers, take_part
from infodcl_geo.experiment import prepare
from infodcl_geo.models.base import Model
from infodcl_geo.training.optim import LazyAdam

STEPS = 50
MODELS: dict[str, dict[str, Any]] = {
    "mf": {"num_layers": 1},
    "lightgcn": {},
    "simgcl": {},
    "infodcl": {"num_layers": 1, "candidates": 0, "anchor_batch": 64},
    "infodcl sampled": {"num_layers": 1, "candidates": 30, "anchor_batch": 12},
}


def data_of(seed: int = 0) -> Interactions:
    return demo(seed, num_users=110, num_items=81, num_interests=6).interactions


def config_of(case: str, **changes: Any) -> Any:
    options = {"dim": 8, "batch_size": 256, "seed": 3, "lr": 0.01, "smoothing": 0.75} | MODELS[case] | changes
    return configure(case.split()[0], **options)


def model_of(data: Interactions, config: Any) -> Model:
    torch.manual_seed(5)
    return prepare(data, config).model.double()


def alone() -> Group:
    return Group(0, 1, None, 1.0)


def steps_of(model: Model, sampler: Any, optimizer: torch.optim.Optimizer) -> list[float]:
    """The loss of each step; the epochs follow each other."""
    losses: list[float] = []
    while len(losses) < STEPS:
        plan = sampler.draw()
        for step in range(len(plan)):
            optimizer.zero_grad(set_to_none=True)
            loss = sum(model.loss(plan[step], sampler.generator).values())
            assert isinstance(loss, Tensor)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    if isinstance(optimizer, LazyAdam):
        optimizer.flush()
    return losses[:STEPS]


def one_process(case: str, adam: str = "dense") -> tuple[list[float], tuple[Tensor, Tensor]]:
    data, config = data_of(), config_of(case)
    model = model_of(data, config)
    part = partition(data.num_users, data.num_items, 1, 0)
    anchors = "items" if "infodcl" in case else None
    sampler = SharedSampler(
        data.train, part, alone(), batch_size=256, anchors=anchors, anchor_batch=model.anchor_batch, seed=3
    )  # fmt: skip
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    if adam == "lazy":
        tables = model.row_tables(36)
        own = {table.weight for table in tables}
        optimizer = LazyAdam(tables, [w for w in model.parameters() if w not in own], lr=0.01)
    losses = steps_of(model, sampler, optimizer)
    return losses, model.embeddings()


def several(group: Group, case: str, sharded: bool, adam: str = "dense") -> Any:
    data, config = data_of(), config_of(case, adam=adam)
    model = model_of(data, config)
    part = partition(data.num_users, data.num_items, group.size, group.rank)
    workers = Workers(group, part, sharded=sharded, recipe=config.recipe, options=config.options)
    if sharded:
        own = data.train[:, (data.train[0] >= part.users.start) & (data.train[0] < part.users.stop)]
        take_part(model, own, part, group)
    sampler, optimizer = workers.set_up(model, data, config.training)
    losses = torch.tensor(steps_of(model, sampler, optimizer), dtype=torch.float64)
    return group.sum_(losses, "test").tolist(), model.embeddings()


def every_case(group: Group, cases: list[tuple[str, bool, str]]) -> list[Any]:
    return [several(group, *case) for case in cases]


CASES = [(case, sharded, "dense") for case in MODELS for sharded in (True, False)]
CASES += [("mf", True, "lazy"), ("infodcl sampled", True, "lazy")]


@pytest.fixture(scope="module")
def alone_found() -> dict[tuple[str, str], Any]:
    return {(case, adam): one_process(case, adam) for case, _, adam in CASES}


@pytest.mark.parametrize("size", [2, 4])
def test_as_one_process(size: int, tmp_path: Path, alone_found: dict[tuple[str, str], Any]) -> None:
    """The same batches give the same losses to 1e-5 over 50 steps in float64, and the same embeddings."""
    cases = CASES if size == 2 else [case for case in CASES if case[1]]
    found = run_ranks(every_case, size, tmp_path, cases)
    for place, (case, sharded, adam) in enumerate(cases):
        losses, tables = alone_found[case, adam]
        # Weights of networks that have no say have gradients of rounding alone, which Adam makes steps of.
        close = {"rtol": 1e-5, "atol": 1e-7} if "infodcl" not in case else {"rtol": 1e-3, "atol": 5e-5}
        for rank in range(size):
            got, part = found[rank][place]
            assert got == pytest.approx(losses, rel=1e-5), (case, sharded, adam)
            if not sharded:
                torch.testing.assert_close(part, tables, **close)
        if sharded:
            whole = [torch.cat([found[rank][place][1][side] for rank in range(size)]) for side in (0, 1)]
            torch.testing.assert_close(tuple(whole), tables, **close)


def sent(group: Group, cases: list[str]) -> list[tuple[float, float]]:
    """Bytes of a step, as counted on this rank over an epoch, and as planned."""
    found = []
    for case in cases:
        data, config = data_of(), config_of(case, adam="dense")
        model = model_of(data, config)
        part = partition(data.num_users, data.num_items, group.size, group.rank)
        workers = Workers(group, part, sharded=True, recipe=config.recipe, options=config.options)
        shape = Shape.of(data, model, config, group, sharded=True)
        take_part(model, own_pairs(data.train, part.users), part, group)
        sampler, optimizer = workers.set_up(model, data, config.training)
        plan = sampler.draw()
        before = group.sent.total()
        for step in range(len(plan)):
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(model.loss(plan[step], sampler.generator).values())).sum().backward()
            optimizer.step()
        found.append(((group.sent.total() - before) / len(plan), sum(bytes_of_step(shape).values())))
    return found


def gathered(group: Group, rows: list[int]) -> list[tuple[Tensor, list[int], int]]:
    """What all have of so many rows of each, one more on the second rank, and the bytes that were sent for it."""
    found = []
    for count in rows:
        own = torch.arange(2.0 * (count + group.rank)).view(-1, 2) + 0.5 * group.rank
        group.sent.clear()
        found.append((*group.gather(own, "test"), group.sent["test"]))
    return found


def test_all_get_the_rows_of_all_however_many(tmp_path: Path) -> None:
    rows = [0, 3, 600_000]  # the last is too much to be copied for each of the others
    ranks = run_ranks(gathered, 2, tmp_path, rows)
    for place, count in enumerate(rows):
        expected = torch.cat([torch.arange(2.0 * (count + rank)).view(-1, 2) + 0.5 * rank for rank in (0, 1)])
        for rank in (0, 1):
            found, sizes, sent_bytes = ranks[rank][place]
            assert torch.equal(found, expected)
            assert (sizes, sent_bytes) == ([count, count + 1], 8 * (count + rank))


def test_what_is_sent_is_what_was_planned(tmp_path: Path) -> None:
    cases = ["mf", "lightgcn", "simgcl", "infodcl"]
    ranks = run_ranks(sent, 2, tmp_path, cases)
    for place, case in enumerate(cases):
        counted = sum(rank[place][0] for rank in ranks) / len(ranks)
        assert counted == pytest.approx(ranks[0][place][1], rel=0.15), case
