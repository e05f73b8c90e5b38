"""How surely the metadata of an item say something of who interacts with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graph.graph import interaction_graph


def row_agreement(metadata: Tensor, interactions: Tensor, num_users: int, num_items: int, *, seed: int = 0) -> Tensor:
    r"""How surely each item's metadata tell something of who interacts with it, from 0 to 1.

    With :math:`\hat m` the metadata, centred and normalised, and :math:`c_{ij}` the number of training users that
    items i and j share,

    .. math::
        s_i = \cos\Big(\hat m_i, \sum_{j \ne i} c_{ij} \hat m_j\Big), \qquad u_i = F_0(s_i), \qquad
        w_i = \max\Big(0, 1 - \frac{1}{f(u_i)}\Big)

    :math:`F_0` is the distribution of the same scores when the rows are dealt anew among the items (four times), f the
    density of the u (a histogram of 20 bins), which is 1 for metadata that have nothing to do with the interactions:
    :math:`w_i` is one minus the local false discovery rate (Efron et al., JASA 96, 2001). It is 0 where :math:`s_i` is
    below the median of chance. Items that share no user with another have the mean of the others.

    Args:
        metadata: ``[num_items, d]``.
        interactions: training pairs, int64 ``[2, E]``.
        seed: of the deals.

    Returns:
        Weights ``[num_items]``.
    """
    bins, deals = 20, 4
    graph = interaction_graph(interactions, num_users, num_items)
    degree = torch.bincount(interactions[1], minlength=num_items).to(metadata.dtype).unsqueeze(1)
    rows = F.normalize(metadata - metadata.mean(0), dim=1)
    shared = graph.t() @ (graph @ rows.new_ones(num_items, 1)) - degree
    known = shared.squeeze(1) > 0
    if not bool(known.any()):
        return metadata.new_zeros(num_items)

    def scores(rows: Tensor) -> Tensor:
        return F.cosine_similarity(rows, graph.t() @ (graph @ rows) - degree * rows, dim=1)[known]

    generator = torch.Generator().manual_seed(seed)
    dealt = [scores(rows[torch.randperm(num_items, generator=generator)]) for _ in range(deals)]
    chance = torch.cat(dealt).sort().values
    rank = torch.searchsorted(chance, scores(rows)).double() / len(chance)
    bin_of = (rank * bins).long().clamp(max=bins - 1)
    density = torch.bincount(bin_of, minlength=bins) * (bins / len(rank))
    certain = 1 - 1 / density.clamp(min=1)
    certain[: bins // 2] = 0
    found = certain[bin_of].to(metadata.dtype)
    weights = metadata.new_full((num_items,), float(found.mean()))
    weights[known] = found
    return weights
