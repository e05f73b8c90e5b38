"""Whether what training computes is finite, seen on the device and read by the host only now and then."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

_READ_EVERY = 256


class FiniteWatch:
    """The loss terms and the norm of the gradient of each step, and which was the first that is not finite.

    The values stay on the device: reading one each step would wait for it. They are read when asked for, and every
    256 steps. A gradient whose norm overflows counts as infinite: its square, which Adam divides by, is.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = list(model.parameters())
        self.restart()

    def restart(self, step: int = 0) -> None:
        """Forget all; the next step is ``step``."""
        self._next = step
        self._names: list[tuple[str, ...]] = []
        self._values: list[Tensor] = []
        self._places: list[int] = []
        self._found: tuple[int, str] | None = None

    @torch.no_grad()
    def note(self, terms: Mapping[str, Tensor], values: Tensor, steps: int = 1) -> None:
        """One step: its terms, their values ``[len(terms)]``, and the gradients that the parameters have.

        Several steps that were made at once are noted by the sums of their terms; the first of them is named.
        """
        gradients = [p.grad._values() if p.grad.is_sparse else p.grad for p in self._parameters if p.grad is not None]
        # Of no gradients the norm would be a number on the host.
        norm = get_total_norm(gradients) if gradients else values.new_zeros(())
        self._names.append((*(f"loss term {name}" for name in terms), "the gradient"))
        self._values.append(torch.cat([values.detach(), norm.to(values).reshape(1)]))
        self._places.append(self._next)
        self._next += steps
        if len(self._names) >= _READ_EVERY:
            self.first_bad()

    def first_bad(self) -> tuple[int, str] | None:
        """The first step that had a value that was not finite, and the first such term of it."""
        if self._found is None and self._values:
            bad = torch.cat(self._values).isfinite().logical_not().tolist()
            steps = [(at, name) for at, names in zip(self._places, self._names, strict=True) for name in names]
            self._found = next((place for place, b in zip(steps, bad, strict=True) if b), None)
            self._names, self._values, self._places = [], [], []
        return self._found
