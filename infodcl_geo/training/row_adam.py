"""Adam over two embedding tables whose plain BPR steps run as one operation on the rows that they touch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from infodcl_geo.kernels.bpr import BprEpoch, RowAdamOptions, RowAdamTable, flush_rows

from .sampling import EpochPlan


class RowAdam(torch.optim.Adam):
    """Adam (Kingma and Ba, ICLR 2015, algorithm 1), with :class:`~infodcl_geo.kernels.bpr.BprEpoch` for plain steps.

    A plain step minimises BPR and the penalty on the embeddings as they are: :meth:`run` makes many of them at once.
    Any other step is Adam's own: :meth:`flush` comes before its loss, which reads whole tables, and :meth:`step` after.

    Args:
        users, items: the tables.
        others: all other parameters.
        lr: learning rate.
        bpr_weight: weight of BPR in a plain step.
        l2: weight of the squared norms in a plain step.
    """

    def __init__(
        self,
        users: nn.Embedding,
        items: nn.Embedding,
        others: Iterable[nn.Parameter],
        *,
        lr: float,
        bpr_weight: float,
        l2: float,
    ) -> None:
        self.tables = [users.weight, items.weight]
        super().__init__([*self.tables, *others], lr=lr, fused=True)
        self.bpr_weight, self.l2 = bpr_weight, l2
        self.steps = 0
        self._epoch: BprEpoch | None = None
        self._plan: EpochPlan | None = None
        for weight in self.tables:
            self.state[weight] = {
                "step": torch.zeros((), dtype=torch.float32, device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
                "last": torch.zeros(weight.size(0), dtype=torch.int32, device=weight.device),
            }

    @property
    def _options(self) -> RowAdamOptions:
        group = self.param_groups[0]
        return RowAdamOptions(group["lr"], group["betas"], group["eps"])

    def _rows(self) -> list[RowAdamTable]:
        return [
            RowAdamTable(weight.detach(), *(self.state[weight][name] for name in ("exp_avg", "exp_avg_sq", "last")))
            for weight in self.tables
        ]

    def run(self, plan: EpochPlan, start: int, stop: int) -> Tensor:
        """Plain steps ``start`` to ``stop - 1`` of an epoch; the sums of BPR and of the penalty over them ``[2]``."""
        if self._plan is not plan or self._epoch is None:
            self._plan = plan
            users, items = self._rows()
            self._epoch = BprEpoch(
                users,
                items,
                plan.users,
                plan.positives,
                plan.negatives,
                batch_size=plan.batch_size,
                steps_before=self.steps - start,
                options=self._options,
                bpr_weight=self.bpr_weight,
                penalty=self.l2,
            )
        terms = self._epoch.run(start, stop, lr=self.param_groups[0]["lr"])
        self.steps += stop - start
        return terms

    def flush(self) -> None:
        """Bring all rows up to date; the weights are then those of Adam after the last step."""
        for table in self._rows():
            flush_rows(table, self.steps, self._options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """A step of all parameters that have a gradient; the tables must be up to date (:meth:`flush`)."""
        for weight in self.tables:
            self.state[weight]["step"].fill_(self.steps)
        loss = super().step(closure)
        self.steps += 1
        for weight in self.tables:
            self.state[weight]["last"].fill_(self.steps)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """As of any optimizer, with the number of steps."""
        return {**super().state_dict(), "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({name: state_dict[name] for name in ("state", "param_groups")})
        # The base class makes floats of all that belongs to floats.
        for index, weight in enumerate(self.tables):
            last = state_dict["state"][index]["last"]
            self.state[weight]["last"] = last.to(weight.device, torch.int32, copy=True)
            for name in ("exp_avg", "exp_avg_sq"):
                self.state[weight][name] = self.state[weight][name].contiguous()
        self.steps = int(state_dict["steps"])
        self._plan = self._epoch = None


def runs_compiled(weight: Tensor) -> bool:
    """Whether plain steps on a table like this run as compiled code here."""
    if weight.dtype not in (torch.float32, torch.float64):
        return False
    return find_spec("triton" if weight.is_cuda else "numba") is not None
