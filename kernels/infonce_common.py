"""What the public functions of InfoNCE, its op and its two implementations share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from infodcl_geo.errors import OptionError

LOG2E = math.log2(math.e)
LN2 = math.log(2.0)
EPS = 1e-12  # the smallest norm a vector is divided by, as in torch.nn.functional.normalize
# Logits of at most this size need no running maximum: N exp(64) and exp(-64) / N are far inside float32.
SAFE_LOGIT = 64.0


def _matmul_precision() -> str:
    return torch.get_float32_matmul_precision()


# torch.compile cannot trace the call; it fixes the value it finds. This is torch.compiler.assume_constant_result, which
# would load the compiler, a second, into every process that imports the kernels.
_matmul_precision._dynamo_marked_constant = True  # type: ignore[attr-defined]


@dataclass(frozen=True)
class InfoNCEOptions:
    """How :func:`infonce` computes, never what.

    Args:
        cpu_tile: entries of the one tile of logits that the CPU path holds; the default, 8 MiB in float32, stays in the
            shared cache.
        allow_tf32: on a GPU, form float32 products from operands rounded to TensorFloat-32. Without it NVIDIA's matrix
            units form three such products for each, which keeps float32 accuracy. None asks
            ``torch.get_float32_matmul_precision()``: yes at 'high' and 'medium'.
        bfloat16: form the products of float32 inputs from operands rounded to bfloat16, accumulated in float32: on a
            GPU, and on a CPU that multiplies bfloat16 natively (which also rounds logits once more, and does so for
            half types too). Sums and norms are not rounded. On any other CPU, and for float64, this changes nothing.
            None: yes at 'medium'.
        forward_tiling, candidate_tiling: (anchors, candidates, warps, stages) of a tile of the Triton kernels that
            stream candidates and anchors; None for the tuned choice.
    """

    cpu_tile: int = 1 << 21
    allow_tf32: bool | None = None
    forward_tiling: tuple[int, int, int, int] | None = None
    candidate_tiling: tuple[int, int, int, int] | None = None
    bfloat16: bool | None = None

    def __post_init__(self) -> None:
        if self.cpu_tile < 1:
            raise OptionError(f"cpu_tile must be positive, not {self.cpu_tile}")

    def flat(self) -> list[int]:
        """All options as eleven integers, the form that an op registered with PyTorch takes."""
        unset = (0, 0, 0, 0)
        precision = _matmul_precision()
        tf32 = precision != "highest" if self.allow_tf32 is None else self.allow_tf32
        bfloat16 = precision == "medium" if self.bfloat16 is None else self.bfloat16
        tilings = *(self.forward_tiling or unset), *(self.candidate_tiling or unset)
        return [self.cpu_tile, tf32, *tilings, bfloat16]


def accumulator(x: Tensor) -> torch.dtype:
    """What sums over x are kept in: float32, or float64 where x is."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def pairs_with_equal_ids(rows: Tensor, ids: Tensor, table: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """All (rows[k], j) with table[j] == ids[k] and keep[k]."""
    ordered, order = table.sort(stable=True)
    first = torch.searchsorted(ordered, ids)
    count = torch.searchsorted(ordered, ids, right=True) - first
    if keep is not None:
        count = count * keep
    source = torch.repeat_interleave(count)
    within = torch.arange(source.numel(), device=ids.device) - (count.cumsum(0) - count)[source]
    return rows[source], order[first[source] + within]
