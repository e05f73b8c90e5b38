"""InfoNCE as one op for all devices: dispatch, autograd, and what torch.compile has to know."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, List  # noqa: UP035 - torch 2.6 knows no list[int] in the signature of an op

import torch
from torch import Tensor

from .infonce_common import accumulator
from .infonce_cpu import TorchTiles


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
    tuning: List[int],  # noqa: UP006
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss ``[B]``, base-2 log-sum-exp ``[B]`` and the gradients of the summed loss to x and to y.

    A gradient that is not wanted, or that only the backward pass can compute, is an empty tensor.
    """
    with torch.cuda.device_of(x):
        work = _tiles(x)(
            x, y, positives, anchor_ids, candidate_ids, rows, cols, log_q, temperature, normalize, contrast, tuning
        )
        return work.forward(want_x, want_y and uniform)


forward_op = torch.library.custom_op("infodcl_geo::infonce", _forward, mutates_args=())


@forward_op.register_fake
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
    tuning: List[int],  # noqa: UP006
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = accumulator(x)
    loss = x.new_empty(x.size(0), dtype=dtype)
    grad_x = x.new_empty(x.shape if want_x else (0,), dtype=dtype)
    fused = want_y and uniform and not uses_triton(x)
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
    tuning: List[int],  # noqa: UP006
) -> Tensor:
    """Gradient of ``sum_b grad_b loss_b`` to y, the logits recomputed."""
    with torch.cuda.device_of(x):
        work = _tiles(x)(
            x, y, positives, anchor_ids, candidate_ids, rows, cols, log_q, temperature, normalize, contrast, tuning
        )
        return work.candidate_grad(grad, lse, uniform).to(y.dtype)


@_candidate_grad_op.register_fake
def _(grad: Tensor, lse: Tensor, x: Tensor, y: Tensor, *_: object) -> Tensor:
    return torch.empty_like(y)


def uses_triton(x: Tensor) -> bool:
    """Whether the Triton kernels take x: on a GPU, no float64, at most 256 dimensions."""
    return x.is_cuda and x.dtype != torch.float64 and x.size(1) <= 256 and find_spec("triton") is not None


def _tiles(x: Tensor) -> Any:
    """The implementation for x's device, both with the same constructor and methods."""
    if uses_triton(x):
        from .infonce_launch import TritonTiles

        return TritonTiles
    return TorchTiles


class Function(torch.autograd.Function):
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


forward_op.register_autograd(Function.backward, setup_context=Function.setup_context)
