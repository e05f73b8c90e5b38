# mypy: allow-untyped-defs
"""Triton kernels of :func:`infodcl_geo.kernels.infonce`; README.md beside this file derives them.

Three launches forward and two backward, no float atomics:

1. ``_unit_kernel`` writes unit vectors, padded to whole tiles, the anchors' already times log2(e) / tau (for the dot
   product, the vectors as they are);
2. ``_forward_kernel`` streams candidate tiles past a tile of anchors: sum of exponentials and, if the anchors need a
   gradient, the weighted sum of candidates, which is that gradient but for one division. Few anchors are spread over
   the device by splitting the candidates;
3. ``_anchor_kernel`` adds the splits in order, takes the logarithm, subtracts the positive and goes back through the
   normalisation.
4. ``_candidate_kernel`` recomputes the exponentials with anchor tiles streaming past a tile of candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .infonce import EPS, LOG2E, SAFE_LOGIT

_BIG = 2**31 - 1


@dataclass(frozen=True)
class Tiling:
    """Tile sizes and launch parameters of one kernel."""

    block_b: int
    block_n: int
    num_warps: int
    num_stages: int
    programs: int = 2  # that a multiprocessor holds at a time, about


@triton.jit
def _unit_kernel(
    v,
    unit,
    inverse,
    rows,
    d,
    stride_row,
    stride_col,
    scale,
    eps,
    NORMALIZE: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    col = tl.arange(0, BLOCK_D)
    mask = (row < rows)[:, None] & (col < d)[None, :]
    value = tl.load(v + row[:, None] * stride_row + col[None, :] * stride_col, mask=mask, other=0.0).to(tl.float32)
    if NORMALIZE:
        reciprocal = 1.0 / tl.maximum(tl.sqrt(tl.sum(value * value, 1)), eps)
        tl.store(inverse + row, reciprocal, mask=row < rows)
        value *= reciprocal[:, None]
    tl.store(unit + row[:, None] * BLOCK_D + col[None, :], (value * scale).to(unit.dtype.element_ty))


@triton.jit
def _load(pointer, at, end, other, EVEN: tl.constexpr):
    """The numbers at ``at``, and ``other`` beyond ``end``, where ``at`` does not reach if EVEN."""
    if EVEN:
        return tl.load(pointer + at)
    return tl.load(pointer + at, mask=at < end, other=other)


@triton.jit
def _leave_out_pairs(tile, down, across, pair_down, pair_across, at, end, limit):
    """Minus infinity at the listed pairs whose streamed index lies below ``limit``; pairs are sorted by that index."""
    BIG: tl.constexpr = 2147483647
    following = tl.load(pair_across + at, mask=at < end, other=BIG)
    while following < limit:
        fixed = tl.load(pair_down + at)
        tile = tl.where((down == fixed)[:, None] & (across == following)[None, :], float("-inf"), tile)
        at += 1
        following = tl.load(pair_across + at, mask=at < end, other=BIG)
    return tile, at


@triton.jit
def _forward_kernel(
    x,
    y,
    bias,
    anchor_ids,
    candidate_ids,
    positives,
    pair_row,
    pair_col,
    pair_start,
    part_total,
    part_largest,
    part_sum,
    anchors,
    candidates,
    padded_anchors,
    per_split,
    logit_scale,
    SCALED: tl.constexpr,
    BOUNDED: tl.constexpr,
    WANT_X: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tile_b, split = tl.program_id(0), tl.program_id(1)
    row = tile_b * BLOCK_B + tl.arange(0, BLOCK_B)
    offset_n, offset_d = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    x_tile = tl.load(
        x + tile_b.to(tl.int64) * BLOCK_B * BLOCK_D + tl.arange(0, BLOCK_B)[:, None] * BLOCK_D + offset_d[None, :]
    )
    y_offset = offset_n[:, None] * BLOCK_D + offset_d[None, :]
    total = tl.zeros((BLOCK_B,), tl.float32)
    largest = tl.full((BLOCK_B,), float("-inf"), tl.float32)
    weighted = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
    if anchor_ids is not None:
        row_id = tl.load(anchor_ids + row, mask=row < anchors, other=0)
        row_positive = tl.load(positives + row, mask=row < anchors, other=-1)
    if pair_row is not None:
        at = tl.load(pair_start + tile_b * (tl.num_programs(1) + 1) + split)
        end = tl.load(pair_start + tile_b * (tl.num_programs(1) + 1) + split + 1)
    first = split * per_split
    for n in range(first, tl.minimum(first + per_split, candidates), BLOCK_N):
        col = n + offset_n
        y_tile = tl.load(y + tl.cast(n, tl.int64) * BLOCK_D + y_offset)
        logit = tl.dot(x_tile, tl.trans(y_tile), input_precision=PRECISION)
        if not SCALED:
            logit *= logit_scale
        if bias is not None:
            logit += tl.load(bias + col, mask=col < candidates, other=0.0)[None, :]
        # Instructions, not products, are what counts where rows are short; else the branch costs registers.
        if (BLOCK_D > 64) | (n + BLOCK_N > candidates):
            logit = tl.where((col < candidates)[None, :], logit, float("-inf"))
        if anchor_ids is not None:
            col_id = tl.load(candidate_ids + col, mask=col < candidates, other=0)
            same = (row_id[:, None] == col_id[None, :]) & (row_positive[:, None] != col[None, :])
            logit = tl.where(same, float("-inf"), logit)
        if pair_row is not None:
            logit, at = _leave_out_pairs(logit, row, col, pair_row, pair_col, at, end, n + BLOCK_N)
        if BOUNDED:
            weight = tl.exp2(logit)
        else:
            following = tl.maximum(largest, tl.max(logit, 1))
            shift = tl.where(following == float("-inf"), 0.0, following)
            weight = tl.exp2(logit - shift[:, None])
            rescale = tl.exp2(largest - shift)
            total *= rescale
            if WANT_X:
                weighted *= rescale[:, None]
            largest = following
        total += tl.sum(weight, 1)
        if WANT_X:
            weighted = tl.dot(weight.to(y_tile.dtype), y_tile, weighted, input_precision=PRECISION)
    out = split.to(tl.int64) * padded_anchors + row
    tl.store(part_total + out, total)
    if not BOUNDED:
        tl.store(part_largest + out, largest)
    if WANT_X:
        tl.store(part_sum + out[:, None] * BLOCK_D + offset_d[None, :], weighted)


@triton.jit
def _anchor_kernel(
    x,
    x_inverse,
    x_scaled,
    y,
    bias,
    positives,
    part_total,
    part_largest,
    part_sum,
    loss,
    lse,
    grad_x,
    anchors,
    candidates,
    padded_anchors,
    d,
    stride_row,
    stride_col,
    splits,
    temperature,
    logit_scale,
    SCALED: tl.constexpr,
    BOUNDED: tl.constexpr,
    NORMALIZE: tl.constexpr,
    CONTRAST: tl.constexpr,
    WANT_X: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    LN2: tl.constexpr = 0.6931471805599453
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    col = tl.arange(0, BLOCK_D)
    inside = row < anchors
    mask = inside[:, None] & (col < d)[None, :]
    largest = tl.zeros((BLOCK_B,), tl.float32)
    if not BOUNDED:
        largest = tl.full((BLOCK_B,), float("-inf"), tl.float32)
        for split in range(splits):
            largest = tl.maximum(largest, tl.load(part_largest + tl.cast(split, tl.int64) * padded_anchors + row))
        largest = tl.where(largest == float("-inf"), 0.0, largest)
    total = tl.zeros((BLOCK_B,), tl.float32)
    weighted = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
    for split in range(splits):
        part = tl.cast(split, tl.int64) * padded_anchors + row
        rescale = tl.full((BLOCK_B,), 1.0, tl.float32)
        if not BOUNDED:
            rescale = tl.exp2(tl.load(part_largest + part) - largest)
        total += tl.load(part_total + part) * rescale
        if WANT_X:
            weighted += tl.load(part_sum + part[:, None] * BLOCK_D + col[None, :]) * rescale[:, None]
    row_lse = tl.log2(total) + largest
    tl.store(lse + row, row_lse, mask=inside)
    row_loss = row_lse
    if WANT_X:
        weighted *= tl.where(total == 0.0, 0.0, 1.0 / total)[:, None]
    if CONTRAST:
        positive = tl.load(positives + row, mask=inside, other=0)
        x_row = tl.load(x_scaled + row[:, None] * BLOCK_D + col[None, :]).to(tl.float32)
        y_row = tl.load(y + positive[:, None] * BLOCK_D + col[None, :]).to(tl.float32)
        similarity = tl.sum(x_row * y_row, 1)
        if not SCALED:
            similarity *= logit_scale
        row_loss -= similarity
        if bias is not None:
            row_loss -= tl.load(bias + positive)
        weighted -= y_row
    tl.store(loss + row, row_loss * LN2, mask=inside)
    if WANT_X:
        weighted /= temperature
        if NORMALIZE:
            inverse = tl.load(x_inverse + row, mask=inside, other=0.0)
            raw = tl.load(x + row[:, None] * stride_row + col[None, :] * stride_col, mask=mask, other=0.0)
            unit = raw.to(tl.float32) * inverse[:, None]
            weighted = (weighted - unit * tl.sum(unit * weighted, 1)[:, None]) * inverse[:, None]
        tl.store(grad_x + row[:, None] * d + col[None, :], weighted, mask=mask)


@triton.jit
def _store_candidate_grad(
    grad,
    y_raw,
    y_inverse,
    grad_y,
    row,
    candidates,
    d,
    stride_row,
    stride_col,
    NORMALIZE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Back through the normalisation, and to memory."""
    col = tl.arange(0, BLOCK_D)
    mask = (row < candidates)[:, None] & (col < d)[None, :]
    if NORMALIZE:
        inverse = tl.load(y_inverse + row, mask=row < candidates, other=0.0)
        raw = tl.load(y_raw + row[:, None] * stride_row + col[None, :] * stride_col, mask=mask, other=0.0)
        unit = raw.to(tl.float32) * inverse[:, None]
        grad = (grad - unit * tl.sum(unit * grad, 1)[:, None]) * inverse[:, None]
    tl.store(grad_y + row[:, None] * d + col[None, :], grad.to(grad_y.dtype.element_ty), mask=mask)


@triton.jit
def _candidate_kernel(
    x,
    y,
    y_raw,
    y_inverse,
    bias,
    anchor_ids,
    candidate_ids,
    positives,
    pair_row,
    pair_col,
    pair_start,
    lse,
    weight,
    scale,
    grad_y,
    anchors,
    candidates,
    padded_candidates,
    per_split,
    d,
    stride_row,
    stride_col,
    logit_scale,
    grad_scale,
    SCALED: tl.constexpr,
    NORMALIZE: tl.constexpr,
    CONTRAST: tl.constexpr,
    EVEN: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    tile_n, split = tl.program_id(0), tl.program_id(1)
    col = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    offset_b, offset_d = tl.arange(0, BLOCK_B), tl.arange(0, BLOCK_D)
    y_tile = tl.load(
        y + tile_n.to(tl.int64) * BLOCK_N * BLOCK_D + tl.arange(0, BLOCK_N)[:, None] * BLOCK_D + offset_d[None, :]
    )
    x_offset = offset_b[:, None] * BLOCK_D + offset_d[None, :]
    grad = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    if bias is not None:
        col_bias = tl.load(bias + col, mask=col < candidates, other=0.0)
    if anchor_ids is not None:
        col_id = tl.load(candidate_ids + col, mask=col < candidates, other=0)
    if pair_row is not None:
        at = tl.load(pair_start + tile_n * (tl.num_programs(1) + 1) + split)
        end = tl.load(pair_start + tile_n * (tl.num_programs(1) + 1) + split + 1)
    first = split * per_split
    for b in range(first, tl.minimum(first + per_split, anchors), BLOCK_B):
        row = b + offset_b
        x_tile = tl.load(x + tl.cast(b, tl.int64) * BLOCK_D + x_offset)
        # Padded anchors are switched off by an infinite log-sum-exp.
        row_lse = _load(lse, row, anchors, float("inf"), EVEN)
        logit = tl.dot(y_tile, tl.trans(x_tile), input_precision=PRECISION)
        if not SCALED:
            logit *= logit_scale
        if bias is not None:
            logit += col_bias[:, None]
        if positives is not None:
            # There are fewer than 2^31 candidates, and comparing 64 bits takes twice as long.
            is_positive = _load(positives, row, anchors, -1, EVEN).to(tl.int32)[None, :] == col[:, None]
        if anchor_ids is not None:
            row_id = _load(anchor_ids, row, anchors, 0, EVEN)
            logit = tl.where((row_id[None, :] == col_id[:, None]) & ~is_positive, float("-inf"), logit)
        if pair_row is not None:
            logit, at = _leave_out_pairs(logit, col, row, pair_col, pair_row, at, end, b + BLOCK_B)
        if anchor_ids is not None or pair_row is not None or bias is not None:
            # Where nothing remains, the log-sum-exp and every logit are minus infinity.
            row_lse = tl.where(row_lse == float("-inf"), 0.0, row_lse)
        factor = tl.exp2(logit - row_lse[None, :])
        if CONTRAST:
            factor = tl.where(is_positive, factor - 1.0, factor)
        if weight is not None:
            factor *= _load(weight, row, anchors, 0.0, EVEN)[None, :]
        grad = tl.dot(factor.to(x_tile.dtype), x_tile, grad, input_precision=PRECISION)
    grad *= tl.load(scale) * grad_scale
    out = tl.cast(col, tl.int64)
    if SPLIT:
        out += split.to(tl.int64) * padded_candidates
        tl.store(grad_y + out[:, None] * BLOCK_D + offset_d[None, :], grad)
    else:
        _store_candidate_grad(
            grad, y_raw, y_inverse, grad_y, out, candidates, d, stride_row, stride_col, NORMALIZE, BLOCK_D
        )


@triton.jit
def _candidate_sum_kernel(
    part,
    y_raw,
    y_inverse,
    grad_y,
    candidates,
    padded_candidates,
    d,
    stride_row,
    stride_col,
    splits,
    NORMALIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    offset = row[:, None] * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    grad = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for split in range(splits):
        grad += tl.load(part + tl.cast(split, tl.int64) * padded_candidates * BLOCK_D + offset)
    _store_candidate_grad(
        grad, y_raw, y_inverse, grad_y, row, candidates, d, stride_row, stride_col, NORMALIZE, BLOCK_D
    )


# -- Launching ---------------------------------------------------------------------------------------------------------


def block_d(d: int) -> int:
    """Width of a padded row: 64, 128 or 256.

    Below 64 dimensions the exponentials take longer than the products, so a narrower row would gain little.
    """
    if d > 256:
        raise ValueError(f"the Triton kernels take at most 256 dimensions, not {d}")
    return max(64, triton.next_power_of_2(d))


def forward_tiling(element_size: int, width: int, arch: int) -> Tiling:
    """Tile of ``_forward_kernel``: rows of ``width`` elements of ``element_size`` bytes, ``arch`` as :func:`arch_of`.

    None spills a register with every optional argument present (tests/test_infonce_triton.py). In float32 what counts
    is how many instructions split operands into TensorFloat-32: with 64 rows and four warps on Hopper every operand of
    its asynchronous products is split by one warp alone.
    """
    if arch == 0:
        return _hip_tiling(element_size * width)
    if element_size == 4:
        if width > 128:
            return Tiling(32, 16, 8, 1)
        if width > 64:
            return Tiling(32, 32, 8, 1)
        return Tiling(32, 64, 4, 2) if arch < 90 else Tiling(64, 32, 4, 2, programs=3 if arch < 100 else 2)
    if width > 128:
        return Tiling(64, 64, 8, 2)
    if width > 64:
        return Tiling(128, 64, 8, 2)
    return Tiling(64, 64, 4, 3, programs=4) if arch < 90 else Tiling(128, 64, 8, 3)


def candidate_tiling(element_size: int, width: int, arch: int) -> Tiling:
    """Tile of ``_candidate_kernel``; arguments as for :func:`forward_tiling`."""
    if arch == 0:
        return _hip_tiling(element_size * width)
    if element_size == 4:
        if width > 64:
            return Tiling(32, 32, 8, 1)
        return Tiling(32, 64, 4, 2, programs=3) if 90 <= arch < 100 else Tiling(64, 32, 8, 2)
    if width > 128:
        return Tiling(32, 64, 8, 2)
    if width > 64:
        return Tiling(64, 64, 8, 2)
    return Tiling(64, 64, 4, 3, programs=3) if arch < 90 else Tiling(64, 128, 8, 3)


def _hip_tiling(row_bytes: int) -> Tiling:
    if row_bytes <= 128:
        return Tiling(64, 64, 4, 2)
    if row_bytes <= 256:
        return Tiling(64, 32, 4, 2)
    return Tiling(32, 32, 4, 2) if row_bytes <= 512 else Tiling(32, 16, 4, 1)


def precision(dtype: torch.dtype, width: int, allow_tf32: bool, arch: int) -> str:
    """How float32 products are formed.

    Three TensorFloat-32 products keep float32 accuracy on NVIDIA's matrix units; their operands do not fit the
    registers beyond 128 dimensions.
    """
    if dtype == torch.float32 and allow_tf32:
        return "tf32"
    return "tf32x3" if dtype == torch.float32 and arch > 0 and width <= 128 else "ieee"


def arch_of(device: torch.device) -> int:
    """Compute capability times ten of an NVIDIA device (90 for 9.0), 0 for an AMD device and for the interpreter."""
    if device.type != "cuda" or torch.version.hip is not None:
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


class TritonTiles:
    """Runs the kernels; the counterpart of ``_TorchTiles`` for CUDA and HIP devices."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        positives: Tensor,
        anchor_ids: Tensor | None,
        candidate_ids: Tensor | None,
        rows: Tensor | None,
        cols: Tensor | None,
        log_q: Tensor | None,
        temperature: float,
        normalize: bool,
        contrast: bool,
        tuning: list[int],
    ) -> None:
        self.x, self.y = x, y
        self.anchors, self.candidates, self.d = x.size(0), y.size(0), x.size(1)
        if max(self.anchors, self.candidates) > _BIG - 1024:
            raise ValueError("the Triton kernels take fewer than 2^31 anchors and candidates")
        self.width, arch = block_d(self.d), arch_of(x.device)
        _, allow_tf32, *tilings, _ = tuning
        self.precision = precision(x.dtype, self.width, bool(allow_tf32), arch)
        self.forward_tiling = forward_tiling(x.element_size(), self.width, arch)
        if any(tilings[:4]):
            self.forward_tiling = Tiling(*tilings[:4])
        self.candidate_tiling = candidate_tiling(x.element_size(), self.width, arch)
        if any(tilings[4:]):
            self.candidate_tiling = Tiling(*tilings[4:])
        self.temperature, self.normalize, self.contrast = temperature, normalize, contrast
        # Unit vectors are rounded when they are stored and take log2(e) / tau along; for the dot product the vectors
        # stay exact and the products are scaled.
        self.logit_scale = LOG2E / temperature
        self.positives = positives.contiguous()
        self.anchor_ids = None if anchor_ids is None else anchor_ids.contiguous()
        self.candidate_ids = None if candidate_ids is None else candidate_ids.contiguous()
        self.rows, self.cols = rows, cols
        self.bias = None if log_q is None else log_q.to(torch.float32) * -LOG2E
        # float16 cannot hold exponentials that are not relative to the largest.
        self.bounded = normalize and log_q is None and 1.0 / temperature <= SAFE_LOGIT and x.dtype != torch.float16

    def _unit(self, v: Tensor, scale: float, block: int) -> tuple[Tensor, Tensor]:
        rows = triton.cdiv(v.size(0), block) * block
        unit = v.new_empty(rows, self.width)
        inverse = v.new_empty(rows if self.normalize else 0, dtype=torch.float32)
        block_r = min(block, max(1, 4096 // self.width))
        _unit_kernel[(rows // block_r,)](
            v,
            unit,
            inverse,
            v.size(0),
            self.d,
            v.stride(0),
            v.stride(1),
            scale,
            EPS,
            NORMALIZE=self.normalize,
            BLOCK_R=block_r,
            BLOCK_D=self.width,
        )
        return unit, inverse

    def _splits(self, tiles: int, streamed: int, block: int, programs: int) -> tuple[int, int]:
        """Into how many parts to cut the streamed axis so that the programs fill the device once, and their length."""
        units = torch.cuda.get_device_properties(self.x.device).multi_processor_count if self.x.is_cuda else 4
        slots = programs * units
        blocks = triton.cdiv(streamed, block)
        per_split = triton.cdiv(blocks, max(1, min(slots // tiles, blocks)))
        return triton.cdiv(blocks, per_split), per_split * block

    def _pairs(
        self, fixed: Tensor, block: int, streamed: Tensor, end: int, tiles: int, splits: int, per_split: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Left-out pairs by tile of the fixed axis, then along the streamed axis; where each program's share starts."""
        assert self.rows is not None
        assert self.cols is not None
        keep = (self.cols != self.positives[self.rows]) & (self.cols >= 0) & (self.cols < self.candidates)
        key = fixed // block << 32 | torch.where(keep, streamed, _BIG)
        key, order = key.sort()
        bounds = torch.arange(splits + 1, device=key.device).mul_(per_split).clamp_(max=end)
        starts = torch.searchsorted(key, (torch.arange(tiles, device=key.device) << 32)[:, None] + bounds)
        return fixed[order].contiguous(), streamed[order].contiguous(), starts

    def forward(self, want_x: bool, want_y: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss, base-2 log-sum-exp, the gradient of the summed loss to the anchors (empty if not wanted), and nothing:

        the gradient to the candidates is left to the backward pass, where its exponentials cost the same.
        """
        x = self.x
        loss = x.new_empty(self.anchors, dtype=torch.float32)
        lse, nothing = torch.empty_like(loss), x.new_empty(0, dtype=torch.float32)
        grad_x = x.new_empty((self.anchors, self.d) if want_x else (0,), dtype=torch.float32)
        if self.anchors == 0:
            return loss, lse, grad_x, nothing
        tiling = self.forward_tiling
        x_unit, x_inverse = self._unit(x, self.logit_scale if self.normalize else 1.0, tiling.block_b)
        y_unit, _ = self._unit(self.y, 1.0, tiling.block_n)
        tiles = x_unit.size(0) // tiling.block_b
        splits, per_split = self._splits(tiles, self.candidates, tiling.block_n, tiling.programs)
        pair_row = pair_col = pair_start = None
        if self.rows is not None and self.cols is not None:
            pair_row, pair_col, pair_start = self._pairs(
                self.rows, tiling.block_b, self.cols, self.candidates, tiles, splits, per_split
            )
        total, largest = x.new_empty(2, splits, x_unit.size(0), dtype=torch.float32)
        weighted = x.new_empty((splits, *x_unit.shape) if want_x else (0,), dtype=torch.float32)
        _forward_kernel[(tiles, splits)](
            x_unit,
            y_unit,
            self.bias,
            self.anchor_ids,
            self.candidate_ids,
            self.positives,
            pair_row,
            pair_col,
            pair_start,
            total,
            largest,
            weighted,
            self.anchors,
            self.candidates,
            x_unit.size(0),
            per_split,
            self.logit_scale,
            SCALED=self.normalize,
            BOUNDED=self.bounded,
            WANT_X=want_x,
            PRECISION=self.precision,
            BLOCK_B=tiling.block_b,
            BLOCK_N=tiling.block_n,
            BLOCK_D=self.width,
            num_warps=tiling.num_warps,
            num_stages=tiling.num_stages,
        )
        block = 16
        _anchor_kernel[(triton.cdiv(self.anchors, block),)](
            x,
            x_inverse,
            x_unit,
            y_unit,
            self.bias,
            self.positives,
            total,
            largest,
            weighted,
            loss,
            lse,
            grad_x,
            self.anchors,
            self.candidates,
            x_unit.size(0),
            self.d,
            x.stride(0),
            x.stride(1),
            splits,
            self.temperature,
            self.logit_scale,
            SCALED=self.normalize,
            BOUNDED=self.bounded,
            NORMALIZE=self.normalize,
            CONTRAST=self.contrast,
            WANT_X=want_x,
            BLOCK_B=block,
            BLOCK_D=self.width,
        )
        return loss, lse, grad_x, nothing

    def candidate_grad(self, grad: Tensor, lse: Tensor, uniform: bool) -> Tensor:
        """Gradient of ``sum_b grad_b loss_b`` to the candidates; ``uniform``: all entries of grad are equal."""
        y = self.y
        if self.anchors == 0:
            return torch.zeros_like(y)
        tiling = self.candidate_tiling
        x_unit, _ = self._unit(self.x, self.logit_scale if self.normalize else 1.0, tiling.block_b)
        y_unit, y_inverse = self._unit(y, 1.0, tiling.block_n)
        tiles = y_unit.size(0) // tiling.block_n
        splits, per_split = self._splits(tiles, self.anchors, tiling.block_b, tiling.programs)
        pair_row = pair_col = pair_start = None
        if self.rows is not None and self.cols is not None:
            pair_col, pair_row, pair_start = self._pairs(
                self.cols, tiling.block_n, self.rows, self.anchors, tiles, splits, per_split
            )
        # Weights travel relative to the largest, so that half precision holds them.
        scale = grad if uniform else grad.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
        weight = None if uniform else (grad / scale).contiguous()
        grad_y = torch.empty(y.shape, dtype=y.dtype, device=y.device)
        out = grad_y if splits == 1 else y.new_empty(splits, *y_unit.shape, dtype=torch.float32)
        _candidate_kernel[(tiles, splits)](
            x_unit,
            y_unit,
            y,
            y_inverse,
            self.bias,
            self.anchor_ids,
            self.candidate_ids,
            self.positives if self.contrast or self.anchor_ids is not None else None,
            pair_row,
            pair_col,
            pair_start,
            lse,
            weight,
            scale,
            out,
            self.anchors,
            self.candidates,
            y_unit.size(0),
            per_split,
            self.d,
            y.stride(0),
            y.stride(1),
            self.logit_scale,
            1.0 / LOG2E if self.normalize else 1.0 / self.temperature,
            SCALED=self.normalize,
            NORMALIZE=self.normalize,
            CONTRAST=self.contrast,
            EVEN=self.anchors % tiling.block_b == 0,
            SPLIT=splits > 1,
            PRECISION=self.precision,
            BLOCK_B=tiling.block_b,
            BLOCK_N=tiling.block_n,
            BLOCK_D=self.width,
            num_warps=tiling.num_warps,
            num_stages=tiling.num_stages,
        )
        if splits > 1:
            block = 16
            _candidate_sum_kernel[(triton.cdiv(self.candidates, block),)](
                out,
                y,
                y_inverse,
                grad_y,
                self.candidates,
                y_unit.size(0),
                self.d,
                y.stride(0),
                y.stride(1),
                splits,
                NORMALIZE=self.normalize,
                BLOCK_N=block,
                BLOCK_D=self.width,
            )
        return grad_y
