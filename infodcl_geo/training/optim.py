"""Adam whose cost is that of the rows a step touches, not of the whole embedding tables."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import OptionError

_FLUSH_ROWS = 65_536


class _BeforeLookup:
    """Hook of a table that brings the rows of a look-up up to date."""

    def __init__(self, optimizer: LazyAdam) -> None:
        self.optimizer = weakref.ref(optimizer)

    def __call__(self, table: nn.Module, arguments: tuple[Tensor]) -> None:
        optimizer = self.optimizer()
        if optimizer is not None and table.training:
            rows = arguments[0]
            # How many distinct rows there are a GPU would have to tell the host.
            optimizer._catch_up(table.weight, rows.flatten() if rows.is_cuda else rows.unique())  # type: ignore[arg-type]


def _summed(rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Of a gradient ``[n, d]`` by rows ``[n]``: the rows, ascending, each with its whole sum as often as it is there.

    No number of distinct rows has to be known on the host, and the sums are the same on every run.
    """
    rows, order = rows.sort(stable=True)
    new = torch.zeros_like(rows)
    new[1:] = (rows[1:] != rows[:-1]).to(new.dtype)
    place = new.cumsum(0)
    return rows, torch.zeros_like(values).index_put_((place,), values[order], accumulate=True)[place]


def _release(table: nn.Embedding, handle: RemovableHandle) -> None:
    handle.remove()
    table.sparse = False


class LazyAdam(torch.optim.Adam):
    r"""Adam (Kingma and Ba, ICLR 2015, algorithm 1) that makes up for the steps without a gradient of a row later.

    A row that no sample of a step looks up has a zero gradient, yet Adam moves it on by its momentum. The moments of a
    row last updated in step :math:`s` have then simply decayed, and all its moves up to step :math:`t` are one:

    .. math::
        m_t = \beta_1^{t-s} m_s, \quad v_t = \beta_2^{t-s} v_s, \quad
        \theta_t = \theta_s - \eta\, c_{s,t} \frac{m_s}{\sqrt{v_s} + \epsilon \sqrt{1 - \beta_2^s}}, \quad
        c_{s,t} = \sum_{j=s+1}^{t} \Big(\frac{\beta_1}{\sqrt{\beta_2}}\Big)^{j-s} \frac{\sqrt{1-\beta_2^j}}{1-\beta_1^j}

    This is done when the row is looked up next, and by :meth:`flush` for all rows. It is Adam itself but for
    :math:`\epsilon`, which is held at its weight in step s (``torch.optim.SparseAdam`` leaves these moves out, which
    is another method and wants another learning rate).

    The tables must be read by calling their modules (``table(rows)``, whose gradient becomes sparse), for that is
    when rows are brought up to date; before anything reads ``table.weight``, call :meth:`flush`. Other parameters get
    Adam as usual.

    Args:
        tables: the embedding tables to update by rows; no other optimizer may have them as long as this one lives.
        others: all other parameters.
        lr: learning rate; a change holds for the rows brought up to date from then on.
        betas, eps: as in ``torch.optim.Adam``.

    Raises:
        OptionError: if the betas are not such that the sum above converges quickly, or if a table has ``padding_idx``,
            ``max_norm`` or ``scale_grad_by_freq``, which are not supported.
    """

    def __init__(
        self,
        tables: Sequence[nn.Embedding],
        others: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if any(t.padding_idx is not None or t.max_norm is not None or t.scale_grad_by_freq for t in tables):
            raise OptionError("tables with padding_idx, max_norm or scale_grad_by_freq cannot be updated by rows")
        if not 0 < betas[0] < betas[1] < 1 or betas[0] ** 2 > 0.99 * betas[1]:
            raise OptionError(f"betas must be between 0 and 1 with beta1^2 well below beta2, not {betas}")
        weights = [table.weight for table in tables]
        super().__init__([*weights, *others], lr=lr, betas=betas, eps=eps)
        self.tables = weights
        self.steps = 0
        # C_s = sum over k > 0 of r^k b_(s+k), so that c_(s,t) = C_s - r^(t-s) C_t; one for each step so far, and room.
        self._tail = torch.full((1024,), self._tail_after(0), dtype=torch.float64)
        for table in tables:
            table.sparse = True
            weight = table.weight
            self.state[weight] = {
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
                "last": torch.zeros(weight.size(0), dtype=torch.int32, device=weight.device),
            }
            # The module must not keep the optimizer with its moments alive, nor sparse gradients when it is gone.
            handle = table.register_forward_pre_hook(_BeforeLookup(self))
            weakref.finalize(self, _release, table, handle)

    def state_dict(self) -> dict[str, Any]:
        """As of any optimizer, with the number of steps and the tails of the sum above."""
        return {**super().state_dict(), "steps": self.steps, "tail": self._tail[: self.steps + 1]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # The base class knows nothing of the tables' state: it would make a float of ``last``, and wants a ``step``.
        states, count = state_dict["state"], len(self.tables)
        others = {index: state for index, state in states.items() if index >= count}
        super().load_state_dict({"state": others, "param_groups": state_dict["param_groups"]})
        for index, weight in enumerate(self.tables):
            self.state[weight] = {
                "exp_avg": states[index]["exp_avg"].to(weight, copy=True),
                "exp_avg_sq": states[index]["exp_avg_sq"].to(weight, copy=True),
                "last": states[index]["last"].to(weight.device, torch.int32, copy=True),
            }
        self.steps = int(state_dict["steps"])
        size = 1024 * 2 ** max(0, math.ceil(math.log2((self.steps + 1) / 1024)))
        self._tail = torch.zeros(size, dtype=torch.float64)
        self._tail[: self.steps + 1] = state_dict["tail"]

    @property
    def _group(self) -> dict[str, Any]:
        return self.param_groups[0]

    @property
    def _ratio(self) -> float:
        beta1, beta2 = self._group["betas"]
        return beta1 / math.sqrt(beta2)

    def _tail_after(self, step: int) -> float:
        beta1, beta2 = self._group["betas"]
        terms = math.ceil(math.log(1e-12) / math.log(self._ratio))
        k = torch.arange(1, terms + 1, dtype=torch.float64)
        scale = (1 - beta2 ** (step + k)).sqrt() / (1 - beta1 ** (step + k))
        return float((self._ratio**k * scale).sum())

    @torch.no_grad()
    def _catch_up(self, weight: Tensor, rows: Tensor | slice) -> None:
        state = self.state[weight]
        last = state["last"][rows].long()
        # On a GPU rows may be repeated, and those up to date stay in: each copy of a row computes the same bits, and a
        # gap of 0 moves nothing.
        if isinstance(rows, Tensor) and not rows.is_cuda:
            behind = last < self.steps
            rows, last = rows[behind], last[behind]
        gap = (self.steps - last).double()[:, None]
        beta1, beta2 = self._group["betas"]
        tail = self._tail.to(weight.device, non_blocking=True)
        moves = tail[last][:, None] - self._ratio**gap * tail[self.steps]
        epsilon = self._group["eps"] * (1 - beta2 ** last.double()[:, None]).sqrt()
        mean, square = state["exp_avg"][rows], state["exp_avg_sq"][rows]
        # A row that never had a gradient has zero moments, and stays.
        size = square.sqrt().add_(epsilon.to(square.dtype)).clamp_(min=torch.finfo(square.dtype).tiny)
        weight[rows] -= (self._group["lr"] * moves).to(weight.dtype) * mean / size
        state["exp_avg"][rows] = mean * (beta1**gap).to(mean.dtype)
        state["exp_avg_sq"][rows] = square * (beta2**gap).to(square.dtype)
        state["last"][rows] = self.steps

    @torch.no_grad()
    def flush(self) -> None:
        """Bring all rows up to date; the weights are then those of Adam after the last step."""
        for weight in self.tables:
            for start in range(0, weight.size(0), _FLUSH_ROWS):
                self._catch_up(weight, slice(start, start + _FLUSH_ROWS))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the rows that were looked up, and all other parameters."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.steps += 1
        if self.steps == self._tail.numel():
            self._tail = torch.cat([self._tail, torch.zeros_like(self._tail)])
        self._tail[self.steps] = self._tail_after(self.steps)
        beta1, beta2 = self._group["betas"]
        correction1, correction2 = 1 - beta1**self.steps, 1 - beta2**self.steps
        held: list[tuple[Tensor, Tensor]] = []
        for weight in self.tables:
            if weight.grad is None:
                continue
            held.append((weight, weight.grad))
            if not weight.grad.is_sparse:
                raise OptionError("a table was read as a whole: its gradient is not sparse, see LazyAdam")
            if weight.is_cuda:
                rows, values = _summed(weight.grad._indices()[0], weight.grad._values())
            else:
                gradient = weight.grad.coalesce()
                rows, values = gradient.indices()[0], gradient.values()
            state = self.state[weight]
            # The look-up brought these rows to the step before this one.
            mean = state["exp_avg"][rows].lerp_(values, 1 - beta1)
            square = state["exp_avg_sq"][rows].mul_(beta2).addcmul_(values, values, value=1 - beta2)
            size = (square / correction2).sqrt_().add_(self._group["eps"])
            weight[rows] -= self._group["lr"] / correction1 * mean / size
            state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
            state["last"][rows] = self.steps
            weight.grad = None
        super().step()  # parameters without a gradient are passed over
        for weight, gradient in held:
            weight.grad = gradient
        return loss
