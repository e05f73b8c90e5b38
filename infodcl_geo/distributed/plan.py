r"""What a run on several ranks will need of each and send between them, by formulas, before it starts.

With R ranks, M users, N items, E training interactions, d dimensions, s bytes a number, B interactions a step,
:math:`f = (R-1)/R` the share of what lies elsewhere, and, of the model, :math:`q` rows of items for each pair, K
products with the graph in a step, C channels:

- **look-ups**, bytes a rank and step: :math:`q \frac BR f (8 + 2 d s)`: ids go, rows come, gradients go back (users
  need none: a user's interactions live with the user);
- **propagation**: :math:`4 K f n d s` with n the distinct nodes of the smaller side that a rank's interactions name
  (:math:`n = \sum_i 1 - (1 - 1/R)^{\deg i} \le \min(M, N)`): rows and partial sums, forward and backward;
- **contrast of views**: :math:`(R-1) \frac{U}{R} (2 d s + 2 s)`, U the distinct users and items of a step;
- **contrast with all items**, for each of the N items once an epoch: :math:`(R-1) \frac{N}{R} C (2 d s + 2 s)`, and
  :math:`2 f P s` a step with anchors for the P weights of networks that every rank has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..configuration import Config
from ..data.interactions import Interactions
from ..models.base import Model
from ..nn.ranks import Traffic
from ..training.loop import LAZY_ROWS
from .group import Group
from .input import OwnInteractions

_MIB = float(1 << 20)
_FLUSHED = 65_536
"""Rows that lazy Adam brings up to date at a time, by about six arrays of them."""
_TILE = 8 * _MIB
"""Logits that InfoNCE against a whole table holds at a time."""


@dataclass(frozen=True)
class Shape:
    """The numbers that the formulas are made of.

    Args:
        users, items, interactions: M, N, E.
        dim: d.
        ranks: R.
        batch_size: B.
        traffic: of the model; ``None`` for models whose tables every rank has.
        needed: n, distinct nodes of the smaller side that a rank's interactions name.
        number: s, bytes of a number.
        anchor_batch: items diffused in a step that diffuses.
        networks: P, weights that every rank has beside the tables.
        lazy: whether Adam updates rows.
        keeps_best: whether the best weights are kept beside those that are trained.
        distinct: of the users and of the items of a step.
        layers: K of the propagation that ranking makes.
    """

    users: int
    items: int
    interactions: int
    dim: int
    ranks: int
    batch_size: int
    traffic: Traffic | None
    needed: float
    number: int = 4
    anchor_batch: int = 1024
    networks: int = 0
    lazy: bool = True
    keeps_best: bool = True
    distinct: tuple[float, float] = (0.0, 0.0)
    layers: int = 0

    @classmethod
    def of(
        cls, data: Interactions | OwnInteractions, model: Model, config: Config, group: Group, *, sharded: bool
    ) -> Shape:
        """Those of a run; all ranks call this at once."""
        ranks = group.size
        degrees = [torch.bincount(data.train[0]), torch.bincount(data.train[1], minlength=data.num_items)]
        # Users are their rank's alone; what is expected of them is added up below. Items are everyone's.
        interactions = data.train.size(1)
        if isinstance(data, OwnInteractions):
            degrees[1] = group.sum_(degrees[1], "counts")
            interactions = data.totals[0]
        training, options = config.training, config.options
        traffic = config.recipe.traffic(options) if sharded and config.recipe.traffic is not None else None
        weight = next(model.parameters())
        tables = ("user_embedding", "item_embedding")
        networks = sum(w.numel() for name, w in model.named_parameters() if not name.startswith(tables))
        total = sum(w.numel() for w in model.parameters())
        rows = traffic is not None and bool(model.row_tables(1))
        large = data.num_users + data.num_items >= LAZY_ROWS
        steps = max(1, -(-interactions // training.batch_size))
        users = torch.tensor(distinct_of(degrees[0], steps), dtype=torch.float64, device=group.device)
        # An item's users are spread over the ranks, and a user's items are.
        away = degrees[1] if data.num_users >= data.num_items else degrees[0]
        needed = needed_of(away, ranks)
        if isinstance(data, OwnInteractions):
            group.sum_(users, "counts")
            if away is degrees[0]:
                needed = float(group.sum_(torch.tensor(needed, dtype=torch.float64, device=group.device), "counts"))
        return cls(
            data.num_users,
            data.num_items,
            interactions,
            getattr(options, "dim", 0),
            ranks,
            training.batch_size,
            traffic,
            needed,
            weight.element_size(),
            getattr(options, "anchor_batch", 1024),
            networks if sharded else total,
            rows and (training.adam == "lazy" or (training.adam == "auto" and large)),
            bool(data.valid.size(1)),
            (float(users), distinct_of(degrees[1], steps)),
            getattr(options, "num_layers", None) or 0,
        )

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return max(1, -(-self.interactions // self.batch_size))

    @property
    def pairs_of_step(self) -> float:
        """On all ranks, on average."""
        return self.interactions / self.steps

    @property
    def elsewhere(self) -> float:
        return (self.ranks - 1) / self.ranks


def needed_of(degree: Tensor, ranks: int) -> float:
    """Items that some interaction of one in ``ranks`` users names, expected of items of these degrees."""
    return float((1 - (1 - 1 / ranks) ** degree.double()).sum())


def distinct_of(degree: Tensor, steps: int) -> float:
    """Distinct nodes of a step, expected of nodes of these degrees whose interactions lie in ``steps`` steps."""
    return float((1 - (1 - 1 / steps) ** degree.double()).sum())


def bytes_of_step(shape: Shape) -> dict[str, float]:
    """Bytes that a rank sends in a step, on average over an epoch, by what they are for."""
    ranks, number, elsewhere = shape.ranks, shape.number, shape.elsewhere
    row = shape.dim * number
    if shape.traffic is None:
        return {"gradients": 2 * elsewhere * shape.networks * number}
    traffic = shape.traffic
    found = {"look-ups": traffic.item_rows * shape.pairs_of_step / ranks * elsewhere * (8 + 2 * row)}
    if traffic.products:
        found["propagation"] = 4 * traffic.products * elsewhere * shape.needed * row
    if traffic.views:
        found["contrast"] = elsewhere * sum(shape.distinct) * (2 * row + 2 * number)
        found["look-ups"] += 8 * elsewhere * shape.pairs_of_step / ranks
    if traffic.channels:
        anchors = min(shape.steps, math.ceil(shape.items / shape.anchor_batch))
        vectors = elsewhere * shape.items * traffic.channels * (2 * row + 2 * number)
        found["contrast"] = vectors / shape.steps
        found["gradients"] = 2 * elsewhere * shape.networks * number * anchors / shape.steps
    return found


def memory_of_rank(shape: Shape) -> dict[str, float]:
    """Bytes that a rank holds at its peak beside the program and its interactions: in training, and while it ranks."""
    row = shape.dim * shape.number
    ranks = shape.ranks if shape.traffic is not None else 1
    table = (shape.users + shape.items) / ranks * row
    pairs = shape.interactions / shape.ranks
    items = shape.items / ranks * row
    graph = pairs * 2 * (8 + 4)
    best = shape.keeps_best * table
    # Pairs, negatives and keys of an epoch; while it is drawn, its hashes and its order as well.
    drawn = pairs * 8 * 9
    traffic = shape.traffic
    products = traffic.products if traffic is not None else 0
    # Dense steps have a gradient of every table.
    step = 6 * min(table, _FLUSHED * row) if shape.lazy else table
    if products:
        step += 2 * table + 2 * shape.needed * row
    if traffic is not None and traffic.views:
        step += (products - 1) * table  # layers of the views and their noise
    metadata = traffic.channels * items if traffic is not None else 0.0
    if metadata:
        step += 0.0 if shape.lazy else 2 * items + _TILE
    # Ranking propagates, then has the embeddings of all items, with their order and lengths, and blocks of scores.
    propagated = min(shape.layers + 1, 3) * table + 2 * shape.needed * row * (shape.layers > 0)
    ranked = table + shape.items * (row + 24) + 14 * _MIB
    ranking = max(propagated, ranked)
    return {
        "training": 3 * table + best + graph + metadata + max(drawn + step, pairs * 8 * 16),
        "ranking": 3 * table + best + graph + metadata + ranking,
    }


def expected(shape: Shape) -> list[str]:
    """The plan in lines: memory of a rank, bytes of a step and of an epoch."""
    step, memory = bytes_of_step(shape), memory_of_rank(shape)
    total = sum(step.values())
    parts = ", ".join(f"{name} {value / _MIB:.3g}" for name, value in step.items())
    return [
        f"expected: {max(memory.values()) / _MIB:.4g} MiB a process beside the program",
        f"expected: each process sends {total / _MIB:.3g} MiB a step ({parts}), "
        f"{total * shape.steps / _MIB:.4g} MiB an epoch of {shape.steps} steps",
    ]


def seconds_of_epoch(shape: Shape, gigabits: float) -> float:
    """Seconds that an epoch's bytes take on a link of so many gigabits a second to each rank."""
    return sum(bytes_of_step(shape).values()) * shape.steps * 8 / (gigabits * 1e9)
