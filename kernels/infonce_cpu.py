"""InfoNCE on a CPU, tile by tile in plain PyTorch; README.md beside this file has the derivation and the tiling."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .infonce_common import EPS, LN2, LOG2E, SAFE_LOGIT, accumulator, pairs_with_equal_ids


def _multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16; without them they are slower than float32."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return torch.backends.mkldnn.is_available() and any(getattr(torch.cpu, probe, bool)() for probe in probes)


class TorchTiles:
    """The CPU twin: one cache-sized tile of logits at a time, candidates down and anchors across.

    Logits are kept in base 2 (the anchors carry log2(e) / tau), because exp2 is the cheapest exponential that PyTorch
    has, twice as fast as exp. Where a bound shows that no logit can overflow, no maximum is subtracted.
    """

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
        self.dtype = accumulator(x)
        self.positives, self.contrast, self.temperature = positives, contrast, temperature
        x, y = x.to(self.dtype), y.to(self.dtype)
        self.x_inverse = self.y_inverse = None
        bound = 1.0 / temperature
        if normalize:
            self.x_inverse, self.y_inverse = _inverse_norm(x), _inverse_norm(y)
            self.y = y * self.y_inverse
            self.x = x * (self.x_inverse * (LOG2E / temperature))
        else:
            self.y = y.contiguous()
            self.x = x * (LOG2E / temperature)
            bound *= float(_largest_norm(x) * _largest_norm(y))
        self.bias = None
        if log_q is not None:
            self.bias = (log_q.to(self.dtype) * -LOG2E)[:, None]
            bound += float(log_q.abs().max())
        self.bounded = bound <= SAFE_LOGIT

        anchors, candidates, tile = x.size(0), y.size(0), tuning[0]
        if tile // candidates >= min(64, anchors):
            # All candidates fit: the tile of the forward pass serves for the gradient to the candidates as well.
            self.width, self.height = min(anchors, tile // candidates), candidates
        else:
            self.width = max(1, min(anchors, 256, math.isqrt(tile)))
            self.height = min(candidates, max(1, tile // (4 * self.width)))
        self.buffer = x.new_empty(self.width * self.height)
        self.y_operand = self.y
        self.rounded: Tensor | None = None
        if tuning[10] and self.dtype == torch.float32 and _multiplies_bfloat16():
            self.rounded = torch.empty_like(self.buffer, dtype=torch.bfloat16)
            self.y_operand = self.y.bfloat16()
        self._sort_left_out(anchor_ids, candidate_ids, rows, cols)

    def _sort_left_out(
        self, anchor_ids: Tensor | None, candidate_ids: Tensor | None, rows: Tensor | None, cols: Tensor | None
    ) -> None:
        """Left-out pairs, sorted by the tile they lie in, as positions within the tile."""
        pairs = []
        if rows is not None and cols is not None:
            pairs.append((rows, cols))
        if anchor_ids is not None and candidate_ids is not None:
            pairs.append(
                pairs_with_equal_ids(
                    torch.arange(anchor_ids.numel(), device=anchor_ids.device), anchor_ids.contiguous(), candidate_ids
                )
            )
        self.left_out: Tensor | None = None
        if not pairs:
            return
        row, col = (torch.cat(part) for part in zip(*pairs, strict=True))
        inside = (col != self.positives[row]) & (col >= 0) & (col < self.y.size(0))
        row, col = row[inside], col[inside]
        self.tiles_across = -(-self.y.size(0) // self.height)
        tile = row // self.width * self.tiles_across + col // self.height
        tile, order = tile.sort()
        row, col = row[order], col[order]
        width = (self.x.size(0) - row // self.width * self.width).clamp(max=self.width)
        self.left_out = col % self.height * width + row % self.width
        tiles = torch.arange(-(-self.x.size(0) // self.width) * self.tiles_across + 1, device=tile.device)
        self.left_out_start = torch.searchsorted(tile, tiles).tolist()

    def _logits(self, b: int, n: int) -> Tensor:
        """Base-2 logits ``[candidates, anchors]`` of the tile that starts at anchor b and candidate n."""
        x, y = self.x[b : b + self.width], self.y_operand[n : n + self.height]
        tile = self.buffer[: y.size(0) * x.size(0)].view(y.size(0), x.size(0))
        if self.rounded is None:
            torch.mm(y, x.T, out=tile)
        else:
            tile.copy_(torch.mm(y, x.bfloat16().T, out=self.rounded[: tile.numel()].view_as(tile)))
        if self.bias is not None:
            tile += self.bias[n : n + self.height]
        if self.left_out is not None:
            index = b // self.width * self.tiles_across + n // self.height
            start, end = self.left_out_start[index], self.left_out_start[index + 1]
            if start < end:
                tile.view(-1).index_fill_(0, self.left_out[start:end], -math.inf)
        return tile

    def _operand(self, tile: Tensor) -> Tensor:
        """The tile as its products take it."""
        return tile if self.rounded is None else self.rounded[: tile.numel()].view_as(tile).copy_(tile)

    def forward(self, want_x: bool, want_y: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        lse = self.x.new_empty(self.x.size(0))
        grad_x = torch.zeros_like(self.x) if want_x else self.x.new_empty(0)
        grad_y = torch.zeros_like(self.y) if want_y else self.x.new_empty(0)
        for b in range(0, self.x.size(0), self.width):
            x = self.x[b : b + self.width]
            total = x.new_zeros(x.size(0))
            largest = torch.full_like(total, -math.inf)
            shift = torch.zeros_like(total)
            weighted = grad_x[b : b + self.width]
            for n in range(0, self.y.size(0), self.height):
                tile = self._logits(b, n)
                if not self.bounded:
                    previous = largest
                    largest = torch.maximum(previous, tile.amax(0))
                    shift = largest.masked_fill(largest == -math.inf, 0.0)
                    rescale = (previous - shift).exp2_()
                    total *= rescale
                    weighted *= rescale[:, None] if want_x else 1.0
                    tile -= shift
                tile.exp2_()
                total += tile.sum(0)
                operand = self._operand(tile) if want_x or want_y else tile
                if want_x:
                    _add_product(weighted, operand.T, self.y_operand[n : n + self.height])
            inverse = total.reciprocal().masked_fill_(total == 0, 0.0)
            torch.add(total.log2(), shift, out=lse[b : b + self.width])
            if want_x:
                weighted *= inverse[:, None]
            if want_y:
                scaled = x * (inverse * LN2)[:, None]
                for n in range(0, self.y.size(0), self.height):
                    if self.height < self.y.size(0):
                        tile = self._logits(b, n)
                        if not self.bounded:
                            tile -= shift
                        operand = self._operand(tile.exp2_())
                    _add_product(grad_y[n : n + self.height], operand, scaled)
        loss = lse * LN2
        if self.contrast:
            positive = self.y[self.positives]
            loss -= (self.x * positive).sum(1) * LN2
            if self.bias is not None:
                loss -= self.bias[self.positives, 0] * LN2
            if want_x:
                grad_x -= positive
            if want_y:
                grad_y.index_add_(0, self.positives, self.x, alpha=-LN2)
        if want_x:
            grad_x /= self.temperature
            _through_normalization(grad_x, self.x * (LN2 * self.temperature), self.x_inverse)
        if want_y:
            _through_normalization(grad_y, self.y, self.y_inverse)
        return loss, lse, grad_x, grad_y

    def candidate_grad(self, grad: Tensor, lse: Tensor, uniform: bool) -> Tensor:
        """Gradient to the candidates, given that of each anchor's loss and its log-sum-exp."""
        grad_y = torch.zeros_like(self.y)
        scaled = self.x * (grad * LN2)[:, None]
        shift = lse.masked_fill(lse == -math.inf, 0.0)
        weighted = scaled * (-shift).exp2()[:, None] if self.bounded else scaled
        for b in range(0, self.x.size(0), self.width):
            for n in range(0, self.y.size(0), self.height):
                tile = self._logits(b, n)
                if not self.bounded:
                    tile -= shift[b : b + self.width]
                operand = self._operand(tile.exp2_())
                _add_product(grad_y[n : n + self.height], operand, weighted[b : b + self.width])
        if self.contrast:
            grad_y.index_add_(0, self.positives, scaled, alpha=-1.0)
        _through_normalization(grad_y, self.y, self.y_inverse)
        return grad_y


def _add_product(target: Tensor, left: Tensor, right: Tensor) -> None:
    """``target += left @ right`` with the operands in the type of ``left``."""
    if left.dtype == target.dtype:
        target.addmm_(left, right)
    else:
        target += torch.mm(left, right.to(left.dtype))


def _inverse_norm(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_(min=EPS).reciprocal_()


def _largest_norm(v: Tensor) -> Tensor:
    return torch.linalg.vector_norm(v, dim=1).max() if v.numel() else v.new_zeros(())


def _through_normalization(grad: Tensor, unit: Tensor, inverse: Tensor | None) -> None:
    """In place: from the gradient to the unit vector v / |v| to that to v, (g - u <u, g>) / |v|."""
    if inverse is not None:
        grad.addcmul_(unit, torch.linalg.vecdot(unit, grad)[:, None], value=-1.0).mul_(inverse)
