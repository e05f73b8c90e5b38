"""The best items of each user by inner product, with seen items left out, and no matrix of users x items."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from infodcl_geo.errors import InfodclGeoError, OptionError

from .ties import tie_order
from .topk_common import LONGEST_ON_GPU, ItemTable

__all__ = ["ItemTable", "top_k"]

_TILE = 1 << 22  # scores that the plain path holds at a time


@torch.no_grad()
def top_k(
    users: Tensor,
    items: Tensor | ItemTable,
    k: int,
    *,
    rows: Tensor | None = None,
    seen: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The k best items of each user by :math:`s_{ui} = u^\top i`, best first.

    Equal scores are ordered by ascending :func:`~infodcl_geo.kernels.ties.tie_order` of the user's row number and the
    item, a fixed shuffle that is another one for each user; so the list is one of the scores alone, whatever the
    tiles and threads. Scores are products in the embeddings' precision, the last bit of which depends on the tile's
    shape: who wants an order that does not, asks for some more than k and scores those anew.

    On a CPU with Numba (the extra ``numba``; compiled once in seconds, kept on disk) a tile of scores stays in the
    cache and is looked at once: only what beats the worst of a user's best so far is searched for among the seen
    items. Tiles come by falling length of the items, and since :math:`|u^\top i| \le |u| |i|` a user is done with the
    first tile that cannot reach their k-th best score. On a GPU Triton does the same in two launches, without waiting
    for the device, for float32 and k up to 448. Elsewhere PyTorch's selection runs tile by tile (and waits in each).

    Args:
        users: embeddings ``[B, d]``, float32 or float64; half types are computed in float32.
        items: embeddings ``[N, d]`` of the same type, or what :class:`ItemTable` made of them.
        k: items to find for each user.
        rows: int64 ``[B]`` numbers of the users, for the order of equal scores; by default 0, 1, ..., B - 1.
        seen: what a user must not be shown, as int64 tensors (start ``[B]``, end ``[B]``, idx): items
            ``idx[start[b]:end[b]]``, ascending.

    Returns:
        Items ``[B, min(k, N)]``, int64, and scores of the same shape; where a user has fewer left, -1 and minus
        infinity.

    Raises:
        InfodclGeoError: if shapes or types do not fit, or if an embedding on a CPU is not finite.
        OptionError: if k is less than 1.
    """
    if k < 1:
        raise OptionError(f"k must be at least 1, not {k}")
    if isinstance(items, Tensor):
        given = items.dtype
        if users.dim() != 2 or items.dim() != 2 or users.size(1) != items.size(1) or users.dtype != given:
            raise InfodclGeoError(
                f"users and items must be [B, d] and [N, d] of one type, not {list(users.shape)} {users.dtype} and "
                f"{list(items.shape)} {given}"
            )
        items = ItemTable(items)
    if users.dtype in (torch.float16, torch.bfloat16):
        users = users.float()
    if users.size(1) != items.items.size(1) or users.dtype != items.items.dtype:
        raise InfodclGeoError("users and items must be of one type and one width")
    count, width = users.size(0), min(k, items.items.size(0))
    if rows is None:
        rows = torch.arange(count, device=users.device)
    if seen is None:
        nothing = rows.new_zeros(count)
        seen = nothing, nothing, rows[:0]
    if rows.shape != users.shape[:1] or any(x.shape != (count,) or x.dtype != torch.int64 for x in seen[:2]):
        raise InfodclGeoError(f"rows must be [{count}] and seen (start [{count}], end [{count}], idx), all int64")
    reach = items.reach(users)
    if users.device.type == "cpu" and not bool(items.fits(reach)):
        raise InfodclGeoError("an embedding is NaN or infinite, or a score would be: nothing can be ranked by that")
    if not count or not width:
        return rows.new_empty(count, width), users.new_empty(count, width)
    if users.device.type == "cpu" and find_spec("numba") is not None:
        from .topk_numba import top_k_numba

        found, values = top_k_numba(users.detach().contiguous(), reach, items, width, rows, seen)
        return found, values.add_(0.0)  # of the two zeros only one is left
    if _uses_triton(users, width):
        from .topk_triton import top_k_triton

        return top_k_triton(users.detach(), reach, items, width, rows, seen)
    return _plain(users, items.items, width, rows, seen)


def _uses_triton(users: Tensor, k: int) -> bool:
    return users.is_cuda and users.dtype == torch.float32 and k <= LONGEST_ON_GPU and find_spec("triton") is not None


def _plain(
    users: Tensor, items: Tensor, k: int, rows: Tensor, seen: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Tile by tile with PyTorch's own selection."""
    start, end, listed = seen
    position = torch.repeat_interleave(end - start)
    before = (end - start).cumsum(0) - (end - start)
    hidden = listed[start[position] + torch.arange(position.numel(), device=rows.device) - before[position]]
    height = max(1, min(users.size(0), _TILE // min(items.size(0), _TILE)))
    across = min(items.size(0), _TILE)
    found, values = [], []
    for first in range(0, users.size(0), height):
        own = slice(first, first + height)
        value = users.new_empty(min(height, users.size(0) - first), 0)
        item = rows.new_empty(value.shape)
        for at in range(0, items.size(0), across):
            scores = users[own] @ items[at : at + across].T + 0.0
            inside = (position >= first) & (position < first + height) & (hidden >= at) & (hidden < at + across)
            scores[position[inside] - first, hidden[inside] - at] = -torch.inf
            columns = torch.arange(at, at + scores.size(1), device=rows.device).expand_as(scores)
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
