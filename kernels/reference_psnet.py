"""The equations of :func:`~infodcl_geo.kernels.psnet` and :func:`~infodcl_geo.kernels.batched_svd` in plain PyTorch.

These are the truth the tests compare against and the baseline the benchmarks measure against: one line an
equation, nothing fused, nothing shared. Equation numbers are those of InfoDCL, section 3.1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["PSNetWeights", "batched_svd_reference", "psnet_diffuse_reference", "psnet_reference"]


class PSNetWeights(NamedTuple):
    """Parameters of the preference signal network (InfoDCL, eq. 2-8).

    D is the embedding size, H the hidden size, p_u, p_s and p_v the sizes of the three spectral features. Each
    two-layer perceptron computes ``out @ silu(in @ x + in_bias) + out_bias``.

    Attributes:
        u_in, u_in_bias, u_out, u_out_bias: perceptron of the left vectors (eq. 2); [H, p_u], [H], [D, H], [D].
        s_in, s_in_bias, s_out, s_out_bias: perceptron of the singular values; [H, p_s], [H], [D, H], [D].
        v_in, v_in_bias, v_out, v_out_bias: perceptron of the right vectors; [H, p_v], [H], [D, H], [D].
        phi_in, phi_in_bias, phi_out, phi_out_bias: the map Phi of eq. 3; [H, 3D], [H], [D, H], [D].
        alpha: residual scale of the spectral branch before tanh (eq. 4); [D].
        psi, psi_bias: the linear map Psi of eq. 6; [D, D], [D].
        norm_weight, norm_bias: affine part of the layer normalisation of eq. 6; [D], [D].
        rho: strength of the contextual branch before the sigmoid (eq. 7); scalar.
        eta0: weight of the contextual branch (eq. 8); scalar.
    """

    u_in: Tensor
    u_in_bias: Tensor
    u_out: Tensor
    u_out_bias: Tensor
    s_in: Tensor
    s_in_bias: Tensor
    s_out: Tensor
    s_out_bias: Tensor
    v_in: Tensor
    v_in_bias: Tensor
    v_out: Tensor
    v_out_bias: Tensor
    phi_in: Tensor
    phi_in_bias: Tensor
    phi_out: Tensor
    phi_out_bias: Tensor
    alpha: Tensor
    psi: Tensor
    psi_bias: Tensor
    norm_weight: Tensor
    norm_bias: Tensor
    rho: Tensor
    eta0: Tensor


def _perceptron(x: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Tensor:
    return F.linear(F.silu(F.linear(x, w_in, b_in)), w_out, b_out)


def psnet_reference(
    eps: Tensor,
    m: Tensor,
    phi_m: Tensor,
    u: Tensor,
    s: Tensor,
    v: Tensor,
    weights: PSNetWeights,
    gate: Tensor,
    *,
    spectral: bool = True,
    contextual: bool = True,
    layer_norm_eps: float = 1e-5,
) -> Tensor:
    """Informative noise by eq. 2-8, one line an equation; arguments as in :func:`~infodcl_geo.kernels.psnet`."""
    w = weights
    out = gate * phi_m
    if spectral:
        u_tilde = _perceptron(u, w.u_in, w.u_in_bias, w.u_out, w.u_out_bias).expand_as(eps)  # eq. 2
        v_tilde = _perceptron(v, w.v_in, w.v_in_bias, w.v_out, w.v_out_bias).expand_as(eps)
        s_tilde = _perceptron(s, w.s_in, w.s_in_bias, w.s_out, w.s_out_bias).expand_as(eps)
        features = torch.cat([u_tilde, v_tilde, s_tilde], dim=1)
        g = _perceptron(features, w.phi_in, w.phi_in_bias, w.phi_out, w.phi_out_bias)  # eq. 3
        out = out + (eps + m + torch.tanh(w.alpha) * g)  # eq. 4
    if contextual:
        h = F.layer_norm(  # eq. 5 and 6
            F.linear(eps + phi_m, w.psi, w.psi_bias), eps.shape[1:], w.norm_weight, w.norm_bias, layer_norm_eps
        )
        out = out + w.eta0 * (eps + torch.sigmoid(w.rho) * h)  # eq. 7
    return out  # eq. 8


def psnet_diffuse_reference(
    eps: Tensor,
    m: Tensor,
    phi_m: Tensor,
    u: Tensor,
    s: Tensor,
    v: Tensor,
    weights: PSNetWeights,
    gate: Tensor,
    e: Tensor,
    alpha_bar: Tensor,
    *,
    spectral: bool = True,
    contextual: bool = True,
    layer_norm_eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Informative noise and the noised embedding z_t by eq. 2-9; arguments as in ``psnet_diffuse``."""
    noise = psnet_reference(
        eps, m, phi_m, u, s, v, weights, gate, spectral=spectral, contextual=contextual, layer_norm_eps=layer_norm_eps
    )
    signal = alpha_bar.unsqueeze(1)
    return noise, signal.sqrt() * e + (1 - signal).sqrt() * noise  # eq. 9


def batched_svd_reference(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD ``y = U diag(S) Vh`` (eq. 1) with the largest entry of every right singular vector positive.

    Args:
        y: matrices, [B, n, m].

    Returns:
        U [B, n, k], S [B, k] in descending order and Vh [B, k, m], k = min(n, m).
    """
    left, values, right = torch.linalg.svd(y, full_matrices=False)
    largest = right.gather(2, right.abs().argmax(dim=2, keepdim=True))
    sign = torch.where(largest < 0, -torch.ones_like(largest), torch.ones_like(largest))
    return left * sign.transpose(1, 2), values, right * sign
