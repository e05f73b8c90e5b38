"""Throughput of PSNet and of the small-matrix SVD: ``pytest benchmarks/bench_psnet.py --benchmark-only``.

An item is one row, or one matrix; bytes are those of inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from infodcl_geo.kernels import PSNetWeights, batched_svd, psnet
from infodcl_geo.kernels.reference_psnet import batched_svd_reference, psnet_reference

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

#: rows: a small data set's step, the authors' batch; more where there is a GPU
ROWS = [115, 2000, *([65_536] if DEVICE.type == "cuda" else [])]


def arguments(rows: int, d: int, basis: str) -> tuple[list[Tensor], PSNetWeights, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) * 0.1).to(DEVICE).requires_grad_()

    sizes = (64, 8, 64) if basis == "item" else (d, d, d)
    shared = rows if basis == "item" else 1
    weights = [x for p in sizes for x in (leaf(d, p), leaf(d), leaf(d, d), leaf(d))]
    weights += [leaf(d, 3 * d), leaf(d), leaf(d, d), leaf(d), leaf(d), leaf(d, d), leaf(d), leaf(d), leaf(d)]
    weights += [leaf(), leaf()]
    inputs = [leaf(rows, d) for _ in range(3)]
    # Noise, metadata and spectral features are constants of a training step.
    inputs += [leaf(rows, sizes[0]), leaf(shared, sizes[1]), leaf(shared, sizes[2])]
    inputs = [x if i == 2 else x.detach() for i, x in enumerate(inputs)]
    return inputs, PSNetWeights(*weights), leaf()


@pytest.mark.parametrize("what", ["forward", "forward and backward"])
@pytest.mark.parametrize("function", [psnet_reference, psnet], ids=["eager", "psnet"])
@pytest.mark.parametrize("basis", ["population", "item"])
@pytest.mark.parametrize("rows", ROWS)
def test_psnet_throughput(
    profile: Callable[..., None], rows: int, basis: str, function: Callable[..., Tensor], what: str
) -> None:
    d = 64
    inputs, weights, gate = arguments(rows, d, basis)
    leaves = [inputs[2], *weights, gate]
    arriving = torch.ones(rows, d, device=DEVICE)

    def run() -> None:
        if what == "forward":
            with torch.no_grad():
                function(*inputs, weights, gate)
        else:
            torch.autograd.grad(function(*inputs, weights, gate), leaves, arriving)

    read = sum(x.numel() for x in inputs) + sum(x.numel() for x in weights) + rows * d
    profile(run, rows, 4 * (read if what == "forward" else 3 * read))


@pytest.mark.parametrize("function", [batched_svd_reference, batched_svd], ids=["torch", "batched_svd"])
@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("matrices", [115, 2000, *([65_536] if DEVICE.type == "cuda" else [])])
def test_svd_throughput(
    profile: Callable[..., None], matrices: int, size: int, function: Callable[[Tensor], object]
) -> None:
    if function is batched_svd_reference and matrices * size > 1 << 19:
        pytest.skip("minutes through torch.linalg.svd")
    y = torch.randn(matrices, size, size, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    profile(lambda: function(y), matrices, 4 * (3 * y.numel() + matrices * size))
