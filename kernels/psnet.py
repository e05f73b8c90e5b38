"""Preference signal network (PSNet): Gaussian noise and metadata become informative noise, and z_t (eq. 2-9).

On a GPU one Triton kernel does it all (``psnet_triton.py``), on a CPU a few products in plain autograd. The gradients
are derived in README.md beside this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import List  # noqa: UP035 - torch 2.6 knows no list[Tensor] in the signature of an op

import torch
from torch import Tensor
from torch.nn import functional as F

from infodcl_geo.errors import InfodclGeoError

from .reference_psnet import PSNetWeights

__all__ = ["PSNetWeights", "psnet", "psnet_diffuse"]

_LARGEST = 256  # embedding size for which the kernels' registers suffice; beyond it a GPU runs the plain products


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
    allow_tf32: bool = False,
) -> Tensor:
    r"""Informative noise of InfoDCL (section 3.1, eq. 2-8).

    .. math::
        g &= \Phi([\text{MLP}_u(u) \,\|\, \text{MLP}_v(v) \,\|\, \text{MLP}_s(s)]) \\
        \mathcal S &= \epsilon + m + \tanh(\alpha) \odot g \\
        \mathcal C &= \epsilon + \sigma(\rho) \text{LayerNorm}(\Psi(\epsilon + \varphi(m))) \\
        \epsilon^{(m)} &= \mathcal S + \eta_0\, \mathcal C + \text{gate} \cdot \varphi(m)

    Every perceptron is ``out @ silu(in @ x + in_bias) + out_bias``.

    Args:
        eps: Gaussian noise ``[B, D]``; up to D = 256 a GPU runs the fused kernels.
        m: auxiliary metadata ``[B, D]``.
        phi_m: its embedding :math:`\varphi(m)` ``[B, D]``.
        u: features of the left singular vectors, ``[B, p_u]``, or ``[1, p_u]`` shared by all rows; likewise
        s: of the singular values, ``[B or 1, p_s]``, and
        v: of the right singular vectors, ``[B or 1, p_v]``.
        weights: the parameters.
        gate: weight of the residual term, :math:`\sigma(\eta_1 - 1)` in eq. 8; scalar.
        spectral: with False, :math:`\mathcal S` is left out (and u, s, v are not read).
        contextual: with False, :math:`\eta_0 \mathcal C` is left out.
        layer_norm_eps: added to the variance in the layer normalisation.
        allow_tf32: on a GPU, round the operands of products to TensorFloat-32.

    Returns:
        :math:`\epsilon^{(m)}` ``[B, D]``.

    Raises:
        ValueError: if shapes do not fit.
    """
    _check(eps, m, phi_m, u, s, v, weights, spectral)
    if _uses_triton(eps):
        features = _inputs(eps, m, phi_m, u, s, v)
        return _kernel(
            *features, _contiguous(weights), gate, None, None, spectral, contextual, layer_norm_eps, allow_tf32
        )[0]
    return _psnet_products(eps, m, phi_m, u, s, v, weights, gate, spectral, contextual, layer_norm_eps)


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
    allow_tf32: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Informative noise as :func:`psnet` computes it, and on to :math:`z_t` in the same kernel (eq. 2-9).

    .. math::
        z_t = \sqrt{\bar\alpha_t}\, e + \sqrt{1 - \bar\alpha_t}\, \epsilon^{(m)}

    Args:
        eps, m, phi_m, u, s, v, weights, gate, spectral, contextual, layer_norm_eps, allow_tf32: see :func:`psnet`.
        e: embeddings to diffuse ``[B, D]``.
        alpha_bar: :math:`\bar\alpha_t` of each row's step, ``[B]``, in [0, 1]; a constant, without gradient.

    Returns:
        The noise and :math:`z_t`, both ``[B, D]``.

    Raises:
        ValueError: if shapes do not fit.
    """
    _check(eps, m, phi_m, u, s, v, weights, spectral)
    if e.shape != eps.shape or alpha_bar.shape != eps.shape[:1]:
        raise InfodclGeoError(f"e must be {list(eps.shape)} and alpha_bar {list(eps.shape[:1])}")
    alpha_bar = alpha_bar.detach()
    if _uses_triton(eps):
        features = _inputs(eps, m, phi_m, u, s, v)
        return _kernel(
            *features,
            _contiguous(weights),
            gate,
            e.contiguous(),
            alpha_bar.contiguous(),
            spectral,
            contextual,
            layer_norm_eps,
            allow_tf32,
        )
    noise = _psnet_products(eps, m, phi_m, u, s, v, weights, gate, spectral, contextual, layer_norm_eps)
    signal = alpha_bar.unsqueeze(1)
    return noise, signal.sqrt() * e + (1 - signal).sqrt() * noise


def _check(
    eps: Tensor, m: Tensor, phi_m: Tensor, u: Tensor, s: Tensor, v: Tensor, weights: PSNetWeights, spectral: bool
) -> None:
    if eps.ndim != 2 or m.shape != eps.shape or phi_m.shape != eps.shape:
        raise InfodclGeoError(
            f"eps, m and phi_m must be [B, D], not {list(eps.shape)}, {list(m.shape)}, {list(phi_m.shape)}"
        )
    if not spectral:
        return
    for name, x, w in (("u", u, weights.u_in), ("s", s, weights.s_in), ("v", v, weights.v_in)):
        if x.ndim != 2 or x.shape[0] not in (1, eps.shape[0]) or x.shape[1] != w.shape[1]:
            raise InfodclGeoError(f"{name} must be [{eps.shape[0]} or 1, {w.shape[1]}], not {list(x.shape)}")


def _psnet_products(
    eps: Tensor,
    m: Tensor,
    phi_m: Tensor,
    u: Tensor,
    s: Tensor,
    v: Tensor,
    weights: PSNetWeights,
    gate: Tensor,
    spectral: bool,
    contextual: bool,
    layer_norm_eps: float,
) -> Tensor:
    """The reference with fewer products: a shared row goes through its perceptron once, and nothing is concatenated.

    Between a perceptron's hidden units and Phi's there are two linear maps and nothing else, so with more rows than
    columns their product is formed first. The time is that of the products that remain: an own autograd function
    would have nothing to save.
    """
    w = weights
    size = eps.shape[1]
    out = gate * phi_m
    if contextual:
        h = F.linear(eps + phi_m, w.psi, w.psi_bias)
        h = F.layer_norm(h, (size,), w.norm_weight, w.norm_bias, layer_norm_eps)
        out = out + w.eta0 * (eps + torch.sigmoid(w.rho) * h)
    if spectral:
        into_u, into_v, into_s = w.phi_in.split(size, dim=1)
        hidden = w.phi_in_bias
        for x, w_in, b_in, w_out, b_out, into in (
            (u, w.u_in, w.u_in_bias, w.u_out, w.u_out_bias, into_u),
            (v, w.v_in, w.v_in_bias, w.v_out, w.v_out_bias, into_v),
            (s, w.s_in, w.s_in_bias, w.s_out, w.s_out_bias, into_s),
        ):
            units = F.silu(F.linear(x, w_in, b_in))
            if len(x) > size:
                hidden = hidden + F.linear(units, into @ w_out, into @ b_out)
            else:
                hidden = hidden + F.linear(F.linear(units, w_out, b_out), into)
        g = F.linear(F.silu(hidden), w.phi_out, w.phi_out_bias)
        out = out + torch.addcmul(eps + m, torch.tanh(w.alpha), g)
    return out


def _uses_triton(x: Tensor) -> bool:
    return x.is_cuda and x.dtype != torch.float64 and x.shape[1] <= _LARGEST and find_spec("triton") is not None


def _inputs(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() for x in tensors)


def _contiguous(weights: PSNetWeights) -> list[Tensor]:
    return [w.contiguous() for w in weights]


@torch.library.custom_op("infodcl_geo::psnet", mutates_args=())
def _kernel(
    eps: Tensor,
    m: Tensor,
    phi_m: Tensor,
    u: Tensor,
    s: Tensor,
    v: Tensor,
    weights: Sequence[Tensor],
    gate: Tensor,
    e: Tensor | None,
    alpha_bar: Tensor | None,
    spectral: bool,
    contextual: bool,
    layer_norm_eps: float,
    allow_tf32: bool,
) -> tuple[Tensor, Tensor]:
    from .psnet_triton import psnet_forward

    return psnet_forward(
        eps, m, phi_m, u, s, v, weights, gate, e, alpha_bar, spectral, contextual, layer_norm_eps, allow_tf32
    )


@_kernel.register_fake
def _(eps, m, phi_m, u, s, v, weights, gate, e, alpha_bar, *options):  # type: ignore[no-untyped-def]
    return torch.empty_like(eps), eps.new_empty(0) if e is None else torch.empty_like(eps)


@torch.library.custom_op("infodcl_geo::psnet_backward", mutates_args=())
def _kernel_backward(
    g: Tensor,
    eps: Tensor,
    phi_m: Tensor,
    u: Tensor,
    s: Tensor,
    v: Tensor,
    weights: Sequence[Tensor],
    gate: Tensor,
    spectral: bool,
    contextual: bool,
    layer_norm_eps: float,
    allow_tf32: bool,
    need_u: bool,
    need_s: bool,
    need_v: bool,
) -> List[Tensor]:  # noqa: UP006
    from .psnet_triton import psnet_backward

    return psnet_backward(
        g,
        eps,
        phi_m,
        u,
        s,
        v,
        weights,
        gate,
        spectral,
        contextual,
        layer_norm_eps,
        allow_tf32,
        need_u,
        need_s,
        need_v,
    )


@_kernel_backward.register_fake
def _(g, eps, phi_m, u, s, v, weights, gate, spectral, contextual, layer_norm_eps, allow_tf32, *needs):  # type: ignore[no-untyped-def]
    from .psnet_triton import backward_outputs

    return backward_outputs(eps, u, s, v, weights, *needs)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    eps, _m, phi_m, u, s, v, weights, gate, e, alpha_bar, *ctx.options = inputs
    ctx.count = len(weights)
    ctx.diffuse = e is not None
    ctx.save_for_backward(eps, phi_m, u, s, v, gate, alpha_bar, *weights)


def _backward(ctx, g_noise: Tensor | None, g_z: Tensor | None):  # type: ignore[no-untyped-def]
    eps, phi_m, u, s, v, gate, alpha_bar, *weights = ctx.saved_tensors
    spectral, contextual, *_ = ctx.options
    w = PSNetWeights(*weights)
    g = torch.zeros_like(eps) if g_noise is None else g_noise
    g_e = None
    if ctx.diffuse and g_z is not None:
        signal = alpha_bar.unsqueeze(1)
        g = g + (1 - signal).sqrt() * g_z
        g_e = signal.sqrt() * g_z
    needs = [spectral and need for need in ctx.needs_input_grad[3:6]]
    g_eps, g_phi_m, g_u, g_s, g_v, units, g_units, sums = _kernel_backward(
        g.contiguous().to(eps.dtype), eps, phi_m, u, s, v, weights, gate, *ctx.options, *needs
    )
    g_features = [
        (x.sum(0, keepdim=True) if len(feature) == 1 else x) if need else None
        for x, feature, need in zip((g_u, g_s, g_v), (u, s, v), needs, strict=True)
    ]
    g_weights, g_gate = _weight_gradients(g, eps, phi_m, u, s, v, w, spectral, contextual, units, g_units, sums)
    g_weights = [None if x is None else x.to(y.dtype) for x, y in zip(g_weights, weights, strict=True)]
    return g_eps, g if spectral else None, g_phi_m, *g_features, g_weights, g_gate.to(gate.dtype), g_e, *[None] * 5


def _weight_gradients(
    g: Tensor,
    eps: Tensor,
    phi_m: Tensor,
    u: Tensor,
    s: Tensor,
    v: Tensor,
    w: PSNetWeights,
    spectral: bool,
    contextual: bool,
    units: Tensor,
    g_units: Tensor,
    sums: Tensor,
) -> tuple[list[Tensor | None], Tensor]:
    """Gradients of the weights and the gate: products over rows of what the kernel left, and sums over its programs."""
    size, hidden = eps.shape[1], w.u_in.shape[0]
    # Thousands of programs' sums, of either sign, that shall cost no digits.
    totals = sums.sum(0, dtype=torch.float64)
    g_sum, g_norm, *_ = totals.float()
    biases = g_units.sum(0)
    found: dict[str, Tensor] = {}

    def hidden_columns(x: Tensor, k: int) -> Tensor:
        return x.narrow(-1, k * hidden, hidden)

    def columns(x: Tensor, k: int) -> Tensor:
        return x.narrow(-1, 4 * hidden + k * size, size)

    if spectral:
        for k, (name, x) in enumerate((("u", u), ("v", v), ("s", s))):
            g_in = hidden_columns(g_units, k)
            if len(x) == 1 and len(eps) != 1:
                found[f"{name}_in"] = torch.outer(hidden_columns(biases, k), x[0].float())
            else:
                found[f"{name}_in"] = g_in.mT @ x.float()
            found[f"{name}_in_bias"] = hidden_columns(biases, k)
            found[f"{name}_out"] = columns(g_units, k).mT @ hidden_columns(units, k)
            found[f"{name}_out_bias"] = columns(biases, k)
        found["phi_in"] = hidden_columns(g_units, 3).mT @ units.narrow(1, 4 * hidden, 3 * size)
        found["phi_in_bias"] = hidden_columns(biases, 3)
        bend = torch.tanh(w.alpha.float())
        # g' h before the gate's factor tanh(alpha): both Phi's last layer and alpha need it.
        product = g.float().mT @ hidden_columns(units, 3)
        found["phi_out"] = bend.unsqueeze(1) * product
        found["phi_out_bias"] = bend * g_sum
        along = (w.phi_out.float() * product).sum(1) + w.phi_out_bias.float() * g_sum
        found["alpha"] = (1 - bend.square()) * along
    if contextual:
        eta0, share = w.eta0.float(), torch.sigmoid(w.rho.float())
        g_share = (w.norm_weight.float() * g_norm + w.norm_bias.float() * g_sum).sum()
        found["norm_weight"] = eta0 * share * g_norm
        found["norm_bias"] = eta0 * share * g_sum
        found["rho"] = eta0 * g_share * share * (1 - share)
        found["eta0"] = totals[2].sum() + share * g_share
        found["psi"] = columns(g_units, 3).mT @ (eps + phi_m).float()
        found["psi_bias"] = columns(biases, 3)
    return [found.get(name) for name in PSNetWeights._fields], totals[3].sum()


_kernel.register_autograd(_backward, setup_context=_setup_context)
