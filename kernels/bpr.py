"""Steps of Bayesian personalised ranking on embedding rows, loss, gradient and row-wise Adam in one operation.

A step of matrix factorisation touches a few thousand rows of tables of which Adam, done plainly, rewrites every row.
Here a step reads and writes its rows alone; what a row's momentum would have done since is made up for when the row is
next touched.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from infodcl_geo.errors import InfodclGeoError, OptionError

from .bpr_common import Decay, RowAdamOptions, RowAdamTable, decay
from .reference_bpr import bpr_step_reference, catch_up_reference

__all__ = ["BprEpoch", "RowAdamOptions", "RowAdamTable", "flush_rows"]

_FLUSH_ROWS = 65_536


class _Steps(Protocol):
    def run(self, start: int, stop: int, options: RowAdamOptions, bpr_weight: float, penalty: float) -> Tensor: ...


class BprEpoch:
    r"""The BPR steps of one epoch, a window of steps at a time.

    Step k takes the samples :math:`b` from ``k * batch_size`` on, B in number, and minimises (InfoDCL eq. 12 and 15)

    .. math::
        w\,\frac1B \sum_b \ln\big(1 + e^{u_b^\top (n_b - p_b)}\big)
        + \lambda\,\frac1B \sum_b \big(\|u_b\|^2 + \|p_b\|^2 + \|n_b\|^2\big)

    over the embeddings of users, positive and negative items: a row that occurs several times in a batch gets the sum
    of its samples' gradients and is penalised as often. The rows then take Adam step number ``steps_before + k + 1``
    (Kingma and Ba, ICLR 2015, algorithm 1). Before a step reads a row, the row is brought to the step before: with its
    moments :math:`m_s, v_s` of its last step s and :math:`r = \beta_1 / \sqrt{\beta_2}`,

    .. math::
        m_t = \beta_1^{t-s} m_s, \quad v_t = \beta_2^{t-s} v_s, \quad
        \theta_t = \theta_s - \eta\, \frac{m_s}{\sqrt{v_s} + \epsilon \sqrt{1 - \beta_2^s}}
        \sum_{j=s+1}^{t} r^{j-s} \frac{\sqrt{1-\beta_2^j}}{1-\beta_1^j}

    which is Adam itself for a row whose gradient is zero in steps s + 1 to t, but for :math:`\epsilon`, held at its
    weight in step s. No float atomics: the same bits on every run, whatever the number of threads.

    **Contract with a caller that trains.**

    - The tables are updated in place, moments and ``last`` included; the caller owns them and may hand over the state
      of its own optimizer. A caller may replace step k by a step of its own (diffusion, InfoNCE over sampled or all
      items) and go on with ``run(k + 1, ..)``, if that step was number ``steps_before + k + 1`` of the same Adam and
      set ``last`` of the rows it moved to that number. A step that updates a table densely moves all of its rows:
      :func:`flush_rows` to step ``steps_before + k`` comes first.
    - Before anything reads a table as a whole (validation, checkpoints, propagation), call :func:`flush_rows` with the
      number of steps done. After it ``last`` is that number everywhere.
    - Rows of the epoch's tensors are trusted: an index outside its table is undefined behaviour in the compiled paths.
    - A loss that is not finite is returned as it is; the caller checks.

    On a CPU Numba runs the steps (the extra ``numba``; compiled once in seconds, kept on disk), without it plain
    PyTorch; on a GPU Triton does, in three launches a step and without waiting for the device.

    Args:
        users, items: the tables, of one type and width; see :class:`RowAdamTable`.
        user_ids, positives, negatives: the epoch's samples in order, int64 ``[E]``.
        batch_size: samples a step; the last step has what is left.
        steps_before: Adam steps that were made before this epoch.
        options: of Adam; see :class:`RowAdamOptions`.
        bpr_weight: w.
        penalty: :math:`\lambda`, the weight of ``embedding_penalty`` of the three.

    Raises:
        InfodclGeoError: if tensors do not fit together.
        OptionError: if a number is impossible.
    """

    def __init__(
        self,
        users: RowAdamTable,
        items: RowAdamTable,
        user_ids: Tensor,
        positives: Tensor,
        negatives: Tensor,
        *,
        batch_size: int,
        steps_before: int,
        options: RowAdamOptions,
        bpr_weight: float = 1.0,
        penalty: float = 0.0,
    ) -> None:
        users.check("users")
        items.check("items")
        options.check()
        epoch = (user_ids, positives, negatives)
        device = users.weight.device
        if users.weight.shape[1:] != items.weight.shape[1:] or users.weight.dtype != items.weight.dtype:
            raise InfodclGeoError("the tables of users and items must have one type and one width")
        if any(x.dim() != 1 or x.shape != user_ids.shape or x.dtype != torch.int64 for x in epoch):
            raise InfodclGeoError("users, positives and negatives must be int64 tensors of one length")
        if any(x.device != device for x in (items.weight, *epoch)):
            raise InfodclGeoError("tables and samples must be on one device")
        if batch_size < 1 or steps_before < 0:
            raise OptionError(
                f"batch_size must be at least 1 and steps_before at least 0, not {batch_size} and {steps_before}"
            )
        self.steps = -(-user_ids.numel() // batch_size)
        self.options, self.bpr_weight, self.penalty = options, bpr_weight, penalty
        table = decay(steps_before + self.steps, options.betas, device)
        self._implementation = _implementation(users, items, epoch, batch_size, steps_before, table)

    def __len__(self) -> int:
        return self.steps

    @torch.no_grad()
    def run(self, start: int = 0, stop: int | None = None, *, lr: float | None = None) -> Tensor:
        """Make steps ``start`` to ``stop - 1`` of the epoch (by default all), in order.

        Args:
            start, stop: steps of the epoch.
            lr: learning rate from here on, if not that of the options.

        Returns:
            The sums over these steps of the two weighted terms, BPR and penalty, each as it was before its step;
            float64 ``[2]`` on the tables' device.

        Raises:
            OptionError: if the epoch has no such steps.
        """
        stop = self.steps if stop is None else stop
        if not 0 <= start <= stop <= self.steps:
            raise OptionError(f"steps {start} to {stop} are not in an epoch of {self.steps}")
        if lr is not None:
            self.options = self.options._replace(lr=lr)
        return self._implementation.run(start, stop, self.options, self.bpr_weight, self.penalty)


@torch.no_grad()
def flush_rows(table: RowAdamTable, step: int, options: RowAdamOptions) -> None:
    """Bring all rows of a table to Adam step ``step``; the weights are then those of Adam after it.

    Args:
        table: updated in place.
        step: Adam steps made so far.
        options: those of the steps.
    """
    table.check("table")
    options.check()
    tables = decay(step, options.betas, table.weight.device)
    if _uses_numba(table.weight):
        from .bpr_numba import flush_numba

        flush_numba(table, step, options, tables)
        return
    if _uses_triton(table.weight):
        from .bpr_triton import flush_triton

        flush_triton(table, step, options, tables)
        return
    every = torch.arange(table.weight.size(0), device=table.weight.device)
    for rows in every.split(_FLUSH_ROWS):
        catch_up_reference(table, rows, step, options, tables)


class _PlainSteps:
    """Steps in plain PyTorch."""

    def __init__(
        self,
        users: RowAdamTable,
        items: RowAdamTable,
        epoch: tuple[Tensor, Tensor, Tensor],
        batch_size: int,
        before: int,
        table: Decay,
    ) -> None:
        self.users, self.items, self.before, self.decay = users, items, before, table
        self.batches = list(zip(*(x.split(batch_size) for x in epoch), strict=True))

    def run(self, start: int, stop: int, options: RowAdamOptions, bpr_weight: float, penalty: float) -> Tensor:
        terms = torch.zeros(2, dtype=torch.float64, device=self.users.weight.device)
        for k in range(start, stop):
            terms += bpr_step_reference(
                self.users, self.items, self.batches[k], self.before + k + 1, options, self.decay, bpr_weight, penalty
            )
        return terms


def _uses_numba(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and find_spec("numba") is not None


def _uses_triton(weight: Tensor) -> bool:
    return weight.is_cuda and weight.size(1) <= 1024 and find_spec("triton") is not None


def _implementation(
    users: RowAdamTable,
    items: RowAdamTable,
    epoch: tuple[Tensor, Tensor, Tensor],
    batch_size: int,
    before: int,
    table: Decay,
) -> _Steps:
    if _uses_triton(users.weight):
        from .bpr_triton import TritonSteps

        return TritonSteps(users, items, epoch, batch_size, before, table)
    if _uses_numba(users.weight):
        from .bpr_numba import NumbaSteps

        return NumbaSteps(users, items, epoch, batch_size, before, table)
    return _PlainSteps(users, items, epoch, batch_size, before, table)
