"""Batched SVD of small matrices: defining properties, known matrices, gradients, the Triton kernel's resources."""

from __future__ import annotations

import importlib
import math
from importlib.util import find_spec

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from infodcl_geo.kernels import batched_svd
from infodcl_geo.kernels.reference_psnet import batched_svd_reference

MANY = 300  # enough matrices for the compiled path; fewer go to LAPACK
needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="without Numba this would test LAPACK")


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def with_values(values: list[float], batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Square matrices with the given singular values and random singular vectors."""
    n = len(values)
    left, right = (torch.linalg.qr(random(batch, n, n, seed=seed))[0] for seed in (1, 2))
    return (left * torch.tensor(values, dtype=torch.float64) @ right.mT).to(dtype)


def nearly_orthogonal(batch: int) -> Tensor:
    """Cosines around 1e-5 that are not small next to the differences in length: rotations by large angles."""
    return torch.eye(8, dtype=torch.float64) + 1e-5 * random(batch, 8, 8)


def check(y: Tensor, left: Tensor, values: Tensor, right: Tensor, tolerance: float) -> None:
    """All that defines the decomposition: product, orthonormality, order, signs."""
    k = min(y.shape[1:])
    assert left.shape == (len(y), y.shape[1], k)
    assert values.shape == (len(y), k)
    assert right.shape == (len(y), k, y.shape[2])
    scale = values[:, :1, None].clamp(min=1e-300 if y.dtype == torch.float64 else 1e-37)
    one = torch.eye(k, dtype=y.dtype)
    assert ((left * values.unsqueeze(1) @ right - y) / scale).abs().max() < tolerance
    assert (left.mT @ left - one).abs().max() < tolerance
    assert (right @ right.mT - one).abs().max() < tolerance
    assert (values[:, 1:] <= values[:, :-1]).all()
    assert (values >= 0).all()
    # Rounding may swap the roles of entries of equal magnitude.
    assert (right.amax(2) >= -right.amin(2) - tolerance).all()


@pytest.mark.parametrize("batch", [1, pytest.param(MANY, marks=needs_numba)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("n", "m"), [(8, 8), (1, 1), (1, 5), (5, 1), (2, 2), (3, 3), (6, 10), (10, 6), (7, 7), (16, 16), (16, 3), (2, 15)]
)
def test_is_a_singular_value_decomposition_as_accurate_as_lapack(
    n: int, m: int, dtype: torch.dtype, batch: int
) -> None:
    y = random(batch, n, m, dtype=dtype)
    left, values, right = batched_svd(y)
    check(y, left, values, right, 20 * torch.finfo(dtype).eps)
    expected = torch.linalg.svdvals(y.double())
    torch.testing.assert_close(values.double(), expected, rtol=0, atol=20 * torch.finfo(dtype).eps * math.sqrt(n * m))


def test_known_matrix() -> None:
    # [[0, 3], [-2, 0]] = e1 * 3 * e2' + (-e2) * 2 * e1'
    y = torch.tensor([[[0.0, 3.0], [-2.0, 0.0]]]).repeat(MANY, 1, 1)
    for batch in (1, MANY):
        left, values, right = batched_svd(y[:batch])
        torch.testing.assert_close(values[0], torch.tensor([3.0, 2.0]))
        torch.testing.assert_close(right[0], torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        torch.testing.assert_close(left[0], torch.tensor([[1.0, 0.0], [0.0, -1.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_of_separate_values_are_lapacks(dtype: torch.dtype) -> None:
    y = with_values([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], MANY, dtype)
    actual, expected = batched_svd(y), batched_svd_reference(y)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=200 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "values",
    [
        [0.0] * 8,
        [1.0] * 8,
        [3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 0.0, 0.0],
        [1.0] + [0.0] * 7,
        [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7],
        [1.0, 1.0 - 1e-6, 0.5, 0.5 - 1e-7, 0.2, 0.1, 1e-6, 1e-6],
    ],
)
def test_repeated_small_and_zero_singular_values(values: list[float], dtype: torch.dtype) -> None:
    y = with_values(values, MANY, dtype)
    # Rotations among vectors of very different lengths: errors relative to the longest add up.
    check(y, *batched_svd(y), tolerance=400 * torch.finfo(dtype).eps)


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearly_orthogonal_vectors_of_nearly_equal_length(dtype: torch.dtype) -> None:
    y = nearly_orthogonal(MANY).to(dtype)
    check(y, *batched_svd(y), tolerance=20 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("factor", [1e-30, 1e-14, 1e14, 1e30])
def test_magnitude_does_not_matter(factor: float) -> None:
    y = random(MANY, 8, 8, dtype=torch.float32) * factor
    check(y, *batched_svd(y), tolerance=3e-6)


def test_each_matrix_is_decomposed_by_itself() -> None:
    # Among ordinary matrices: a zero, an equal-entried, a permutation and a one-column one, duplicates.
    y = random(MANY, 8, 8, dtype=torch.float32)
    y[3], y[4], y[5], y[6, :, 1:] = 0, 1, torch.eye(8).flip(0), 0
    y[8:12] = y[7]
    left, values, right = batched_svd(y)
    check(y, left, values, right, 5e-6)
    torch.testing.assert_close(values[4], torch.tensor([8.0] + [0.0] * 7), atol=1e-5, rtol=0)
    torch.testing.assert_close(values[5], torch.ones(8))
    assert (values[8:12] == values[7]).all()
    assert (right[8:12] == right[7]).all()


def test_several_threads_and_inputs_that_are_not_contiguous() -> None:
    y = random(2500, 8, 8, dtype=torch.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = batched_svd(y)
    torch.set_num_threads(3)
    buffer = torch.full((2500, 9, 16), math.nan)
    buffer[:, 1:, ::2] = y
    strided = batched_svd(buffer[:, 1:, ::2])
    torch.set_num_threads(threads)
    for one, other in zip(whole, strided, strict=True):
        assert torch.equal(one, other)
    check(y, *whole, tolerance=3e-6)


@needs_numba
def test_without_numba_lapack_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    svd = importlib.import_module("infodcl_geo.kernels.svd")

    y = random(MANY, 6, 4)
    with_numba = batched_svd(y)
    monkeypatch.setattr(svd, "find_spec", lambda name: None)
    for one, other, own in zip(batched_svd(y), batched_svd_reference(y), with_numba, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, own)
    assert not torch.equal(with_numba[1], batched_svd(y)[1])  # or the other half of this test compared nothing


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (3, 3)])
def test_what_is_not_finite_is_treated_as_by_lapack_and_spoils_no_other_matrix(place: tuple[int, int]) -> None:
    y = random(MANY, 4, 4)
    finite = batched_svd(y)[1]
    y[7][place] = math.inf
    values = batched_svd(y)[1]
    assert values[7].isnan().all()
    torch.testing.assert_close(values[torch.arange(MANY) != 7], finite[torch.arange(MANY) != 7])
    y[7][place] = math.nan
    with pytest.raises(torch.linalg.LinAlgError, match="non-finite"):
        batched_svd(y)


def test_half_types_keep_their_type() -> None:
    y = random(MANY, 4, 4, dtype=torch.float32).bfloat16()
    left, values, right = batched_svd(y)
    assert left.dtype == values.dtype == right.dtype == torch.bfloat16
    torch.testing.assert_close(values.float(), torch.linalg.svdvals(y.float()), rtol=1e-2, atol=1e-2)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 16), m=st.integers(1, 16), rank=st.integers(0, 16), batch=st.sampled_from([0, 1, MANY]),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_any_shape_and_rank(n: int, m: int, rank: int, batch: int, seed: int) -> None:
    y = random(batch, n, rank, seed=seed) @ random(batch, rank, m, seed=seed + 1)
    if batch:
        check(y, *batched_svd(y), tolerance=1e-13)
    else:
        assert batched_svd(y)[0].shape == (0, n, min(n, m))


@pytest.mark.parametrize("shape", [(3, 17, 4), (3, 4, 17), (8, 8), (3, 0, 4)])
def test_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="16 x 16"):
        batched_svd(torch.zeros(shape))


def test_refuses_integers() -> None:
    with pytest.raises(ValueError, match="floating"):
        batched_svd(torch.zeros(2, 3, 3, dtype=torch.long))


@pytest.mark.parametrize(("n", "m"), [(3, 3), (2, 4), (4, 2), (1, 3), (3, 1)])
def test_gradcheck(n: int, m: int) -> None:
    y = random(3, n, m, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(batched_svd, y)
    assert torch.autograd.gradcheck(batched_svd_reference, y)


@pytest.mark.parametrize("used", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_gradient_of_the_compiled_path_is_torchs(used: tuple[int, ...]) -> None:
    y = with_values([4.0, 3.0, 2.0, 1.0], MANY).requires_grad_()
    directions = [random(*x.shape, seed=7 + i) for i, x in enumerate(batched_svd(y))]

    def gradient(svd) -> Tensor:  # type: ignore[no-untyped-def]
        factors = svd(y)
        return torch.autograd.grad(sum((factors[i] * directions[i]).sum() for i in used), y)[0]

    torch.testing.assert_close(gradient(batched_svd), gradient(batched_svd_reference))


@pytest.mark.parametrize("values", [[0.0] * 4, [2.0] * 4, [2.0, 2.0, 0.0, 0.0], [1.0, 1e-9, 1e-9, 0.0]])
def test_gradient_is_finite_where_the_vectors_are_not_determined(values: list[float]) -> None:
    y = with_values(values, MANY).requires_grad_()
    sum((x * random(*x.shape, seed=3)).sum() for x in batched_svd(y)).backward()  # type: ignore[union-attr]
    assert y.grad is not None
    assert y.grad.isfinite().all()


def test_gradient_of_what_repeated_values_leave_determined_is_exact() -> None:
    # U V' of 2 R, R a rotation, is R for whatever vectors; so is its gradient: 0 along y, a rotation's otherwise.
    y = with_values([2.0, 2.0], MANY)
    y.requires_grad_()
    left, values, right = batched_svd(y)
    (gradient,) = torch.autograd.grad(values.sum(), y)
    torch.testing.assert_close(gradient, (left @ right).detach())  # that of the nuclear norm


def test_compiles_as_one_graph() -> None:
    def model(y: Tensor) -> Tensor:
        left, values, right = batched_svd(y)
        return (left.flatten(1) * 2).sum(1) + values.sum(1) + right.flatten(1).sum(1)

    y = random(MANY, 4, 4).requires_grad_()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(y), model(y))
    torch.testing.assert_close(torch.autograd.grad(compiled(y).sum(), y)[0], torch.autograd.grad(model(y).sum(), y)[0])


def test_operator_is_registered_correctly() -> None:
    y = random(3, 4, 3).requires_grad_()
    torch.library.opcheck(torch.ops.infodcl_geo.batched_svd.default, (y,))
