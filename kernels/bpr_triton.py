# mypy: allow-untyped-defs
"""Triton kernels of BPR steps with row-wise Adam: three launches a step, no float atomics, no wait for the device.

Once an epoch all (step, row) keys are sorted, three for each sample. The sorted positions of a step lie together, as
its samples do, so no count has to come back to the host, and the first position of a run of equal keys owns the row:

1. ``catch_up_kernel`` writes each owned row, brought to the step before, to a buffer at its owner's position;
2. ``slope_kernel`` reads the buffer for every sample: its two terms of the loss, and the slope of its gradient;
3. ``move_kernel`` adds up the gradients of each owned row over its run and makes the step; it alone writes tables.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bpr_common import Decay, RowAdamOptions, RowAdamTable


@triton.jit
def _pick(row, num_users, user, item):
    """The user table's address and the row in it, or the item table's: rows of items follow those of users."""
    chosen = user
    at = row
    if row >= num_users:
        chosen = item
        at = row - num_users
    return chosen, at


@triton.jit
def _skipped(last, step, lr, eps, tail, ratio, root):
    """How far the momentum of a row carried it since, and its epsilon, from float64 tables."""
    moved = lr * (tl.load(tail + last) - tl.load(ratio + (step - 1 - last)) * tl.load(tail + (step - 1)))
    return moved, eps * tl.load(root + last)


@triton.jit(do_not_specialize=["first_position", "num_users", "step"])
def catch_up_kernel(
    user_weight, item_weight, user_mean, item_mean, user_square, item_square, user_last, item_last,
    rows, owner, buffer, settings, tail, ratio, root, first_position, num_users, step, d, TINY: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)
    position = first_position + place
    if tl.load(owner + position) == position:
        row = tl.load(rows + position)
        weight, at = _pick(row, num_users, user_weight, item_weight)
        mean, at = _pick(row, num_users, user_mean, item_mean)
        square, at = _pick(row, num_users, user_square, item_square)
        last_of, at = _pick(row, num_users, user_last, item_last)
        col = tl.arange(0, BLOCK_D)
        inside = col < d
        value = tl.load(weight + at * d + col, mask=inside, other=0.0)
        m = tl.load(mean + at * d + col, mask=inside, other=0.0)
        v = tl.load(square + at * d + col, mask=inside, other=0.0)
        last = tl.load(last_of + at)
        moved, epsilon = _skipped(last, step, tl.load(settings), tl.load(settings + 3), tail, ratio, root)
        size = tl.maximum(tl.sqrt(v) + epsilon.to(v.dtype), TINY)
        value -= moved.to(v.dtype) * m / size
        tl.store(buffer + place.to(tl.int64) * d + col, value, mask=inside)


@triton.jit(do_not_specialize=["first_sample", "samples", "size"])
def slope_kernel(
    buffer, slots, slopes, terms, settings, first_sample, samples, size, d, BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)
    sample = first_sample + b
    col = tl.arange(0, BLOCK_D)
    here = b < size
    inside = here[:, None] & (col < d)[None, :]
    at_user = tl.load(slots + sample, mask=here, other=0)
    at_positive = tl.load(slots + samples + sample, mask=here, other=0)
    at_negative = tl.load(slots + 2 * samples + sample, mask=here, other=0)
    u = tl.load(buffer + at_user[:, None] * d + col[None, :], mask=inside, other=0.0)
    p = tl.load(buffer + at_positive[:, None] * d + col[None, :], mask=inside, other=0.0)
    n = tl.load(buffer + at_negative[:, None] * d + col[None, :], mask=inside, other=0.0)
    x = tl.sum(u * (n - p), 1)
    e = tl.exp(-tl.abs(x))
    loss = tl.maximum(x, 0.0) + tl.log(1.0 + e)
    share = 1.0 / tl.cast(size, x.dtype)
    sigmoid = tl.where(x >= 0, 1.0, e) / (1.0 + e)
    slope = tl.load(settings + 4).to(x.dtype) * share * sigmoid
    tl.store(slopes + b, slope, mask=here)
    squares = tl.sum(u * u, 1) + tl.sum(p * p, 1) + tl.sum(n * n, 1)
    tl.store(terms + sample, loss * share, mask=here)
    tl.store(terms + samples + sample, squares * share, mask=here)


@triton.jit(do_not_specialize=["first_position", "first_sample", "samples", "num_users", "step", "size"])
def move_kernel(
    user_weight, item_weight, user_mean, item_mean, user_square, item_square, user_last, item_last,
    rows, owner, order, slots, buffer, slopes, settings, first, second, root,
    first_position, first_sample, samples, num_users, step, size, d, BLOCK_D: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)
    position = first_position + place
    if tl.load(owner + position) == position:
        row = tl.load(rows + position)
        weight, at = _pick(row, num_users, user_weight, item_weight)
        mean, at = _pick(row, num_users, user_mean, item_mean)
        square, at = _pick(row, num_users, user_square, item_square)
        last_of, at = _pick(row, num_users, user_last, item_last)
        col = tl.arange(0, BLOCK_D)
        inside = col < d
        value = tl.load(buffer + place.to(tl.int64) * d + col, mask=inside, other=0.0)
        shrink = (2.0 * tl.load(settings + 5) / size).to(value.dtype)
        gradient = tl.zeros_like(value)
        end = first_position + 3 * size
        following = position
        while following < end:
            entry = tl.load(order + following)
            kind = entry // samples
            sample = entry - kind * samples
            slope = tl.load(slopes + (sample - first_sample))
            # To a user: slope (n - p); to a positive item: -slope u; to a negative one: slope u.
            plus = tl.load(slots + tl.where(kind == 0, 2 * samples, 0) + sample)
            minus = tl.load(slots + samples + sample)
            other = tl.load(buffer + plus * d + col, mask=inside, other=0.0)
            less = tl.load(buffer + minus * d + col, mask=inside, other=0.0)
            other = tl.where(kind == 0, other - less, other)
            gradient += tl.where(kind == 1, -slope, slope) * other + shrink * value
            following += 1
            if following < end:
                following = tl.where(tl.load(owner + following) == position, following, end)
        last = tl.load(last_of + at)
        m = tl.load(mean + at * d + col, mask=inside, other=0.0)
        v = tl.load(square + at * d + col, mask=inside, other=0.0)
        gap = step - 1 - last
        beta1, beta2 = tl.load(settings + 1), tl.load(settings + 2)
        m *= tl.load(first + gap).to(v.dtype)
        v *= tl.load(second + gap).to(v.dtype)
        m += (1.0 - beta1).to(v.dtype) * (gradient - m)
        v = beta2.to(v.dtype) * v + (1.0 - beta2).to(v.dtype) * (gradient * gradient)
        rate = (tl.load(settings) / (1.0 - tl.load(first + step))).to(v.dtype)
        deviation = tl.sqrt(v) / tl.load(root + step).to(v.dtype) + tl.load(settings + 3).to(v.dtype)
        tl.store(weight + at * d + col, value - rate * m / deviation, mask=inside)
        tl.store(mean + at * d + col, m, mask=inside)
        tl.store(square + at * d + col, v, mask=inside)
        tl.store(last_of + at, step)


@triton.jit(do_not_specialize=["count", "step"])
def flush_kernel(
    weight, mean, square, last_of, settings, tail, ratio, first, second, root, count, step, d, TINY: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """All rows of a table, brought to a step."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    col = tl.arange(0, BLOCK_D)
    last = tl.load(last_of + row, mask=row < count, other=0)
    behind = (row < count) & (last < step)
    last = tl.where(behind, last, step)
    inside = behind[:, None] & (col < d)[None, :]
    at = row[:, None] * d + col[None, :]
    value = tl.load(weight + at, mask=inside, other=0.0)
    m = tl.load(mean + at, mask=inside, other=0.0)
    v = tl.load(square + at, mask=inside, other=0.0)
    moved, epsilon = _skipped(last, step + 1, tl.load(settings), tl.load(settings + 3), tail, ratio, root)
    size = tl.maximum(tl.sqrt(v) + epsilon.to(v.dtype)[:, None], TINY)
    tl.store(weight + at, value - moved.to(v.dtype)[:, None] * m / size, mask=inside)
    tl.store(mean + at, m * tl.load(first + (step - last)).to(v.dtype)[:, None], mask=inside)
    tl.store(square + at, v * tl.load(second + (step - last)).to(v.dtype)[:, None], mask=inside)
    tl.store(last_of + row, step, mask=behind)


def flush_triton(table: RowAdamTable, step: int, options: RowAdamOptions, decay: Decay) -> None:
    """Bring all rows of a table to Adam step ``step``, in one launch."""
    weight = table.weight
    count, d = weight.shape
    width = triton.next_power_of_2(d)
    block = max(1, 1024 // width)
    with torch.cuda.device_of(weight):
        flush_kernel[(triton.cdiv(count, block),)](
            *table, _settings(options, 0.0, 0.0, weight.device), *decay, count, step, d,
            TINY=torch.finfo(weight.dtype).tiny, BLOCK_R=block, BLOCK_D=width, num_warps=4,
        )  # fmt: skip


def _settings(options: RowAdamOptions, bpr_weight: float, penalty: float, device: torch.device) -> Tensor:
    # A launch would round them to float32.
    numbers = [options.lr, *options.betas, options.eps, bpr_weight, penalty]
    return torch.tensor(numbers, dtype=torch.float64).to(device, non_blocking=True)


class TritonSteps:
    """Steps of one epoch on a GPU (or in Triton's interpreter)."""

    def __init__(
        self,
        users: RowAdamTable,
        items: RowAdamTable,
        epoch: tuple[Tensor, Tensor, Tensor],
        batch_size: int,
        before: int,
        decay: Decay,
    ) -> None:
        self.users, self.items, self.decay = users, items, decay
        self.batch_size, self.before, self.samples = batch_size, before, epoch[0].numel()
        weight = users.weight
        self.d, self.num_users, device = weight.size(1), weight.size(0), weight.device
        total = self.num_users + items.weight.size(0)
        step = torch.arange(self.samples, device=device) // batch_size
        key = torch.stack(epoch)
        key[1:] += self.num_users
        ordered, self.order = (step * total + key).flatten().sort(stable=True)
        self.rows = ordered % total
        position = torch.arange(3 * self.samples, device=device)
        starts = torch.ones_like(ordered, dtype=torch.bool)
        starts[1:] = ordered[1:] != ordered[:-1]
        self.owner = torch.where(starts, position, 0).cummax(0).values
        # Where the buffer of its step holds the row of an entry.
        self.slots = torch.empty_like(self.owner)
        self.slots[self.order] = self.owner - 3 * batch_size * (ordered // total)
        size = min(batch_size, self.samples)
        self.buffer = weight.new_empty(3 * size, self.d)
        self.slopes = weight.new_empty(size)
        self.terms = weight.new_empty(2, self.samples)

    def run(self, start: int, stop: int, options: RowAdamOptions, bpr_weight: float, penalty: float) -> Tensor:
        """Make the steps ``start`` to ``stop - 1`` of the epoch; the weighted sums of both loss terms, ``[2]``."""
        weight = self.users.weight
        settings = _settings(options, bpr_weight, penalty, weight.device)
        with torch.cuda.device_of(weight):
            for number in range(start, stop):
                self._step(number, settings)
        window = slice(start * self.batch_size, stop * self.batch_size)
        return self.terms[:, window].sum(1, dtype=torch.float64) * settings[4:]

    def _step(self, number: int, settings: Tensor) -> None:
        begin = number * self.batch_size
        size = min(self.batch_size, self.samples - begin)
        step = self.before + number + 1
        tables = [x for pair in zip(self.users, self.items, strict=True) for x in pair]
        width, decay = triton.next_power_of_2(self.d), self.decay
        warps = 1 if width <= 128 else 4
        catch_up_kernel[(3 * size,)](
            *tables, self.rows, self.owner, self.buffer, settings, decay.tail, decay.ratio, decay.root,
            3 * begin, self.num_users, step, self.d, TINY=torch.finfo(self.buffer.dtype).tiny, BLOCK_D=width,
            num_warps=warps,
        )  # fmt: skip
        block = max(1, 1024 // width)
        slope_kernel[(triton.cdiv(size, block),)](
            self.buffer, self.slots, self.slopes, self.terms, settings, begin, self.samples, size, self.d,
            BLOCK_B=block, BLOCK_D=width, num_warps=4,
        )  # fmt: skip
        move_kernel[(3 * size,)](
            *tables, self.rows, self.owner, self.order, self.slots, self.buffer, self.slopes, settings,
            decay.first, decay.second, decay.root,
            3 * begin, begin, self.samples, self.num_users, step, size, self.d, BLOCK_D=width, num_warps=warps,
        )  # fmt: skip
