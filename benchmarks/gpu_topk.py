"""Top-k by inner product on a GPU: checked, and timed beside a matrix of scores and its bound; a whole ranking too."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from gpu_report import Report
from torch import Tensor

from infodcl_geo.kernels import ItemTable, top_k
from infodcl_geo.kernels.ties import tie_order

SEEN = 10
"""Items of each user that are left out."""


def topk_section(report: Report) -> None:
    sizes = [(20_247, 52_974, 64), (64, 52_974, 64), (20_247, 52_974, 16)]
    if report.quick:
        sizes = sizes[:1]
    if report.tiny:
        sizes = [(7, 60, 5)]
    check_topk(report)
    for users, items, k in sizes:
        implementations = {"top_k": partial(ours, k=k), "eager": partial(eager, k=k)}
        for name, function in implementations.items():
            if report.time_left:
                time_topk(report, name, function, users, items, k)
        if report.time_left:
            time_ranking(report, users, items, k)


def inputs(report: Report, users: int, items: int, d: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings whose lengths fall with the rank as those of trained ones do, and seen items ``[users, SEEN]``."""
    generator = torch.Generator(report.device).manual_seed(0)
    u, v = (torch.randn(n, d, device=report.device, generator=generator) for n in (users, items))
    v *= torch.arange(1, items + 1, device=report.device).pow(-0.3)[:, None]
    first = torch.randint(0, items - SEEN, (users, 1), device=report.device, generator=generator)
    return u, v, first + torch.arange(SEEN, device=report.device)


def ours(users: Tensor, table: ItemTable, seen: Tensor, k: int) -> tuple[Tensor, Tensor]:
    start = torch.arange(0, seen.numel(), SEEN, device=seen.device)
    return top_k(users, table, k, seen=(start, start + SEEN, seen.flatten()))


def eager(users: Tensor, table: ItemTable, seen: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Of equal scores any, and no order that is the same on every device."""
    found = []
    for some, hidden in zip(users.split(4096), seen.split(4096), strict=True):
        scores = (some @ table.items.T).scatter_(1, hidden, -torch.inf)
        found.append(scores.topk(k, dim=1))
    return torch.cat([x.indices for x in found]), torch.cat([x.values for x in found])


def check_topk(report: Report) -> None:
    """Refuse to time what is wrong: equal to a sort by (score, place), with products that are exact and often equal."""
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randint(-1, 2, (n, 6), generator=generator).float().to(report.device) for n in (300, 1501))
    seen = torch.arange(SEEN, device=report.device) + torch.arange(300, device=report.device)[:, None]
    found, _ = ours(u, ItemTable(v), seen, 40)
    scores = (u @ v.T).scatter_(1, seen, -torch.inf)
    everything = torch.arange(1501, device=report.device).expand_as(scores)
    order = tie_order(torch.arange(300, device=report.device)[:, None], everything).argsort(dim=1)
    best = order.gather(1, scores.gather(1, order).argsort(dim=1, descending=True, stable=True))
    if not torch.equal(found, best[:, :40]):
        raise SystemExit("top_k is not the head of a sort: not timed")


def time_topk(report: Report, name: str, function: Any, users: int, items: int, k: int, d: int = 64) -> None:
    u, v, seen = inputs(report, users, items, d)
    table = ItemTable(v)
    # Every product once; that long items come first, and short ones may be left out, is no part of the bound.
    flop = 2 * users * items * d
    moved = 4 * (users + items) * d + 8 * seen.numel() + 12 * users * k
    bound = max(moved / report.header["copy_bytes_per_s"], flop / report.header["float32_flop_per_s"])
    report.time_passes(
        {
            "operation": f"top {k}", "implementation": name, "dtype": "float32", "ours": name == "top_k",
            "rows": users, "candidates": items, "dimensions": d,
        },
        lambda: function(u, table, seen),
        None,
        lambda _: bound,
    )  # fmt: skip


def time_ranking(report: Report, users: int, items: int, k: int, d: int = 64) -> None:
    """Lists as an evaluation makes them: of some more than asked for, scored exactly. The bound is the products'."""
    try:
        from infodcl_geo.evaluation.ordering import SPARE
        from infodcl_geo.evaluation.ranking import rank_items
        from infodcl_geo.models.scoring import UserRows, dot_scorer
    except ImportError as error:
        report.add(operation="ranking", note=f"left out: {error}")
        return
    u, v, seen = inputs(report, users, items, d)
    everyone = torch.arange(users, device=report.device)
    rows = UserRows(torch.stack([everyone.repeat_interleave(SEEN), seen.flatten()]), users, items)
    scorer, asked = dot_scorer(u, v), max(1, k - SPARE)
    bound = 2 * users * items * d / report.header["float32_flop_per_s"]
    report.time_passes(
        {
            "operation": f"ranking, {asked} items", "implementation": "rank_items", "dtype": "float32", "ours": True,
            "rows": users, "candidates": items, "dimensions": d, "note": "",
        },
        lambda: rank_items(scorer, everyone, asked, num_users=users, num_items=items, seen=rows),
        None,
        lambda _: bound,
    )  # fmt: skip
