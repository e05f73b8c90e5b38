"""One-sided Jacobi SVD of many small matrices on a CPU, compiled by Numba; see README.md beside this file."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

# Matrices that go through the vector instructions together: with fewer, LLVM keeps to scalars; more are no faster.
LANES = 32
SWEEPS = 15  # most sweeps; iteration ends when all matrices of a group have converged, after five to seven
_FEWEST_A_THREAD = 512
# Sums keep their order, and NaN and infinity their meaning.
_OPTIONS: dict[str, Any] = {"fastmath": {"contract", "nsz"}, "error_model": "numpy", "nogil": True}


def svd_numba(y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """U, S and Vh as ``batched_svd`` returns them, and which matrices [B] these are right for (the others are not
    finite, have a singular value of zero or did not converge)."""
    batch, n, m = y.shape
    count = min(n, m)
    left, values, right = y.new_empty(batch, n, count), y.new_empty(batch, count), y.new_empty(batch, count, m)
    good = torch.empty(batch, dtype=torch.bool)
    # The vectors are the rows of y, or of its transpose; those along the longer dimension are near to y's entries.
    wide = n <= m
    arrays = [x.detach().numpy() for x in ((y, right, left.mT) if wide else (y.mT, left.mT, right))]
    precision = torch.finfo(y.dtype).eps
    # What the last sweep may leave of the cosines between vectors: 8 roundings.
    finished = (8 * precision) ** 2
    smallest = precision / 64
    decompose = _compiled(y.dtype)
    threads = max(1, min(torch.get_num_threads(), batch // _FEWEST_A_THREAD))
    groups = -(-batch // LANES)

    def part(i: int) -> None:
        # Between groups, so that the result does not depend on the number of threads.
        chunk = slice(groups * i // threads * LANES, groups * (i + 1) // threads * LANES)
        vectors, near, far = (x[chunk] for x in arrays)
        decompose(vectors, near, values.numpy()[chunk], far, good.numpy()[chunk], wide, finished, smallest)

    if threads == 1:
        part(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, range(threads)))
    return left, values, right, good


@functools.cache
def _compiled(dtype: torch.dtype) -> Callable[..., None]:
    real = numba.float32 if dtype == torch.float32 else numba.float64
    matrices = numba.types.Array(real, 3, "A")  # any strides, so that transposes need no second version
    signature = numba.void(
        matrices, matrices, numba.types.Array(real, 2, "A"), matrices, numba.types.Array(numba.boolean, 1, "A"),
        numba.boolean, numba.float64, numba.float64,
    )  # fmt: skip
    try:
        return numba.njit(signature, cache=True, **_OPTIONS)(_decompose)
    except RuntimeError:  # no folder to keep the compiled code in
        return numba.njit(signature, **_OPTIONS)(_decompose)


@numba.njit(**_OPTIONS)
def _angles(a, b, length, cosine, sine, dot, worst, turn):
    """The rotation that makes the vectors a and b orthogonal; the largest squared cosine between two to ``worst``.

    After it a cosine y of b with a third vector is one of y sin(angle) |b| / |a| of a; the square of the largest factor
    goes to ``turn``. Apart from vectors of nearly equal length, which turn by large angles however orthogonal they are,
    the factor is about the cosine between a and b, and a sweep leaves the squares of the cosines that it met.
    """
    one, half = a.dtype.type(1), a.dtype.type(0.5)
    tiny = a.dtype.type(np.finfo(a.dtype).tiny)
    aa, bb = cosine, sine
    dot[:] = 0
    aa[:] = 0
    bb[:] = 0
    for r in range(length):
        for lane in range(LANES):
            dot[lane] += a[r, lane] * b[r, lane]
            aa[lane] += a[r, lane] * a[r, lane]
            bb[lane] += b[r, lane] * b[r, lane]
    for lane in range(LANES):
        square = dot[lane] * dot[lane]
        relative = square / (aa[lane] * bb[lane] + tiny)
        gap = (bb[lane] - aa[lane]) * half
        # Without branches, which would keep it from vector instructions.
        inverse = one / (abs(gap) + np.sqrt(gap * gap + square) + tiny)
        factor = max(aa[lane], bb[lane]) * inverse
        worst[lane] = max(worst[lane], relative)
        turn[lane] = max(turn[lane], relative * factor * factor)
        t = np.copysign(one, gap) * dot[lane] * inverse
        cosine[lane] = one / np.sqrt(one + t * t)
        sine[lane] = cosine[lane] * t


@numba.njit(**_OPTIONS)
def _rotate(a, b, rows, cosine, sine):
    for r in range(rows):
        for lane in range(LANES):
            u, v = a[r, lane], b[r, lane]
            a[r, lane] = cosine[lane] * u - sine[lane] * v
            b[r, lane] = sine[lane] * u + cosine[lane] * v


@numba.njit(**_OPTIONS)
def _lengths(x, start, stop, lengths):
    """Lengths [count, LANES] of the vectors x[:, start:stop]."""
    lengths[:] = 0
    for k in range(len(x)):
        for r in range(start, stop):
            for lane in range(LANES):
                lengths[k, lane] += x[k, r, lane] * x[k, r, lane]
        for lane in range(LANES):
            lengths[k, lane] = np.sqrt(lengths[k, lane])


@numba.njit(**_OPTIONS)
def _sweep(x, length, cosine, sine, dot, worst, turn):
    for p in range(len(x) - 1):
        for q in range(p + 1, len(x)):
            _angles(x[p], x[q], length, cosine, sine, dot, worst, turn)
            _rotate(x[p], x[q], x.shape[1], cosine, sine)


def _decompose(vectors, near, values, far, good, wide, finished, smallest):
    """Jacobi on ``vectors`` [B, count, length]: directions to ``near``, lengths to ``values``, rotations to ``far``.

    Args:
        vectors: the matrices as rows of their shorter dimension.
        near: directions of the rotated vectors, [B, count, length].
        values: their lengths in descending order, [B, count].
        far: the rotation, [B, count, count].
        good: whether the iteration converged to vectors longer than ``smallest``, [B].
        wide: whether ``near``, not ``far``, holds the right singular vectors, which decide the signs.
        finished: the square of what the last sweep may leave of the cosines between vectors.
        smallest: the least length, relative to the power of 2 above the largest entry.
    """
    batch, count, length = vectors.shape
    one, zero = vectors.dtype.type(1), vectors.dtype.type(0)
    # Vectors and, below them, the rows of the rotation.
    x = np.empty((count, length + count, LANES), vectors.dtype)
    # Not rows of one array: LLVM could not tell that they do not overlap.
    cosine, sine, dot = np.empty(LANES, vectors.dtype), np.empty(LANES, vectors.dtype), np.empty(LANES, vectors.dtype)
    worst, turn, scale = np.empty(LANES, vectors.dtype), np.empty(LANES, vectors.dtype), np.empty(LANES, vectors.dtype)
    lengths, unit = np.empty((count, LANES), vectors.dtype), np.empty((count, LANES), vectors.dtype)
    signs = np.empty((count, LANES), vectors.dtype)
    rank = np.empty((count, LANES), np.int64)
    signs_from, signs_to = (0, length) if wide else (length, length + count)
    for first in range(0, batch, LANES):
        lanes = min(LANES, batch - first)
        x[:] = 0
        for lane in range(lanes):
            largest, finite = zero, True
            for i in range(count):
                x[i, length + i, lane] = 1
                for j in range(length):
                    entry = abs(vectors[first + lane, i, j])
                    largest = max(largest, entry)
                    finite &= entry <= np.finfo(vectors.dtype).max
            # By a power of 2, which rounds nothing, so that no square leaves the range.
            scale[lane] = math.ldexp(1.0, min(max(math.frexp(largest)[1], -100), 100)) if finite else one
            for i in range(count):
                for j in range(length):
                    x[i, j, lane] = vectors[first + lane, i, j] / scale[lane] if finite else zero
        for _ in range(SWEEPS):
            worst[:] = 0
            turn[:] = 0
            _sweep(x, length, cosine, sine, dot, worst, turn)
            if (worst * turn).max() <= finished:
                break
        _lengths(x, 0, length, lengths)
        # A rotation's rows have unit length but for what rounding added up.
        _lengths(x, length, length + count, unit)
        for k in range(count):
            for lane in range(LANES):
                high, low = zero, zero
                for r in range(signs_from, signs_to):
                    high, low = max(high, x[k, r, lane]), min(low, x[k, r, lane])
                signs[k, lane] = one if high >= -low else -one
        rank[:] = 0
        for k in range(count):
            for other in range(count):
                for lane in range(LANES):
                    longer = lengths[other, lane] > lengths[k, lane]
                    rank[k, lane] += longer | ((lengths[other, lane] == lengths[k, lane]) & (other < k))
        for lane in range(lanes):
            least = lengths[0, lane]
            for k in range(count):
                least = min(least, lengths[k, lane])
                place = rank[k, lane]
                values[first + lane, place] = lengths[k, lane] * scale[lane]
                factor = signs[k, lane] / lengths[k, lane]
                for j in range(length):
                    near[first + lane, place, j] = x[k, j, lane] * factor
                factor = signs[k, lane] / unit[k, lane]
                for i in range(count):
                    far[first + lane, place, i] = x[k, length + i, lane] * factor
            good[first + lane] = (worst[lane] * turn[lane] <= finished) & (least > smallest)
