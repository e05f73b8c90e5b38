"""Triton kernels of PSNet and of the SVD against the reference, on a GPU or in Triton's interpreter.

Without a GPU these tests need ``TRITON_INTERPRET=1`` from the start of the process: ``test_compiled.py`` runs this file
in a process of its own, and compiles ahead of time what it launched there.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from interpreter import DEVICE, INTERPRETED, needs_kernels
from test_infonce_triton import repair_bfloat16
from test_psnet_kernel import LEAVES, Problem, by_hand, compare, outputs_and_gradients, problem

from infodcl_geo.kernels import psnet_diffuse
from infodcl_geo.kernels.reference_psnet import batched_svd_reference, psnet_diffuse_reference

module = importlib.import_module("infodcl_geo.kernels.psnet")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Send every call to the Triton kernels, and fill fresh memory with NaN: reading what was not written shows."""
    monkeypatch.setattr(module, "_uses_triton", lambda x: True)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def on_device(p: Problem) -> Problem:
    def leaf(x: Tensor) -> Tensor:
        return x.detach().to(DEVICE).requires_grad_(x.requires_grad)

    weights = type(p.weights)(*(leaf(x) for x in p.weights))
    return Problem([leaf(x) for x in p.inputs], weights, leaf(p.gate), leaf(p.e), leaf(p.alpha_bar))


def on_cpu(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.cpu() for name, x in found.items()}


# -- PSNet -------------------------------------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize(
    ("batch", "d", "hidden", "sizes", "shared"),
    [
        (1, 16, 16, (16, 16, 16), ""),
        (5, 60, 60, (60, 60, 60), "sv"),
        (63, 64, 64, (64, 8, 64), ""),
        (123, 20, 24, (16, 4, 25), "u"),
        (17, 7, 5, (3, 1, 2), "usv"),
        (3, 200, 200, (200, 10, 200), ""),
        # The interpreter takes half a minute for what a device does at once.
        (129 if INTERPRETED else 2049, 16, 16, (16, 4, 16), ""),
    ],
)
@pytest.mark.parametrize(("spectral", "contextual"), [(True, True), (True, False), (False, True)])
def test_is_as_exact_as_eager(
    kernels: None,
    batch: int,
    d: int,
    hidden: int,
    sizes: tuple[int, int, int],
    shared: str,
    spectral: bool,
    contextual: bool,
) -> None:
    p = problem(batch, d, hidden, sizes, shared, dtype=torch.float32)
    options = {"spectral": spectral, "contextual": contextual}
    compare(
        on_cpu(outputs_and_gradients(psnet_diffuse, on_device(p), **options)),
        outputs_and_gradients(psnet_diffuse_reference, p, **options),
        outputs_and_gradients(psnet_diffuse_reference, p.to(torch.float64), **options),
    )


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("batch", "d", "sizes", "shared"),
    [(5, 60, (60, 60, 60), "sv"), (21, 16, (16, 4, 16), ""), (1, 64, (64, 8, 64), "")],
)
def test_is_as_exact_as_eager_in_half_types(
    kernels: None,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    d: int,
    sizes: tuple[int, int, int],
    shared: str,
    dtype: torch.dtype,
) -> None:
    """The truth is what the rounded inputs give in float64."""
    if INTERPRETED:
        repair_bfloat16(monkeypatch)
    p = problem(batch, d, sizes=sizes, shared=shared, dtype=dtype)
    compare(
        on_cpu(outputs_and_gradients(psnet_diffuse, on_device(p))),
        outputs_and_gradients(psnet_diffuse_reference, p),
        outputs_and_gradients(psnet_diffuse_reference, p.to(torch.float64)),
    )


@needs_kernels
def test_equations_by_hand(kernels: None) -> None:
    p = on_device(by_hand()[0].to(torch.float32))
    noise, z = psnet_diffuse(*p.arguments(), layer_norm_eps=0.0)
    torch.testing.assert_close(noise.cpu(), torch.tensor([[66.0, 9.5]]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(z.cpu(), torch.tensor([[54.6, 10.0]]), rtol=1e-5, atol=1e-5)


@needs_kernels
def test_the_same_bits_twice(kernels: None) -> None:
    p = on_device(problem(40, 20, dtype=torch.float32, shared="s"))
    first, second = (outputs_and_gradients(psnet_diffuse, p) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@needs_kernels
def test_inputs_inside_buffers_of_nan(kernels: None) -> None:
    p = on_device(problem(9, 20, dtype=torch.float32))

    def buried(x: Tensor) -> Tensor:
        buffer = torch.full((2 * x.shape[0] + 1, 3 * x.shape[1] + 1), math.nan, dtype=x.dtype, device=x.device)
        view = buffer[1::2, 1::3]
        view.copy_(x.detach())
        return view

    noise, _ = psnet_diffuse(*(buried(x) for x in p.inputs), p.weights, p.gate, buried(p.e), p.alpha_bar)
    assert torch.equal(noise, psnet_diffuse(*p.arguments())[0])


@needs_kernels
@pytest.mark.parametrize("kept", [["alpha"], ["u_in", "gate"], ["eps", "e"], ["rho", "v"]])
def test_subset_of_inputs_that_require_grad(kernels: None, kept: list[str]) -> None:
    p = on_device(problem(6, 16, dtype=torch.float32, shared="v"))
    everything = outputs_and_gradients(psnet_diffuse, p)
    for name, leaf in zip(LEAVES, p.leaves(), strict=True):
        leaf.requires_grad_(name in kept)
    some = outputs_and_gradients(psnet_diffuse, p)
    assert set(some) == {"noise", "z", *kept}
    for name in kept:
        torch.testing.assert_close(some[name], everything[name])


@needs_kernels
def test_no_rows(kernels: None) -> None:
    found = outputs_and_gradients(psnet_diffuse, on_device(problem(0, 16, dtype=torch.float32)))
    assert found["noise"].shape == (0, 16)
    assert (found["alpha"] == 0).all()


@needs_kernels
def test_compiles_as_one_graph(kernels: None) -> None:
    p = on_device(problem(8, 16, dtype=torch.float32, shared="sv"))

    def model(*arguments) -> Tensor:  # type: ignore[no-untyped-def]
        noise, z = psnet_diffuse(*arguments)
        return (noise * z).sum()

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(*p.arguments()), p.leaves())
    expected = torch.autograd.grad(model(*p.arguments()), p.leaves())
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


# -- SVD ---------------------------------------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize(
    ("n", "m"), [(8, 8), (1, 1), (1, 4), (4, 1), (6, 10), (10, 6), (7, 7), (16, 16), (2, 2), (4, 16), (16, 4), (2, 16)]
)
def test_svd(kernels: None, n: int, m: int) -> None:
    from test_svd import check

    from infodcl_geo.kernels.svd_triton import svd_triton

    generator = torch.Generator().manual_seed(0)
    y = torch.randn(11, n, m, generator=generator)
    y[1], y[2], y[3, :, 0], y[4] = 0, 1, 0, torch.eye(n, m)
    y[5] = y[6]
    y[7] *= 1e-30
    y[8] *= 1e30
    buffer = torch.full((11, 2 * n, m + 1), math.nan)
    buffer[:, ::2, 1:] = y
    left, values, right = (x.cpu() for x in svd_triton(buffer.to(DEVICE)[:, ::2, 1:]))
    check(y, left, values, right, 1e-5)
    torch.testing.assert_close(values.double(), batched_svd_reference(y.double())[1], rtol=1e-5, atol=1e-5)
    assert torch.equal(right[5], right[6])


@needs_kernels
def test_svd_vectors_of_separate_values_are_lapacks(kernels: None) -> None:
    from test_svd import with_values

    from infodcl_geo.kernels.svd_triton import svd_triton

    y = with_values([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 9)
    for one, other in zip(svd_triton(y.float().to(DEVICE)), batched_svd_reference(y), strict=True):
        torch.testing.assert_close(one.cpu().double(), other, rtol=0, atol=2e-5)


@needs_kernels
def test_svd_of_nearly_orthogonal_vectors_of_nearly_equal_length(kernels: None) -> None:
    from test_svd import check, nearly_orthogonal

    from infodcl_geo.kernels.svd_triton import svd_triton

    y = nearly_orthogonal(9).float()
    check(y, *(x.cpu() for x in svd_triton(y.to(DEVICE))), tolerance=1e-6)


@needs_kernels
@pytest.mark.parametrize("what", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(("n", "m"), [(4, 4), (3, 7), (9, 2)])
def test_svd_of_what_is_not_finite_is_nan_and_spoils_no_other_matrix(
    kernels: None, monkeypatch: pytest.MonkeyPatch, n: int, m: int, what: float
) -> None:
    from infodcl_geo.kernels.svd_triton import svd_triton

    # Fresh memory holds zeros: every NaN was written.
    monkeypatch.setattr(Tensor, "new_empty", Tensor.new_zeros)
    y = torch.randn(6, n, m, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    expected = [x.clone() for x in svd_triton(y)]
    y[2, n - 1, 0], y[5] = what, what
    for got, wanted in zip(svd_triton(y), expected, strict=True):
        assert got[[2, 5]].isnan().all()
        assert torch.equal(got[[0, 1, 3, 4]], wanted[[0, 1, 3, 4]])


@needs_kernels
@pytest.mark.skipif(DEVICE.type == "cuda", reason="a sparse file of gigabytes stands for memory")
def test_svd_of_a_batch_along_the_last_axis_longer_than_32_bits_reach(kernels: None, tmp_path: Path) -> None:
    from infodcl_geo.kernels.svd_triton import svd_triton

    y = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    far = 2**31 // 15 + 1
    space = torch.from_file(str(tmp_path / "sparse"), shared=True, size=15 * far + 64, dtype=torch.float32)
    view = space.as_strided(y.shape, (3, 1, far))
    view.copy_(y)
    for got, wanted in zip(svd_triton(view), svd_triton(y), strict=True):
        assert torch.equal(got, wanted)
