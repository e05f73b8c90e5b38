"""Singular value decomposition of many small matrices (eq. 1, basis ``item``): CPU twin, gradient and dispatch.

LAPACK, which ``torch.linalg.svd`` calls once a matrix, spends most of its time on calls, not on arithmetic, when the
matrices are 8 x 8. Here a whole batch goes through one one-sided Jacobi iteration: on a GPU in registers
(``svd_triton.py``), on a CPU as vector operations along the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .reference_psnet import batched_svd_reference

__all__ = ["batched_svd"]

_LARGEST = 16  # rows and columns
# Below this many matrices the fixed cost of the vector operations exceeds LAPACK's.
_FEWEST = 256
# Numbers of one chunk; larger ones leave the second-level cache.
_CHUNK_NUMBERS = 1 << 17


def batched_svd(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Thin SVD of every matrix of a batch, :math:`y_b = U_b \operatorname{diag}(S_b) V_b^\top` (InfoDCL, eq. 1).

    The signs are fixed: the entry of largest magnitude of every right singular vector is positive. Matrices without
    full rank, zero matrices included, get orthonormal U and V like any other; vectors of equal singular values are one
    orthonormal basis of their space among many.

    Gradient: with :math:`\omega_{ij} = \sigma_j^2 - \sigma_i^2`, the exact one has :math:`1/\omega_{ij}` for the
    rotation of one vector into another, and :math:`1/\sigma_i` for the part outside the thin factors. Both are replaced
    by the safe inverse :math:`x / (x^2 + \delta^2)`, with :math:`\delta = \varepsilon^{2/3} \sigma_1^2` (or
    :math:`\sigma_1` in the second), :math:`\varepsilon` the precision of the type: where the gap is above
    :math:`\varepsilon^{1/3}` (0.5% in float32) this changes less than rounding does, and for repeated or zero singular
    values the gradient is finite, and zero along the directions in which the vectors are not determined.

    Args:
        y: matrices ``[B, n, m]``, n and m from 1 to 16; float32 or float64, half types are computed in float32.

    Returns:
        U ``[B, n, k]``, S ``[B, k]`` in descending order and Vh ``[B, k, m]`` (the right singular vectors are its
        rows), with k = min(n, m), in the type of ``y``.

    Raises:
        ValueError: if ``y`` is not a batch of matrices up to 16 x 16 of a floating type.
    """
    if y.ndim != 3 or not (1 <= y.shape[1] <= _LARGEST and 1 <= y.shape[2] <= _LARGEST):
        raise ValueError(
            f"batched_svd takes a batch of matrices up to {_LARGEST} x {_LARGEST}, [B, n, m], not {list(y.shape)}"
        )
    if not y.is_floating_point():
        raise ValueError(f"batched_svd takes floating-point matrices, not {y.dtype}")
    if y.dtype in (torch.float16, torch.bfloat16):
        left, values, right = _svd(y.float())
        return left.to(y.dtype), values.to(y.dtype), right.to(y.dtype)
    return _svd(y)


@torch.library.custom_op("infodcl_geo::batched_svd", mutates_args=())
def _svd(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if y.is_cuda and y.dtype == torch.float32:
        from .svd_triton import svd_triton

        return svd_triton(y)
    if y.is_cuda:
        return _contiguous(batched_svd_reference(y))
    return _svd_cpu(y)


@_svd.register_fake
def _(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    b, n, m = y.shape
    k = min(n, m)
    return y.new_empty(b, n, k), y.new_empty(b, k), y.new_empty(b, k, m)


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*output)


def _backward(ctx, g_left: Tensor | None, g_values: Tensor | None, g_right: Tensor | None) -> Tensor:  # type: ignore[no-untyped-def]
    left, values, right = ctx.saved_tensors
    return _svd_gradient(left, values, right, g_left, g_values, g_right)


_svd.register_autograd(_backward, setup_context=_setup_context)


def _svd_gradient(
    left: Tensor, values: Tensor, right: Tensor, g_left: Tensor | None, g_values: Tensor | None, g_right: Tensor | None
) -> Tensor:
    """Gradient of the thin SVD with the safe inverses that ``batched_svd`` documents; any gradient may be missing."""
    delta = torch.finfo(values.dtype).eps ** (2 / 3)
    # The smallest positive number keeps 0 / 0 away from zero matrices.
    tiny = torch.finfo(values.dtype).tiny
    top = values[:, :1]

    def safe_inverse(x: Tensor, scale: Tensor) -> Tensor:
        # Relative to the scale, so that squares neither overflow nor vanish.
        ratio = x / (scale + tiny)
        return ratio / (ratio.square() + delta**2) / (scale + tiny)

    relative = values / (top + tiny)
    gaps = relative.square().unsqueeze(1) - relative.square().unsqueeze(2)
    inner = torch.zeros_like(gaps)
    rotation = gaps / (gaps.square() + delta**2) / (top + tiny).unsqueeze(2)
    if g_left is not None:
        product = left.mT @ g_left
        inner = inner + (product - product.mT) * rotation * relative.unsqueeze(1)
    if g_right is not None:
        product = right @ g_right.mT
        inner = inner + relative.unsqueeze(2) * rotation * (product - product.mT)
    if g_values is not None:
        inner = inner + torch.diag_embed(g_values)
    gradient = left @ inner @ right
    inverse = safe_inverse(values, top)
    if g_left is not None and left.shape[1] > left.shape[2]:
        outside = g_left - left @ (left.mT @ g_left)
        gradient = gradient + (outside * inverse.unsqueeze(1)) @ right
    if g_right is not None and right.shape[2] > right.shape[1]:
        outside = g_right - (g_right @ right.mT) @ right
        gradient = gradient + (left * inverse.unsqueeze(1)) @ outside
    return gradient


def _contiguous(factors: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    left, values, right = factors
    return left.contiguous(), values.contiguous(), right.contiguous()


def _svd_cpu(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, n, m = y.shape
    if batch < _FEWEST or min(n, m) == 1:
        return _contiguous(batched_svd_reference(y))
    left, values, right = (
        y.new_empty(batch, n, min(n, m)),
        y.new_empty(batch, min(n, m)),
        y.new_empty(batch, min(n, m), m),
    )
    step = max(_FEWEST, _CHUNK_NUMBERS // (n * m))
    for start in range(0, batch, step):
        chunk = slice(start, start + step)
        left[chunk], values[chunk], right[chunk] = _svd_vectorised(y[chunk])
    return left, values, right


def _svd_vectorised(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One-sided Jacobi on all matrices at once, with the batch as the innermost, contiguous dimension.

    The shorter dimension's vectors of every matrix are rotated in pairs until they are orthogonal: their lengths are
    then the singular values and their directions one side's singular vectors. The other side's follow from one
    product with the matrix, made orthogonal from the largest singular value down (each vector's error lies along
    those of larger values). Matrices for which this is not accurate, with a condition number near the inverse root of
    the precision or not yet converged, go to LAPACK: a few in a thousand random ones.
    """
    batch, n, m = y.shape
    wide = n <= m
    count, length = min(n, m), max(n, m)
    # [vector, entry, matrix]
    matrix = y.permute(1, 2, 0).contiguous() if wide else y.permute(2, 1, 0).contiguous()
    vectors = torch.empty_like(matrix)
    with np.errstate(all="ignore"):
        _jacobi(matrix, vectors, sweeps=(5 if count <= 8 else 6) + (y.dtype == torch.float64))
        values, order = torch.sort(torch.from_numpy(_lengths(vectors)).t(), dim=1, descending=True)
        order += count * torch.arange(batch).unsqueeze(1)
        near = _batch_first(vectors).view(batch * count, length).index_select(0, order.flatten())
        vectors = near.view(batch, count * length).t().contiguous().view(count, length, batch)
        precision = torch.finfo(y.dtype).eps
        top, bottom = values[:, 0], values[:, -1]
        # Written so that a NaN or an infinity anywhere fails. The bounds of the size keep squares in range.
        good = (bottom > 512 * precision * top) & (bottom > 1e-12) & (top < 1e12)
        # Not yet rotated apart: what a vector still has along a longer one.
        good &= _orthonormalise(vectors) < 32 * precision * top
        if wide:
            vectors *= _signs(vectors).unsqueeze(1)
        other = torch.zeros(count, count, batch, dtype=y.dtype)
        for r in range(length):
            other.addcmul_(vectors[:, r].unsqueeze(1), matrix[:, r].unsqueeze(0))
        _orthonormalise(other)
    if wide:
        left, right = other.permute(2, 1, 0), vectors.permute(2, 0, 1)
    else:
        sign = _signs(other).unsqueeze(1)
        left, right = (vectors * sign).permute(2, 1, 0), (other * sign).permute(2, 0, 1)
    if not good.all():
        bad = (~good).nonzero().squeeze(1)
        left[bad], values[bad], right[bad] = batched_svd_reference(y[bad])
    return left, values, right


def _jacobi(matrix: Tensor, rotated: Tensor, sweeps: int) -> None:
    """Write to ``rotated`` the vectors [count, length, B] of ``matrix``, rotated among each other to be orthogonal.

    Odd-even ordering: rounds pair vectors (0, 1), (2, 3), ... and (1, 2), (3, 4), ... in turn, and each rotation also
    exchanges its two vectors, so every pair meets once in as many rounds as there are vectors and nothing is moved.
    With the exchange the angle is between 45 and 135 degrees; the rotation is three shears, each one pass in place.
    The small vectors of a round (one number a pair and matrix) are left to NumPy, whose calls cost less.
    """
    count = len(matrix)
    # Vectors of even and odd position apart, so that the two halves of all pairs are contiguous.
    even, odd = matrix[0::2].clone(), matrix[1::2].clone()
    even_, odd_ = even.numpy(), odd.numpy()
    squares_even, squares_odd = np.empty_like(even_[:, 0]), np.empty_like(odd_[:, 0])
    rounds = []
    for first, second, a, b in (
        (even[: len(odd)], odd, squares_even[: len(odd)], squares_odd),
        (odd[: len(even) - 1], even[1:], squares_odd[: len(even) - 1], squares_even[1:]),
    ):
        dot, t, x, sine, half = np.empty((5, *a.shape), a.dtype)
        coefficients = torch.from_numpy(sine).unsqueeze(1), torch.from_numpy(half).unsqueeze(1)
        rounds.append((first, second, first.numpy(), second.numpy(), a, b, dot, t, x, sine, half, *coefficients))
    for i in range(sweeps * count):
        if i % count == 0:  # updated in between, which loses the accuracy of short vectors' squares in the long run
            np.einsum("krb,krb->kb", even_, even_, out=squares_even)
            np.einsum("krb,krb->kb", odd_, odd_, out=squares_odd)
        first, second, first_, second_, a, b, dot, t, x, sine, half, sine_, half_ = rounds[i % 2]
        if not len(first):  # a second round of two vectors
            continue
        np.einsum("krb,krb->kb", first_, second_, out=dot)
        # Tangent of the angle: t = r / (1/2 + sqrt(1/4 + r^2)), r = dot / (b - a).
        np.subtract(b, a, out=t)
        np.divide(dot, t, out=t)
        np.multiply(t, t, out=x)
        np.add(x, 0.25, out=x)
        np.sqrt(x, out=x)
        np.add(x, 0.5, out=x)
        np.divide(t, x, out=t)
        np.multiply(t, dot, out=dot)
        np.add(b, dot, out=x)
        np.subtract(a, dot, out=b)
        np.copyto(a, x)
        # The angle a quarter turn larger: its sine and the tangent of its half.
        np.multiply(t, t, out=x)
        np.add(x, 1, out=x)
        np.sqrt(x, out=x)
        np.reciprocal(x, out=sine)
        np.add(x, t, out=half)
        first.addcmul_(second, half_, value=-1)
        second.addcmul_(first, sine_)
        first.addcmul_(second, half_, value=-1)
    rotated[0::2] = even
    rotated[1::2] = odd


def _lengths(vectors: Tensor) -> np.ndarray:
    x = vectors.numpy()
    return np.sqrt(np.einsum("krb,krb->kb", x, x))


def _signs(vectors: Tensor) -> Tensor:
    """The sign [k, B] of the entry of largest magnitude of vectors [k, length, B]."""
    return torch.where(vectors.amax(1) < -vectors.amin(1), -1.0, 1.0).to(vectors.dtype)


def _orthonormalise(vectors: Tensor) -> Tensor:
    """Gram-Schmidt in place on [k, length, B], from the first vector on; the largest length it took off any, [B]."""
    x = vectors.numpy()
    largest = np.zeros(x.shape[2], x.dtype)
    for k in range(len(x)):
        x[k] *= 1 / np.sqrt(np.einsum("rb,rb->b", x[k], x[k]))
        if k + 1 < len(x):
            along = np.einsum("krb,rb->kb", x[k + 1 :], x[k])
            vectors[k + 1 :].addcmul_(torch.from_numpy(along).unsqueeze(1), vectors[k], value=-1)
            np.abs(along, out=along)
            np.maximum(largest, along.max(axis=0), out=largest)
    return torch.from_numpy(largest)


def _batch_first(vectors: Tensor) -> Tensor:
    count, length, batch = vectors.shape
    return vectors.view(count * length, batch).t().contiguous().view(batch, count, length)
