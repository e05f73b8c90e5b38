"""EASE: a linear autoencoder over items, in closed form."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..graph.graph import interaction_graph, to_scipy


@dataclass(frozen=True)
class EASEOptions:
    """Hyper-parameters of EASE; those of other models, and the seed, do not concern it.

    Args:
        l2: weight lambda of the squared norm of the item-item weights.
    """

    l2: float = 200.0

    def __post_init__(self) -> None:
        if not self.l2 > 0:
            raise ValueError(f"l2 must be positive, not {self.l2}")


def ease_weights(interactions: Tensor, num_users: int, num_items: int, options: EASEOptions = EASEOptions()) -> Tensor:
    r"""Item-item weights of EASE (Steck, WWW 2019), with which user u scores :math:`x_u B`.

    .. math::
        \min_B \|X - XB\|_F^2 + \lambda \|B\|_F^2, \quad \operatorname{diag}(B) = 0
        \qquad\Rightarrow\qquad
        P = (X^\top X + \lambda I)^{-1}, \quad B = I - P \operatorname{diag}(P)^{-1}

    Args:
        interactions: training pairs, int64 ``[2, E]``; their device computes.
        num_users, num_items: M and N.
        options: see :class:`EASEOptions`.

    Returns:
        B ``[N, N]``, float32. See :func:`~infodcl_geo.models.scoring.item_scorer`.

    Raises:
        ValueError: if the N x N matrices (three at the peak) do not fit into the free memory, with the size in GiB;
            or if ``l2`` is too small for float32.
    """
    device = interactions.device
    needed, free = 3 * 4 * num_items**2, _free_bytes(device)
    if needed > free:
        raise ValueError(
            f"EASE inverts a matrix of {num_items:,} x {num_items:,} items, for which {needed / 2**30:.1f} GiB are "
            f"needed and {free / 2**30:.1f} GiB are free on {device}; use gfcf, or keep fewer items with k_core"
        )
    x = to_scipy(interaction_graph(interactions, num_users, num_items).matrix)
    columns = x.T.tocsr()
    gram = torch.empty(num_items, num_items, device=device)
    step = max(1, 2**24 // num_items)  # blocks of rows, so that the sparse product never stands beside the dense one
    for start in range(0, num_items, step):
        gram[start : start + step] = torch.from_numpy((columns[start : start + step] @ x).toarray())
    gram.diagonal().add_(options.l2)
    try:
        factor = torch.linalg.cholesky(gram)
    except torch.linalg.LinAlgError as error:
        raise ValueError(f"l2 = {options.l2} is too small to invert the Gram matrix in float32") from error
    del gram
    # LAPACK leaves columns together; the transpose, the same symmetric matrix, has the rows that ranking adds together.
    weights = torch.cholesky_inverse(factor).mT
    weights /= -weights.diagonal().clone()
    weights.fill_diagonal_(0)
    return weights


def _free_bytes(device: torch.device) -> int:
    """Memory that can still be had; the whole memory where the system does not say what is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 2**63
