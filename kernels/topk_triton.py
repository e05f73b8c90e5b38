# mypy: allow-untyped-defs
"""Top-k by inner product on a GPU: scores, seen items and the order of ties in one pass over item tiles, two launches.

A candidate is one integer of 64 bits: the score's bits, made to ascend as the score does, above the complement of its
place among equal scores. The larger integer comes first in the user's list, no two of a user are equal, and as the
place is a bijection of the item (``ties.tie_order``) the integer tells the item as well.

1. ``select_kernel``: a program has some users and goes over the items, longest first. What beats the users' bounds is
   appended to a buffer of each user. Where one would overflow, the buffers shrink to the k best that were not seen (the
   k-th by halving the range and counting), and the k-th is the bound from then on. A user's seen items are searched for
   the candidates in the buffer alone. The program ends where no item is long enough to reach a bound.
2. ``order_kernel``: a candidate's place in the list is how many of the user's are larger.

No atomics, nothing that depends on the order of programs, and the host waits for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import infonce_launch
from .topk_common import ItemTable

WIDEST = 256
"""Columns of embeddings."""
_MOST_MERGED = 2048
_INVERSE = tuple(pow(odd, -1, 2**32) for odd in (0x85EBCA6B, 0xC2B2AE35))
assert _INVERSE == (0xA5CB9243, 0x7ED1B41D)

_NONE = tl.constexpr(-(2**63))
_LAST = tl.constexpr(2**63 - 1)


@triton.jit
def _mix(x):
    """``ties._mix``, of unsigned 32 bits."""
    x = x ^ (x >> 16)
    x = x * 0x85EBCA6B
    x = x ^ (x >> 13)
    x = x * 0xC2B2AE35
    return x ^ (x >> 16)


@triton.jit
def _unmix(x):
    """The inverse of ``_mix``."""
    x = x ^ (x >> 16)
    x = x * 0x7ED1B41D
    x = x ^ (x >> 13) ^ (x >> 26)
    x = x * 0xA5CB9243
    return x ^ (x >> 16)


@triton.jit
def _key(score, place):
    """One integer that is larger for what comes first: by score, then by the smaller place."""
    bits = tl.where(score == 0.0, 0.0, score).to(tl.int32, bitcast=True)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (bits.to(tl.int64) << 32) | (place ^ 0xFFFFFFFF).to(tl.int64)


@triton.jit
def _score(key):
    """The score in a key; minus infinity for none."""
    bits = (key >> 32).to(tl.int32)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(key == _NONE, float("-inf"), bits.to(tl.float32, bitcast=True))


@triton.jit
def _item(key, mixed_user):
    """The item in a key, unsigned."""
    return _unmix(key.to(tl.uint32) ^ 0xFFFFFFFF) ^ mixed_user


@triton.jit
def _seen(key, mixed_user, seen, seen_from, seen_length):
    """Which keys are of items in the users' ascending lists of those seen, by halving."""
    item = _item(key, mixed_user[:, None]).to(tl.int64)
    low = tl.zeros_like(key).to(tl.int32)
    high = tl.where(key > _NONE, low + seen_length[:, None], 0)
    while tl.max(tl.max(high - low, 1), 0) > 0:
        middle = (low + high) // 2
        searched = low < high
        below = searched & (tl.load(seen + (seen_from[:, None] + middle), mask=searched, other=0) < item)
        low = tl.where(below, middle + 1, low)
        high = tl.where(searched & (below == 0), middle, high)
    here = (key > _NONE) & (low < seen_length[:, None])
    return here & (tl.load(seen + (seen_from[:, None] + low), mask=here, other=-1) == item)


@triton.jit
def _shrink(base, own, count, k, cap, mixed_user, seen, seen_from, seen_length, SLICE: tl.constexpr):
    """Leave the k best unseen keys of each user's buffer, at its front; how many those are, and the worst of k.

    The buffers lie in memory, in the caches; some columns at a time are in registers.
    """
    c = own[:, None] + tl.arange(0, SLICE)[None, :]
    ends = own + count
    least = tl.full(count.shape, _LAST, tl.int64)
    above = tl.full(count.shape, _NONE, tl.int64)
    left = tl.zeros_like(count)
    tl.debug_barrier()
    for first in range(0, cap, SLICE):
        key = tl.load(base + first + c, mask=first + c < ends[:, None], other=_NONE)
        key = tl.where(_seen(key, mixed_user, seen, seen_from, seen_length), _NONE, key)
        tl.store(base + first + c, key)
        left += tl.sum((key > _NONE).to(tl.int32), 1)
        least = tl.minimum(least, tl.min(tl.where(key > _NONE, key, _LAST), 1))
        above = tl.maximum(above, tl.max(key, 1))
    tl.debug_barrier()
    # Between the smallest, which more than k reach, and what none does, halve to a number that just k reach.
    above += 1
    active = left > k
    least = tl.where(active, least, _NONE + 1)
    while tl.max(active.to(tl.int32), 0) > 0:
        middle = (least & above) + ((least ^ above) >> 1)
        reaching = tl.zeros_like(count)
        for first in range(0, cap, SLICE):
            reaching += tl.sum((tl.load(base + first + c) >= middle[:, None]).to(tl.int32), 1)
        least = tl.where(active & (reaching >= k), middle, least)
        above = tl.where(active & (reaching < k), middle, above)
        active = active & (reaching != k) & (least + 1 < above)
    worst = tl.full(count.shape, _LAST, tl.int64)
    stayed = tl.zeros_like(count)
    for first in range(0, cap, SLICE):
        key = tl.load(base + first + c)
        stays = key >= least[:, None]
        at = (own + stayed)[:, None] + tl.cumsum(stays.to(tl.int32), 1) - 1
        tl.debug_barrier()
        # Towards the front: what lies there has been read.
        tl.store(base + at, key, mask=stays)
        tl.debug_barrier()
        worst = tl.minimum(worst, tl.min(tl.where(stays, key, _LAST), 1))
        stayed += tl.sum(stays.to(tl.int32), 1)
    return stayed, tl.where(stayed >= k, worst, _NONE)


@triton.jit
def _dots(users, items, b, inside, item, there, d, stride, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr):
    """Scores of users ``[B]`` and items ``[N]``, some columns at a time: the users' rows stay in the cache."""
    score = tl.zeros([b.shape[0], item.shape[0]], tl.float32)
    for first in range(0, d, BLOCK_D):
        col = first + tl.arange(0, BLOCK_D)
        x = tl.load(users + b[:, None] * d + col[None, :], mask=inside[:, None] & (col < d)[None, :], other=0.0)
        y = tl.load(items + item[None, :] * stride + col[:, None], mask=there[None, :] & (col < d)[:, None], other=0.0)
        score = tl.dot(x, y, score, input_precision=PRECISION)
    return score


@triton.jit(do_not_specialize=["count_users", "count_items", "part", "k", "padded", "cap"])
def select_kernel(
    users, items, order, lengths, reach, rows, seen_start, seen_end, seen, buffer, count_users, count_items, part, k,
    padded, cap, d, stride, PRECISION: tl.constexpr, TILES: tl.constexpr, BLOCK_B: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, SLICE: tl.constexpr,
):  # fmt: skip
    """Keys of the k best unseen items of a part, in front of each user's buffer ``[parts, padded, cap]``."""
    b = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    inside = b < count_users
    row = tl.load(rows + b, mask=inside, other=0)
    mixed_user = _mix((row + 0x9E3779B9).to(tl.uint32))
    furthest = tl.load(reach + b, mask=inside, other=0.0)
    seen_from = tl.load(seen_start + b, mask=inside, other=0)
    seen_length = (tl.load(seen_end + b, mask=inside, other=0) - seen_from).to(tl.int32)
    base = buffer + (tl.program_id(1).to(tl.int64) * padded + tl.program_id(0) * BLOCK_B) * cap
    own = tl.arange(0, BLOCK_B) * cap
    count = tl.zeros([BLOCK_B], tl.int32)
    bound = tl.full([BLOCK_B], _NONE, tl.int64)
    start = tl.program_id(1) * part
    stop = tl.minimum(start + part, count_items)
    alive = start < stop
    while alive:
        for tile in range(TILES):
            at = start + tile * BLOCK_N + tl.arange(0, BLOCK_N)
            there = at < stop
            item = tl.load(order + at, mask=there, other=0)
            score = _dots(users, items, b, inside, item, there, d, stride, BLOCK_D, PRECISION)
            good = (score >= _score(bound)[:, None]) & there[None, :] & inside[:, None]
            if tl.max(tl.max(good.to(tl.int32), 1), 0) > 0:
                key = _key(score, _mix(item.to(tl.uint32)[None, :] ^ mixed_user[:, None]))
                good = good & (key > bound[:, None])
                if tl.max(count + tl.sum(good.to(tl.int32), 1), 0) > cap:
                    count, bound = _shrink(base, own, count, k, cap, mixed_user, seen, seen_from, seen_length, SLICE)
                    good = good & (key > bound[:, None])
                place = count[:, None] + tl.cumsum(good.to(tl.int32), 1) - 1
                tl.store(base + own[:, None] + place, key, mask=good)
                count += tl.sum(good.to(tl.int32), 1)
        start += TILES * BLOCK_N
        alive = start < stop
        if alive:
            # Items come by falling length: from here on none may reach what all users have.
            longest = tl.load(lengths + start)
            within = inside & (furthest * longest >= _score(bound).to(tl.float64))
            alive = tl.max(within.to(tl.int32), 0) > 0
    count, bound = _shrink(base, own, count, k, cap, mixed_user, seen, seen_from, seen_length, SLICE)
    for first in range(0, k, SLICE):
        c = first + tl.arange(0, SLICE)
        none = tl.full([BLOCK_B, SLICE], _NONE, tl.int64)
        tl.store(base + own[:, None] + c[None, :], none, mask=(c[None, :] >= count[:, None]) & (c < k)[None, :])


@triton.jit(do_not_specialize=["k", "padded", "parts", "cap"])
def order_kernel(buffer, rows, found, values, k, padded, parts, cap, WIDTH: tl.constexpr):
    """The list of one user from the keys of all parts, of which there are ``parts * k``, at most WIDTH."""
    b = tl.program_id(0).to(tl.int64)
    mixed_user = _mix((tl.load(rows + b) + 0x9E3779B9).to(tl.uint32))
    c = tl.arange(0, WIDTH)
    part = c // k
    here = part < parts
    key = tl.load(buffer + (part.to(tl.int64) * padded + b) * cap + (c - part * k), mask=here, other=_NONE)
    place = tl.zeros([WIDTH], tl.int32)
    for part_of_other in range(parts):
        for at in range(k):
            other = tl.load(buffer + (tl.cast(part_of_other, tl.int64) * padded + b) * cap + at)
            place += (other > key).to(tl.int32)
    good = (key > _NONE) & (place < k)
    tl.store(found + b * k + place, _item(key, mixed_user).to(tl.int64), mask=good)
    tl.store(values + b * k + place, _score(key), mask=good)
    none = (c >= tl.sum((key > _NONE).to(tl.int32), 0)) & (c < k)
    tl.store(found + b * k + c, -1, mask=none)
    tl.store(values + b * k + c, float("-inf"), mask=none)


@dataclass(frozen=True)
class Tiling:
    """Tile sizes and launch parameters of ``select_kernel``."""

    block_b: int
    block_n: int
    cap: int
    columns: int  # of the buffers, in registers at a time
    num_warps: int
    num_stages: int


def tiling(k: int, arch: int) -> Tiling:
    """Tile for lists of k, ``arch`` as ``infonce_launch.arch_of``; none spills a register (tests/test_compiled.py)."""
    cap = 128 if k <= 64 else 256 if k <= 160 else 512
    return Tiling(64, 32, cap, 16, 8, 2) if arch >= 90 else Tiling(32, 64, cap, 16, 8, 2)


def top_k_triton(
    users: Tensor, reach: Tensor, table: ItemTable, k: int, rows: Tensor, seen: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """As :func:`~infodcl_geo.kernels.topk.top_k`, with ``k`` at most the number of items and ``LONGEST_ON_GPU``.

    ``reach`` ``[B]`` are what the users' scores are at most, for an item of length one, rounding included.
    """
    users = users.contiguous()
    items = table.items if table.items.stride(1) == 1 else table.items.contiguous()
    count, total, d = users.size(0), items.size(0), users.size(1)
    arch = infonce_launch.arch_of(users.device)
    sizes, tiles_at_once = tiling(k, arch), 8
    tiles = triton.cdiv(count, sizes.block_b)
    step = sizes.block_n * tiles_at_once
    # Few users do not fill the device: then the items are cut into parts, whose lists are merged.
    slots = 2 * infonce_launch.multiprocessors(users.device)
    parts = max(1, min(slots // tiles, triton.cdiv(total, step), _MOST_MERGED // k))
    part = triton.cdiv(triton.cdiv(total, parts), step) * step
    parts = triton.cdiv(total, part)
    block_d = 32 if d > 16 else 16
    padded = tiles * sizes.block_b
    buffer = torch.empty(parts, padded, sizes.cap, dtype=torch.int64, device=users.device)
    found = torch.empty(count, k, dtype=torch.int64, device=users.device)
    values = torch.empty(count, k, dtype=torch.float32, device=users.device)
    start, end, listed = (x.contiguous() for x in seen)
    rows = rows.contiguous()
    with torch.cuda.device_of(users):
        select_kernel[(tiles, parts)](
            users, items, table.order, table.lengths, reach, rows, start, end, listed, buffer, count, total, part, k,
            padded, sizes.cap, d, items.stride(0),
            PRECISION="tf32x3" if arch > 0 else "ieee", TILES=tiles_at_once, BLOCK_B=sizes.block_b,
            BLOCK_N=sizes.block_n, BLOCK_D=block_d, SLICE=sizes.columns, num_warps=sizes.num_warps,
            num_stages=sizes.num_stages,
        )  # fmt: skip
        order_kernel[(count,)](
            buffer, rows, found, values, k, padded, parts, sizes.cap, WIDTH=triton.next_power_of_2(parts * k),
            num_warps=1 if parts * k <= 256 else 4,
        )  # fmt: skip
    return found, values
