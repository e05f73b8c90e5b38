"""Throughput of InfoNCE on whatever device there is: ``pytest benchmarks/bench_infonce.py --benchmark-only``.

An item is one pair of anchor and candidate; bytes are those of inputs and gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from infodcl_geo.kernels import infonce, reference
from infodcl_geo.training.loop import matmul_precision

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

#: anchors, candidates, dimensions: a default training step, the issue's CPU goal, the same at d = 60, many candidates
SIZES = [(115, 2420, 64), (2048, 11_589, 64), (2048, 11_589, 60), (1024, 65_536, 64)]
if DEVICE.type == "cuda":
    SIZES += [(4096, 50_000, 64), (4096, 1_000_000, 64)]


def eager(x: Tensor, y: Tensor, positives: Tensor) -> Tensor:
    return reference.infonce(x, y, positives)


def fused(x: Tensor, y: Tensor, positives: Tensor) -> Tensor:
    return infonce(x, y, positives)


def fused_medium(x: Tensor, y: Tensor, positives: Tensor) -> Tensor:
    with matmul_precision("medium"):
        return infonce(x, y, positives)


@pytest.mark.parametrize("what", ["forward", "forward and backward"])
@pytest.mark.parametrize("function", [eager, fused, fused_medium], ids=["eager", "infonce", "infonce medium"])
@pytest.mark.parametrize("dtype", [torch.float32, *([torch.bfloat16] if DEVICE.type == "cuda" else [])], ids=str)
@pytest.mark.parametrize(("anchors", "candidates", "d"), SIZES)
def test_infonce_throughput(
    profile: Callable[..., None],
    anchors: int,
    candidates: int,
    d: int,
    dtype: torch.dtype,
    function: Callable[[Tensor, Tensor, Tensor], Tensor],
    what: str,
) -> None:
    if function is eager and anchors * candidates > 1 << 30:
        pytest.skip("the eager array of logits would take several GiB")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(anchors, d, generator=generator).to(DEVICE, dtype).requires_grad_()
    y = torch.randn(candidates, d, generator=generator).to(DEVICE, dtype).requires_grad_()
    positives = torch.randint(0, candidates, (anchors,), generator=generator).to(DEVICE)

    def run() -> None:
        if what == "forward":
            with torch.no_grad():
                function(x, y, positives)
        else:
            torch.autograd.grad(function(x, y, positives), (x, y))

    passes = 1 if what == "forward" else 2
    profile(run, anchors * candidates, passes * (x.numel() + y.numel()) * x.element_size())
