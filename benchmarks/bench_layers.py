"""Throughput of the layers and losses: ``pytest benchmarks/bench_layers.py --benchmark-only``.

An item is a row (an edge for what multiplies with a graph). Bytes are those of inputs, parameters and outputs; with the
backward pass three times as many, for what is read again and the gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from infodcl_geo.kernels import batched_svd, logsumexp_similarity
from infodcl_geo.nn import (
    Denoiser,
    ForwardDiffusion,
    ModalEncoder,
    NeighbourMean,
    Propagation,
    PSNet,
    UserToItem,
    balance_loss,
    bpr_loss,
    embedding_penalty,
    reconstruction_loss,
)
from infodcl_geo.nn.candidates import sample_candidates

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROWS, DIM = (65_536 if DEVICE.type == "cuda" else 2048), 64
USERS, ITEMS, EDGES = 3_000, 5_000, 40_000


class Case(NamedTuple):
    run: Callable[[], Any]
    inputs: list[Tensor]
    """all that is read, of which gradients are asked where they can be"""
    items: int = ROWS


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE).requires_grad_()


def layer(module: nn.Module, *arguments: Tensor, items: int = ROWS) -> Case:
    module = module.to(DEVICE)
    return Case(lambda: module(*arguments), [*arguments, *module.parameters()], items)


def function(call: Callable[..., Any], *arguments: Tensor) -> Case:
    return Case(lambda: call(*arguments), list(arguments))


def psnet(basis: Any) -> Case:
    module = PSNet(DIM, basis=basis)
    noise, metadata = leaf(ROWS, DIM).detach(), leaf(ROWS, DIM).detach()
    return layer(module.fit(metadata.cpu()), noise, metadata)


def psnet_diffuse() -> Case:
    module = PSNet(DIM).to(DEVICE)
    noise, metadata, e, level = leaf(ROWS, DIM).detach(), leaf(ROWS, DIM).detach(), leaf(ROWS, DIM), torch.rand(ROWS)
    arguments = (noise, metadata, e, level.to(DEVICE))
    return Case(lambda: module.diffuse(*arguments)[1], [*arguments, *module.parameters()])


def edges(sources: int, targets: int) -> Tensor:
    return torch.stack([torch.randint(size, (EDGES,), device=DEVICE) for size in (sources, targets)])


def steps() -> Tensor:
    return torch.randint(1, 201, (ROWS,), device=DEVICE)


def user_to_item() -> Case:
    module, users, among, users_items = UserToItem(), leaf(USERS, DIM), edges(USERS, USERS), edges(USERS, ITEMS)
    return Case(lambda: module(users, among, users_items, num_items=ITEMS), [users, among, users_items], 2 * EDGES)


CASES: dict[str, Callable[[], Case]] = {
    "PSNet, population": lambda: psnet("population"),
    "PSNet, batch": lambda: psnet("batch"),
    "PSNet, item": lambda: psnet("item"),
    "PSNet with the forward process": psnet_diffuse,
    "ForwardDiffusion": lambda: layer(ForwardDiffusion(), leaf(ROWS, DIM), leaf(ROWS, DIM), steps()),
    "Denoiser": lambda: layer(Denoiser(DIM), leaf(ROWS, DIM), steps()),
    "ModalEncoder": lambda: layer(
        ModalEncoder({"a": torch.randn(ROWS, 2 * DIM)}, ROWS, DIM), torch.arange(ROWS, device=DEVICE)
    ),
    "Propagation": lambda: layer(Propagation(2), leaf(ITEMS, DIM), edges(ITEMS, ITEMS), items=EDGES),
    "NeighbourMean": lambda: layer(NeighbourMean(), leaf(ITEMS, DIM), edges(ITEMS, ITEMS), items=EDGES),
    "UserToItem": user_to_item,
    "bpr_loss": lambda: function(bpr_loss, *(leaf(ROWS, DIM) for _ in range(3))),
    "reconstruction_loss": lambda: function(reconstruction_loss, leaf(ROWS, DIM), leaf(ROWS, DIM)),
    "balance_loss": lambda: function(balance_loss, leaf(ROWS, DIM)),
    "embedding_penalty": lambda: function(embedding_penalty, *(leaf(ROWS, DIM) for _ in range(3))),
    "logsumexp_similarity": lambda: function(logsumexp_similarity, leaf(ROWS, DIM), leaf(ITEMS, DIM)),
    "sample_candidates": lambda: Case(
        lambda: sample_candidates(torch.arange(1024, device=DEVICE), 1_000_000, 16_384)[1], [], 1024 + 16_384
    ),
    "batched_svd": lambda: function(lambda y: batched_svd(y)[0], leaf(ROWS, 8, 8)),
}


@pytest.mark.parametrize("what", ["forward", "forward and backward"])
@pytest.mark.parametrize("name", list(CASES))
def test_layer_throughput(profile: Callable[..., None], name: str, what: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]()
    value = case.run()
    wanted = [x for x in case.inputs if x.requires_grad]
    if what == "forward and backward" and not value.requires_grad:
        pytest.skip("has no gradient")
    arriving = torch.ones_like(value)

    def run() -> None:
        if what == "forward":
            with torch.no_grad():
                case.run()
        else:
            torch.autograd.grad(case.run(), wanted, arriving, allow_unused=True)

    moved = sum(x.numel() * x.element_size() for x in (*case.inputs, value))
    profile(run, case.items, moved if what == "forward" else 3 * moved)
