"""Whether what training computes is finite, seen on the device and read by the host only now and then."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

_READ_EVERY = 256


class FiniteWatch:
    """The loss terms and the size of the gradient of each step, and which was the first that is not finite.

    The values stay on the device: reading one each step would wait for it. They are read when asked for, and every
    256 steps. A gradient whose square overflows counts as infinite: Adam divides by its square.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = list(model.parameters())
        self.restart()

    def restart(self, step: int = 0) -> None:
        """Forget all; the next step is ``step``."""
        self._next = step
        self._names: list[tuple[int, str]] = []
        self._values: list[Tensor] = []
        self._since = 0
        self._found: tuple[int, str] | None = None

    @torch.no_grad()
    def note(self, terms: Mapping[str, Tensor], values: Tensor, steps: int = 1) -> None:
        """One step: its terms, their values ``[len(terms)]``, and the gradients that the parameters have.

        Several steps that were made at once are noted by the sums of their terms; the first of them is named.
        """
        gradients = [p.grad._values() if p.grad.is_sparse else p.grad for p in self._parameters if p.grad is not None]
        sizes = _sizes(gradients)
        self._names += [(self._next, f"loss term {name}") for name in terms]
        self._names += [(self._next, "the gradient")] * len(sizes)
        self._values += [values.detach(), *sizes]
        self._next += steps
        self._since += 1
        if self._since >= _READ_EVERY:
            self.first_bad()

    def first_bad(self) -> tuple[int, str] | None:
        """The first step that had a value that was not finite, and the first such term of it."""
        if self._found is None and self._values:
            bad = torch.cat(self._values).isfinite().logical_not().tolist()
            self._found = next((name for name, b in zip(self._names, bad, strict=True) if b), None)
            self._names, self._values, self._since = [], [], 0
        return self._found


def _sizes(gradients: list[Tensor]) -> list[Tensor]:
    """Numbers ``[1]`` that are not finite where a square in the gradients is not."""
    if not gradients:
        return []
    if gradients[0].device.type != "cpu":
        return [get_total_norm(gradients).reshape(1)]
    # On a CPU the product of a gradient with itself takes half the time of its norm, which is a sixteenth of a step of
    # matrix factorisation on small data.
    flat = [gradient.reshape(-1) for gradient in gradients]
    return [torch.dot(x, x).reshape(1) for x in flat]
