"""Compile Triton kernels ahead of time, without a GPU, and read what the compiled code needs.

``compile_report`` answers for one kernel, one set of argument types and one target: how many registers a thread
holds, how many bytes it spills and how much shared memory a program takes. The numbers come from the compiled
artefact itself: the resource table of the cubin on NVIDIA targets, the kernel descriptor on AMD targets.

    report = compile_report(kernel, {"x": "*fp32", "n": "i64"}, {"BLOCK": 128}, "sm_90", num_warps=4)
    assert report.fits, report

Use it in a process in which ``TRITON_INTERPRET`` is unset: under the interpreter there is nothing to compile.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from launches import Specialisation
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

#: name: (target, bytes of shared memory that one program may take)
TARGETS: dict[str, tuple[GPUTarget, int]] = {
    "sm_80": (GPUTarget("cuda", 80, 32), 163 * 1024),
    "sm_90": (GPUTarget("cuda", 90, 32), 227 * 1024),
    "sm_100": (GPUTarget("cuda", 100, 32), 227 * 1024),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 * 1024),
}


@dataclass(frozen=True)
class CompileReport:
    """What one compiled kernel needs on one target."""

    kernel: str
    target: str
    registers: int  #: vector registers a thread holds
    spills: int  #: bytes of memory a thread spills to (on AMD scalar registers spill into vector registers first)
    shared: int  #: bytes of shared memory a program takes
    shared_limit: int  #: bytes of shared memory the target grants one program
    threads: int  #: of a program
    binary: bytes = field(repr=False)

    @property
    def fits(self) -> bool:
        """No register is spilled and the shared memory is within the target's limit."""
        return self.spills == 0 and self.shared <= self.shared_limit

    @property
    def programs(self) -> int:
        """Programs that the registers and the shared memory of an NVIDIA multiprocessor hold at a time."""
        by_registers = 65_536 // (self.threads * -(-self.registers // 8) * 8)
        return min(by_registers, self.shared_limit // max(1, self.shared))

    @property
    def serial_products(self) -> bool:
        """Whether the compiler makes each of Hopper's asynchronous matrix products wait for the last."""
        instructions = _run_on_cubin(self.binary, "nvdisasm", "-c")
        # A group of products that run on their own begins with the second of these.
        return 0 < instructions.count("HGMMA") <= instructions.count("WARPGROUP.ARRIVE")


def compile_report(
    kernel: Any,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any],
    target: str,
    *,
    num_warps: int = 4,
    num_stages: int = 3,
    aligned: Collection[str] | None = None,
    **backend_options: Any,
) -> CompileReport:
    """Compile ``kernel`` (a ``triton.jit`` function) for ``target`` and report its resources.

    Args:
        kernel: the decorated function.
        signature: type of every run-time argument: ``"*fp32"``, ``"*i64"``, ``"i32"``, ``"fp32"``, ...
        constexprs: value of every ``tl.constexpr`` argument and of arguments that are None at launch.
        target: a name in ``TARGETS``.
        num_warps, num_stages: as at launch.
        aligned: arguments that are multiples of 16 at launch (the launcher specialises on it); by default all pointers.
        backend_options: any other launch option of the back end.
    """
    gpu, shared_limit = TARGETS[target]
    names = list(kernel.arg_names)
    unknown = (set(signature) | set(constexprs)) ^ set(names)
    if unknown:
        raise ValueError(
            f"signature and constexprs must name exactly the kernel's arguments; differing: {sorted(unknown)}"
        )
    if aligned is None:
        aligned = [name for name, kind in signature.items() if kind.startswith("*")]
    source = ASTSource(
        fn=kernel,
        signature={name: signature.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constexprs.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": num_warps, "num_stages": num_stages, **backend_options}
    compiled = triton.compile(source, target=gpu, options=options)
    registers, spills = (_cubin if gpu.backend == "cuda" else _amdgcn)(compiled.asm)
    return CompileReport(
        kernel.__name__, target, registers, spills, compiled.metadata.shared, shared_limit, gpu.warp_size * num_warps,
        compiled.kernel,
    )  # fmt: skip


def compile_specialisation(specialisation: Specialisation, target: str) -> CompileReport:
    """Compile what a launch asks for, see ``launches.specialisations``."""
    module, kernel, signature, constants, aligned, launch = specialisation
    function = getattr(importlib.import_module(module), kernel)
    return compile_report(function, dict(signature), dict(constants), target, aligned=aligned, **dict(launch))


def _run_on_cubin(cubin: bytes, tool: str, *options: str) -> str:
    """What one of the CUDA tools that come with Triton prints about a cubin."""
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(path), *options, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _cubin(asm: Mapping[str, Any]) -> tuple[int, int]:
    text = _run_on_cubin(asm["cubin"], "cuobjdump", "--dump-resource-usage")
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resource usage:\n{text}")
    registers, stack, local = map(int, found.groups())
    return registers, stack + local


def _amdgcn(asm: Mapping[str, Any]) -> tuple[int, int]:
    def field(name: str) -> int:
        found = re.search(rf"\.{name}:\s*(\d+)", asm["amdgcn"])
        if found is None:
            raise RuntimeError(f"the compiled assembly has no field {name}")
        return int(found.group(1))

    return field("vgpr_count"), field("private_segment_fixed_size")
