"""GF-CF: graph filters over the item-item graph, in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..graph.graph import csr_parts, normalized_interactions
from ..graph.spectral import truncated_svd
from .base import Fitted
from .options import ModelOptions, check
from .recipe import Inputs, Recipe, Sizes, Space
from .scoring import Scorer, UserRows, chunk_scorer


@dataclass(frozen=True)
class GFCFOptions(ModelOptions):
    """Options of GF-CF.

    Args:
        components: k, singular vectors that the ideal low-pass filter lets pass.
        alpha: weight of the ideal low-pass filter beside the linear one.
    """

    components: int = 256
    alpha: float = 0.3

    def __post_init__(self) -> None:
        check(self, at_least_1=["components"])


def gfcf_factors(
    interactions: Tensor, num_users: int, num_items: int, options: GFCFOptions = GFCFOptions()
) -> tuple[Tensor, Tensor]:
    r"""The ideal low-pass filter of GF-CF as a product of two thin matrices.

    With :math:`V_k` the k right singular vectors of :math:`\tilde R` of largest singular value and D the
    items' degrees,

    .. math:: \alpha R D^{-1/2} V_k V_k^\top D^{1/2} = P Q^\top, \quad P = \alpha R D^{-1/2} V_k, \quad Q = D^{1/2} V_k

    Args:
        interactions: training pairs, int64 ``[2, E]``; the decomposition runs on the CPU.
        num_users, num_items: M and N.
        options: see :class:`GFCFOptions`.

    Returns:
        P ``[M, k]`` and Q ``[N, k]``, float32, on the device of ``interactions``, with k at most ``min(M, N) - 1``.
        Where the matrix has fewer than k singular values above rounding, the columns left over are zero.

    Raises:
        OptionError: if there are fewer than two users or items.
    """
    pairs = interactions.cpu()
    graph = normalized_interactions(pairs, num_users, num_items)
    _, values, right = truncated_svd(graph, min(options.components, min(num_users, num_items) - 1))
    # A singular value at rounding has no vector that means anything.
    vectors = torch.where(values > 1e-6 * values[0], right, 0.0)
    user_degree = torch.bincount(pairs[0], minlength=num_users).unsqueeze(1)
    item_degree = torch.bincount(pairs[1], minlength=num_items).unsqueeze(1)
    users = options.alpha * user_degree.sqrt() * (graph @ vectors)
    return users.to(interactions.device), (item_degree.sqrt() * vectors).to(interactions.device)


def gfcf_scorer(
    interactions: Tensor,
    num_users: int,
    num_items: int,
    users: Tensor,
    items: Tensor,
    histories: UserRows | None = None,
) -> Scorer:
    r"""Scores of GF-CF (Shen et al., CIKM 2021):

    .. math::
        s_u = r_u \left(\tilde R^\top \tilde R + \alpha D^{-1/2} V_k V_k^\top D^{1/2}\right), \qquad
        \tilde R = D_u^{-1/2} R D^{-1/2}

    The linear filter is applied as two sparse products, for a chunk of B users and a slice of n items: beside the
    scores it holds :math:`(M + N) B` numbers, never M x N or N x N.

    Args:
        interactions: training pairs, int64 ``[2, E]``.
        num_users, num_items: M and N.
        users, items: P ``[M, k]`` and Q ``[N, k]`` of :func:`gfcf_factors`.
        histories: rows :math:`r_u` of other users, whose P then ``users`` is; the filters stay as they are.
    """
    graph = normalized_interactions(interactions, num_users, num_items)
    pointers, col, value, _ = csr_parts(graph.t().matrix)
    rows = histories or UserRows(interactions, num_users, num_items)

    def prepare(chosen: Tensor) -> tuple[Tensor, Tensor]:
        return graph @ rows.dense(chosen, torch.float64).T, users[chosen].double()

    def score(prepared: tuple[Tensor, Tensor], window: slice) -> Tensor:
        smoothed, factors = prepared
        start, stop, _ = window.indices(num_items)
        begin, end = int(pointers[start]), int(pointers[stop])
        columns = torch.sparse_csr_tensor(
            pointers[start : stop + 1] - begin,
            col[begin:end],
            value[begin:end].double(),
            size=(stop - start, num_users),
            check_invariants=False,
        )
        return torch.addmm((columns @ smoothed).T, factors, items[start:stop].double().T)

    return chunk_scorer(prepare, score)


def _build(inputs: Inputs, options: GFCFOptions) -> Fitted:
    users, items = gfcf_factors(inputs.train, *inputs.sizes, options)
    return Fitted({"users": users, "items": items}, gfcf_scorer(inputs.train, *inputs.sizes, users, items))


def _restore(state: Mapping[str, Tensor], options: GFCFOptions, train: Tensor, sizes: Sizes) -> Scorer:
    return gfcf_scorer(train, *sizes, state["users"], state["items"])


def _fold_in(
    state: Mapping[str, Tensor], options: GFCFOptions, train: Tensor, sizes: Sizes, histories: UserRows
) -> Scorer:
    items = state["items"]
    degree = torch.bincount(train[1], minlength=sizes[1]).clamp(min=1).unsqueeze(1)
    everyone = torch.arange(histories.degree.numel())
    users = options.alpha * histories.product(everyone, items / degree)
    return gfcf_scorer(train, *sizes, users, items, histories)


def _search(space: Space) -> None:
    space.whole("components", 8, 512, log=True)
    space.number("alpha", 0.01, 3)


recipe = Recipe(
    name="gfcf",
    summary="graph filters over the item-item graph",
    paper="Shen et al., GF-CF, CIKM 2021",
    options=GFCFOptions,
    build=_build,
    search=_search,
    closed_form=True,
    restore=_restore,
    fold_in=_fold_in,
)
