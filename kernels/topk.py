"""The best items of each user by inner product, with seen items left out, and no matrix of users x items."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from infodcl_geo.errors import InfodclGeoError, OptionError

from .ties import tie_order

__all__ = ["top_k"]

_TILE = 1 << 22  # scores that the plain path holds at a time


@torch.no_grad()
def top_k(
    users: Tensor,
    items: Tensor,
    k: int,
    *,
    rows: Tensor | None = None,
    seen: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The k best items of each user by :math:`s_{ui} = u^\top i`, best first.

    Equal scores are ordered by ascending :func:`~infodcl_geo.kernels.ties.tie_order` of the user's row number and the
    item, a fixed shuffle that is another one for each user; so the list is one of the scores alone, whatever the
    tiles and threads. Scores are products in the embeddings' precision, the last bit of which depends on the tile's
    shape: who wants an order that does not, asks for some more than k and scores those anew.

    On a CPU with Numba (the extra ``numba``; compiled once in seconds, kept on disk) a tile of scores stays in the
    cache and is looked at once: only what beats the worst of a user's best so far is searched for among the seen items
    and goes into a heap. Elsewhere PyTorch's selection runs tile by tile. Neither waits for a GPU.

    Args:
        users: embeddings ``[B, d]``, float32 or float64; half types are computed in float32.
        items: embeddings ``[N, d]`` of the same type.
        k: items to find for each user.
        rows: int64 ``[B]`` numbers of the users, for the order of equal scores; by default 0, 1, ..., B - 1.
        seen: what a user must not be shown, as an int64 pair (ptr ``[B + 1]``, idx): items ``idx[ptr[b]:ptr[b + 1]]``,
            ascending.

    Returns:
        Items ``[B, min(k, N)]``, int64, and scores of the same shape; where a user has fewer left, -1 and minus
        infinity.

    Raises:
        InfodclGeoError: if shapes or types do not fit, or if an embedding on a CPU is not finite.
        OptionError: if k is less than 1.
    """
    if k < 1:
        raise OptionError(f"k must be at least 1, not {k}")
    if users.dim() != 2 or items.dim() != 2 or users.size(1) != items.size(1) or users.dtype != items.dtype:
        raise InfodclGeoError(
            f"users and items must be [B, d] and [N, d] of one type, not {list(users.shape)} {users.dtype} and "
            f"{list(items.shape)} {items.dtype}"
        )
    if users.dtype in (torch.float16, torch.bfloat16):
        users, items = users.float(), items.float()
    count, width = users.size(0), min(k, items.size(0))
    if rows is None:
        rows = torch.arange(count, device=users.device)
    if seen is None:
        seen = torch.zeros(count + 1, dtype=torch.int64, device=users.device), rows[:0]
    if rows.shape != users.shape[:1] or seen[0].shape != (count + 1,) or seen[0].dtype != torch.int64:
        raise InfodclGeoError(f"rows must be [{count}] and seen a pair (ptr [{count + 1}], idx) of int64")
    if users.device.type == "cpu":
        # A sum over finite numbers of these sizes says as much of every score, at a fraction of the time.
        reach = users.abs().sum(1).double().max() * items.abs().max().double() if count and width else users.sum()
        if not bool(reach.isfinite()) or reach > torch.finfo(users.dtype).max:
            raise InfodclGeoError("an embedding is NaN or infinite, or a score would be: nothing can be ranked by that")
    if not count or not width:
        return rows.new_empty(count, width), users.new_empty(count, width)
    if users.device.type == "cpu" and find_spec("numba") is not None:
        from .topk_numba import top_k_numba

        found, values = top_k_numba(users.detach().contiguous(), items.detach().contiguous(), width, rows, seen)
        return found, values.add_(0.0)  # of the two zeros only one is left
    return _plain(users, items, width, rows, seen)


def _plain(users: Tensor, items: Tensor, k: int, rows: Tensor, seen: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Tile by tile with PyTorch's own selection."""
    pointer, hidden = seen
    position = torch.repeat_interleave(pointer.diff(), output_size=hidden.numel())
    height = max(1, min(users.size(0), _TILE // min(items.size(0), _TILE)))
    across = min(items.size(0), _TILE)
    found, values = [], []
    for first in range(0, users.size(0), height):
        own = slice(first, first + height)
        value = users.new_empty(min(height, users.size(0) - first), 0)
        item = rows.new_empty(value.shape)
        for start in range(0, items.size(0), across):
            scores = users[own] @ items[start : start + across].T + 0.0
            # Pairs outside the tile go to a column that is cut off again: no count has to reach the host.
            inside = (position >= first) & (position < first + height) & (hidden >= start) & (hidden < start + across)
            scores = torch.cat([scores, scores[:, :1]], 1)
            at_row = torch.where(inside, position - first, 0)
            at_column = torch.where(inside, hidden - start, scores.size(1) - 1)
            scores[at_row, at_column] = -torch.inf
            scores = scores[:, :-1]
            columns = torch.arange(start, start + scores.size(1), device=rows.device).expand_as(scores)
            value, item = torch.cat([value, scores], 1), torch.cat([item, columns], 1)
            value, item = _best(value, item, rows[own], min(k, value.size(1)))
        found.append(torch.where(value == -torch.inf, -1, item))
        values.append(value)
    return torch.cat(found), torch.cat(values)


def _best(value: Tensor, item: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of ``[B, n]`` in the order of ``top_k``."""
    last = value.topk(k, dim=1).values[:, -1:]
    order = tie_order(rows[:, None], item)
    # All that are larger than the k-th, then its equals in their order, then the rest.
    key = torch.where(value > last, -1, torch.where(value == last, order, 2**32))
    chosen = key.topk(k, dim=1, largest=False).indices
    value, item, order = value.gather(1, chosen), item.gather(1, chosen), order.gather(1, chosen)
    by_place = order.argsort(dim=1)
    value, item = value.gather(1, by_place), item.gather(1, by_place)
    value, by_value = value.sort(dim=1, descending=True, stable=True)
    return value, item.gather(1, by_value)
