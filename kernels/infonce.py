"""InfoNCE over all candidates without the B x N array of logits.

Per anchor b with positive p(b), similarity s (cosine or dot product) and temperature tau (InfoDCL eq. 11):

    loss_b = -s(x_b, y_p(b)) / tau + logsumexp_j s(x_b, y_j) / tau

The logits exist one tile at a time. The derivation of the gradients and the tiling is in README.md beside this file.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from infodcl_geo.errors import InfodclGeoError, OptionError

from .infonce_common import InfoNCEOptions, pairs_with_equal_ids
from .infonce_op import Function, forward_op

__all__ = ["InfoNCEOptions", "infonce", "logsumexp_similarity"]

_DEFAULT = InfoNCEOptions()


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
    options: InfoNCEOptions = _DEFAULT,
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
        raise OptionError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    if positives.shape != anchors.shape[:1]:
        raise InfodclGeoError(f"positives must be [{anchors.size(0)}], not {list(positives.shape)}")
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
    options: InfoNCEOptions = _DEFAULT,
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
        raise InfodclGeoError(
            f"anchors and candidates must be [B, d] and [N, d] of one type, not {list(x.shape)} {x.dtype} "
            f"and {list(y.shape)} {y.dtype}"
        )
    if y.size(0) == 0:
        raise InfodclGeoError("there are no candidates")
    if not temperature > 0:
        raise OptionError(f"temperature must be positive, not {temperature}")
    if (anchor_ids is None) != (candidate_ids is None):
        raise InfodclGeoError("candidate_ids need anchor_ids")
    rows = cols = None
    if exclude is not None:
        ptr, cols = exclude
        rows = torch.repeat_interleave(ptr.diff(), output_size=cols.numel())
    grads = torch.is_grad_enabled()
    run = forward_op if torch.compiler.is_compiling() else Function.apply
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
    rows, cols = pairs_with_equal_ids(rows, idx, positives, idx != positives[rows])
    order = rows.sort(stable=True).indices
    counts = torch.bincount(rows, minlength=positives.numel())
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]), cols[order]
