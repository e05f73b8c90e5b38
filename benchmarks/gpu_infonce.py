"""InfoNCE on a GPU: checked, timed beside its peers and its bound, with other tilings, and in a CUDA graph."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from gpu_report import Report, compiled, refuse_if_wrong, type_name
from torch import Tensor

from infodcl_geo.kernels import InfoNCEOptions, infonce

TAU = 0.5
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def eager(x: Tensor, y: Tensor, positives: Tensor) -> Tensor:
    return F.cross_entropy(F.normalize(x) @ F.normalize(y).T / TAU, positives)


def ours(x: Tensor, y: Tensor, positives: Tensor) -> Tensor:
    return infonce(x, y, positives, TAU)


def infonce_section(report: Report) -> None:
    dtypes = (torch.bfloat16, torch.float32)
    sizes = [(115, 2_420), (2_048, 11_589), (4_096, 50_000), (4_096, 1_000_000), (16_384, 50_000), (16_384, 16_384)]
    compared = {(2_048, 11_589), (4_096, 50_000)}
    if report.quick:
        sizes = sizes[2:3]
    if report.tiny:
        sizes, compared = [(5, 40), (8, 8)], {(5, 40)}
    for dtype in dtypes:
        check_infonce(report, dtype)
        for anchors, candidates in sizes:
            implementations: dict[str, Loss] = {"infonce": ours}
            if anchors * candidates <= 1 << 30:
                implementations["eager"] = eager
            if (anchors, candidates) in compared:
                implementations["torch.compile"] = compiled(eager, report)
            implementations |= peers(anchors, candidates, dtype)
            for name, loss in implementations.items():
                if report.time_left:
                    time_infonce(report, name, loss, dtype, anchors, candidates)
    if not report.quick:
        tune_infonce(report)
    if not report.quick and not report.tiny:
        check_graph_capture(report)


def check_infonce(report: Report, dtype: torch.dtype) -> None:
    """Refuse to time what is wrong: error against float64 at most that of eager PyTorch, plus a small constant."""
    x, y, positives = inputs(report, 257, 5003, 60, dtype)

    def run(loss: Loss, dtype: torch.dtype) -> list[Tensor]:
        a, b = (v.detach().to(dtype).requires_grad_() for v in (x, y))
        value = loss(a, b, positives)
        return [part.double() for part in (value.detach(), *torch.autograd.grad(value, (a, b)))]

    refuse_if_wrong(
        f"infonce in {dtype}",
        run(ours, dtype),
        run(eager, dtype),
        run(eager, torch.float64),
        1e-5 if dtype == torch.float32 else 4e-3,
    )


def inputs(report: Report, anchors: int, candidates: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator(report.device).manual_seed(0)
    x, y = (
        torch.randn(rows, d, device=report.device, generator=generator).to(dtype).requires_grad_()
        for rows in (anchors, candidates)
    )
    return x, y, torch.randint(0, candidates, (anchors,), device=report.device, generator=generator)


def peers(anchors: int, candidates: int, dtype: torch.dtype) -> dict[str, Loss]:
    """Other people's kernels where they are installed and answer the same question."""
    found: dict[str, Loss] = {}
    if dtype == torch.bfloat16:
        try:
            linear_cross_entropy = importlib.import_module("cut_cross_entropy").linear_cross_entropy
            found["cut-cross-entropy"] = lambda x, y, p: linear_cross_entropy(F.normalize(x) / TAU, F.normalize(y), p)
        except ImportError:
            pass
    if anchors == candidates:
        try:
            flash = importlib.import_module("inf_cl").cal_flash_loss
            found["inf-cl (positives on the diagonal)"] = lambda x, y, p: flash(
                F.normalize(x), F.normalize(y), scale=1 / TAU
            ).mean()
        except (ImportError, AttributeError):
            pass
    return found


def time_infonce(
    report: Report,
    name: str,
    loss: Loss,
    dtype: torch.dtype,
    anchors: int,
    candidates: int,
    d: int = 64,
    note: str = "",
) -> None:
    x, y, positives = inputs(report, anchors, candidates, d, dtype)
    report.time_passes(
        {
            "operation": "infonce", "implementation": name, "dtype": type_name(dtype), "ours": name == "infonce",
            "rows": anchors, "candidates": candidates, "dimensions": d, "note": note,
        },
        lambda: loss(x, y, positives),
        lambda value: torch.autograd.grad(value, (x, y), retain_graph=True),
        partial(infonce_bound, report, dtype, anchors, candidates, d),
    )  # fmt: skip


def infonce_bound(report: Report, dtype: torch.dtype, anchors: int, candidates: int, d: int, which: str) -> float:
    """Seconds no program can beat: the largest of bytes, products and exponentials over their measured rates.

    Forward one product and one exponential per pair, backward three products (the logits again, both gradients) and
    one exponential.
    """
    products, exponentials = {"forward": (1, 1), "backward": (3, 1), "both": (4, 2)}[which]
    pairs = anchors * candidates
    touched = (anchors + candidates) * d * torch.finfo(dtype).bits // 8 * (1 if which == "forward" else 2)
    return max(
        touched / report.header["copy_bytes_per_s"],
        2 * products * pairs * d / report.header[f"{type_name(dtype)}_flop_per_s"],
        exponentials * pairs / report.header["exponentials_per_s"],
    )


def tune_infonce(report: Report) -> None:
    """Other tilings at the size of the goal; the shipped ones were chosen without a GPU, by registers and traffic."""
    forward = [(128, 64, 4, 3), (128, 128, 8, 3), (64, 64, 4, 3), (128, 64, 8, 2)]
    candidate = [(64, 64, 4, 3), (64, 128, 8, 2), (128, 64, 8, 3), (64, 128, 4, 3)]
    trials = [InfoNCEOptions(forward_tiling=tiling) for tiling in forward]
    trials += [InfoNCEOptions(candidate_tiling=tiling) for tiling in candidate]
    for options in trials:
        if report.time_left:
            note = f"forward {options.forward_tiling}, candidate {options.candidate_tiling}"
            time_infonce(
                report,
                "infonce, other tiling",
                partial(infonce, temperature=TAU, options=options),
                torch.bfloat16,
                *((5, 40) if report.tiny else (4_096, 50_000)),
                note=note,
            )


def check_graph_capture(report: Report) -> None:
    """Forward and backward in one CUDA graph: captured without a synchronisation, replayed with the same numbers."""
    x, y, positives = inputs(report, 2_048, 11_589, 64, torch.float32)
    expected = torch.autograd.grad(ours(x, y, positives), (x, y))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = torch.autograd.grad(ours(x, y, positives), (x, y))
    graph.replay()
    torch.cuda.synchronize()
    for got, wanted in zip(captured, expected, strict=True):
        if not torch.equal(got, wanted):
            raise SystemExit("infonce replayed from a CUDA graph differs")
    median, low, high = report.quantiles(graph.replay)
    report.add(
        operation="infonce", implementation="infonce, one CUDA graph", dtype="float32",
        rows=2_048, candidates=11_589, dimensions=64, **{"pass": "both"},
        median_ms=round(median, 4), q20_ms=round(low, 4), q80_ms=round(high, 4),
    )  # fmt: skip
