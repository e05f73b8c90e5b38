"""Timings on one GPU, of the kernels next to their bounds and of training; run by ``gpu.sh``, which arranges imports.

Writes ``DIR/<name of the GPU>.csv``: one row per operation, implementation, type, size and pass with the median and
the 20 and 80 percent quantiles, the peak memory beyond the inputs, the bound and the share of it that was reached.
``rows`` are anchors of InfoNCE, rows of PSNet, matrices of the SVD, interactions of an epoch; ``candidates`` InfoNCE's
candidates or an epoch's items. Lines that begin with ``#`` hold the versions, the commit and the measured rates from
which the bounds are computed.

``--device cpu`` goes the same way through tiny sizes, to test this script where there is no GPU: its numbers mean
nothing. A section is a function that takes a ``Report``; add it to ``SECTIONS``.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.graph.graph import WITH_TORCH_SPARSE, normalized_adjacency
from infodcl_geo.kernels import InfoNCEOptions, batched_svd, infonce, psnet_diffuse
from infodcl_geo.kernels.reference_psnet import batched_svd_reference, psnet_diffuse_reference
from infodcl_geo.models.base import Batch
from infodcl_geo.nn.psnet import PSNet
from infodcl_geo.training.sampling import BatchSampler

if TYPE_CHECKING:
    from infodcl_geo.models.base import Model

try:
    import triton
    import triton.language as tl
except ImportError:  # needed on a GPU alone
    triton = None

COLUMNS = [
    "operation", "implementation", "dtype", "rows", "candidates", "dimensions", "pass",
    "median_ms", "q20_ms", "q80_ms", "peak_extra_mib", "bound_ms", "share_of_bound", "note",
]  # fmt: skip
Timings = list[float]


class Report:
    """Collects rows, prints them as they come and writes the file after every section."""

    def __init__(self, path: Path, device: torch.device, quick: bool, minutes: float) -> None:
        self.path, self.device, self.quick = path, device, quick
        self.tiny = device.type == "cpu"
        self.deadline = time.monotonic() + 60 * minutes
        self.rows: list[dict[str, Any]] = []
        self.header: dict[str, Any] = {
            "gpu": "none, tiny sizes: no timings" if self.tiny else torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "triton": triton.__version__ if triton else "none",
            "cuda": torch.version.cuda or torch.version.hip,
            "sparse products": "torch-sparse" if WITH_TORCH_SPARSE else "torch CSR",
            "python": sys.version.split()[0],
            "commit": _commit(),
        }

    @property
    def time_left(self) -> bool:
        return time.monotonic() < self.deadline

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)

    def write(self) -> None:
        with self.path.open("w", newline="") as file:
            for key, value in self.header.items():
                file.write(f"# {key}: {value}\n")
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)

    def quantiles(self, call: Callable[[], Any]) -> Timings:
        """Median, 20 and 80 percent quantile of a call, in ms."""
        if not self.tiny:
            return triton.testing.do_bench(call, warmup=20, rep=80, quantiles=[0.5, 0.2, 0.8])
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begin)
        return [1e3 * statistics.median(seconds), 1e3 * min(seconds), 1e3 * max(seconds)]

    def rate(self, amount: float, call: Callable[[], Any]) -> float:
        """Amount per second."""
        return 1e3 * amount / self.quantiles(call)[0]

    def peak(self, call: Callable[[], Any]) -> float:
        """MiB that a call allocates beyond what is there."""
        if self.tiny:
            call()
            return 0.0
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def time_passes(
        self,
        common: dict[str, Any],
        forward: Callable[[], Any],
        backward: Callable[[Any], Any] | None,
        bound: Callable[[str], float],
    ) -> None:
        """Rows of the forward pass and, with gradients, of the backward pass from its result and of both; bound in s.

        Peers and a lack of memory give a row that says what happened, and the run goes on; our own failures do not.
        """
        passes: dict[str, Callable[[], Any]] = {"forward": forward}
        try:
            if backward is not None:
                passes["both"] = lambda: backward(forward())
                value = forward()
                passes["backward"] = lambda: backward(value)
            peak = self.peak(passes.get("both", forward))
            timed = {which: self.quantiles(call) for which, call in passes.items()}
        except Exception as error:
            if common.get("ours"):
                raise
            self.add(**_without_mark(common), note=f"{type(error).__name__}: {error}".splitlines()[0][:120])
            return
        for which, (median, low, high) in timed.items():
            limit = 1e3 * bound(which)
            self.add(
                **_without_mark(common),
                **{"pass": which},
                median_ms=round(median, 4),
                q20_ms=round(low, 4),
                q80_ms=round(high, 4),
                peak_extra_mib=round(peak, 1),
                bound_ms=round(limit, 4),
                share_of_bound=round(limit / median, 3),
            )


def _without_mark(common: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in common.items() if key != "ours"}


def compiled(function: Callable[..., Any], report: Report) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False, backend="aot_eager" if report.tiny else "inductor")


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


# -- Rates of the device -----------------------------------------------------------------------------------------------


if triton is not None:

    @triton.jit
    def _exponentials(out: Any, ROUNDS: tl.constexpr, BLOCK: tl.constexpr) -> None:
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
        report.header[f"{_name(dtype)}_flop_per_s"] = report.rate(2 * n**3, partial(torch.matmul, a, a))
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
        run = partial(_exponentials[(programs,)], out, ROUNDS=rounds, BLOCK=block)
        report.header["exponentials_per_s"] = report.rate(programs * rounds * block, run)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# -- InfoNCE -----------------------------------------------------------------------------------------------------------

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


def refuse_if_wrong(what: str, got: list[Tensor], plain: list[Tensor], exact: list[Tensor], small: float) -> None:
    for one, other, truth in zip(got, plain, exact, strict=True):
        error = (one - truth).abs().max()
        allowed = (other - truth).abs().max() + small * truth.abs().max()
        if not error <= allowed:
            raise SystemExit(f"{what} is wrong by {error:.3g}, allowed {allowed:.3g}: not timed")


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
            "operation": "infonce", "implementation": name, "dtype": _name(dtype), "ours": name == "infonce",
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
        2 * products * pairs * d / report.header[f"{_name(dtype)}_flop_per_s"],
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


# -- PSNet -------------------------------------------------------------------------------------------------------------


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


# -- SVD ---------------------------------------------------------------------------------------------------------------


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


# -- Training epochs ---------------------------------------------------------------------------------------------------


def training_section(report: Report) -> None:
    """Epochs on a generated graph of the size of the paper's Amazon-Electronics; no bound is known for these."""
    try:
        from infodcl_geo.models.base import EmbeddingModel
        from infodcl_geo.models.infodcl import InfoDCL, InfoDCLOptions
        from infodcl_geo.models.lightgcn import LightGCN
        from infodcl_geo.models.simgcl import SimGCL
    except ImportError as error:
        # The models need more packages than the kernels.
        print(f"training epochs are left out: {error}", flush=True)
        report.add(operation="training epoch", note=f"left out: {error}")
        return
    users, items, interactions = (60, 50, 400) if report.tiny else (32_886, 52_974, 337_837)
    pairs = power_law_pairs(users, items, interactions).to(report.device)
    graph = normalized_adjacency(pairs, users, items)
    d = 64
    channels = [torch.randn(items, d, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    options = InfoDCLOptions(candidates=8) if report.tiny else InfoDCLOptions()
    infodcl = partial(InfoDCL, graph, users, items, options=options)
    makers: dict[str, Callable[[], Model]] = {
        "mf": lambda: EmbeddingModel(graph, users, items, dim=d),
        "infodcl, one channel": lambda: infodcl({"a": channels[0]}),
        "infodcl, two channels": lambda: infodcl({"a": channels[0], "b": channels[1]}),
        "lightgcn": lambda: LightGCN(graph, users, items, dim=d, num_layers=3),
        "simgcl": lambda: SimGCL(graph, users, items, dim=d, num_layers=3),
    }
    for name, make in makers.items():
        for how, run in {"": eager_epoch, ", CUDA graphs": CapturedEpoch}.items():
            if (how and report.tiny) or not report.time_left:
                continue
            torch.manual_seed(0)
            model = make().to(report.device)
            generator = torch.Generator(report.device).manual_seed(0)
            sampler = BatchSampler(pairs, users, items, batch_size=64 if report.tiny else 2048, generator=generator)
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=not report.tiny)
            common = {
                "operation": "training epoch", "implementation": name + how, "dtype": "float32", "rows": interactions,
                "candidates": items, "dimensions": d, "pass": "both",
            }  # fmt: skip
            try:
                time_epochs(report, common, run(model, sampler, optimizer))
            except Exception as error:
                # One model's failure must not cost the others' timings.
                report.add(**common, note=f"{type(error).__name__}: {error}".splitlines()[0][:120])


def power_law_pairs(users: int, items: int, interactions: int) -> Tensor:
    """Distinct pairs ``[2, interactions]``; popularity of items and activity of users fall as rank^-0.7."""
    generator = torch.Generator().manual_seed(0)

    def draw(size: int, count: int) -> Tensor:
        cumulative = torch.arange(1, size + 1, dtype=torch.float64).pow(-0.7).cumsum(0)
        ranks = torch.rand(count, generator=generator, dtype=torch.float64) * cumulative[-1]
        return torch.randperm(size, generator=generator)[torch.searchsorted(cumulative, ranks).clamp(max=size - 1)]

    keys = torch.empty(0, dtype=torch.int64)
    while keys.numel() < interactions:
        keys = torch.cat([keys, draw(users, interactions) * items + draw(items, interactions)]).unique()
    keys = keys[torch.randperm(keys.numel(), generator=generator)[:interactions]].sort().values
    return torch.stack([keys // items, keys % items])


def train_step(model: Model, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(model.loss(batch).values())).sum().backward()
    optimizer.step()


def eager_epoch(model: Model, sampler: BatchSampler, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    def epoch() -> None:
        for batch in sampler:
            train_step(model, batch, optimizer)

    return epoch


class CapturedEpoch:
    """Epochs whose steps, sampling aside, are replayed CUDA graphs: one for every pair of batch and anchor counts."""

    def __init__(self, model: Model, sampler: BatchSampler, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.sampler, self.optimizer = model, sampler, optimizer
        self.graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Batch]] = {}

    def __call__(self) -> None:
        for batch in self.sampler:
            shape = (batch.users.numel(), batch.anchors.numel())
            if shape not in self.graphs:
                self.graphs[shape] = self.capture(batch)
            graph, static = self.graphs[shape]
            for target, source in zip(static, batch, strict=True):
                if isinstance(target, Tensor):
                    target.copy_(source)
            graph.replay()

    def capture(self, batch: Batch) -> tuple[torch.cuda.CUDAGraph, Batch]:
        static = Batch(*(x.clone() if isinstance(x, Tensor) else x for x in batch))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what is compiled, tuned or allocated at first use
            for _ in range(3):
                train_step(self.model, static, self.optimizer)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            train_step(self.model, static, self.optimizer)
        return graph, static


def time_epochs(report: Report, common: dict[str, Any], epoch: Callable[[], None]) -> None:
    def synchronised() -> float:
        begin = time.perf_counter()
        epoch()
        if not report.tiny:
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - begin)

    synchronised()
    peak = report.peak(synchronised)
    times = [synchronised() for _ in range(2 if report.tiny else 7)]
    low, _, _, high = statistics.quantiles(times, n=5)
    report.add(
        **common,
        median_ms=round(statistics.median(times), 3),
        q20_ms=round(low, 3),
        q80_ms=round(high, 3),
        peak_extra_mib=round(peak, 1),
    )


# -- All ---------------------------------------------------------------------------------------------------------------

#: Sections in the order of running.
SECTIONS: list[Callable[[Report], None]] = [rates, infonce_section, psnet_section, svd_section, training_section]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV file")
    parser.add_argument("--quick", action="store_true", help="one size of each operation")
    parser.add_argument("--minutes", type=float, default=8.0, help="start no further timing after this long")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a rehearsal with tiny sizes")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU: nothing to time")
    arguments.out.mkdir(parents=True, exist_ok=True)
    name = "rehearsal"
    if arguments.device == "cuda":
        name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    device = torch.device(arguments.device)
    report = Report(arguments.out / f"{name}.csv", device, arguments.quick, arguments.minutes)
    for section in SECTIONS:
        section(report)
        report.write()
    print(report.path)


if __name__ == "__main__":
    main()
