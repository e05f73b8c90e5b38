"""One-sided Jacobi SVD of many small matrices in registers; see README.md beside this file."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

SWEEPS = 12  # most sweeps; iteration ends when all matrices of a program have converged, after about six


@triton.jit(do_not_specialize=["batch"])
def svd_kernel(
    y_ptr,
    left_ptr,
    values_ptr,
    right_ptr,
    batch,
    stride_b,
    stride_c,
    stride_r,
    COUNT: tl.constexpr,  # vectors to rotate, the shorter dimension
    LENGTH: tl.constexpr,  # their entries, the longer one
    C: tl.constexpr,  # COUNT and LENGTH rounded up to powers of 2
    R: tl.constexpr,
    WIDE: tl.constexpr,  # whether the vectors are rows of y (n <= m) or columns
    MATRICES: tl.constexpr,  # per program
    SWEEPS: tl.constexpr,
):
    """Every vector is updated from its own and its partner's entries; in round r of a sweep k's partner is k xor r."""
    first = tl.program_id(0).to(tl.int64) * MATRICES
    b = first + tl.arange(0, MATRICES)
    c = tl.arange(0, C)
    r = tl.arange(0, R)
    inside = (b < batch)[:, None] & (c < COUNT)[None, :]
    # With the batch as the last axis in memory, rows and columns lie far apart.
    offsets = (b * stride_b)[:, None, None]
    offsets += (c.to(tl.int64) * stride_c)[None, :, None] + (r.to(tl.int64) * stride_r)[None, None, :]
    mask = inside[:, :, None] & (r < LENGTH)[None, None, :]
    x = tl.load(y_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    # What is not finite becomes NaN at the end; until then zeros stand for it, as comparisons of NaN order nothing.
    spoilt = tl.max(tl.max((~(tl.abs(x) <= 3.4028234663852886e38)).to(tl.int32), axis=2), axis=1) > 0
    x = tl.where(spoilt[:, None, None], 0.0, x)
    # Squares of entries around 1 stay in range.
    scale = tl.max(tl.max(tl.abs(x), axis=2), axis=1)
    scale = tl.where(scale > 0, scale, 1.0)
    x = x / scale[:, None, None]
    w = tl.zeros([MATRICES, C, C], dtype=tl.float32) + tl.where(c[:, None] == c[None, :], 1.0, 0.0)[None, :, :]

    sweep = 0
    unfinished = 1.0
    while (sweep < SWEEPS) & (unfinished > 0.0):
        worst = tl.zeros([MATRICES, C], dtype=tl.float32)
        turn = tl.zeros([MATRICES, C], dtype=tl.float32)
        for step in range(1, C):
            partner = c ^ step
            other = tl.broadcast_to(partner[None, :, None], (MATRICES, C, R))
            z = tl.gather(x, other, 1)
            other_w = tl.broadcast_to(partner[None, :, None], (MATRICES, C, C))
            zw = tl.gather(w, other_w, 1)
            own = tl.sum(x * x, axis=2)
            its = tl.sum(z * z, axis=2)
            dot = tl.sum(x * z, axis=2)
            # Tangents of opposite signs for the two of a pair; equal lengths turn by 45 degrees.
            gap = 0.5 * (its - own)
            ahead = (gap > 0) | ((gap == 0) & (c < partner)[None, :])
            small = dot * dot <= 1e-14 * own * its
            inverse = 1.0 / tl.where(small, 1.0, tl.abs(gap) + tl.sqrt(gap * gap + dot * dot))
            t = tl.where(small, 0.0, dot * inverse)
            t = tl.where(ahead, t, -t)
            # A rotation passes cosines with third vectors on from one of its two to the other, times this factor.
            factor = tl.maximum(own, its) * inverse
            relative = tl.where(small, 0.0, dot * dot / tl.where(small, 1.0, own * its))
            worst = tl.maximum(worst, relative)
            turn = tl.maximum(turn, relative * factor * factor)
            cosine = 1.0 / tl.sqrt(1.0 + t * t)
            sine = t * cosine
            x = cosine[:, :, None] * x - sine[:, :, None] * z
            w = cosine[:, :, None] * w - sine[:, :, None] * zw
        # The square of what the sweep may have left, against 8 roundings.
        unfinished = tl.max(tl.where(tl.max(worst, axis=1) * tl.max(turn, axis=1) > 9e-13, 1.0, 0.0), axis=0)
        sweep += 1

    # A rotation's vectors have unit length but for what rounding added up.
    w = w / tl.sqrt(tl.sum(w * w, axis=2))[:, :, None]
    lengths = tl.sqrt(tl.sum(x * x, axis=2))
    top = tl.max(lengths, axis=1)
    empty = lengths <= (COUNT * 1.2e-7) * top[:, None]
    x = tl.where(empty[:, :, None], 0.0, x / tl.where(empty, 1.0, lengths)[:, :, None])
    empty = empty & (c < COUNT)[None, :]
    if tl.max(tl.max(empty.to(tl.int32), axis=1), axis=0) > 0:
        for k in range(0, COUNT):
            here = (c == k)[None, :] & empty
            # The axis furthest from the vectors so far, made orthogonal to them (twice is enough).
            covered = tl.sum(x * x, axis=1) + tl.where(r < LENGTH, 0.0, 2.0)[None, :]
            axis = tl.argmin(covered, axis=1)
            fresh = tl.where(r[None, :] == axis[:, None], 1.0, 0.0)
            for _ in tl.static_range(2):
                along = tl.sum(x * fresh[:, None, :], axis=2)
                fresh -= tl.sum(along[:, :, None] * x, axis=1)
                fresh = fresh / tl.sqrt(tl.maximum(tl.sum(fresh * fresh, axis=1), 1e-30))[:, None]
            x = tl.where(here[:, :, None], fresh[:, None, :], x)

    # The entry of largest magnitude of each right vector becomes positive.
    negative = tl.max(x, axis=2) < -tl.min(x, axis=2) if WIDE else tl.max(w, axis=2) < -tl.min(w, axis=2)
    x = tl.where(negative[:, :, None], -x, x)
    w = tl.where(negative[:, :, None], -w, w)

    # Position in descending order: how many lengths are larger, the earlier of equal ones first.
    before = (lengths[:, :, None] > lengths[:, None, :]) | (
        (lengths[:, :, None] == lengths[:, None, :]) & (c[:, None] < c[None, :])[None, :, :]
    )
    before = before & (c < COUNT)[None, :, None]
    position = tl.sum(before.to(tl.int32), axis=1)

    lengths = tl.where(spoilt[:, None], float("nan"), lengths)
    x = tl.where(spoilt[:, None, None], float("nan"), x)
    w = tl.where(spoilt[:, None, None], float("nan"), w)
    tl.store(values_ptr + (b * COUNT)[:, None] + position, lengths * scale[:, None], mask=inside)
    mask_w = inside[:, :, None] & (c < COUNT)[None, None, :]
    if WIDE:  # right [B, k, m] holds x, left [B, n, k] holds w
        x_offsets = (b * (COUNT * LENGTH))[:, None, None] + position[:, :, None] * LENGTH + r[None, None, :]
        w_offsets = (b * (COUNT * COUNT))[:, None, None] + c[None, None, :] * COUNT + position[:, :, None]
        tl.store(right_ptr + x_offsets, x, mask=mask)
        tl.store(left_ptr + w_offsets, w, mask=mask_w)
    else:  # left [B, n, k] holds x, right [B, k, m] holds w
        x_offsets = (b * (COUNT * LENGTH))[:, None, None] + r[None, None, :] * COUNT + position[:, :, None]
        w_offsets = (b * (COUNT * COUNT))[:, None, None] + position[:, :, None] * COUNT + c[None, None, :]
        tl.store(left_ptr + x_offsets, x, mask=mask)
        tl.store(right_ptr + w_offsets, w, mask=mask_w)


def configuration(n: int, m: int) -> dict[str, int | bool]:
    """Compile-time arguments of ``svd_kernel`` for matrices n x m; ``num_warps`` is a launch option."""
    count, length = min(n, m), max(n, m)
    c, r = max(2, triton.next_power_of_2(count)), max(2, triton.next_power_of_2(length))
    return {
        "COUNT": count,
        "LENGTH": length,
        "C": c,
        "R": r,
        "WIDE": n <= m,
        # One warp, whose exchanges need no barrier; more than 16 numbers a thread of the two factors spill registers,
        # and so do several matrices that are four times as long as wide.
        "MATRICES": 1 if r >= 4 * c else min(4, 1 << max(0, (512 // (c * r + c * c)).bit_length() - 1)),
        "SWEEPS": SWEEPS,
        "num_warps": 1,
    }


def svd_triton(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``batched_svd`` of float32 matrices on a GPU (or in Triton's interpreter): U, S and Vh, contiguous.

    A matrix with an entry that is not finite gets NaN: to raise an error would wait for the device.
    """
    batch, n, m = y.shape
    k = min(n, m)
    left, values, right = y.new_empty(batch, n, k), y.new_empty(batch, k), y.new_empty(batch, k, m)
    if batch == 0:
        return left, values, right
    options = configuration(n, m)
    strides = (y.stride(1), y.stride(2)) if n <= m else (y.stride(2), y.stride(1))
    grid = (triton.cdiv(batch, int(options["MATRICES"])),)
    with torch.cuda.device_of(y):
        svd_kernel[grid](y, left, values, right, batch, y.stride(0), *strides, **options)
    return left, values, right
