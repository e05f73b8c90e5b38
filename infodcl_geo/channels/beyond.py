"""What a channel knows of held-out interactions beyond the pretrained vectors that a model starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.ids import IntArray
from ..data.interactions import Interactions
from ..graph.graph import Graph, interaction_graph, normalized_adjacency, propagate, to_scipy
from .base import Channel, ChannelError, PretrainedVectors
from .pairs import deal_pairs

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Beyond:
    """How much better held-out items are predicted from a channel given the vectors; see :func:`beyond_vectors`."""

    gain: float
    """G, nats a pair, that the channel adds"""
    standard_error: float
    """of the gain, over users"""
    z: float
    """the gain in standard errors"""
    known: float
    """nats a pair that the vectors alone are better than chance"""
    weight: float
    """mean weight of the channel's score, in standard deviations, between the halves"""
    auc_vectors: float
    """share of held-out items that the vectors rank above one dealt at random"""
    auc: float
    """the same with the channel"""
    pairs: int
    """held-out pairs looked at"""

    @property
    def share(self) -> float:
        """The gain as a share of what the vectors know; infinite where they know nothing."""
        if self.known > 0:
            return self.gain / self.known
        return float("inf") if self.gain > 0 else 0.0


def beyond_vectors(
    data: Interactions,
    channel: Channel,
    vectors: PretrainedVectors,
    *,
    max_pairs: int = 10_000,
    draws: int = 4,
    seed: int = 0,
) -> Beyond:
    r"""How much better a channel predicts held-out validation items than the vectors alone.

    That a channel agrees with the interactions is no news to a model that starts from vectors which know it already. So
    both are asked the same: which of an item i that user u holds out and D items dealt by popularity
    (:func:`~infodcl_geo.channels.pairs.deal_pairs`) is the one held out. In a conditional logit (McFadden 1974) over
    these,

    .. math::
        P(i \mid u) \propto \exp\Big(\sum_k \alpha_k a_k(u, i) + \beta\, b(u, i)\Big), \qquad
        b(u, i) = \cos\Big(\sum_{j \in T_u} \hat m_j,\; \hat m_i\Big)

    :math:`T_u` are u's training items and :math:`\hat m` the metadata, centred and normalised. What the vectors p, q
    say is :math:`a_1 = p_u^\top q_i`, :math:`a_2` the same of vectors propagated twice, and :math:`a_3, a_4` the score
    b with either in place of m, so that metadata which are the vectors in other words bring nothing. The weights are
    fitted on the pairs of half of the users, with :math:`\beta = 0` and without, and judged on those of the other
    half; then the halves change places. The gain is

    .. math:: G = \frac{1}{P} \sum_{(u, i)} \log P_{\alpha\beta}(i \mid u) - \log P_{\alpha}(i \mid u)

    in nats a pair, with its standard error over users. A channel that knows nothing more loses a little on the half
    that it was not fitted on. In the share of what the vectors know, :math:`\log (D + 1) + \frac1P \sum \log P_\alpha`,
    the gain says whether it is worth the trouble.

    Args:
        data: its training and validation splits are used.
        channel: what is measured; only its metadata.
        vectors: pretrained vectors that the model starts from, ``[M, d]`` and ``[N, d]``.
        max_pairs: validation pairs looked at, at most.
        draws: number D of items dealt to each pair.
        seed: of pairs, items dealt and halves.

    Returns:
        The gain and what it is compared with.

    Raises:
        ChannelError: without validation pairs of at least four users, or if the shapes do not fit the data.
    """
    sizes = data.num_users, data.num_items
    for what, table, size in (
        ("metadata", channel.metadata, sizes[1]),
        ("user vectors", vectors.users, sizes[0]),
        ("item vectors", vectors.items, sizes[1]),
    ):
        if table.dim() != 2 or len(table) != size:
            raise ChannelError(f"channel {channel.name!r}: {what} of {list(table.shape)}, not [{size}, d]")
    if data.valid.size(1) == 0:
        raise ChannelError("there are no validation interactions to compare with")
    rng = np.random.default_rng(seed)
    graph = interaction_graph(data.train.cpu(), *sizes)
    users, items, dealt = deal_pairs(data.valid.cpu().numpy(), to_scipy(graph.matrix), max_pairs, rng, draws)
    distinct = rng.permutation(np.unique(users))
    if len(distinct) < 4:
        raise ChannelError(f"{len(distinct)} users hold something out; two halves need at least 4")
    choices = np.stack([items, *dealt], axis=1)
    adjacency = normalized_adjacency(data.train.cpu(), *sizes)
    own = (vectors.users.cpu().float(), vectors.items.cpu().float())
    carried = propagate(adjacency, torch.cat(own), 2).split(sizes)
    described = (own[1], carried[1], channel.metadata.cpu().float())
    tables = [own, (carried[0], carried[1]), *(_profiles(graph, rows) for rows in described)]
    scores = np.stack([_scores(*table, users, choices) for table in tables], axis=2)

    first = np.isin(users, distinct[: len(distinct) // 2])
    alone, together = np.empty((2, len(users), draws + 1))
    weights = []
    for fitted in (first, ~first):
        judged = ~fitted
        spread = np.sqrt(scores[fitted].var(1).mean(0))
        scaled = np.divide(scores, spread, out=np.zeros_like(scores), where=spread > 1e-12)
        both = _logit(scaled[fitted])
        alone[judged] = scaled[judged][..., :-1] @ _logit(scaled[fitted][..., :-1])
        together[judged] = scaled[judged] @ both
        weights.append(both[-1])
    of_pair = _log_likelihood(together) - _log_likelihood(alone)
    gain = float(of_pair.mean())
    # Pairs of one user share its training items, so they are no independent observations.
    by_user = np.bincount(np.unique(users, return_inverse=True)[1], weights=of_pair - gain)
    error = float(np.sqrt(np.square(by_user).sum())) / len(users)
    return Beyond(
        gain=gain,
        standard_error=error,
        z=gain / error if error > 0 else 0.0,
        known=float(np.log(draws + 1) + _log_likelihood(alone).mean()),
        weight=float(np.mean(weights)),
        auc_vectors=_auc(alone),
        auc=_auc(together),
        pairs=len(users),
    )


def _profiles(graph: Graph, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised sums of the users' items and the items themselves, centred and normalised: their product is b."""
    unit = F.normalize(rows - rows.mean(0), dim=1)
    return F.normalize(graph @ unit, dim=1), unit


def _scores(user_table: Tensor, item_table: Tensor, users: IntArray, choices: IntArray) -> FloatArray:
    """Inner products of each user with its choices, ``[P, D + 1]``, some at a time."""
    result = np.empty(choices.shape)
    for start in range(0, len(users), 4096):
        part = slice(start, start + 4096)
        rows = user_table[torch.from_numpy(users[part])].unsqueeze(2)
        result[part] = (item_table[torch.from_numpy(choices[part])] @ rows).squeeze(2).double().numpy()
    return result


def _log_likelihood(utility: FloatArray) -> FloatArray:
    """Log-probability of the first of each row of choices, ``[P, D + 1] -> [P]``."""
    relative = utility - utility[:, :1]
    largest = relative.max(1, keepdims=True)
    return -(largest[:, 0] + np.log(np.exp(relative - largest).sum(1)))


def _logit(scores: FloatArray, prior: float = 1.0) -> FloatArray:
    """Weights ``[k]`` of a conditional logit in which the first of each row is chosen, ``[P, D + 1, k]``.

    Newton's method with halved steps; a standard normal prior of the weights keeps them finite where a score tells all.
    """
    weights = np.zeros(scores.shape[2])

    def objective(weights: FloatArray) -> float:
        return float(_log_likelihood(scores @ weights).sum() - 0.5 * prior * weights @ weights)

    value = objective(weights)
    for _ in range(50):
        utility = scores @ weights
        chance = np.exp(utility - utility.max(1, keepdims=True))
        chance /= chance.sum(1, keepdims=True)
        mean = np.einsum("pc,pck->pk", chance, scores)
        gradient = (scores[:, 0] - mean).sum(0) - prior * weights
        centred = scores - mean[:, None]
        curvature = np.einsum("pc,pck,pcl->kl", chance, centred, centred) + prior * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        while (better := objective(weights + step)) < value and np.abs(step).max() > 1e-9:
            step = step / 2
        weights = weights + step
        if better - value <= 1e-9 * abs(value):
            break
        value = better
    return weights


def _auc(utility: FloatArray) -> float:
    """Share of pairs of the first and another choice in the right order, equal ones counted half."""
    first, others = utility[:, :1], utility[:, 1:]
    return float(((first > others) + 0.5 * (first == others)).mean())
