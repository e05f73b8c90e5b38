"""What a user should know of a metadata channel before trusting it: coverage, degrees, agreement, signal to noise."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data.ids import IntArray
from ..data.interactions import Interactions
from ..graph.graph import Graph, interaction_graph, to_scipy
from ..graph.similarity import cosine_graph
from ..nn.psnet import PSNet
from ..text import escape
from .base import Channel, ChannelError, PretrainedVectors
from .beyond import Beyond, beyond_vectors
from .pairs import deal_pairs
from .shuffle import shuffled

_LOOK_UPS = 2**22
"""Look-ups of interactions at a time, about 200 MB."""


class ChannelWarning(UserWarning):
    """A channel whose neighbours say nothing about held-out interactions."""


@dataclass(frozen=True)
class Degrees:
    """How many neighbours the rows of a graph have, self-loops left out."""

    min: int
    median: float
    mean: float
    p90: float
    max: int
    isolated: int
    """rows without a neighbour"""
    most_used: int
    """rows that the most used node is a neighbour of; far above ``max`` in a graph with hubs"""


@dataclass(frozen=True)
class Agreement:
    r"""How much better than random the neighbours of a graph predict held-out items; see :func:`agreement`."""

    share: float
    """mean of a(u, i) over the held-out pairs"""
    share_random: float
    """the same for items dealt at random, with the same popularity"""
    share_shuffled: float
    """mean of a(u, i) over the held-out pairs in the shuffled copies of the graph"""
    reach: float
    """share of the held-out pairs with a(u, i) > 0"""
    reach_random: float
    """the same for items dealt at random"""
    advantage: float
    """``share - share_random``"""
    advantage_shuffled: float
    """mean advantage of the shuffled copies"""
    standard_error: float
    """of ``advantage - advantage_shuffled``"""
    z: float
    """``advantage - advantage_shuffled`` in standard errors"""
    pairs: int
    """held-out pairs looked at"""

    @property
    def lift(self) -> float:
        """How many times more often the neighbours hold a held-out item than a random one of the same popularity."""
        if self.share_random > 0:
            return self.share / self.share_random
        return float("inf") if self.share > 0 else 1.0


@dataclass(frozen=True)
class ChannelReport:
    """The numbers of one channel; :meth:`summary` is their text."""

    name: str
    source: str
    num_items: int
    without_metadata: int
    """items that hold the channel's fallback"""
    over: Literal["items", "users"]
    """whose neighbours were looked at"""
    from_metadata: bool
    """whether the neighbours are those of largest cosine of the metadata, for want of a graph"""
    degrees: Degrees
    agreement: Agreement | None
    """``None`` without validation interactions"""
    signal_to_noise: float
    """see :func:`signal_to_noise`"""
    threshold: float
    """z below which the channel counts as carrying nothing"""
    beyond: Beyond | None = None
    """what the channel knows beyond the pretrained vectors; ``None`` where none were given"""

    @property
    def coverage(self) -> float:
        """Share of the items with metadata of their own."""
        return 1 - self.without_metadata / max(1, self.num_items)

    @property
    def carries_nothing(self) -> bool:
        """Whether agreement was measured and is not better than random."""
        return self.agreement is not None and not self.agreement.z >= self.threshold

    @property
    def adds_nothing(self) -> bool:
        """Whether what the channel knows beyond the vectors was measured, and is chance or less than a hundredth."""
        return self.beyond is not None and not (self.beyond.z >= self.threshold and self.beyond.share >= 0.01)

    def summary(self) -> str:
        """The numbers as a few lines of text."""
        degrees, found = self.degrees, self.agreement
        graph = "nearest by metadata" if self.from_metadata else "graph"
        lines = [
            f"channel       {escape(self.name)}: {escape(self.source)}",
            f"coverage      {100 * self.coverage:.1f}% of {self.num_items} items "
            f"({self.without_metadata} without metadata of their own, {100 * (1 - self.coverage):.1f}%)",
            f"degrees       {graph} over {self.over}: min {degrees.min}, median {degrees.median:g}, "
            f"mean {degrees.mean:.1f}, 90% {degrees.p90:g}, max {degrees.max}; {degrees.isolated} isolated; "
            f"the most used is a neighbour of {degrees.most_used}",
        ]
        if found is None:
            lines.append("agreement     not measured, there are no validation interactions")
        else:
            lines += [
                f"agreement     {found.lift:.2f} times random: neighbours hold {found.share:.5f} of held-out items, "
                f"{found.share_random:.5f} of random ones of the same popularity",
                f"              z = {found.z:.1f} against shuffled edges ({found.share_shuffled:.5f}), "
                f"{found.pairs} held-out pairs; any neighbour: {100 * found.reach:.1f}% against "
                f"{100 * found.reach_random:.1f}%" + ("; CARRIES NOTHING" if self.carries_nothing else ""),
            ]
        if self.beyond is not None:
            told = self.beyond
            lines += [
                f"beyond        {100 * told.share:+.2f}% of what the vectors know of held-out items "
                f"({told.gain:+.5f} nats a pair beside {told.known:.5f}), weight {told.weight:.2f}",
                f"              z = {told.z:.1f}, {told.pairs} held-out pairs; above an item dealt at random: "
                f"{100 * told.auc:.2f}% against {100 * told.auc_vectors:.2f}% by the vectors"
                + ("; ADDS NOTHING to them" if self.adds_nothing else ""),
            ]
        lines.append(f"noise         signal to noise {self.signal_to_noise:.3g} before training")
        return "\n".join(lines)


def inspect_channel(
    data: Interactions,
    channel: Channel,
    *,
    vectors: PretrainedVectors | None = None,
    neighbours: int = 20,
    shuffles: int = 20,
    max_pairs: int = 10_000,
    threshold: float = 2.0,
    seed: int = 0,
) -> ChannelReport:
    """Measure a channel against the validation split, and warn where it carries nothing.

    Item and user similarity graphs are made from the training interactions, so that they agree is expected; of a graph
    from elsewhere it is news.

    Args:
        data: its training and validation splits are used.
        channel: what to inspect.
        vectors: the pretrained vectors that a model starts from; with them, what the channel knows beyond them is
            measured too (:func:`~infodcl_geo.channels.beyond.beyond_vectors`).
        neighbours: of a channel without a graph, how many items of largest cosine of the metadata stand for it; items
            that are not covered have none.
        shuffles, max_pairs: see :func:`agreement`.
        threshold: z below which the channel is said to carry nothing.
        seed: of everything random.

    Returns:
        The report.

    Warns:
        ChannelWarning: if the agreement is below ``threshold`` standard errors.
    """
    graph, over = channel.graph, channel.over
    if graph is None or over is None:
        graph, over = cosine_graph(channel.metadata, channel.covered, top_k=neighbours), "items"
    found = beyond = None
    if data.valid.size(1):
        found = agreement(data, graph, over, shuffles=shuffles, max_pairs=max_pairs, seed=seed)
        if vectors is not None:
            beyond = beyond_vectors(data, channel, vectors, max_pairs=max_pairs, seed=seed)
    report = ChannelReport(
        channel.name,
        channel.source,
        data.num_items,
        int((~channel.covered).sum()),
        over,
        channel.graph is None,
        degrees(graph),
        found,
        signal_to_noise(channel.metadata, seed=seed),
        threshold,
        beyond,
    )
    if found is not None and report.carries_nothing:
        warnings.warn(
            f"channel {channel.name!r} carries nothing about the interactions: its neighbours predict held-out items "
            f"no better than shuffled edges do (z = {found.z:.1f}, less than {threshold:g}); are its ids those of "
            f"these {over}?",
            ChannelWarning,
            stacklevel=2,
        )
    return report


def degrees(graph: Graph) -> Degrees:
    """Distribution of the number of neighbours (positive entries beside the diagonal) over the rows of ``graph``."""
    matrix = _neighbours(graph)
    count = np.diff(matrix.indptr)
    if not count.size:
        return Degrees(0, 0.0, 0.0, 0.0, 0, 0, 0)
    used = np.bincount(matrix.indices, minlength=1)
    return Degrees(
        int(count.min()),
        float(np.median(count)),
        float(count.mean()),
        float(np.quantile(count, 0.9)),
        int(count.max()),
        int((count == 0).sum()),
        int(used.max()),
    )


def agreement(
    data: Interactions,
    graph: Graph,
    over: Literal["items", "users"],
    *,
    shuffles: int = 20,
    max_pairs: int = 10_000,
    seed: int = 0,
) -> Agreement:
    r"""How much better than random a graph's neighbours predict held-out validation items.

    For a user u with training items :math:`T_u` and an item i, the share of the neighbourhood, by weight, that speaks
    for the pair:

    .. math::
        a(u, i) = \frac{\sum_{j \in T_u} w_{ij}}{\sum_j w_{ij}} \text{ (graph over items)}, \qquad
        a(u, i) = \frac{\sum_{v : i \in T_v} w_{uv}}{\sum_v w_{uv}} \text{ (graph over users)}

    and 0 without neighbours. Its mean over held-out pairs alone proves nothing, as popular items are held out often and
    are hubs of many graphs. So two things are taken off:

    - The *advantage* of a graph is the mean of :math:`a(u, i) - a(u, i')` over the validation pairs, i' dealt anew:
      drawn among the items that u has not in training, each as often as those who lack it hold it out. The users
      are the same, and so are popularity and degrees of the items. That cancels hubs, and edges that join items
      merely because they are equally popular.
    - From it the mean advantage of copies with :func:`~infodcl_geo.channels.shuffle.shuffled` edges is taken, which
      keep every degree. That cancels what is left of hubs where users of mainstream taste hold popular items in both
      splits.

    With the spread s of the copies and the standard error e of the advantage over users,
    :math:`z = (A - \bar A_r) / \sqrt{s^2 (1 + 1/R) + e^2}`. If the edges say no more than their degrees do, the graph
    is one more copy and z is at most standard normal.

    Either alone can be fooled by a graph that knows nothing but popularity: shuffling takes popularity for knowledge
    where edges join items of like popularity, dealing anew where hubs meet mainstream users.

    Args:
        data: its training and validation splits are used.
        graph: weights of neighbours, square over items or users, row = who is described; the diagonal and entries that
            are not positive do not count.
        over: 'items' or 'users'.
        shuffles: number R of shuffled copies, at least 2.
        max_pairs: validation pairs looked at, at most; a random part of them if there are more.
        seed: of pairs, random items and shuffles.

    Raises:
        ChannelError: without validation pairs, for fewer than two copies, or if the graph is not over ``over``.
    """
    nodes = data.num_items if over == "items" else data.num_users
    if graph.shape != (nodes, nodes):
        raise ChannelError(f"a graph over {nodes} {over} has {nodes} rows and columns, not {graph.shape}")
    if data.valid.size(1) == 0:
        raise ChannelError("there are no validation interactions to compare with")
    if shuffles < 2:
        raise ChannelError(f"a spread needs at least 2 shuffled copies, not {shuffles}")
    rng = np.random.default_rng(seed)
    taken = to_scipy(interaction_graph(data.train.cpu(), data.num_users, data.num_items).matrix)
    users, items, random_items = deal_pairs(data.valid.cpu().numpy(), taken, max_pairs, rng)
    draws = len(random_items)
    everyone = np.tile(users, draws + 1)
    everything = np.concatenate([items, *random_items])

    def shares(matrix: Any) -> npt.NDArray[np.float64]:
        """a(u, i) of the held-out pairs, then of every deal of random items, ``[draws + 1, pairs]``."""
        return _shares(matrix, taken, everyone, everything, over).reshape(draws + 1, -1)

    real = shares(_neighbours(graph))
    advantage = float(real[0].mean() - real[1:].mean())
    copies, held = [], []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(shuffles):
        copy = shares(_neighbours(shuffled(graph, generator)))
        copies.append(copy[0].mean() - copy[1:].mean())
        held.append(copy[0].mean())
    excess = advantage - float(np.mean(copies))
    # Pairs of one user share its training items, so they are no independent observations.
    deviation = real[0] - real[1:].mean(0) - advantage
    of_pairs = float(np.sqrt(np.square(np.bincount(users, weights=deviation)).sum())) / len(users)
    error = float(np.hypot(np.std(copies, ddof=1) * (1 + 1 / shuffles) ** 0.5, of_pairs))
    # A graph that no exchange can change, all rows linked to the same hubs say, equals its copies up to rounding.
    z = 0.0 if abs(excess) <= 1e-9 else excess / error if error > 0 else float(np.copysign(np.inf, excess))
    return Agreement(
        share=float(real[0].mean()),
        share_random=float(real[1:].mean()),
        share_shuffled=float(np.mean(held)),
        reach=float((real[0] > 0).mean()),
        reach_random=float((real[1:] > 0).mean()),
        advantage=advantage,
        advantage_shuffled=float(np.mean(copies)),
        standard_error=error,
        z=z,
        pairs=len(users),
    )


def _neighbours(graph: Graph) -> Any:
    """The graph as a scipy CSR matrix, the diagonal and entries that are not positive left out."""
    matrix = to_scipy(graph.matrix)
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    data = np.where((row == matrix.indices) | ~(matrix.data > 0), 0.0, matrix.data)
    matrix = type(matrix)((data, matrix.indices, matrix.indptr), shape=matrix.shape)
    matrix.eliminate_zeros()
    return matrix


def _shares(
    matrix: Any, taken: Any, users: IntArray, items: IntArray, over: Literal["items", "users"]
) -> npt.NDArray[np.float64]:
    """a(u, i) of :func:`agreement` for each pair."""
    rows = items if over == "items" else users
    count = np.diff(matrix.indptr)
    total = np.asarray(matrix.sum(1), dtype=np.float64).ravel()
    result = np.zeros(len(rows))
    ends = np.cumsum(count[rows])
    start = 0
    while start < len(rows):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _LOOK_UPS, side="right")))
        chunk = rows[start:stop]
        length = count[chunk]
        position = np.repeat(np.arange(len(chunk)), length)
        first = matrix.indptr[chunk] - (np.cumsum(length) - length)
        entry = first[position] + np.arange(len(position))
        near = matrix.indices[entry]
        pair = start + position
        hit = taken[users[pair], near] if over == "items" else taken[near, items[pair]]
        weight = matrix.data[entry] * np.asarray(hit).ravel()
        result[start:stop] = np.bincount(position, weights=weight, minlength=len(chunk))
        start = stop
    return np.divide(result, total[rows], out=np.zeros(len(rows)), where=total[rows] > 0)


@torch.no_grad()
def signal_to_noise(
    metadata: Tensor,
    *,
    scale: float = 2.0,
    max_items: int = 2048,
    draws: int = 16,
    seed: int = 0,
    **settings: Any,
) -> float:
    r"""Signal-to-noise ratio of PSNet's informative noise for a channel, before training.

    .. math::
        \text{SNR} = \frac{\operatorname{tr} \operatorname{Var}_i\, \mathbb E_\epsilon[\epsilon^{(m_i)}]}
                          {\mathbb E_i \operatorname{tr} \operatorname{Var}_\epsilon[\epsilon^{(m_i)}]}

    What of the noise (InfoDCL eq. 8) tells items apart, against what is drawn anew in each step. Metadata that
    are equal for all items have 0, and where a channel replaces much by one fallback the ratio falls. It says how loud
    the channel is, not whether it is right: that is what :func:`agreement` is for.

    Estimated without bias in the numerator, by a one-way analysis of variance: the variance of the items' means less
    a ``draws``-th of the variance within items.

    Args:
        metadata: ``[N, d]``, at any scale; scaled as the model does.
        scale: root mean square that the model gives the metadata, its ``metadata_scale``.
        max_items: items looked at, at most.
        draws: Gaussian draws for each item, at least 2.
        seed: of PSNet's weights, items and draws.
        settings: further arguments of :class:`~infodcl_geo.nn.psnet.PSNet`.

    Returns:
        The ratio, 0 or more.

    Raises:
        ChannelError: for fewer than two items or draws.
    """
    if len(metadata) < 2 or draws < 2:
        raise ChannelError(f"a variance needs at least 2 items and draws, not {len(metadata)} and {draws}")
    rms = metadata.square().mean().sqrt().clamp(min=torch.finfo(metadata.dtype).tiny)
    scaled = metadata * (scale / rms)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PSNet(metadata.size(1), **settings).fit(scaled)
        sample = scaled[torch.randperm(len(scaled))[:max_items].sort().values]
        total, squares = torch.zeros(sample.shape, dtype=torch.float64), torch.zeros(sample.shape, dtype=torch.float64)
        for _ in range(draws):
            noise = network(torch.randn_like(sample), sample).double()
            total += noise
            squares += noise.square()
    means = total / draws
    within = float(((squares / draws - means.square()) * draws / (draws - 1)).mean(0).sum())
    between = float(means.var(0).sum()) - within / draws
    return max(between, 0.0) / within if within > 0 else float("inf")
