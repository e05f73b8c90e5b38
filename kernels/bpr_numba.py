# mypy: allow-untyped-defs
"""BPR steps with row-wise Adam on a CPU, compiled by Numba.

A step goes over its samples and its distinct rows once each: catch the rows up, add the samples' gradients into one
buffer per distinct row in the samples' order, and move the rows. Tables are touched nowhere else.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from .bpr_common import Decay, RowAdamOptions, RowAdamTable

# Reductions may be added up in any fixed order, so that they become vector instructions; NaN keeps its meaning.
_OPTIONS: dict[str, Any] = {"fastmath": {"contract", "nsz", "reassoc"}, "error_model": "numpy", "nogil": True}


class NumbaSteps:
    """Steps of one epoch; the same interface as ``bpr_triton.TritonSteps``."""

    def __init__(
        self,
        users: RowAdamTable,
        items: RowAdamTable,
        epoch: tuple[Tensor, Tensor, Tensor],
        batch_size: int,
        before: int,
        decay: Decay,
    ) -> None:
        self.tables = tuple(x.detach().numpy() for table in (users, items) for x in table)
        self.epoch = tuple(x.contiguous().numpy() for x in epoch)
        self.batch_size, self.before = batch_size, before
        self.decay = tuple(x.numpy() for x in decay)
        size, width = min(batch_size, len(self.epoch[0])), users.weight.size(1)
        dtype = self.tables[0].dtype
        # Which slot of its buffer a row has in this step, and the step for which that holds.
        self.slots = tuple(np.zeros((len(self.tables[k]), 2), np.int64) for k in (0, 4))
        self.rows = np.empty((3 * size, 2), np.int64)
        self.gradients = np.empty((3 * size, width), dtype)
        self.run_steps = _compiled(users.weight.dtype)[0]

    def run(self, start: int, stop: int, options: RowAdamOptions, bpr_weight: float, penalty: float) -> Tensor:
        """Make the steps ``start`` to ``stop - 1`` of the epoch; the weighted sums of both loss terms, ``[2]``."""
        terms = np.zeros(2)
        self.run_steps(
            *self.tables, *self.epoch, self.batch_size, start, stop, self.before, options.lr, *options.betas,
            options.eps, bpr_weight, penalty, *self.decay, *self.slots, self.rows, self.gradients, terms,
        )  # fmt: skip
        return torch.from_numpy(terms)


def flush_numba(table: RowAdamTable, step: int, options: RowAdamOptions, decay: Decay) -> None:
    """Bring all rows to Adam step ``step``."""
    arrays = tuple(x.detach().numpy() for x in table)
    _compiled(table.weight.dtype)[1](*arrays, step, options.lr, options.eps, *(x.numpy() for x in decay))


@functools.cache
def _compiled(dtype: torch.dtype) -> tuple[Callable[..., None], Callable[..., None]]:
    real = numba.float32 if dtype == torch.float32 else numba.float64
    matrix, whole, number = real[:, ::1], numba.int64, numba.float64
    table = (matrix, matrix, matrix, numba.int32[::1])
    numbers = (number[::1],) * 5
    steps = numba.void(
        *table, *table, *(whole[::1],) * 3, *(whole,) * 4, *(number,) * 6, *numbers,
        *(whole[:, ::1],) * 3, matrix, number[::1],
    )  # fmt: skip
    flush = numba.void(*table, whole, number, number, *numbers)
    try:
        return numba.njit(steps, cache=True, **_OPTIONS)(_steps), numba.njit(flush, cache=True, **_OPTIONS)(_flush)
    except RuntimeError:  # no folder to keep the compiled code in
        return numba.njit(steps, **_OPTIONS)(_steps), numba.njit(flush, **_OPTIONS)(_flush)


@numba.njit(**_OPTIONS)
def _catch_up(weight, mean, square, moved, epsilon, first, second):
    """One row: all its skipped moves at once, and the decay of its moments."""
    tiny = np.finfo(weight.dtype).tiny
    for j in range(len(weight)):
        size = max(np.sqrt(square[j]) + epsilon, tiny)
        weight[j] -= moved * mean[j] / size
        mean[j] *= first
        square[j] *= second


@numba.njit(**_OPTIONS)
def _catch_up_row(weight, mean, square, last, row, step, lr, eps, tail, ratio, first, second, root):
    since = last[row]
    if since == step:
        return
    if since > 0:  # or its moments are zero
        gap, real = step - since, weight.dtype.type
        _catch_up(
            weight[row], mean[row], square[row], real(lr * (tail[since] - ratio[gap] * tail[step])),
            real(eps * root[since]), real(first[gap]), real(second[gap]),
        )  # fmt: skip
    last[row] = step


@numba.njit(**_OPTIONS)
def _slot(slots, row, step, rows, used):
    """The place of a row among the step's distinct rows, which are ``used`` so far."""
    if slots[row, 0] != step:
        slots[row, 0] = step
        slots[row, 1] = used
        rows[used, 0] = row
        rows[used, 1] = 0
        used += 1
    rows[slots[row, 1], 1] += 1
    return used


@numba.njit(**_OPTIONS)
def _difference(user, positive, negative):
    total = user.dtype.type(0)
    for j in range(len(user)):
        total += user[j] * (negative[j] - positive[j])
    return total


@numba.njit(**_OPTIONS)
def _add_difference(slope, positive, negative, target):
    for j in range(len(target)):
        target[j] += slope * (negative[j] - positive[j])


@numba.njit(**_OPTIONS)
def _add(slope, user, target):
    for j in range(len(target)):
        target[j] += slope * user[j]


@numba.njit(**_OPTIONS)
def _move(weight, mean, square, gradient, shrink, new, beta2, new_square, rate, root, eps):
    """Adam on a row that is up to date; returns the square of its length before."""
    one = weight.dtype.type(1)
    length = weight.dtype.type(0)
    inverse = one / root
    for j in range(len(weight)):
        length += weight[j] * weight[j]
        g = gradient[j] + shrink * weight[j]
        mean[j] += new * (g - mean[j])
        square[j] = beta2 * square[j] + new_square * (g * g)
        weight[j] -= rate * mean[j] / (np.sqrt(square[j]) * inverse + eps)
    return length


def _steps(
    user_weight, user_mean, user_square, user_last, item_weight, item_mean, item_square, item_last,
    users, positives, negatives, batch_size, start, stop, before, lr, beta1, beta2, eps, bpr_weight, penalty,
    tail, ratio, first, second, root, user_slots, item_slots, rows, gradients, terms,
):  # fmt: skip
    real = user_weight.dtype.type
    # 1 - beta2 of a rounded beta2 would be wrong in the fifth digit.
    new, decay, new_square = real(1 - beta1), real(beta2), real(1 - beta2)
    for number in range(start, stop):
        begin, end = number * batch_size, min((number + 1) * batch_size, len(users))
        step, size = before + number + 1, end - begin
        used = 0
        for b in range(begin, end):
            used = _slot(user_slots, users[b], step, rows, used)
        of_users = used
        for b in range(begin, end):
            used = _slot(item_slots, positives[b], step, rows, used)
            used = _slot(item_slots, negatives[b], step, rows, used)
        for k in range(used):
            row = rows[k, 0]
            if k < of_users:
                _catch_up_row(
                    user_weight, user_mean, user_square, user_last, row, step - 1, lr, eps,
                    tail, ratio, first, second, root,
                )  # fmt: skip
            else:
                _catch_up_row(
                    item_weight, item_mean, item_square, item_last, row, step - 1, lr, eps,
                    tail, ratio, first, second, root,
                )  # fmt: skip
        gradients[:used] = 0
        loss = 0.0
        for b in range(begin, end):
            u, p, n = users[b], positives[b], negatives[b]
            x = float(_difference(user_weight[u], item_weight[p], item_weight[n]))
            e = math.exp(-abs(x))
            loss += max(x, 0.0) + math.log1p(e)
            slope = bpr_weight / size * ((1.0 if x >= 0 else e) / (1.0 + e))
            # One target at a time: with more, LLVM gives up telling whether they overlap, and vectors with it.
            _add_difference(real(slope), item_weight[p], item_weight[n], gradients[user_slots[u, 1]])
            _add(real(-slope), user_weight[u], gradients[item_slots[p, 1]])
            _add(real(slope), user_weight[u], gradients[item_slots[n, 1]])
        terms[0] += bpr_weight * loss / size
        rate, lengths = real(lr / (1 - first[step])), 0.0
        for k in range(used):
            row, count = rows[k, 0], rows[k, 1]
            shrink = real(2 * penalty * count / size)
            if k < of_users:
                length = _move(
                    user_weight[row], user_mean[row], user_square[row], gradients[k], shrink, new, decay,
                    new_square, rate, real(root[step]), real(eps),
                )  # fmt: skip
                user_last[row] = step
            else:
                length = _move(
                    item_weight[row], item_mean[row], item_square[row], gradients[k], shrink, new, decay,
                    new_square, rate, real(root[step]), real(eps),
                )  # fmt: skip
                item_last[row] = step
            lengths += count * float(length)
        terms[1] += penalty * lengths / size


def _flush(weight, mean, square, last, step, lr, eps, tail, ratio, first, second, root):
    for row in range(len(weight)):
        _catch_up_row(weight, mean, square, last, row, step, lr, eps, tail, ratio, first, second, root)
