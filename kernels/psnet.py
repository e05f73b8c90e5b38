"""Preference signal network: informative noise from Gaussian noise, metadata and spectral features (eq. 2-9)."""

from __future__ import annotations

from torch import Tensor

from .reference_psnet import PSNetWeights, psnet_diffuse_reference, psnet_reference

__all__ = ["PSNetWeights", "psnet", "psnet_diffuse"]


def psnet(
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
    """Informative noise of InfoDCL (eq. 2-8), [B, D]."""
    return psnet_reference(
        eps, m, phi_m, u, s, v, weights, gate, spectral=spectral, contextual=contextual, layer_norm_eps=layer_norm_eps
    )


def psnet_diffuse(
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
    """Informative noise and the forward-noised embedding z_t (eq. 2-9), both [B, D]."""
    return psnet_diffuse_reference(
        eps,
        m,
        phi_m,
        u,
        s,
        v,
        weights,
        gate,
        e,
        alpha_bar,
        spectral=spectral,
        contextual=contextual,
        layer_norm_eps=layer_norm_eps,
    )
