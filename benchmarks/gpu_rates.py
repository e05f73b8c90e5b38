"""What the GPU does at best: the rates from which ``gpu.py`` computes its bounds."""

from __future__ import annotations

from functools import partial

import torch
from gpu_report import Report, type_name

try:
    import triton
    import triton.language as tl
except ImportError:  # needed on a GPU alone
    triton = None


if triton is not None:
    # Triton reads annotations: one that is not its own does not compile.
    @triton.jit
    def exponentials(out, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
        offset = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        value = offset.to(tl.float32) * 1e-9
        for _ in range(ROUNDS):
            value = tl.exp2(-value)
        tl.store(out + offset, value)


def rates(report: Report) -> None:
    """What the device does at best: bytes copied, products and exponentials per second."""
    size, n = (1 << 16, 64) if report.tiny else (1 << 28, 4096)
    source, target = torch.empty(2, size, device=report.device, dtype=torch.uint8)
    report.header["copy_bytes_per_s"] = report.rate(2 * size, lambda: target.copy_(source))
    matrices = {
        dtype: torch.randn(n, n, device=report.device, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)
    }
    for dtype, a in matrices.items():
        report.header[f"{type_name(dtype)}_flop_per_s"] = report.rate(2 * n**3, partial(torch.matmul, a, a))
    # Float32 products may also be three in TensorFloat-32: what is faster is the bound.
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    a = matrices[torch.float32]
    report.header["tf32_flop_per_s"] = report.rate(2 * n**3, partial(torch.matmul, a, a))
    torch.set_float32_matmul_precision(before)
    report.header["float32_flop_per_s"] = max(report.header["float32_flop_per_s"], report.header["tf32_flop_per_s"] / 3)
    programs, rounds, block = (1, 1, 1024) if report.tiny else (4096, 512, 1024)
    out = torch.empty(programs * block, device=report.device)
    if report.tiny:
        report.header["exponentials_per_s"] = report.rate(out.numel(), out.exp2_)
    else:
        run = partial(exponentials[(programs,)], out, ROUNDS=rounds, BLOCK=block)
        report.header["exponentials_per_s"] = report.rate(programs * rounds * block, run)
