"""InfoNCE's Triton kernels against the reference, on a GPU or in Triton's interpreter.

Without a GPU these tests need ``TRITON_INTERPRET=1`` from the start of the process: ``test_compiled.py`` runs this file
in a process of its own, and compiles ahead of time what it launched there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from interpreter import DEVICE, INTERPRETED, needs_kernels

from infodcl_geo.kernels import InfoNCEOptions, infonce, infonce_op, logsumexp_similarity, reference
from infodcl_geo.training.loop import matmul_precision

# -- Numbers -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every call to the Triton kernels; under the interpreter, repair its bfloat16."""
    if INTERPRETED:
        monkeypatch.setattr(infonce_op, "uses_triton", lambda x: True)
        repair_bfloat16(monkeypatch)


def repair_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Triton's interpreter treat bfloat16 as devices do."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    dot, cast = builder.create_dot, builder.cast_impl

    # The interpreter keeps bfloat16 as 16-bit integers, which its matrix product takes for numbers, and it rounds to
    # bfloat16 by truncation. Devices accumulate in float32 and round to nearest.
    def widen(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        return interpreter.TensorHandle((operand.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def rounding_cast(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
            bits = np.ascontiguousarray(source.data).view(np.uint32)
            nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            return interpreter.TensorHandle(nearest, tl.bfloat16)
        return cast(self, source, target)

    monkeypatch.setattr(builder, "create_dot", lambda self, a, b, *rest: dot(self, widen(a), widen(b), *rest))
    monkeypatch.setattr(builder, "cast_impl", rounding_cast)


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """Fresh memory holds NaN: a kernel that reads what it has not written shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def problem(
    anchors: int, candidates: int, d: int, dtype: torch.dtype = torch.float32, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(anchors + candidates + d)
    x = scale * torch.randn(anchors, d, generator=generator)
    y = scale * torch.randn(candidates, d, generator=generator)
    p = torch.randint(0, candidates, (anchors,), generator=generator)
    return x.to(DEVICE, dtype), y.to(DEVICE, dtype), p.to(DEVICE)


def value_and_gradients(call: Any, x: Tensor, y: Tensor, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    x, y = x.detach().to(dtype).requires_grad_(), y.detach().to(dtype).requires_grad_()
    value = call(x, y)
    weight = torch.rand(value.shape, generator=torch.Generator().manual_seed(seed)).to(value.device)
    gradients = torch.autograd.grad(value, (x, y), weight.to(value.dtype))
    return [value.detach().double(), *(g.double() for g in gradients)]


def assert_as_good_as_eager(ours: Any, eager: Any, x: Tensor, y: Tensor, atol: float | None = None) -> None:
    """Error against the float64 truth at most that of eager PyTorch in the same type, plus a small constant."""
    if atol is None:
        atol = {torch.float32: 3e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}[x.dtype]
    truth = value_and_gradients(eager, x, y, torch.float64)
    baseline = value_and_gradients(eager, x, y, x.dtype)
    result = value_and_gradients(ours, x, y, x.dtype)
    for name, exact, plain, got in zip(("loss", "anchors", "candidates"), truth, baseline, result, strict=True):
        size = exact.abs().max().clamp(min=1e-30)
        allowed = (plain - exact).abs().max() / size + atol
        error = (got - exact).abs().max() / size
        assert error <= allowed, f"{name}: relative error {error:.2e}, allowed {allowed:.2e}"


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@needs_kernels
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("anchors", "candidates", "d"), [(1, 5, 16), (5, 63, 60), (63, 123, 64), (123, 5, 100), (2, 2049, 16)]
)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_odd_sizes(anchors: int, candidates: int, d: int, dtype: torch.dtype, reduction: str) -> None:
    x, y, p = problem(anchors, candidates, d, dtype)
    assert_as_good_as_eager(
        lambda x, y: infonce(x, y, p, reduction=reduction),
        lambda x, y: reference.infonce(x, y, p, reduction=reduction),
        x,
        y,
    )


@needs_kernels
@pytest.mark.usefixtures("kernels")
def test_one_candidate_leaves_nothing_to_learn() -> None:
    x, y, p = problem(1, 1, 16)
    for part in value_and_gradients(lambda x, y: infonce(x, y, p), x, y, torch.float32):
        assert part.abs().max() < 1e-6


@needs_kernels
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [0.05, 0.01])
def test_small_temperature(temperature: float, dtype: torch.dtype) -> None:
    """0.01 is beyond what a sum without a running maximum holds."""
    x, y, p = problem(33, 150, 32, dtype)
    assert_as_good_as_eager(
        lambda x, y: infonce(x, y, p, temperature), lambda x, y: reference.infonce(x, y, p, temperature), x, y
    )


@needs_kernels
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_dot_product(scale: float, dtype: torch.dtype) -> None:
    x, y, p = problem(20, 130, 60, dtype, scale)
    assert_as_good_as_eager(
        lambda x, y: infonce(x, y, p, normalize=False),
        lambda x, y: reference.infonce(x, y, p, normalize=False),
        x,
        y,
        # Logits near 200 are recomputed against a float32 log-sum-exp, whose last bit is 1.5e-5.
        atol=1.5e-5 if dtype == torch.float32 and scale > 1 else None,
    )


@needs_kernels
@pytest.mark.usefixtures("kernels")
def test_wide() -> None:
    x, y, p = problem(17, 90, 256)
    assert_as_good_as_eager(lambda x, y: infonce(x, y, p), lambda x, y: reference.infonce(x, y, p), x, y)


def false_negatives(kind: str, anchors: int, candidates: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(7)
    if kind == "ids":
        return {
            "anchor_ids": torch.randint(0, 6, (anchors,), generator=generator).to(DEVICE),
            "candidate_ids": torch.randint(0, 6, (candidates,), generator=generator).to(DEVICE),
        }
    if kind == "exclude":
        counts = torch.randint(0, 40, (anchors,), generator=generator)
        counts[0] = 0
        ptr = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
        idx = torch.randint(0, candidates, (int(ptr[-1]),), generator=generator)
        return {"exclude": (ptr.to(DEVICE), idx.to(DEVICE))}
    if kind == "log_q":
        return {"log_q": torch.randn(candidates, generator=generator).to(DEVICE)}
    return {}


@needs_kernels
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", ["plain", "ids", "exclude", "log_q"])
def test_false_negatives_and_correction(kind: str, normalize: bool, in_batch: bool) -> None:
    x, y, p = problem(70, 140, 24)
    settings = false_negatives(kind, 70, 140) | {"normalize": normalize, "in_batch": in_batch}
    assert_as_good_as_eager(
        lambda x, y: infonce(x, y, p, **settings),
        lambda x, y: reference.infonce(x, y, p, **settings),
        x,
        y,
    )


@needs_kernels
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("kind", ["plain", "exclude"])
def test_tilings_and_splits_agree(kind: str) -> None:
    """Small tiles cut both streamed axes into several programs and several tiles each."""
    x, y, p = problem(70, 300, 24)
    settings = false_negatives(kind, 70, 300)
    options = InfoNCEOptions(forward_tiling=(32, 16, 4, 2), candidate_tiling=(16, 128, 4, 2))
    assert_as_good_as_eager(
        lambda x, y: infonce(x, y, p, options=options, **settings),
        lambda x, y: reference.infonce(x, y, p, **settings),
        x,
        y,
    )


@needs_kernels
@pytest.mark.usefixtures("kernels")
def test_layouts_duplicates_and_single_gradients() -> None:
    x, y, p = problem(40, 80, 30)
    p[:20] = p[0]
    y[40:] = y[:40]
    wide_x, wide_y = torch.empty(30, 80, device=DEVICE), torch.full((80, 61), float("nan"), device=DEVICE)
    strided_x, strided_y = wide_x.T[::2], wide_y[:, ::2][:, :30]
    strided_x.copy_(x)
    strided_y.copy_(y)
    x.requires_grad_()
    y.requires_grad_()
    both = torch.autograd.grad(infonce(x, y, p), (x, y))
    a = strided_x.detach().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(infonce(a, strided_y, p), a)[0], both[0], rtol=0, atol=0)
    b = strided_y.detach().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(infonce(strided_x.detach(), b, p), b)[0], both[1], rtol=0, atol=0)
    exact = reference.infonce(x.double(), y.double(), p)
    torch.testing.assert_close(infonce(strided_x, strided_y, p).double(), exact, rtol=1e-6, atol=1e-6)


@needs_kernels
@pytest.mark.usefixtures("kernels")
def test_shards_combine() -> None:
    x, y, p = problem(24, 150, 20)
    settings = false_negatives("exclude", 24, 150)

    def sharded(x: Tensor, y: Tensor) -> Tensor:
        parts = [
            logsumexp_similarity(x, y[a:b], positives=p, offset=a, **settings)
            for a, b in ((0, 40), (40, 41), (41, 150))
        ]
        return torch.stack(parts).logsumexp(0)

    assert_as_good_as_eager(sharded, lambda x, y: reference.logsumexp_similarity(x, y, positives=p, **settings), x, y)


@needs_kernels
@pytest.mark.usefixtures("kernels")
def test_same_from_run_to_run() -> None:
    x, y, p = problem(70, 200, 24)
    first, second = (value_and_gradients(lambda x, y: infonce(x, y, p), x, y, torch.float32) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@needs_kernels
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [64, 100, 200])
@pytest.mark.parametrize("wanted", ["", "x", "y"])
def test_fewer_gradients_change_no_number(wanted: str, d: int, dtype: torch.dtype) -> None:
    x, y, p = problem(9, 70, d, dtype)
    leaves = {"x": x.requires_grad_(), "y": y.requires_grad_()}
    loss = infonce(x, y, p)
    gradients = dict(zip("xy", torch.autograd.grad(loss, (x, y)), strict=True))
    for name, leaf in leaves.items():
        leaf.requires_grad_(name == wanted)
    alone = infonce(x, y, p)
    # With and without the sum behind the gradient the same exponentials are added in the same order.
    torch.testing.assert_close(alone, loss, rtol=1e-6, atol=1e-6)
    if wanted:
        got = torch.autograd.grad(alone, leaves[wanted])[0]
        torch.testing.assert_close(got, gradients[wanted], rtol=1e-5, atol=1e-6)


@needs_kernels
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("normalize", [False, True])
def test_medium_precision_rounds_the_operands_of_float32(normalize: bool) -> None:
    x, y, p = problem(20, 90, 30)
    exact = value_and_gradients(lambda x, y: reference.infonce(x, y, p, normalize=normalize), x, y, torch.float64)
    plain = value_and_gradients(lambda x, y: infonce(x, y, p, normalize=normalize), x, y, torch.float32)
    with matmul_precision("medium"):
        medium = value_and_gradients(lambda x, y: infonce(x, y, p, normalize=normalize), x, y, torch.float32)
    options = InfoNCEOptions(bfloat16=True)
    asked = value_and_gradients(
        lambda x, y: infonce(x, y, p, normalize=normalize, options=options), x, y, torch.float32
    )
    for truth, full, one, other in zip(exact, plain, medium, asked, strict=True):
        assert torch.equal(one, other)
        error = (one - truth).abs().max() / truth.abs().max()
        assert (full - truth).abs().max() / truth.abs().max() < 1e-5
        assert not torch.equal(one, full)
        assert error < 3e-2  # what 8 bits leave


@needs_kernels
@pytest.mark.usefixtures("kernels")
@pytest.mark.skipif(DEVICE.type == "cuda", reason="a sparse file of gigabytes stands for memory")
def test_a_transposed_table_longer_than_32_bits_reach(tmp_path: Path) -> None:
    x, y, p = problem(3, 40, 60, torch.float16)
    far = 2**31 // 59 + 1  # the last column begins beyond 2^31
    space = torch.from_file(str(tmp_path / "sparse"), shared=True, size=59 * far + 64, dtype=torch.float16)
    table = space.as_strided(y.shape, (1, far))
    table.copy_(y)
    expected = value_and_gradients(lambda x, y: infonce(x, y, p), x, y, torch.float16)
    leaf = table.requires_grad_()
    loss = infonce(x, leaf, p)
    assert torch.equal(loss.detach().double(), expected[0])
    gradient = torch.autograd.grad(loss, leaf)[0].double()
    weight = torch.rand((), generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(gradient * weight, expected[2], rtol=2e-3, atol=1e-6)
