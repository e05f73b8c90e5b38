"""Triton kernels of the preference signal network; see README.md beside this file for the tiling and the gradients.

One program owns a tile of rows from the noise to z_t. All products run over slices of what they sum and of the hidden
units, so that registers and shared memory hold slices and one tile of rows x embedding size; what a later product
needs whole (the features, their gradients) passes through a buffer that stays in the caches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _tile(ptr, rows, columns, n_rows, n_columns, stride):
    mask = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    return tl.load(ptr + rows[:, None] * stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _vector(ptr, index, size):
    return tl.load(ptr + index, mask=index < size, other=0.0).to(tl.float32)


@triton.jit
def _tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def _hidden(
    x_ptr, x_stride, w_ptr, b_ptr, rows, n_rows, units, P: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
    BM: tl.constexpr, HC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Inputs of a slice of hidden units, x @ w' + b, [BM, HC]; features are read K at a time."""
    pre = tl.zeros([BM, HC], dtype=tl.float32)
    for first in range(0, P, K):
        features = first + tl.arange(0, K)
        x = _tile(x_ptr, rows, features, n_rows, P, x_stride)
        w = _tile(w_ptr, units, features, H, P, P)
        pre += tl.dot(x, tl.trans(w), input_precision=PRECISION)
    return pre + _vector(b_ptr, units, H)[None, :]


@triton.jit
def _perceptron(
    x_ptr, x_stride, w_in, b_in, w_out, b_out, hidden_ptr, hidden_stride, rows, n_rows,
    P: tl.constexpr, H: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, K: tl.constexpr,
    BM: tl.constexpr, HC: tl.constexpr, STORE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Two-layer perceptron of a tile of rows, [BM, DP], zero beyond D; stores the hidden units on request."""
    d = tl.arange(0, DP)
    out = tl.zeros([BM, DP], dtype=tl.float32)
    for first in range(0, H, HC):
        units = first + tl.arange(0, HC)
        pre = _hidden(x_ptr, x_stride, w_in, b_in, rows, n_rows, units, P, H, K, BM, HC, PRECISION)
        hidden = pre * tl.sigmoid(pre)
        if STORE:
            mask = (rows < n_rows)[:, None] & (units < H)[None, :]
            tl.store(hidden_ptr + rows[:, None] * hidden_stride + units[None, :], hidden, mask=mask)
        w = _tile(w_out, d, units, D, H, H)
        out += tl.dot(hidden, tl.trans(w), input_precision=PRECISION)
    return out + _vector(b_out, d, D)[None, :]


@triton.jit
def _back(
    g_ptr, g_stride, w_ptr, alpha, rows, n_rows, columns, D: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
    BM: tl.constexpr, HC: tl.constexpr, SCALED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A slice of columns of g @ w for w [D, H], with SCALED of (g tanh(alpha)) @ w, [BM, HC]; summed K at a time."""
    out = tl.zeros([BM, HC], dtype=tl.float32)
    for first in range(0, D, K):
        d = first + tl.arange(0, K)
        g = _tile(g_ptr, rows, d, n_rows, D, g_stride)
        if SCALED:
            g *= _tanh(_vector(alpha, d, D))[None, :]
        out += tl.dot(g, _tile(w_ptr, d, columns, D, H, H), input_precision=PRECISION)
    return out


@triton.jit
def _normalised(
    eps_ptr, phi_m_ptr, psi, psi_bias, rows, n_rows, layer_norm_eps, D: tl.constexpr, DP: tl.constexpr, K: tl.constexpr,
    BM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Psi(eps + phi_m) with mean 0 and variance 1 (eq. 5 and 6 before the affine part), and 1 / standard deviation."""
    d = tl.arange(0, DP)
    x = tl.zeros([BM, DP], dtype=tl.float32)
    for first in range(0, D, K):
        columns = first + tl.arange(0, K)
        c = _tile(eps_ptr, rows, columns, n_rows, D, D) + _tile(phi_m_ptr, rows, columns, n_rows, D, D)
        x += tl.dot(c, tl.trans(_tile(psi, d, columns, D, D, D)), input_precision=PRECISION)
    x += _vector(psi_bias, d, D)[None, :]
    x -= (tl.sum(x, axis=1) / D)[:, None]
    x = tl.where((d < D)[None, :], x, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(x * x, axis=1) / D + layer_norm_eps)
    return x * inverse[:, None], inverse


@triton.jit(do_not_specialize=["n_rows"])
def forward_kernel(
    eps_ptr, m_ptr, phi_m_ptr, u_ptr, s_ptr, v_ptr, u_stride, s_stride, v_stride,
    u_in, u_in_bias, u_out, u_out_bias, s_in, s_in_bias, s_out, s_out_bias, v_in, v_in_bias, v_out, v_out_bias,
    phi_in, phi_in_bias, phi_out, phi_out_bias, alpha, psi, psi_bias, norm_weight, norm_bias, rho, eta0, gate,
    e_ptr, alpha_bar_ptr, features_ptr, noise_ptr, z_ptr, n_rows, layer_norm_eps,
    P_U: tl.constexpr, P_S: tl.constexpr, P_V: tl.constexpr, H: tl.constexpr, D: tl.constexpr,
    SPECTRAL: tl.constexpr, CONTEXTUAL: tl.constexpr, DIFFUSE: tl.constexpr,
    DP: tl.constexpr, BM: tl.constexpr, HC: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Equations 2 to 8, and 9 with DIFFUSE."""
    rows = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    d = tl.arange(0, DP)
    # The perceptrons come first: they leave least room for what else a program holds.
    if SPECTRAL:
        features = features_ptr + rows[:, None] * (3 * D) + d[None, :]
        mask = (rows < n_rows)[:, None] & (d < D)[None, :]
        u = _perceptron(
            u_ptr, u_stride, u_in, u_in_bias, u_out, u_out_bias, u_ptr, 0, rows, n_rows,
            P_U, H, D, DP, K, BM, HC, False, PRECISION,
        )  # fmt: skip
        tl.store(features, u, mask=mask)
        v = _perceptron(
            v_ptr, v_stride, v_in, v_in_bias, v_out, v_out_bias, v_ptr, 0, rows, n_rows,
            P_V, H, D, DP, K, BM, HC, False, PRECISION,
        )  # fmt: skip
        tl.store(features + D, v, mask=mask)
        s = _perceptron(
            s_ptr, s_stride, s_in, s_in_bias, s_out, s_out_bias, s_ptr, 0, rows, n_rows,
            P_S, H, D, DP, K, BM, HC, False, PRECISION,
        )  # fmt: skip
        tl.store(features + 2 * D, s, mask=mask)
        tl.debug_barrier()
        g = _perceptron(
            features_ptr, 3 * D, phi_in, phi_in_bias, phi_out, phi_out_bias, features_ptr, 0, rows, n_rows,
            3 * D, H, D, DP, K, BM, HC, False, PRECISION,
        )  # fmt: skip
        out = _tanh(_vector(alpha, d, D))[None, :] * g
        out += _tile(eps_ptr, rows, d, n_rows, D, D) + _tile(m_ptr, rows, d, n_rows, D, D)
    else:
        out = tl.zeros([BM, DP], dtype=tl.float32)
    if CONTEXTUAL:
        h, _ = _normalised(eps_ptr, phi_m_ptr, psi, psi_bias, rows, n_rows, layer_norm_eps, D, DP, K, BM, PRECISION)
        h = h * _vector(norm_weight, d, D)[None, :] + _vector(norm_bias, d, D)[None, :]
        strength = tl.sigmoid(tl.load(rho).to(tl.float32))
        out += tl.load(eta0).to(tl.float32) * (_tile(eps_ptr, rows, d, n_rows, D, D) + strength * h)
    out += tl.load(gate).to(tl.float32) * _tile(phi_m_ptr, rows, d, n_rows, D, D)
    offsets = rows[:, None] * D + d[None, :]
    mask = (rows < n_rows)[:, None] & (d < D)[None, :]
    tl.store(noise_ptr + offsets, out, mask=mask)
    if DIFFUSE:
        signal = _vector(alpha_bar_ptr, rows, n_rows)
        z = tl.sqrt(signal)[:, None] * _tile(e_ptr, rows, d, n_rows, D, D) + tl.sqrt(1.0 - signal)[:, None] * out
        tl.store(z_ptr + offsets, z, mask=mask)


@triton.jit
def _perceptron_backward(
    x_ptr, x_stride, w_in, b_in, w_out, alpha, g_out_ptr, g_out_stride, hidden_ptr, hidden_stride,
    g_pre_ptr, g_pre_stride, g_x_ptr, g_x_stride, rows, n_rows,
    P: tl.constexpr, H: tl.constexpr, D: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, HC: tl.constexpr,
    PHI: tl.constexpr, NEED_X: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Stores the gradients of the hidden units' inputs, and on request of x; for PHI also the hidden units."""
    for first in range(0, H, HC):
        units = first + tl.arange(0, HC)
        mask = (rows < n_rows)[:, None] & (units < H)[None, :]
        pre = _hidden(x_ptr, x_stride, w_in, b_in, rows, n_rows, units, P, H, K, BM, HC, PRECISION)
        sigmoid = tl.sigmoid(pre)
        if PHI:
            tl.store(hidden_ptr + rows[:, None] * hidden_stride + units[None, :], pre * sigmoid, mask=mask)
        g_hidden = _back(g_out_ptr, g_out_stride, w_out, alpha, rows, n_rows, units, D, H, K, BM, HC, PHI, PRECISION)
        g_pre = g_hidden * sigmoid * (1.0 + pre * (1.0 - sigmoid))
        tl.store(g_pre_ptr + rows[:, None] * g_pre_stride + units[None, :], g_pre, mask=mask)
    if NEED_X:
        tl.debug_barrier()
        for first in range(0, P, HC):
            columns = first + tl.arange(0, HC)
            g_x = _back(g_pre_ptr, g_pre_stride, w_in, alpha, rows, n_rows, columns, H, P, K, BM, HC, False, PRECISION)
            mask = (rows < n_rows)[:, None] & (columns < P)[None, :]
            tl.store(g_x_ptr + rows[:, None] * g_x_stride + columns[None, :], g_x, mask=mask)


@triton.jit(do_not_specialize=["n_rows"])
def backward_kernel(
    g_ptr, eps_ptr, phi_m_ptr, u_ptr, s_ptr, v_ptr, u_stride, s_stride, v_stride,
    u_in, u_in_bias, u_out, u_out_bias, s_in, s_in_bias, s_out, s_out_bias, v_in, v_in_bias, v_out, v_out_bias,
    phi_in, phi_in_bias, phi_out, phi_out_bias, alpha, psi, psi_bias, norm_weight, norm_bias, rho, eta0, gate,
    g_eps_ptr, g_phi_m_ptr, g_u_ptr, g_s_ptr, g_v_ptr, units_ptr, g_units_ptr, sums_ptr, n_rows, layer_norm_eps,
    P_U: tl.constexpr, P_S: tl.constexpr, P_V: tl.constexpr, H: tl.constexpr, D: tl.constexpr,
    SPECTRAL: tl.constexpr, CONTEXTUAL: tl.constexpr,
    NEED_U: tl.constexpr, NEED_S: tl.constexpr, NEED_V: tl.constexpr,
    DP: tl.constexpr, BM: tl.constexpr, HC: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the inputs of a tile of rows; the layers' units and unit gradients for the weights' products.

    ``units`` [B, 4H + 3D] receives the hidden units of the perceptrons of u, v, s and Phi and the three features,
    ``g_units`` [B, 4H + 4D] the gradients of the hidden units' inputs in the same order, of the features and of Psi's
    output, ``sums`` [programs, 4, D] this tile's sums over rows of g times 1, the normalised Psi, eps and phi_m.
    """
    program = tl.program_id(0).to(tl.int64)
    rows = program * BM + tl.arange(0, BM)
    d = tl.arange(0, DP)
    mask = (rows < n_rows)[:, None] & (d < D)[None, :]
    units_stride = 4 * H + 3 * D
    g_stride = 4 * H + 4 * D
    at = rows[:, None] * D + d[None, :]
    g = _tile(g_ptr, rows, d, n_rows, D, D)
    gate_ = tl.load(gate).to(tl.float32)
    sums = sums_ptr + program * (4 * D)
    tl.store(sums + d, tl.sum(g, axis=0), mask=d < D)
    tl.store(sums + 2 * D + d, tl.sum(g * _tile(eps_ptr, rows, d, n_rows, D, D), axis=0), mask=d < D)
    tl.store(sums + 3 * D + d, tl.sum(g * _tile(phi_m_ptr, rows, d, n_rows, D, D), axis=0), mask=d < D)

    direct = 0.0
    if SPECTRAL:
        direct += 1.0
    if CONTEXTUAL:
        scale = tl.load(eta0).to(tl.float32)
        direct += scale
        x, inverse = _normalised(
            eps_ptr, phi_m_ptr, psi, psi_bias, rows, n_rows, layer_norm_eps, D, DP, K, BM, PRECISION
        )
        tl.store(sums + D + d, tl.sum(g * x, axis=0), mask=d < D)
        g_x = g * (scale * tl.sigmoid(tl.load(rho).to(tl.float32)) * _vector(norm_weight, d, D))[None, :]
        g_psi = g_x - (tl.sum(g_x, axis=1) / D)[:, None] - x * (tl.sum(g_x * x, axis=1) / D)[:, None]
        g_psi = tl.where((d < D)[None, :], g_psi * inverse[:, None], 0.0)
        tl.store(g_units_ptr + rows[:, None] * g_stride + (4 * H + 3 * D) + d[None, :], g_psi, mask=mask)
        tl.debug_barrier()
        for first in range(0, D, HC):
            columns = first + tl.arange(0, HC)
            through = _back(
                g_units_ptr + 4 * H + 3 * D,
                g_stride,
                psi,
                alpha,
                rows,
                n_rows,
                columns,
                D,
                D,
                K,
                BM,
                HC,
                False,
                PRECISION,
            )
            part = _tile(g_ptr, rows, columns, n_rows, D, D)
            offsets = rows[:, None] * D + columns[None, :]
            inside = (rows < n_rows)[:, None] & (columns < D)[None, :]
            tl.store(g_eps_ptr + offsets, direct * part + through, mask=inside)
            tl.store(g_phi_m_ptr + offsets, gate_ * part + through, mask=inside)
    else:
        tl.store(sums + D + d, tl.zeros([DP], dtype=tl.float32), mask=d < D)
        tl.store(g_eps_ptr + at, direct * g, mask=mask)
        tl.store(g_phi_m_ptr + at, gate_ * g, mask=mask)

    if SPECTRAL:
        features = units_ptr + 4 * H + rows[:, None] * units_stride + d[None, :]
        u = _perceptron(
            u_ptr, u_stride, u_in, u_in_bias, u_out, u_out_bias, units_ptr, units_stride, rows, n_rows,
            P_U, H, D, DP, K, BM, HC, True, PRECISION,
        )  # fmt: skip
        tl.store(features, u, mask=mask)
        v = _perceptron(
            v_ptr, v_stride, v_in, v_in_bias, v_out, v_out_bias, units_ptr + H, units_stride, rows, n_rows,
            P_V, H, D, DP, K, BM, HC, True, PRECISION,
        )  # fmt: skip
        tl.store(features + D, v, mask=mask)
        s = _perceptron(
            s_ptr, s_stride, s_in, s_in_bias, s_out, s_out_bias, units_ptr + 2 * H, units_stride, rows, n_rows,
            P_S, H, D, DP, K, BM, HC, True, PRECISION,
        )  # fmt: skip
        tl.store(features + 2 * D, s, mask=mask)
        tl.debug_barrier()
        _perceptron_backward(
            units_ptr + 4 * H, units_stride, phi_in, phi_in_bias, phi_out, alpha, g_ptr, D,
            units_ptr + 3 * H, units_stride, g_units_ptr + 3 * H, g_stride, g_units_ptr + 4 * H, g_stride, rows, n_rows,
            3 * D, H, D, K, BM, HC, True, True, PRECISION,
        )  # fmt: skip
        tl.debug_barrier()
        _perceptron_backward(
            u_ptr, u_stride, u_in, u_in_bias, u_out, alpha, g_units_ptr + 4 * H, g_stride,
            units_ptr, units_stride, g_units_ptr, g_stride, g_u_ptr, P_U, rows, n_rows,
            P_U, H, D, K, BM, HC, False, NEED_U, PRECISION,
        )  # fmt: skip
        _perceptron_backward(
            v_ptr, v_stride, v_in, v_in_bias, v_out, alpha, g_units_ptr + 4 * H + D, g_stride,
            units_ptr, units_stride, g_units_ptr + H, g_stride, g_v_ptr, P_V, rows, n_rows,
            P_V, H, D, K, BM, HC, False, NEED_V, PRECISION,
        )  # fmt: skip
        _perceptron_backward(
            s_ptr, s_stride, s_in, s_in_bias, s_out, alpha, g_units_ptr + 4 * H + 2 * D, g_stride,
            units_ptr, units_stride, g_units_ptr + 2 * H, g_stride, g_s_ptr, P_S, rows, n_rows,
            P_S, H, D, K, BM, HC, False, NEED_S, PRECISION,
        )  # fmt: skip


def configuration(d: int) -> dict[str, int]:
    """Tile sizes of a kernel for embedding size ``d``, with the launch options ``num_warps`` and ``num_stages``."""
    dp = max(16, triton.next_power_of_2(d))
    return {
        "DP": dp,
        "BM": 16,
        "HC": 32,
        # Masks of rows that fill no tile cost registers, which shorter slices give back.
        "K": 16 if dp > 64 or (dp == 64 and d < dp) else 32,
        "num_warps": 8 if dp > 64 else 4,
        "num_stages": 1,
    }


def precision(allow_tf32: bool) -> str:
    """Precision of float32 products: three TensorFloat-32 products for one keep float32 accuracy on NVIDIA GPUs."""
    if allow_tf32:
        return "tf32"
    return "ieee" if torch.version.hip else "tf32x3"


def _features(x: Tensor) -> tuple[Tensor, int]:
    # A stride of 0 shares one row among all: it is computed once a tile, which costs less than another launch.
    return x, 0 if x.shape[0] == 1 else x.stride(0)


def psnet_forward(
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
    """Noise [B, D] and z_t [B, D] (empty without ``e``); all tensors contiguous."""
    rows, d = eps.shape
    noise = torch.empty_like(eps)
    z = torch.empty_like(eps) if e is not None else eps.new_empty(0)
    if rows == 0:
        return noise, z
    features = eps.new_empty((rows if spectral else 0, 3 * d), dtype=torch.float32)
    options = configuration(d)
    strides = [_features(x)[1] for x in (u, s, v)]
    with torch.cuda.device_of(eps):
        forward_kernel[(triton.cdiv(rows, options["BM"]),)](
            eps, m, phi_m, u, s, v, *strides, *weights, gate,
            eps if e is None else e, eps if alpha_bar is None else alpha_bar, features, noise, z, rows, layer_norm_eps,
            P_U=u.shape[1], P_S=s.shape[1], P_V=v.shape[1], H=weights[0].shape[0], D=d,
            SPECTRAL=spectral, CONTEXTUAL=contextual, DIFFUSE=e is not None,
            PRECISION=precision(allow_tf32), **options,
        )  # fmt: skip
    return noise, z


def backward_outputs(
    eps: Tensor, u: Tensor, s: Tensor, v: Tensor, weights: Sequence[Tensor], need_u: bool, need_s: bool, need_v: bool
) -> list[Tensor]:
    """The tensors that :func:`psnet_backward` fills."""
    rows, d = eps.shape
    hidden = weights[0].shape[0]
    programs = -(-rows // configuration(d)["BM"])
    return [
        torch.empty_like(eps),
        torch.empty_like(eps),
        *(eps.new_empty((rows, x.shape[1]) if need else 0) for x, need in ((u, need_u), (s, need_s), (v, need_v))),
        eps.new_empty((rows, 4 * hidden + 3 * d), dtype=torch.float32),
        eps.new_empty((rows, 4 * hidden + 4 * d), dtype=torch.float32),
        eps.new_empty((programs, 4, d), dtype=torch.float32),
    ]


def psnet_backward(
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
) -> list[Tensor]:
    """Gradients of eps, phi_m, u, s, v (the last three per row; empty if not needed), units, unit gradients, sums."""
    rows, d = eps.shape
    options = configuration(d)
    results = backward_outputs(eps, u, s, v, weights, need_u, need_s, need_v)
    if rows == 0:
        return results
    with torch.cuda.device_of(eps):
        backward_kernel[(triton.cdiv(rows, options["BM"]),)](
            g, eps, phi_m, u, s, v, *(_features(x)[1] for x in (u, s, v)), *weights, gate,
            *results, rows, layer_norm_eps,
            P_U=u.shape[1], P_S=s.shape[1], P_V=v.shape[1], H=weights[0].shape[0], D=d,
            SPECTRAL=spectral, CONTEXTUAL=contextual, NEED_U=need_u, NEED_S=need_s, NEED_V=need_v,
            PRECISION=precision(allow_tf32), **options,
        )  # fmt: skip
    return results
