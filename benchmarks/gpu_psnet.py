"""PSNet and the small-matrix SVD on a GPU: checked, and timed beside their peers and their bounds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from gpu_report import Report, compiled, refuse_if_wrong
from torch import Tensor

from infodcl_geo.kernels import batched_svd, psnet_diffuse
from infodcl_geo.kernels.reference_psnet import batched_svd_reference, psnet_diffuse_reference
from infodcl_geo.nn.psnet import PSNet


def psnet_section(report: Report) -> None:
    d = 16 if report.tiny else 64
    for basis in ("population", "item"):
        check_psnet(report, basis)
        for rows in (7,) if report.tiny else (65_536,) if report.quick else (1_024, 65_536):
            implementations = {
                "psnet": psnet_diffuse,
                "eager": psnet_diffuse_reference,
                "torch.compile": compiled(psnet_diffuse_reference, report),
            }
            for name, function in implementations.items():
                if report.time_left:
                    time_psnet(report, name, function, basis, rows, d)


def psnet_arguments(report: Report, basis: Any, rows: int, d: int) -> tuple[list[Any], list[Tensor]]:
    """Arguments of one step as InfoDCL makes them, and those of which gradients are asked: noise and metadata, and so
    the spectral features, are constants."""
    torch.manual_seed(0)
    module = PSNet(d, basis=basis).to(report.device)
    noise, metadata, e = torch.randn(3, rows, d, device=report.device)
    module.fit(metadata)
    e.requires_grad_()
    embedded = module.metadata_embedding(metadata).detach().requires_grad_()
    weights = type(module.weights())(*(w.detach().requires_grad_() for w in module.weights()))
    gate = torch.tensor(0.3, device=report.device, requires_grad=True)
    features = [x.detach() for x in module.features(noise + metadata)]
    level = torch.rand(rows, device=report.device)
    return [noise, metadata, embedded, *features, weights, gate, e, level], [embedded, *weights, gate, e]


def check_psnet(report: Report, basis: str) -> None:
    """As :func:`check_infonce`."""
    arguments, leaves = psnet_arguments(report, basis, 123, 36)

    def run(function: Callable[..., tuple[Tensor, Tensor]], dtype: torch.dtype) -> list[Tensor]:
        renewed = {id(x): x.detach().to(dtype).requires_grad_(x.requires_grad) for x in leaves}

        def renew(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return type(x)(*map(renew, x))
            return renewed.get(id(x), x.detach().to(dtype))

        _, z = function(*map(renew, arguments))
        gradients = torch.autograd.grad(z.square().sum(), list(renewed.values()), allow_unused=True)
        return [x.double() for x in (z.detach(), *gradients) if x is not None]

    refuse_if_wrong(
        f"psnet with basis {basis}",
        run(psnet_diffuse, torch.float32),
        run(psnet_diffuse_reference, torch.float32),
        run(psnet_diffuse_reference, torch.float64),
        1e-5,
    )


def time_psnet(report: Report, name: str, function: Callable[..., Any], basis: str, rows: int, d: int) -> None:
    arguments, leaves = psnet_arguments(report, basis, rows, d)
    arriving = torch.ones(rows, d, device=report.device)
    report.time_passes(
        {
            "operation": f"psnet, {basis}", "implementation": name, "dtype": "float32", "ours": name == "psnet",
            "rows": rows, "dimensions": d,
        },
        lambda: function(*arguments)[1],
        lambda z: torch.autograd.grad(z, leaves, arriving, retain_graph=True, allow_unused=True),
        partial(psnet_bound, report, arguments),
    )  # fmt: skip


def psnet_bound(report: Report, arguments: list[Any], which: str) -> float:
    """Seconds no program can beat: the larger of bytes and products over their measured rates.

    Forward every input is read once and noise and z_t are written. Backward the inputs are read again, also what
    arrives, and the gradients are written; the products are taken again and twice for gradients, but those to the
    spectral features' first layers, which are constants.
    """
    tensors = [*arguments[:6], *arguments[6], *arguments[8:]]
    noise, features, weights = arguments[0], arguments[3:6], arguments[6]
    read = sum(x.numel() for x in tensors)
    first = [x.size(0) * w.numel() for x, w in zip(features, (weights.u_in, weights.s_in, weights.v_in), strict=True)]
    # A feature with one row goes through its perceptron once.
    second = [
        x.size(0) * w.numel() for x, w in zip(features, (weights.u_out, weights.s_out, weights.v_out), strict=True)
    ]
    rest = noise.size(0) * (weights.phi_in.numel() + weights.phi_out.numel() + weights.psi.numel())
    forward = 2 * (sum(first) + sum(second) + rest)
    moved = {"forward": read + 2 * noise.numel(), "backward": read + noise.numel() + 2 * noise.numel()}
    products = {"forward": forward, "backward": 3 * forward - 2 * sum(first)}
    moved["both"], products["both"] = sum(moved.values()), sum(products.values())
    return max(
        4 * moved[which] / report.header["copy_bytes_per_s"],
        products[which] / report.header["float32_flop_per_s"],
    )


def svd_section(report: Report) -> None:
    sizes = [(300, 8)] if report.tiny else [(65_536, 8)] if report.quick else [(2_000, 8), (65_536, 8), (65_536, 16)]
    for matrices, n in sizes:
        y = torch.randn(matrices, n, n, device=report.device, generator=torch.Generator(report.device).manual_seed(0))
        check_svd(y)
        # Bytes alone: how many operations a decomposition needs depends on the method.
        moved = 4 * (3 * y.numel() + matrices * n)
        for name, function in {"batched_svd": batched_svd, "torch.linalg.svd": batched_svd_reference}.items():
            if report.time_left and (name == "batched_svd" or matrices * n <= 1 << 19):
                report.time_passes(
                    {
                        "operation": "svd", "implementation": name, "dtype": "float32", "ours": name == "batched_svd",
                        "rows": matrices, "dimensions": n,
                    },
                    partial(function, y),
                    None,
                    lambda _, moved=moved: moved / report.header["copy_bytes_per_s"],
                )  # fmt: skip


def check_svd(y: Tensor) -> None:
    left, values, right = batched_svd(y[:1000])
    exact = torch.linalg.svdvals(y[:1000].double())
    product = left * values.unsqueeze(1) @ right
    for what, error in {
        "values": ((values - exact) / exact[:, :1]).abs().max(),
        "product": ((product - y[:1000]) / exact[:, :1, None]).abs().max(),
    }.items():
        if not error < 1e-5:
            raise SystemExit(f"batched_svd: {what} wrong by {error:.3g} of the largest value: not timed")
