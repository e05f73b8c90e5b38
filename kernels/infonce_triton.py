# mypy: allow-untyped-defs
"""Triton kernels of :func:`infodcl_geo.kernels.infonce`; README.md beside this file derives them.

Three launches forward and two backward, no float atomics:

1. ``unit_kernel`` writes unit vectors, padded to whole tiles, the anchors' already times log2(e) / tau (for the dot
   product, the vectors as they are);
2. ``forward_kernel`` streams candidate tiles past a tile of anchors: sum of exponentials and, if the anchors need a
   gradient, the weighted sum of candidates, which is that gradient but for one division. Few anchors are spread over
   the device by splitting the candidates;
3. ``anchor_kernel`` adds the splits in order, takes the logarithm, subtracts the positive and goes back through the
   normalisation.
4. ``candidate_kernel`` recomputes the exponentials with anchor tiles streaming past a tile of candidates.

Counts of rows are not specialised: a last batch of another size shall not compile everything again.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _raw(v, row, col, rows, d, stride_row, stride_col):
    """Rows of an input as float32, zero outside; in a transposed table a column can lie beyond 32 bits."""
    mask = (row < rows)[:, None] & (col < d)[None, :]
    at = row[:, None] * stride_row + col[None, :].to(tl.int64) * stride_col
    return tl.load(v + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["rows"])
def unit_kernel(
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
    value = _raw(v, row, col, rows, d, stride_row, stride_col)
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


@triton.jit(do_not_specialize=["anchors", "candidates"])
def forward_kernel(
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


@triton.jit(do_not_specialize=["anchors", "candidates", "splits"])
def anchor_kernel(
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
            unit = _raw(x, row, col, anchors, d, stride_row, stride_col) * inverse[:, None]
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
        unit = _raw(y_raw, row, col, candidates, d, stride_row, stride_col) * inverse[:, None]
        grad = (grad - unit * tl.sum(unit * grad, 1)[:, None]) * inverse[:, None]
    tl.store(grad_y + row[:, None] * d + col[None, :], grad.to(grad_y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["anchors", "candidates"])
def candidate_kernel(
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


@triton.jit(do_not_specialize=["candidates", "splits"])
def candidate_sum_kernel(
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
