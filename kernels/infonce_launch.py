"""Launches InfoNCE's Triton kernels: tile sizes for each device, buffers, grids."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from infodcl_geo.errors import InfodclGeoError

from .infonce_common import EPS, LOG2E, SAFE_LOGIT
from .infonce_triton import anchor_kernel, candidate_kernel, candidate_sum_kernel, forward_kernel, unit_kernel

_BIG = 2**31 - 1


@dataclass(frozen=True)
class Tiling:
    """Tile sizes and launch parameters of one kernel."""

    block_b: int
    block_n: int
    num_warps: int
    num_stages: int
    programs: int = 2  # that a multiprocessor holds at a time, about


def block_d(d: int) -> int:
    """Width of a padded row: 64, 128 or 256.

    Below 64 dimensions the exponentials take longer than the products, so a narrower row would gain little.
    """
    if d > 256:
        raise InfodclGeoError(f"the Triton kernels take at most 256 dimensions, not {d}")
    return max(64, triton.next_power_of_2(d))


def forward_tiling(element_size: int, width: int, arch: int, want_x: bool = True) -> Tiling:
    """Tile of ``forward_kernel``: rows of ``width`` elements of ``element_size`` bytes, ``arch`` as :func:`arch_of`.

    None spills a register with every optional argument present (tests/test_infonce_triton.py). In float32 what counts
    is how many instructions split operands into TensorFloat-32: with 64 rows and four warps on Hopper every operand of
    its asynchronous products is split by one warp alone. In half types a warp group takes 64 rows, as two that share
    them are made to wait for each other (Triton 3.6).
    """
    if arch == 0:
        return _hip_tiling(element_size * width)
    if element_size == 4:
        if width > 128:
            return Tiling(32, 16, 8, 1)
        if width > 64:
            # Without the sum for the gradient the compiler keeps both operands in registers.
            return Tiling(32, 32, 8, 1) if want_x else Tiling(16, 32, 4, 1)
        return Tiling(32, 64, 4, 2) if arch < 90 else Tiling(64, 32, 4, 2, programs=3 if arch < 100 else 2)
    if width > 128:
        return Tiling(64, 64, 8, 2)
    if width > 64:
        return Tiling(64, 64, 4, 2, programs=3) if 90 <= arch < 100 else Tiling(128, 64, 8, 2)
    return Tiling(64, 64, 4, 3, programs=4) if arch < 90 else Tiling(128, 64, 8, 3)


def candidate_tiling(element_size: int, width: int, arch: int) -> Tiling:
    """Tile of ``candidate_kernel``; arguments as for :func:`forward_tiling`."""
    if arch == 0 and element_size == 4 and width == 64:
        return Tiling(64, 32, 4, 1)  # with weights and corrections a second stage spills
    if arch == 0:
        return _hip_tiling(element_size * width)
    if element_size == 4:
        if width > 64:
            return Tiling(32, 32, 8, 1)
        return Tiling(32, 64, 4, 2, programs=3) if 90 <= arch < 100 else Tiling(64, 32, 8, 2)
    if width > 128:
        return Tiling(32, 64, 8, 2)
    if width > 64:
        return Tiling(64, 64, 4, 2, programs=3) if 90 <= arch < 100 else Tiling(64, 64, 8, 2)
    return Tiling(64, 64, 4, 3, programs=3) if arch < 90 else Tiling(64, 128, 8, 3)


def _hip_tiling(row_bytes: int) -> Tiling:
    if row_bytes <= 128:
        return Tiling(64, 64, 4, 2)
    if row_bytes <= 256:
        return Tiling(64, 32, 4, 2)
    return Tiling(32, 32, 4, 2) if row_bytes <= 512 else Tiling(32, 16, 4, 1)


def precision(dtype: torch.dtype, width: int, allow_tf32: bool, arch: int) -> str:
    """How float32 products are formed.

    Three TensorFloat-32 products keep float32 accuracy on NVIDIA's matrix units; their operands do not fit the
    registers beyond 128 dimensions.
    """
    if dtype == torch.float32 and allow_tf32:
        return "tf32"
    return "tf32x3" if dtype == torch.float32 and arch > 0 and width <= 128 else "ieee"


def arch_of(device: torch.device) -> int:
    """Compute capability times ten of an NVIDIA device (90 for 9.0), 0 for an AMD device and for the interpreter."""
    if device.type != "cuda" or torch.version.hip is not None:
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def multiprocessors(device: torch.device) -> int:
    """How many the device has; the interpreter is given a few, so that it splits as well."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


class TritonTiles:
    """Runs the kernels; the counterpart of ``_TorchTiles`` for CUDA and HIP devices."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        positives: Tensor,
        anchor_ids: Tensor | None,
        candidate_ids: Tensor | None,
        rows: Tensor | None,
        cols: Tensor | None,
        log_q: Tensor | None,
        temperature: float,
        normalize: bool,
        contrast: bool,
        tuning: list[int],
    ) -> None:
        self.x, self.y = x, y
        self.anchors, self.candidates, self.d = x.size(0), y.size(0), x.size(1)
        if max(self.anchors, self.candidates) > _BIG - 1024:
            raise InfodclGeoError("the Triton kernels take fewer than 2^31 anchors and candidates")
        self.width, arch = block_d(self.d), arch_of(x.device)
        _, allow_tf32, *tilings, bfloat16 = tuning
        # The type of the products' operands; sums, norms and results keep the inputs' precision.
        self.operand = torch.bfloat16 if bfloat16 and x.dtype == torch.float32 else x.dtype
        self.precision = precision(self.operand, self.width, bool(allow_tf32), arch)
        self.forward_tilings = [forward_tiling(self.operand.itemsize, self.width, arch, want) for want in (False, True)]
        if any(tilings[:4]):
            self.forward_tilings = [Tiling(*tilings[:4])] * 2
        self.candidate_tiling = candidate_tiling(self.operand.itemsize, self.width, arch)
        if any(tilings[4:]):
            self.candidate_tiling = Tiling(*tilings[4:])
        self.temperature, self.normalize, self.contrast = temperature, normalize, contrast
        # Unit vectors are rounded when they are stored and take log2(e) / tau along; for the dot product the vectors
        # stay exact and the products are scaled.
        self.logit_scale = LOG2E / temperature
        self.positives = positives.contiguous()
        self.anchor_ids = None if anchor_ids is None else anchor_ids.contiguous()
        self.candidate_ids = None if candidate_ids is None else candidate_ids.contiguous()
        self.rows, self.cols = rows, cols
        self.bias = None if log_q is None else log_q.to(torch.float32) * -LOG2E
        # float16 cannot hold exponentials that are not relative to the largest.
        self.bounded = normalize and log_q is None and 1.0 / temperature <= SAFE_LOGIT and x.dtype != torch.float16

    def _unit(self, v: Tensor, scale: float, block: int) -> tuple[Tensor, Tensor]:
        rows = triton.cdiv(v.size(0), block) * block
        unit = v.new_empty(rows, self.width, dtype=self.operand)
        inverse = v.new_empty(rows if self.normalize else 0, dtype=torch.float32)
        block_r = min(block, max(1, 4096 // self.width))
        unit_kernel[(rows // block_r,)](
            v,
            unit,
            inverse,
            v.size(0),
            self.d,
            v.stride(0),
            v.stride(1),
            scale,
            EPS,
            NORMALIZE=self.normalize,
            BLOCK_R=block_r,
            BLOCK_D=self.width,
        )
        return unit, inverse

    def _splits(self, tiles: int, streamed: int, block: int, programs: int) -> tuple[int, int]:
        """Into how many parts to cut the streamed axis so that the programs fill the device once, and their length."""
        slots = programs * multiprocessors(self.x.device)
        blocks = triton.cdiv(streamed, block)
        per_split = triton.cdiv(blocks, max(1, min(slots // tiles, blocks)))
        return triton.cdiv(blocks, per_split), per_split * block

    def _pairs(
        self, fixed: Tensor, block: int, streamed: Tensor, end: int, tiles: int, splits: int, per_split: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Left-out pairs by tile of the fixed axis, then along the streamed axis; where each program's share starts."""
        assert self.rows is not None
        assert self.cols is not None
        keep = (self.cols != self.positives[self.rows]) & (self.cols >= 0) & (self.cols < self.candidates)
        key = fixed // block << 32 | torch.where(keep, streamed, _BIG)
        key, order = key.sort()
        bounds = torch.arange(splits + 1, device=key.device).mul_(per_split).clamp_(max=end)
        starts = torch.searchsorted(key, (torch.arange(tiles, device=key.device) << 32)[:, None] + bounds)
        return fixed[order].contiguous(), streamed[order].contiguous(), starts

    def forward(self, want_x: bool, want_y: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss, base-2 log-sum-exp, the gradient of the summed loss to the anchors (empty if not wanted), and nothing:

        the gradient to the candidates is left to the backward pass, where its exponentials cost the same.
        """
        x = self.x
        loss = x.new_empty(self.anchors, dtype=torch.float32)
        lse, nothing = torch.empty_like(loss), x.new_empty(0, dtype=torch.float32)
        grad_x = x.new_empty((self.anchors, self.d) if want_x else (0,), dtype=torch.float32)
        if self.anchors == 0:
            return loss, lse, grad_x, nothing
        tiling = self.forward_tilings[want_x]
        x_unit, x_inverse = self._unit(x, self.logit_scale if self.normalize else 1.0, tiling.block_b)
        y_unit, _ = self._unit(self.y, 1.0, tiling.block_n)
        tiles = x_unit.size(0) // tiling.block_b
        splits, per_split = self._splits(tiles, self.candidates, tiling.block_n, tiling.programs)
        pair_row = pair_col = pair_start = None
        if self.rows is not None and self.cols is not None:
            pair_row, pair_col, pair_start = self._pairs(
                self.rows, tiling.block_b, self.cols, self.candidates, tiles, splits, per_split
            )
        total, largest = x.new_empty(2, splits, x_unit.size(0), dtype=torch.float32)
        weighted = x.new_empty((splits, *x_unit.shape) if want_x else (0,), dtype=torch.float32)
        forward_kernel[(tiles, splits)](
            x_unit,
            y_unit,
            self.bias,
            self.anchor_ids,
            self.candidate_ids,
            self.positives,
            pair_row,
            pair_col,
            pair_start,
            total,
            largest,
            weighted,
            self.anchors,
            self.candidates,
            x_unit.size(0),
            per_split,
            self.logit_scale,
            SCALED=self.normalize,
            BOUNDED=self.bounded,
            WANT_X=want_x,
            PRECISION=self.precision,
            BLOCK_B=tiling.block_b,
            BLOCK_N=tiling.block_n,
            BLOCK_D=self.width,
            num_warps=tiling.num_warps,
            num_stages=tiling.num_stages,
        )
        block = 16
        anchor_kernel[(triton.cdiv(self.anchors, block),)](
            x,
            x_inverse,
            x_unit,
            y_unit,
            self.bias,
            self.positives,
            total,
            largest,
            weighted,
            loss,
            lse,
            grad_x,
            self.anchors,
            self.candidates,
            x_unit.size(0),
            self.d,
            x.stride(0),
            x.stride(1),
            splits,
            self.temperature,
            self.logit_scale,
            SCALED=self.normalize,
            BOUNDED=self.bounded,
            NORMALIZE=self.normalize,
            CONTRAST=self.contrast,
            WANT_X=want_x,
            BLOCK_B=block,
            BLOCK_D=self.width,
        )
        return loss, lse, grad_x, nothing

    def candidate_grad(self, grad: Tensor, lse: Tensor, uniform: bool) -> Tensor:
        """Gradient of ``sum_b grad_b loss_b`` to the candidates; ``uniform``: all entries of grad are equal."""
        y = self.y
        if self.anchors == 0:
            return torch.zeros_like(y)
        tiling = self.candidate_tiling
        x_unit, _ = self._unit(self.x, self.logit_scale if self.normalize else 1.0, tiling.block_b)
        y_unit, y_inverse = self._unit(y, 1.0, tiling.block_n)
        tiles = y_unit.size(0) // tiling.block_n
        splits, per_split = self._splits(tiles, self.anchors, tiling.block_b, tiling.programs)
        pair_row = pair_col = pair_start = None
        if self.rows is not None and self.cols is not None:
            pair_col, pair_row, pair_start = self._pairs(
                self.cols, tiling.block_n, self.rows, self.anchors, tiles, splits, per_split
            )
        # Weights travel relative to the largest, so that half precision holds them.
        scale = grad if uniform else grad.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
        weight = None if uniform else (grad / scale).contiguous()
        grad_y = torch.empty(y.shape, dtype=y.dtype, device=y.device)
        out = grad_y if splits == 1 else y.new_empty(splits, *y_unit.shape, dtype=torch.float32)
        candidate_kernel[(tiles, splits)](
            x_unit,
            y_unit,
            y,
            y_inverse,
            self.bias,
            self.anchor_ids,
            self.candidate_ids,
            self.positives if self.contrast or self.anchor_ids is not None else None,
            pair_row,
            pair_col,
            pair_start,
            lse,
            weight,
            scale,
            out,
            self.anchors,
            self.candidates,
            y_unit.size(0),
            per_split,
            self.d,
            y.stride(0),
            y.stride(1),
            self.logit_scale,
            1.0 / LOG2E if self.normalize else 1.0 / self.temperature,
            SCALED=self.normalize,
            NORMALIZE=self.normalize,
            CONTRAST=self.contrast,
            EVEN=self.anchors % tiling.block_b == 0,
            SPLIT=splits > 1,
            PRECISION=self.precision,
            BLOCK_B=tiling.block_b,
            BLOCK_N=tiling.block_n,
            BLOCK_D=self.width,
            num_warps=tiling.num_warps,
            num_stages=tiling.num_stages,
        )
        if splits > 1:
            block = 16
            candidate_sum_kernel[(triton.cdiv(self.candidates, block),)](
                out,
                y,
                y_inverse,
                grad_y,
                self.candidates,
                y_unit.size(0),
                self.d,
                y.stride(0),
                y.stride(1),
                splits,
                NORMALIZE=self.normalize,
                BLOCK_N=block,
                BLOCK_D=self.width,
            )
        return grad_y
