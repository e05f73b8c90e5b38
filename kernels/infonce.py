"""InfoNCE over all candidates without the B x N array of logits.

Per anchor b with positive p(b), similarity s (cosine or dot product) and temperature tau (InfoDCL eq. 11):

    loss_b = -s(x_b, y_p(b)) / tau + logsumexp_j s(x_b, y_j) / tau

The logits exist one tile at a time. The derivation of the gradients and the tiling is in README.md beside this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["InfoNCEOptions", "infonce", "logsumexp_similarity"]

LOG2E = math.log2(math.e)
_LN2 = math.log(2.0)
EPS = 1e-12  # the smallest norm a vector is divided by, as in torch.nn.functional.normalize
# Logits of at most this size need no running maximum: N exp(64) and exp(-64) / N are far inside float32.
SAFE_LOGIT = 64.0


@torch.compiler.assume_constant_result  # torch.compile cannot trace the call; it fixes the value it finds
def _matmul_precision() -> str:
    return torch.get_float32_matmul_precision()


@dataclass(frozen=True)
class InfoNCEOptions:
    """How :func:`infonce` computes, never what.

    Args:
        cpu_tile: entries of the one tile of logits that the CPU path holds; the default, 8 MiB in float32, stays in the
            shared cache.
        allow_tf32: on a GPU, form float32 products from operands rounded to TensorFloat-32. Without it NVIDIA's matrix
            units form three such products for each, which keeps float32 accuracy. None asks
            ``torch.get_float32_matmul_precision()``: yes at 'high' and 'medium'.
        bfloat16: on a CPU that multiplies bfloat16 natively, form the products of float32 (or half) inputs from
            operands rounded to bfloat16, accumulated in float32; logits are rounded once more, sums and norms are not.
            On any other CPU, and for float64, this changes nothing. None: yes at 'medium'.
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
            raise ValueError(f"cpu_tile must be positive, not {self.cpu_tile}")

    def flat(self) -> list[int]:
        """All options as eleven integers, the form that an op registered with PyTorch takes."""
        unset = (0, 0, 0, 0)
        precision = _matmul_precision()
        tf32 = precision != "highest" if self.allow_tf32 is None else self.allow_tf32
        bfloat16 = precision == "medium" if self.bfloat16 is None else self.bfloat16
        tilings = *(self.forward_tiling or unset), *(self.candidate_tiling or unset)
        return [self.cpu_tile, tf32, *tilings, bfloat16]


def infonce(
    anchors: Tensor,
    candidates: Tensor,
    positives: Tensor,
    temperature: float = 0.5,
    *,
    normalize: bool = True,
    in_batch: bool = False,
    anchor_ids: Tensor | None = None,
    candidate_ids: Tensor | None = None,
    exclude: tuple[Tensor, Tensor] | None = None,
    log_q: Tensor | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    options: InfoNCEOptions = InfoNCEOptions(),
) -> Tensor:
    r"""InfoNCE of anchors against candidates (InfoDCL eq. 11), without an array of B x N logits.

    .. math::
        \ell_b = -\frac{s(x_b, y_{p(b)})}{\tau} + \log \sum_{j \in C(b)} \exp \frac{s(x_b, y_j)}{\tau}

    with s the cosine, or the dot product if ``normalize`` is false, and C(b) all candidates but those left out for b.
    Gradients flow to anchors and candidates. Accumulation is in float32 (float64 for float64 input); the result is the
    same from run to run.

    Args:
        anchors: x, ``[B, d]``.
        candidates: y, ``[N, d]``, same type and device as the anchors.
        positives: p, ``[B]``, row of each anchor's positive in ``candidates``.
        temperature: tau > 0.
        normalize: cosine similarity instead of the dot product.
        in_batch: the candidates are only the batch's positives, ``candidates[positives]``, one per anchor. A positive
            that several anchors share counts once for those anchors (its copies carry the same id and are left out)
            and as often as it occurs for the others.
        anchor_ids: ``[B]`` integers. A candidate with the anchor's id is a false negative and left out. By default
            the id of the anchor's positive where ``candidate_ids`` is given or ``in_batch`` is set, else nothing is
            left out.
        candidate_ids: ``[N]`` integers; by default the row in ``candidates``.
        exclude: false negatives as a pair (ptr ``[B + 1]``, idx): candidates ``idx[ptr[b]:ptr[b + 1]]`` are left
            out for anchor b. The positive itself is never left out. With ``in_batch`` this waits for the device once.
        log_q: ``[N]`` log-probabilities with which the candidates were sampled, subtracted from every logit (the
            sampled-softmax correction), that of the positive included. No gradient flows to it.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        options: tile sizes and arithmetic.

    Returns:
        The loss, a scalar, or ``[B]`` for ``"none"``; float32, or float64 for float64 input.

    Raises:
        ValueError: where shapes, the temperature or the reduction are impossible.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    if positives.shape != anchors.shape[:1]:
        raise ValueError(f"positives must be [{anchors.size(0)}], not {list(positives.shape)}")
    if candidate_ids is None and (in_batch or anchor_ids is not None):
        candidate_ids = torch.arange(candidates.size(0), device=candidates.device)
    if anchor_ids is None and candidate_ids is not None:
        anchor_ids = candidate_ids[positives]
    if in_batch:
        if exclude is not None:
            exclude = _exclude_in_batch(exclude, positives)
        candidates = candidates[positives]
        candidate_ids = None if candidate_ids is None else candidate_ids[positives]
        log_q = None if log_q is None else log_q[positives]
        positives = torch.arange(anchors.size(0), device=anchors.device)
    loss = _apply(
        anchors,
        candidates,
        positives,
        temperature,
        normalize,
        anchor_ids,
        candidate_ids,
        exclude,
        log_q,
        contrast=True,
        uniform=reduction != "none",
        options=options,
    )
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def logsumexp_similarity(
    anchors: Tensor,
    candidates: Tensor,
    temperature: float = 0.5,
    *,
    normalize: bool = True,
    positives: Tensor | None = None,
    offset: int = 0,
    anchor_ids: Tensor | None = None,
    candidate_ids: Tensor | None = None,
    exclude: tuple[Tensor, Tensor] | None = None,
    log_q: Tensor | None = None,
    options: InfoNCEOptions = InfoNCEOptions(),
) -> Tensor:
    r"""Second term of :func:`infonce` over one shard of the candidates, :math:`\log \sum_j \exp(s(x_b, y_j) / \tau)`.

    Where the candidates are spread over processes, each calls this on its rows; ``torch.logsumexp`` over the shards'
    results is the term over all candidates, and autograd distributes its gradient.

    Args:
        anchors, temperature, normalize, anchor_ids, log_q, options: as for :func:`infonce`; ``log_q`` of the shard.
        candidates: the shard, rows ``offset`` to ``offset + N`` of all candidates.
        positives: ``[B]`` rows among all candidates, needed only so that they are never left out.
        offset: the shard's first row among all candidates.
        candidate_ids: ids of the shard's rows; by default the row among all candidates.
        exclude: as for :func:`infonce`, rows among all candidates.

    Returns:
        ``[B]``; minus infinity where nothing of the shard remains.
    """
    if positives is None:
        positives = torch.full((anchors.size(0),), offset - 1, device=anchors.device)
    if anchor_ids is not None and candidate_ids is None:
        candidate_ids = torch.arange(offset, offset + candidates.size(0), device=candidates.device)
    return _apply(
        anchors,
        candidates,
        positives - offset,
        temperature,
        normalize,
        anchor_ids,
        candidate_ids,
        None if exclude is None else (exclude[0], exclude[1] - offset),
        log_q,
        contrast=False,
        uniform=False,
        options=options,
    )


def _apply(
    x: Tensor,
    y: Tensor,
    positives: Tensor,
    temperature: float,
    normalize: bool,
    anchor_ids: Tensor | None,
    candidate_ids: Tensor | None,
    exclude: tuple[Tensor, Tensor] | None,
    log_q: Tensor | None,
    *,
    contrast: bool,
    uniform: bool,
    options: InfoNCEOptions,
) -> Tensor:
    """Check the shapes and call the op; ``uniform`` promises that all anchors' losses will get the same gradient."""
    if x.dim() != 2 or y.dim() != 2 or x.size(1) != y.size(1) or x.dtype != y.dtype:
        raise ValueError(
            f"anchors and candidates must be [B, d] and [N, d] of one type, not {list(x.shape)} {x.dtype} "
            f"and {list(y.shape)} {y.dtype}"
        )
    if y.size(0) == 0:
        raise ValueError("there are no candidates")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if (anchor_ids is None) != (candidate_ids is None):
        raise ValueError("candidate_ids need anchor_ids")
    rows = cols = None
    if exclude is not None:
        ptr, cols = exclude
        rows = torch.repeat_interleave(ptr.diff(), output_size=cols.numel())
    grads = torch.is_grad_enabled()
    run = _forward_op if torch.compiler.is_compiling() else _Function.apply
    loss, _, _, _ = run(
        x,
        y,
        positives,
        anchor_ids,
        candidate_ids,
        rows,
        cols,
        None if log_q is None else log_q.detach(),
        float(temperature),
        normalize,
        contrast,
        uniform,
        grads and x.requires_grad,
        grads and y.requires_grad,
        options.flat(),
    )
    return loss


def _exclude_in_batch(exclude: tuple[Tensor, Tensor], positives: Tensor) -> tuple[Tensor, Tensor]:
    """The excluded pairs (anchor, row of the table) as pairs (anchor, column of the batch)."""
    ptr, idx = exclude
    rows = torch.repeat_interleave(ptr.diff(), output_size=idx.numel())
    rows, cols = _pairs_with_equal_ids(rows, idx, positives, idx != positives[rows])
    order = rows.sort(stable=True).indices
    counts = torch.bincount(rows, minlength=positives.numel())
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), cols[order]


def _pairs_with_equal_ids(
    rows: Tensor, ids: Tensor, table: Tensor, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """All (rows[k], j) with table[j] == ids[k] and keep[k]."""
    ordered, order = table.sort(stable=True)
    first = torch.searchsorted(ordered, ids)
    count = torch.searchsorted(ordered, ids, right=True) - first
    if keep is not None:
        count = count * keep
    source = torch.repeat_interleave(count)
    within = torch.arange(source.numel(), device=ids.device) - (count.cumsum(0) - count)[source]
    return rows[source], order[first[source] + within]


# -- The op: one entry for all devices, opaque to torch.compile --------------------------------------------------------


def _forward(
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
    uniform: bool,
    want_x: bool,
    want_y: bool,
    tuning: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss ``[B]``, base-2 log-sum-exp ``[B]`` and the gradients of the summed loss to x and to y.

    A gradient that is not wanted, or that only the backward pass can compute, is an empty tensor.
    """
    work = _tiles(x)(
        x, y, positives, anchor_ids, candidate_ids, rows, cols, log_q, temperature, normalize, contrast, tuning
    )
    return work.forward(want_x, want_y and uniform)


_forward_op = torch.library.custom_op("infodcl_geo::infonce", _forward, mutates_args=())


@_forward_op.register_fake
def _(
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
    uniform: bool,
    want_x: bool,
    want_y: bool,
    tuning: list[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = _accumulator(x)
    loss = x.new_empty(x.size(0), dtype=dtype)
    grad_x = x.new_empty(x.shape if want_x else (0,), dtype=dtype)
    fused = want_y and uniform and not _uses_triton(x)
    grad_y = y.new_empty(y.shape if fused else (0,), dtype=dtype)
    return loss, torch.empty_like(loss), grad_x, grad_y


@torch.library.custom_op("infodcl_geo::infonce_candidate_grad", mutates_args=())
def _candidate_grad_op(
    grad: Tensor,
    lse: Tensor,
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
    uniform: bool,
    tuning: list[int],
) -> Tensor:
    """Gradient of ``sum_b grad_b loss_b`` to y, the logits recomputed."""
    work = _tiles(x)(
        x, y, positives, anchor_ids, candidate_ids, rows, cols, log_q, temperature, normalize, contrast, tuning
    )
    return work.candidate_grad(grad, lse, uniform).to(y.dtype)


@_candidate_grad_op.register_fake
def _(grad: Tensor, lse: Tensor, x: Tensor, y: Tensor, *_: object) -> Tensor:
    return torch.empty_like(y)


def _uses_triton(x: Tensor) -> bool:
    return x.is_cuda and x.dtype != torch.float64 and x.size(1) <= 256 and find_spec("triton") is not None


def _tiles(x: Tensor) -> Any:
    """The implementation for x's device, both with the same constructor and methods."""
    if _uses_triton(x):
        from .infonce_triton import TritonTiles

        return TritonTiles
    return _TorchTiles


class _Function(torch.autograd.Function):
    """The op without the dispatcher, whose share of a small batch's time would be a third."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return _forward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        tensors, (temperature, normalize, contrast, uniform, want_x, want_y, tuning) = inputs[:8], inputs[8:]
        _, lse, grad_x, grad_y = output
        ctx.settings = (temperature, normalize, contrast, uniform, tuning)
        ctx.wanted = (want_x, want_y)
        ctx.dtypes = (inputs[0].dtype, inputs[1].dtype)
        # Where the forward pass has left nothing to recompute, the inputs need not be kept alive.
        ctx.recompute = want_y and grad_y.dim() == 1
        ctx.save_for_backward(grad_x, grad_y, *((lse, *tensors) if ctx.recompute else ()))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 15
        grad_x, grad_y, *rest = ctx.saved_tensors
        want_x, want_y = ctx.wanted
        to_x = (grad_x * grad[:, None]).to(ctx.dtypes[0]) if want_x else None
        if ctx.recompute:
            lse, *tensors = rest
            to_y = _candidate_grad_op(grad, lse, *tensors, *ctx.settings)
        else:
            to_y = (grad_y * grad[:1]).to(ctx.dtypes[1]) if want_y else None
        return to_x, to_y, *(None,) * 13


_forward_op.register_autograd(_Function.backward, setup_context=_Function.setup_context)


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


# -- CPU ---------------------------------------------------------------------------------------------------------------


def _multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16; without them they are slower than float32."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return torch.backends.mkldnn.is_available() and any(getattr(torch.cpu, probe, bool)() for probe in probes)


class _TorchTiles:
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
        self.dtype = _accumulator(x)
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
                _pairs_with_equal_ids(
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
                scaled = x * (inverse * _LN2)[:, None]
                for n in range(0, self.y.size(0), self.height):
                    if self.height < self.y.size(0):
                        tile = self._logits(b, n)
                        if not self.bounded:
                            tile -= shift
                        operand = self._operand(tile.exp2_())
                    _add_product(grad_y[n : n + self.height], operand, scaled)
        loss = lse * _LN2
        if self.contrast:
            positive = self.y[self.positives]
            loss -= (self.x * positive).sum(1) * _LN2
            if self.bias is not None:
                loss -= self.bias[self.positives, 0] * _LN2
            if want_x:
                grad_x -= positive
            if want_y:
                grad_y.index_add_(0, self.positives, self.x, alpha=-_LN2)
        if want_x:
            grad_x /= self.temperature
            _through_normalization(grad_x, self.x * (_LN2 * self.temperature), self.x_inverse)
        if want_y:
            _through_normalization(grad_y, self.y, self.y_inverse)
        return loss, lse, grad_x, grad_y

    def candidate_grad(self, grad: Tensor, lse: Tensor, uniform: bool) -> Tensor:
        grad_y = torch.zeros_like(self.y)
        scaled = self.x * (grad * _LN2)[:, None]
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
