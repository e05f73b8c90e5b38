"""Singular value decomposition of many small matrices (eq. 1, basis ``item``): gradient and dispatch.

LAPACK, which ``torch.linalg.svd`` calls once a matrix, spends most of its time on calls, not on arithmetic, when the
matrices are 8 x 8. Here a whole batch goes through one one-sided Jacobi iteration: on a GPU in registers
(``svd_triton.py``), on a CPU in vector registers (``svd_numba.py``).
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from infodcl_geo.errors import InfodclGeoError

from .reference_psnet import batched_svd_reference

__all__ = ["batched_svd"]

_LARGEST = 16  # rows and columns
# Fewer matrices are not worth loading the compiled code for.
_FEWEST = 64


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

    On a CPU float32 and float64 are compiled by Numba (the extra ``numba``; seconds on the first call ever, kept on
    disk then); where it is missing, and for fewer than 64 matrices, LAPACK decomposes them one by one.

    Args:
        y: matrices ``[B, n, m]``, n and m from 1 to 16; float32 or float64, half types are computed in float32.

    Returns:
        U ``[B, n, k]``, S ``[B, k]`` in descending order and Vh ``[B, k, m]`` (the right singular vectors are its
        rows), with k = min(n, m), in the type of ``y``.

    Raises:
        ValueError: if ``y`` is not a batch of matrices up to 16 x 16 of a floating type.
    """
    if y.ndim != 3 or not (1 <= y.shape[1] <= _LARGEST and 1 <= y.shape[2] <= _LARGEST):
        raise InfodclGeoError(
            f"batched_svd takes a batch of matrices up to {_LARGEST} x {_LARGEST}, [B, n, m], not {list(y.shape)}"
        )
    if not y.is_floating_point():
        raise InfodclGeoError(f"batched_svd takes floating-point matrices, not {y.dtype}")
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
    if len(y) < _FEWEST or min(y.shape[1:]) == 1 or find_spec("numba") is None:
        return _contiguous(batched_svd_reference(y))
    from .svd_numba import svd_numba

    left, values, right, good = svd_numba(y)
    if not good.all():
        bad = (~good).nonzero().squeeze(1)
        left[bad], values[bad], right[bad] = batched_svd_reference(y[bad])
    return left, values, right
