"""iALS: matrix factorisation of all pairs by alternating least squares."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import OptionError
from ..graph.graph import Graph, csr_parts, interaction_graph
from .base import Fitted
from .options import ModelOptions, check
from .recipe import Inputs, Recipe, Space
from .scoring import dot_scorer

_FLOATS = 1 << 24
"""Gathered embeddings that are held at once."""
_SEED = 0


@dataclass(frozen=True)
class IALSOptions(ModelOptions):
    r"""Options of iALS.

    Args:
        dim: size of the embeddings, d.
        missing_weight: :math:`\alpha_0`, weight of every pair, observed or not, towards a score of 0.
        l2: lambda, weight of the squared norms.
        frequency: nu, by which power of its number of pairs an embedding is held; 0 holds all alike.
        sweeps: of users and items.
        init_std: standard deviation of the norms' scale: the embeddings start at :math:`N(0, \text{init\_std}^2 / d)`.
    """

    dim: int = 64
    missing_weight: float = 0.1
    l2: float = 0.01
    frequency: float = 1.0
    sweeps: int = 16
    init_std: float = 0.1

    def __post_init__(self) -> None:
        check(self, at_least_1=["dim", "sweeps"], positive=["missing_weight", "l2", "init_std"])


def solve_side(graph: Graph, fixed: Tensor, options: IALSOptions) -> Tensor:
    r"""The embeddings of one side that are best for those of the other:

    .. math::
        w_u = \Big(\sum_{i \in I_u} h_i h_i^\top + \alpha_0 H^\top H
            + \lambda (|I_u| + \alpha_0 N)^\nu I\Big)^{-1} \sum_{i \in I_u} h_i

    Nodes of like degree are solved together, so that little is padded.

    Args:
        graph: interactions ``[M, N]``, the side that is solved for as rows.
        fixed: H ``[N, d]``.
        options: see :class:`IALSOptions`.

    Returns:
        ``[M, d]``; zeros for rows without interactions.

    Raises:
        OptionError: if ``l2`` is too small to solve in float32.
    """
    pointers, col, _, (rows, others) = csr_parts(graph.matrix)
    dim = fixed.size(1)
    degree = pointers.diff()
    shared = options.missing_weight * (fixed.T @ fixed)
    ridge = options.l2 * (degree + options.missing_weight * others).to(fixed.dtype) ** options.frequency
    padded = torch.cat([fixed, fixed.new_zeros(1, dim)])
    solved = fixed.new_zeros(rows, dim)
    order = degree.argsort(stable=True)
    order = order[degree[order] > 0]
    ends = degree[order].tolist()
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop - start + 1) * max(ends[stop], dim) * dim <= _FLOATS:
            stop += 1
        chosen, width = order[start:stop], ends[stop - 1]
        place = torch.arange(width, device=col.device)
        inside = place < degree[chosen, None]
        at = (pointers[chosen, None] + place).clamp(max=col.numel() - 1)
        own = padded[torch.where(inside, col[at], others)]  # [b, width, d]
        system = torch.baddbmm(shared.expand(len(chosen), dim, dim), own.mT, own)
        system.diagonal(dim1=1, dim2=2).add_(ridge[chosen, None])
        factor, failed = torch.linalg.cholesky_ex(system)
        if bool(failed.any()):
            raise OptionError(f"l2 = {options.l2} is too small to solve in float32")
        solved[chosen] = torch.cholesky_solve(own.sum(1).unsqueeze(-1), factor).squeeze(-1)
        start = stop
    return solved


def ials(interactions: Tensor, num_users: int, num_items: int, options: IALSOptions) -> tuple[Tensor, Tensor]:
    r"""Embeddings of iALS (Hu et al., ICDM 2008, in the form of Rendle et al., RecSys 2022, arXiv 2110.14037):

    .. math::
        \min_{W, H} \sum_{(u,i) \in R} (w_u^\top h_i - 1)^2 + \alpha_0 \|W H^\top\|_F^2
            + \lambda \Big(\sum_u (|I_u| + \alpha_0 N)^\nu \|w_u\|^2 + \sum_i (|U_i| + \alpha_0 M)^\nu \|h_i\|^2\Big)

    Each sweep solves exactly for all users, then for all items; memory grows with the interactions and (M + N) d.

    Args:
        interactions: training pairs, int64 ``[2, E]``; their device computes.
        num_users, num_items: M and N.
        options: see :class:`IALSOptions`.

    Returns:
        W ``[M, d]`` and H ``[N, d]``; nodes without interactions have zeros. The random start is always the same.
    """
    device = interactions.device
    graph = interaction_graph(interactions, num_users, num_items)
    generator = torch.Generator().manual_seed(_SEED)
    items = torch.randn(num_items, options.dim, generator=generator) * (options.init_std / options.dim**0.5)
    items = items.to(device)
    users = items.new_zeros(num_users, options.dim)
    for _ in range(options.sweeps):
        users = solve_side(graph, items, options)
        items = solve_side(graph.t(), users, options)
    return users, items


def _build(inputs: Inputs, options: IALSOptions) -> Fitted:
    users, items = ials(inputs.train, *inputs.sizes, options)
    return Fitted({"users": users, "items": items}, dot_scorer(users, items))


def _search(space: Space) -> None:
    space.whole("dim", 16, 256, log=True)
    space.number("missing_weight", 1e-3, 1.0)
    space.number("l2", 1e-4, 0.1)
    space.number("frequency", 0.0, 1.5, log=False)


recipe = Recipe(
    name="ials",
    summary="matrix factorisation of all pairs by alternating least squares",
    paper="Rendle et al., Revisiting iALS, RecSys 2022",
    options=IALSOptions,
    build=_build,
    search=_search,
    closed_form=True,
)
