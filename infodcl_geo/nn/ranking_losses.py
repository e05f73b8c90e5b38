"""Objectives of recommendation apart from the backbone: each takes embeddings, whatever made them.

They are means over the batch's pairs (user, item), so that a weight or a learning rate does not depend on the batch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from infodcl_geo.kernels import infonce, logsumexp_similarity

_BLOCK = 1 << 22
"""Scores of users x items that a loss holds at once."""


def softmax_loss(
    users: Tensor,
    items: Tensor,
    positives: Tensor,
    temperature: float,
    *,
    cosine: bool = True,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Softmax over all items, :math:`\operatorname{mean}_b w_b \log\sum_{j=1}^{N} \exp((s_{bj} - s_{bp(b)})/\tau)`.

    Wu et al., On the effectiveness of sampled softmax loss for item recommendation, TOIS 2024. Computed by the fused
    kernel, without the array of B x N scores.

    Args:
        users: embeddings ``[B, d]``.
        items: embeddings ``[N, d]``.
        positives: p, rows of the users' items, int64 ``[B]``.
        temperature: tau.
        cosine: s is the cosine, otherwise the inner product.
        weights: w ``[B]``; ones if missing.
    """
    if weights is None:
        return infonce(users, items, positives, temperature, normalize=cosine)
    return (weights * infonce(users, items, positives, temperature, normalize=cosine, reduction="none")).mean()


def sampled_softmax_loss(
    users: Tensor,
    positives: Tensor,
    candidates: Tensor,
    temperature: float,
    *,
    positive_ids: Tensor,
    candidate_ids: Tensor,
    share: float,
    cosine: bool = True,
    weights: Tensor | None = None,
) -> Tensor:
    r""":func:`softmax_loss` by a sample C of the items that the batch shares, with the log-q correction:

    .. math::
        \operatorname{mean}_b w_b \Big({-\frac{s_{bp}}{\tau}} + \log\Big(\exp\frac{s_{bp}}{\tau}
            + \sum_{j \in C \setminus p} \exp\Big(\frac{s_{bj}}{\tau} - \log q\Big)\Big)\Big)

    so that the expectation of the inner sum is that over all items.

    Args:
        users, positives: embeddings ``[B, d]`` of the pairs.
        candidates: embeddings ``[n, d]`` of the sample.
        temperature, cosine, weights: as there.
        positive_ids, candidate_ids: items ``[B]`` and ``[n]``.
        share: q, how often each item is expected in the sample.
    """
    if cosine:
        users, positives, candidates = F.normalize(users), F.normalize(positives), F.normalize(candidates)
    own = (users * positives).sum(-1) / temperature
    others = logsumexp_similarity(
        users, candidates, temperature, normalize=False, anchor_ids=positive_ids, candidate_ids=candidate_ids
    )
    losses = F.softplus(others - math.log(share) - own)
    return (losses if weights is None else weights * losses).mean()


def top_k_weights(scores: Tensor, thresholds: Tensor, temperature: float) -> Tensor:
    r"""Weights of SL@K (Yang et al., KDD 2025), :math:`w_{ui} = \sigma((s_{ui} - \beta_u)/\tau_w)`.

    A pair near or above the user's K-th best score counts for DCG@K, one far below it does not. Softmax with these
    weights is SL@K. They carry no gradient: as a factor of a loss above zero they would lower the scores of
    the positives, which the bound of the paper is not meant to.

    Args:
        scores: s of the pairs ``[B]``.
        thresholds: beta of the pairs' users ``[B]``, see :func:`top_k_thresholds`.
        temperature: :math:`\tau_w`.
    """
    return torch.sigmoid((scores.detach() - thresholds) / temperature)


@torch.no_grad()
def top_k_thresholds(users: Tensor, items: Tensor, k: int, *, cosine: bool = True) -> Tensor:
    r"""The K-th best score :math:`\beta_u` of each user over all items, exactly; the paper estimates it by a sample.

    Args:
        users, items: embeddings ``[M, d]`` and ``[N, d]``; at most some million scores are held at once.
        k: K; the lowest score where there are fewer items.
        cosine: scores are cosines, otherwise inner products.

    Returns:
        ``[M]``.
    """
    if cosine:
        users, items = F.normalize(users), F.normalize(items)
    k = min(k, items.size(0))
    parts = users.split(max(1, _BLOCK // items.size(0)))
    return torch.cat([(part @ items.T).topk(k, dim=1).values[:, -1] for part in parts])


def directau_loss(users: Tensor, items: Tensor, gamma: float) -> Tensor:
    r"""Alignment and uniformity on the unit sphere (Wang et al., DirectAU, KDD 2022, eq. 6 to 8):

    .. math::
        \operatorname{mean}_b \|\tilde u_b - \tilde i_b\|^2 + \frac\gamma2 (\ell(\tilde u) + \ell(\tilde i)), \qquad
        \ell(x) = \log \operatorname{mean}_{b \neq c} e^{-2 \|x_b - x_c\|^2}

    over the rows of the batch; with a single one there is no uniformity.

    Args:
        users, items: embeddings ``[B, d]`` of the pairs.
        gamma: weight of the uniformity.
    """
    users, items = F.normalize(users), F.normalize(items)
    align = (users - items).square().sum(-1).mean()
    if users.size(0) < 2:
        return align
    return align + gamma / 2 * (uniformity(users) + uniformity(items))


def uniformity(x: Tensor) -> Tensor:
    r""":math:`\log \operatorname{mean}_{b \neq c} \exp(-2 \|x_b - x_c\|^2)` of unit vectors ``[B, d]``, B at least 2.

    On the unit sphere the exponent is :math:`4 x_b^\top x_c - 4`: a log-sum-exp of the fused kernel.
    """
    size = x.size(0)
    rows = torch.arange(size, device=x.device)
    sums = logsumexp_similarity(x, x, 0.25, normalize=False, anchor_ids=rows)
    return sums.logsumexp(0) - 4 - math.log(size * (size - 1))


def ccl_loss(users: Tensor, positives: Tensor, scores: Tensor, margin: float, weight: float) -> Tensor:
    r"""Cosine contrastive loss (Mao et al., SimpleX, CIKM 2021, eq. 1):

    .. math:: \operatorname{mean}_b (1 - \cos(u_b, i_b)) + \frac{w}{n} \sum_{j=1}^{n} \max(0, \cos(u_b, j) - m)

    Args:
        users, positives: embeddings ``[B, d]`` of the pairs.
        scores: cosines ``[B, n]`` with the negatives, see :func:`cosines_with_shared`.
        margin: m; negatives below it are left alone.
        weight: w.
    """
    positive = (F.normalize(users) * F.normalize(positives)).sum(-1)
    return (1 - positive).mean() + weight * F.relu(scores - margin).mean()


def cosines_with_shared(users: Tensor, items: Tensor, ids: Tensor, positives: Tensor) -> Tensor:
    """Cosines ``[B, n]`` of users ``[B, d]`` with negatives ``[n, d]`` that they share.

    Where a negative (its id in ``ids`` ``[n]``) is the item of the pair (``positives`` ``[B]``) the cosine is -1, which
    is below any margin.
    """
    scores = F.normalize(users) @ F.normalize(items).T
    return scores.masked_fill(ids == positives[:, None], -1.0)


def sccf_loss(users: Tensor, items: Tensor, temperature: float) -> Tensor:
    r"""The contrastive objective of SCCF (Wu et al., KDD 2024), with cosines and a kernel of two powers:

    .. math::
        -\operatorname{mean}_b \log k(u_b, i_b) + \log \operatorname{mean}_{b, c} k(u_b, i_c), \qquad
        k(u, i) = e^{\cos(u, i)/\tau} + e^{\cos(u, i)^2/\tau}

    The second mean is over all users x items of the batch, repeats included: the frequent count as often as they occur
    in the data, as an expectation over both marginals. The B x B scores are formed some rows at a time, and again in
    the backward pass.

    Args:
        users, items: embeddings ``[B, d]`` of the pairs.
        temperature: tau.
    """
    users, items = F.normalize(users), F.normalize(items)
    own = _log_kernel((users * items).sum(-1), temperature)
    blocks = users.split(max(1, _BLOCK // items.size(0)))
    if len(blocks) == 1:
        sums = [_log_kernel_sum(users, items, temperature)]
    else:
        sums = [checkpoint(_log_kernel_sum, block, items, temperature, use_reentrant=False) for block in blocks]
    return torch.stack(sums).logsumexp(0) - math.log(users.size(0) * items.size(0)) - own.mean()


def _log_kernel(scores: Tensor, temperature: float) -> Tensor:
    return torch.logaddexp(scores / temperature, scores.square() / temperature)


def _log_kernel_sum(users: Tensor, items: Tensor, temperature: float) -> Tensor:
    return _log_kernel(users @ items.T, temperature).logsumexp((0, 1))


def enmf_loss(users: Tensor, positives: Tensor, degree: Tensor, items: Tensor, weight: float) -> Tensor:
    r"""Squared loss over all pairs, without negatives (Chen et al., ENMF, TOIS 2020, eq. 8 and 13):

    .. math::
        \frac1E \Big(\sum_{(u,i) \in R} \big((1 - w) s_{ui}^2 - 2 s_{ui}\big) + w \sum_{u} \sum_{j=1}^{N} s_{uj}^2\Big),
        \quad s_{ui} = u^\top i

    which is, but for a constant, the error of scores that shall be 1 for the E observed pairs, with weight 1, and
    0 for the others, with weight w. The last sum is :math:`u^\top (V^\top V) u`, without M x N scores; each pair of the
    batch carries its user's share :math:`1/|R_u|` of it, so that the mean over the batch has the whole as its
    expectation. The authors' vector h between the embeddings is absorbed by them.

    Args:
        users, positives: embeddings ``[B, d]`` of the pairs.
        degree: training interactions of the pairs' users ``[B]``.
        items: embeddings ``[N, d]`` of all items.
        weight: w.
    """
    own = (users * positives).sum(-1)
    everything = ((users @ (items.T @ items)) * users).sum(-1)
    return ((1 - weight) * own.square() - 2 * own + weight * everything / degree).mean()
