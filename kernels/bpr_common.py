"""What the implementations of a BPR step share: tables with their Adam state, and the decay of skipped steps."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from infodcl_geo.errors import InfodclGeoError, OptionError


class RowAdamTable(NamedTuple):
    """An embedding table and the state of an Adam that updates it by rows; all on one device, updated in place."""

    weight: Tensor
    """``[rows, d]``, float32 or float64, contiguous"""
    exp_avg: Tensor
    """first moments m of each row as of step ``last``, ``[rows, d]``"""
    exp_avg_sq: Tensor
    """second moments v of each row as of step ``last``, ``[rows, d]``"""
    last: Tensor
    """the Adam step up to which a row has been brought, int32 ``[rows]``; 0 for none"""

    def check(self, name: str) -> None:
        """Raises an error unless shapes, types, layouts and devices fit."""
        weight = self.weight
        whole = (self.weight, self.exp_avg, self.exp_avg_sq)
        if (
            weight.dim() != 2
            or weight.dtype not in (torch.float32, torch.float64)
            or any(x.shape != weight.shape or x.dtype != weight.dtype or not x.is_contiguous() for x in whole)
            or self.last.shape != weight.shape[:1]
            or self.last.dtype != torch.int32
            or any(x.device != weight.device for x in self)
        ):
            raise InfodclGeoError(
                f"{name}: weight and moments must be contiguous float32 or float64 tensors [rows, d], last int32 "
                "[rows], all on one device"
            )


class RowAdamOptions(NamedTuple):
    """Adam's settings (Kingma and Ba, ICLR 2015, algorithm 1)."""

    lr: float
    """learning rate; a change holds for the rows brought up to date from then on"""
    betas: tuple[float, float] = (0.9, 0.999)
    """decay of the moments"""
    eps: float = 1e-8
    """added to the root of the second moment"""

    def check(self) -> None:
        """Raises an error unless a row's skipped steps sum up quickly."""
        beta1, beta2 = self.betas
        if not 0 < beta1 < beta2 < 1 or beta1**2 > 0.99 * beta2:
            raise OptionError(f"betas must be between 0 and 1 with beta1^2 well below beta2, not {self.betas}")


class Decay(NamedTuple):
    r"""What a row skipped, as float64 tables over 0, 1, ..., steps.

    A row last updated in step s has by step t moved by
    :math:`-\eta\,(T_s - r^{t-s} T_t)\, m_s / (\sqrt{v_s} + \epsilon \sqrt{1 - \beta_2^s})` with
    :math:`r = \beta_1 / \sqrt{\beta_2}` and :math:`T_s = \sum_{k>0} r^k \sqrt{1-\beta_2^{s+k}} / (1-\beta_1^{s+k})`.
    """

    tail: Tensor
    """:math:`T_s`"""
    ratio: Tensor
    """:math:`r^k`"""
    first: Tensor
    r""":math:`\beta_1^k`"""
    second: Tensor
    r""":math:`\beta_2^k`"""
    root: Tensor
    r""":math:`\sqrt{1-\beta_2^s}`"""


def decay(steps: int, betas: tuple[float, float], device: torch.device) -> Decay:
    """The tables for rows of any age up to ``steps`` Adam steps; O(steps)."""
    return _decay(steps, *betas, device)


@functools.lru_cache(maxsize=2)  # two tables are brought to the same step
def _decay(steps: int, beta1: float, beta2: float, device: torch.device) -> Decay:
    ratio = beta1 / math.sqrt(beta2)
    terms = math.ceil(math.log(1e-14) / math.log(ratio))
    k = torch.arange(steps + terms + 1, dtype=torch.float64)
    first, second, powers = beta1**k, beta2**k, ratio**k
    root = (1 - second).sqrt()
    # T_s = r (b_(s+1) + T_(s+1)), backwards from where T is nothing but the rest of a geometric series.
    scale = (root[1:] / (1 - first[1:])).tolist()
    tail = [0.0] * (steps + terms + 1)
    tail[-1] = ratio / (1 - ratio)
    for s in range(steps + terms - 1, -1, -1):
        tail[s] = ratio * (scale[s] + tail[s + 1])
    tables = (torch.tensor(tail, dtype=torch.float64), powers, first, second, root)
    return Decay(*(x[: steps + 1].contiguous().to(device, non_blocking=True) for x in tables))
