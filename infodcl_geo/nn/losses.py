"""Terms of the training objective, each a mean, so that its weight does not depend on the batch size."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def bpr_loss(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    r"""Bayesian personalised ranking, :math:`-\operatorname{mean} \ln\sigma(u^\top i - u^\top j)` (InfoDCL eq. 12).

    Args:
        users, positives, negatives: embeddings ``[B, d]``.
    """
    return F.softplus((users * (negatives - positives)).sum(-1)).mean()


def reconstruction_loss(target: Tensor, generated: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Mean squared distance :math:`\operatorname{mean}_i w_i \|e_i - \hat e_i\|^2` (InfoDCL eq. 10 over the anchors).

    Args:
        target, generated: embeddings ``[B, d]``; the gradient flows into both.
        weights: w ``[B]``; ones if missing.
    """
    distances = (target - generated).square().sum(-1)
    return (distances if weights is None else weights * distances).mean()


def balance_loss(generated: Tensor, kind: Literal["norm", "squared"] = "norm") -> Tensor:
    r"""Collaboration balance loss over the B generated embeddings.

    - ``norm``: :math:`\frac1B \big(\sum_i |\hat e_i|^2\big)^{1/2}` (InfoDCL eq. 13);
    - ``squared``: :math:`\frac1B \sum_i |\hat e_i|^2` (the authors' program).

    Args:
        generated: embeddings ``[B, d]``.
    """
    squared = generated.square().sum()
    if kind == "squared":
        return squared / generated.size(0)
    if kind == "norm":
        # The square root has no gradient at zero; the smallest normal number keeps it finite there.
        return squared.clamp(min=torch.finfo(generated.dtype).tiny).sqrt() / generated.size(0)
    raise ValueError(f"balance loss must be 'norm' or 'squared', not {kind!r}")


def embedding_penalty(*embeddings: Tensor) -> Tensor:
    r"""Mean squared norm of a batch's embeddings, :math:`\sum_X \frac1B \sum_b \|x_b\|^2` (InfoDCL eq. 15).

    Args:
        embeddings: tensors ``[B, d]``, for BPR those of users, positives and negatives.
    """
    total: Tensor = _MeanSquaredNorm.apply(embeddings[0])
    for block in embeddings[1:]:
        total = total + _MeanSquaredNorm.apply(block)
    return total


class _MeanSquaredNorm(torch.autograd.Function):
    """The mean of the rows' squared norms. Its gradient is one product where that of the operations takes five."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square().sum(-1).mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        # Twice a number is exact: the bits are those of the operations.
        return x * (grads[0] / x.shape[:-1].numel() * 2)
