# mypy: allow-untyped-defs
"""The k best of rows of scores on a CPU, compiled by Numba: one look at every score, and few at those that matter."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from .topk_common import ItemTable

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True}
_STRIPE = 16  # scores of which the largest is compared first
_USERS, _ITEMS = 256, 2048  # of a tile of scores, 2 MiB in float32
_FEWEST_A_THREAD = 32
_HALVINGS, _EXACT_HALVINGS = 10, 24
_BY_COUNTING = 128  # up to so many are sorted by counting those before each
_MARKS = 1024  # remainders of items by which most are known not to be seen


def top_k_numba(
    users: Tensor, reach: Tensor, table: ItemTable, k: int, rows: Tensor, seen: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """As :func:`~infodcl_geo.kernels.topk.top_k`, with contiguous inputs and ``k`` at most the number of items.

    ``reach`` ``[B]`` are what the users' scores are at most, for an item of length one, rounding included.
    """
    count, total = users.size(0), table.items.size(0)
    found, values = torch.empty(count, k, dtype=torch.int64), users.new_empty(count, k)
    height = min(count, _USERS)
    # What may be among the best: the more fit, the less often all but the best are thrown out.
    held_values, held_items = (torch.empty(height, max(4 * k, 64), dtype=x.dtype).numpy() for x in (values, found))
    counts, bounds = np.empty(height, np.int64), np.empty(height)
    starts, ends, hidden, numbers, own_reach = (x.contiguous().numpy() for x in (*seen, rows, reach))
    order, lengths = table.order.numpy(), table.lengths.numpy()
    update, finish = _compiled(users.dtype)
    tile = users.new_empty(height * min(total, _ITEMS))
    packed, gathered = (users.new_empty(n, users.size(1)) for n in (min(total, _ITEMS), height))
    threads = max(1, min(torch.get_num_threads(), height // _FEWEST_A_THREAD))
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, count, _USERS):
            own = slice(first, min(first + _USERS, count))
            size = own.stop - first
            counts[:], bounds[:] = 0, -np.inf
            active = np.arange(size)
            for start in range(0, total, _ITEMS):
                # Items come by falling length: from here on none reaches what such users have.
                active = active[own_reach[own][active] * lengths[start] >= bounds[active]]
                if not len(active):
                    break
                width = min(_ITEMS, total - start)
                scores = tile[: len(active) * width].view(-1, width)
                # Into memory that is there: asking for new pages each time costs more than the copy.
                vectors = table.packed(start, width, packed)
                asked = users[own]
                if len(active) < size:
                    asked = torch.index_select(asked, 0, torch.from_numpy(active), out=gathered[: len(active)])
                torch.mm(asked, vectors.T, out=scores)
                parts = []
                shares = [len(active) * i // threads for i in range(threads + 1)]
                for begin, end in itertools.pairwise(shares):
                    arguments = (
                        scores.numpy()[begin:end], active[begin:end], order[start : start + width], k, numbers[own],
                        starts[own], ends[own], hidden, held_values, held_items, counts, bounds,
                    )  # fmt: skip
                    if threads == 1:
                        update(*arguments)
                    else:
                        parts.append(pool.submit(update, *arguments))
                for done in parts:
                    done.result()
            finish(
                numbers[own], held_values[:size], held_items[:size], counts[:size], values.numpy()[own],
                found.numpy()[own],
            )  # fmt: skip
    return found, values


@functools.cache
def _compiled(dtype: torch.dtype) -> tuple[Callable[..., None], Callable[..., None]]:
    real = numba.float32 if dtype == torch.float32 else numba.float64
    whole = numba.int64[::1]
    buffers = (real[:, ::1], numba.int64[:, ::1], whole)
    update = numba.void(real[:, ::1], whole, whole, numba.int64, *[whole] * 4, *buffers, numba.float64[::1])
    finish = numba.void(whole, *buffers, real[:, ::1], numba.int64[:, ::1])
    try:
        return numba.njit(update, cache=True, **_OPTIONS)(_update), numba.njit(finish, cache=True, **_OPTIONS)(_finish)
    except RuntimeError:  # no folder to keep the compiled code in
        return numba.njit(update, **_OPTIONS)(_update), numba.njit(finish, **_OPTIONS)(_finish)


@numba.njit(**_OPTIONS)
def _mix(x):
    x = np.uint32(x)
    x ^= x >> np.uint32(16)
    x = np.uint32(x * np.uint32(0x85EBCA6B))
    x ^= x >> np.uint32(13)
    x = np.uint32(x * np.uint32(0xC2B2AE35))
    return np.uint32(x ^ (x >> np.uint32(16)))


@numba.njit(**_OPTIONS)
def _place(user, item):
    """``ties.tie_order``."""
    return _mix(np.uint32(item) ^ _mix(np.uint32(user + 0x9E3779B9)))


@numba.njit(**_OPTIONS)
def _before(value, item, other_value, other_item, user):
    """Whether the first comes before the second in the user's list."""
    return value > other_value or (value == other_value and _place(user, item) < _place(user, other_item))


@numba.njit(**_OPTIONS)
def _find(values, items, size, k, user):
    """As :func:`_select`, for any values (Hoare's FIND)."""
    low, high = 0, size - 1
    while low < high:
        middle = (low + high) // 2
        value, item = values[middle], items[middle]
        i, j = low, high
        while i <= j:
            while _before(values[i], items[i], value, item, user):
                i += 1
            while _before(value, item, values[j], items[j], user):
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                items[i], items[j] = items[j], items[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            return


@numba.njit(**_OPTIONS)
def _select(values, items, size, k, user):
    """Of the first ``size`` entries bring the k best to the front, the worst of them to place k - 1."""
    bound, exact = _reached_by(values, size, k, True)
    if not exact:  # equal values on both sides, or values that halving does not tell apart
        _find(values, items, size, k, user)
        return
    front, last = 0, 0
    for i in range(size):
        if values[i] >= bound:
            values[front], values[i] = values[i], values[front]
            items[front], items[i] = items[i], items[front]
            if values[front] < values[last] or (
                values[front] == values[last] and _before(values[last], items[last], values[front], items[front], user)
            ):
                last = front
            front += 1
    values[last], values[k - 1] = values[k - 1], values[last]
    items[last], items[k - 1] = items[k - 1], items[last]


@numba.njit(**_OPTIONS)
def _sink(values, items, at, size, user):
    """Restore the heap below a place; its last entry in the list's order is on top."""
    value, item = values[at], items[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _before(values[child], items[child], values[child + 1], items[child + 1], user):
            child += 1
        if not _before(value, item, values[child], items[child], user):
            break
        values[at], items[at] = values[child], items[child]
        at = child
    values[at], items[at] = value, item


@numba.njit(**_OPTIONS)
def _sort(values, items, size, user):
    for at in range(size // 2 - 1, -1, -1):
        _sink(values, items, at, size, user)
    for last in range(size - 1, 0, -1):
        values[0], values[last] = values[last], values[0]
        items[0], items[last] = items[last], items[0]
        _sink(values, items, 0, last, user)


@numba.njit(**_OPTIONS)
def _hidden(items, start, stop, item):
    """Whether an ascending list holds an item."""
    while start < stop:
        middle = (start + stop) // 2
        if items[middle] < item:
            start = middle + 1
        elif items[middle] > item:
            stop = middle
        else:
            return True
    return False


@numba.njit(**_OPTIONS)
def _maxima(scores, maxima):
    """The largest of each stripe: scores s, s + n, s + 2 n, ... for the n stripes, so that vectors hold many."""
    stripes = len(maxima)
    for s in range(stripes):
        maxima[s] = scores[s]
    for start in range(stripes, stripes * _STRIPE, stripes):
        for s in range(stripes):
            score = scores[start + s]
            maxima[s] = score if score > maxima[s] else maxima[s]


@numba.njit(**_OPTIONS)
def _reached_by(values, size, least, exactly):
    """A number which ``least`` of the first values reach, few more, by halving the range; whether just as many do.

    Counting is what vectors do at once, so that a dozen counts take less than one pass of a selection by swaps.
    """
    low, high = values[0], values[0]
    for i in range(1, size):
        low = min(low, values[i])
        high = max(high, values[i])
    count = size
    for _ in range(_EXACT_HALVINGS if exactly else _HALVINGS):
        if count == least:
            return low, True
        middle = low + (high - low) * values.dtype.type(0.5)
        reaching = 0
        for i in range(size):
            reaching += np.int32(values[i] >= middle)
        if reaching >= least:
            low, count = middle, reaching
        else:
            high = middle
    return low, count == least


@numba.njit(**_OPTIONS)
def _reaching(scores, maxima, bound, columns):
    """Columns of the scores that are not below the bound; how many."""
    stripes = len(maxima)
    count = 0
    for s in range(stripes):
        if maxima[s] >= bound:
            for stripe in range(_STRIPE):
                j = s + stripe * stripes
                columns[count] = j
                count += scores[j] >= bound
    for j in range(stripes * _STRIPE, len(scores)):
        columns[count] = j
        count += scores[j] >= bound
    return count


def _update(scores, active, order, k, users, starts, ends, hidden, values, items, counts, bounds):
    """Buffers of what may be among the k best, from scores ``[A, n]`` of some users and of the items ``order``.

    A user's bound is the k-th best score so far, once there are as many.
    """
    width = scores.shape[1]
    stripes = width // _STRIPE
    maxima = np.empty(stripes, scores.dtype)
    columns, marks = np.empty(width + 1, np.int64), np.zeros(_MARKS, np.bool_)
    for a in range(len(scores)):
        b, row = active[a], scores[a]
        user, held, seen_from, seen_to = users[b], counts[b], starts[b], ends[b]
        own_values, own_items = values[b], items[b]
        bound, full = values.dtype.type(bounds[b]), held >= k
        if stripes:
            _maxima(row, maxima)
        # As many stripes as there may be seen items, and k more, have maxima of at least this: so have k items.
        enough = k + seen_to - seen_from
        if not full and enough <= stripes:
            bound, _ = _reached_by(maxima, stripes, enough, False)
        count = _reaching(row, maxima, bound, columns)
        if not count:
            continue
        for s in range(seen_from, seen_to):
            marks[hidden[s] & (_MARKS - 1)] = True
        for c in range(count):
            score, item = row[columns[c]], order[columns[c]]
            if score < bound:  # which may have risen
                continue
            # Among many equal scores the buffer would fill with what the order leaves out.
            if full and score == bound and _before(own_values[k - 1], own_items[k - 1], score, item, user):
                continue
            # Nearly all items stop at the marks: few searches.
            if marks[item & (_MARKS - 1)] and _hidden(hidden, seen_from, seen_to, item):
                continue
            own_values[held], own_items[held] = score, item
            held += 1
            if held == len(own_values):
                _select(own_values, own_items, held, k, user)
                held, full, bound = k, True, own_values[k - 1]
        for s in range(seen_from, seen_to):
            marks[hidden[s] & (_MARKS - 1)] = False
        if held >= k:
            _select(own_values, own_items, held, k, user)
            held, bounds[b] = k, own_values[k - 1]
        counts[b] = held


@numba.njit(**_OPTIONS)
def _ordered(values, items, size, best_values, best_items):
    """Write the entries, best first, and say so, unless two values are equal."""
    for i in range(size):
        value, before, equal = values[i], 0, 0
        for j in range(size):
            before += np.int32(values[j] > value)
            equal += np.int32(values[j] == value)
        if equal > 1:
            return False
        best_values[before], best_items[before] = value, items[i]
    return True


def _finish(users, values, items, counts, best_values, best_items):
    """The lists ``[B, k]``, best first, from the buffers."""
    k = best_values.shape[1]
    for b in range(len(users)):
        size = min(k, counts[b])
        if counts[b] > k:
            _select(values[b], items[b], counts[b], k, users[b])
        if size > _BY_COUNTING or not _ordered(values[b], items[b], size, best_values[b], best_items[b]):
            _sort(values[b], items[b], size, users[b])
            best_values[b, :size], best_items[b, :size] = values[b, :size], items[b, :size]
        best_values[b, size:], best_items[b, size:] = -np.inf, -1
