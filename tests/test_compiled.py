"""The Triton kernels without a GPU: every numerical test in Triton's interpreter, and all that it launches compiled.

A specialisation is what a launch makes the compiler build: a kernel with the types, alignments and constants of its
arguments. ``launches.py`` notes those of the interpreted tests and asks what they would be on each GPU; every one must
compile to code that spills no register and fits the shared memory.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

pytest.importorskip("triton")

from aot import TARGETS, compile_report, compile_specialisation
from launches import Call, Specialisation, launching_nothing, specialisations

TESTS = Path(__file__).parent
pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], list[Call]]:
    """The tests of the kernels, run in the interpreter, and the calls they made."""
    path = tmp_path_factory.mktemp("launches") / "calls"
    paths = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    files = sorted(map(str, TESTS.glob("test_*_triton.py")))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "launches", "-p", "no:cacheprovider", *files],
        env={**os.environ, "TRITON_INTERPRET": "1", "RECORD_LAUNCHES": str(path), "PYTHONPATH": paths},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done, pickle.loads(path.read_bytes()) if path.exists() else []


def needed(calls: list[Call], target: str) -> list[Specialisation]:
    return specialisations(calls, 0 if target.startswith("gfx") else int(target.removeprefix("sm_")))


def check(specialisation: Specialisation, target: str) -> None:
    report = compile_specialisation(specialisation, target)
    assert report.fits, (report, specialisation)
    streams = report.kernel in ("forward_kernel", "candidate_kernel") and "infonce" in specialisation.module
    if streams and target == "sm_90" and any(kind in ("*bf16", "*fp16") for _, kind in specialisation.signature):
        assert not report.serial_products, (report, specialisation)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the GPU itself")
def test_numbers_in_the_interpreter(interpreted: tuple[subprocess.CompletedProcess[str], list[Call]]) -> None:
    done, calls = interpreted
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert len(calls) > 100


@pytest.mark.slow
def test_a_sample_of_the_launches_compiles(
    interpreted: tuple[subprocess.CompletedProcess[str], list[Call]],
) -> None:
    """Of each kernel and target the specialisation with the most constants, so the widest and fullest; two turns."""
    for number, target in enumerate(TARGETS):
        by_kernel: dict[tuple[str, str], list[Specialisation]] = {}
        for one in needed(interpreted[1], target):
            by_kernel.setdefault((one.module, one.kernel), []).append(one)
        assert by_kernel
        for kind in by_kernel.values():
            kind.sort(key=lambda one: (len(one.signature), repr(one)))
            check(kind[-1 - number % len(kind)], target)


@pytest.mark.slow
@pytest.mark.parametrize("target", list(TARGETS))
def test_every_launch_compiles(interpreted: tuple[subprocess.CompletedProcess[str], list[Call]], target: str) -> None:
    for one in needed(interpreted[1], target):
        check(one, target)


# -- At the shapes of training -----------------------------------------------------------------------------------------


def infonce_step(dtype: torch.dtype, d: int = 64) -> Callable[[], Any]:
    from infodcl_geo.kernels.infonce_common import InfoNCEOptions
    from infodcl_geo.kernels.infonce_launch import TritonTiles

    def call() -> None:
        x, y = torch.zeros(2048, d, dtype=dtype), torch.zeros(11_589, d, dtype=dtype)
        rows = torch.zeros(2048, dtype=torch.int64)
        work = TritonTiles(x, y, rows, None, None, None, None, None, 0.5, True, True, InfoNCEOptions().flat())
        work.forward(True, True)
        work.candidate_grad(torch.ones(2048), torch.zeros(2048), True)

    return call


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_products_of_one_program_run_beside_exponentials_of_another(target: str) -> None:
    found: dict[Specialisation, None] = {}
    with launching_nothing(found, int(target.removeprefix("sm_"))):
        infonce_step(torch.bfloat16)()
    reports = [
        compile_specialisation(one, target) for one in found if one.kernel in ("forward_kernel", "candidate_kernel")
    ]
    assert len(reports) == 2
    for report in reports:
        assert report.fits
        assert report.programs >= 2, report
        assert not report.serial_products


def test_every_launch_is_made_on_the_inputs_device() -> None:
    """With several GPUs the current one need not be that of the tensors."""
    import test_psnet_kernel
    import triton

    from infodcl_geo.kernels import ItemTable, infonce, infonce_op, psnet_diffuse, psnet_triton, svd_triton, topk_triton

    psnet = sys.modules["infodcl_geo.kernels.psnet"]
    entered: list[torch.Tensor] = []
    launched = []

    class Guard:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def __enter__(self) -> None:
            entered.append(self.tensor)

        def __exit__(self, *_: object) -> None:
            entered.pop()

    def run(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **named: Any) -> None:
        assert entered, kernel.__name__
        launched.append(kernel.__name__)

    with (
        mock.patch.object(torch.cuda, "device_of", Guard),
        mock.patch.object(triton.JITFunction, "run", run),
        mock.patch.object(infonce_op, "uses_triton", return_value=True),
        mock.patch.object(psnet, "_uses_triton", return_value=True),
    ):
        x, y = torch.zeros(3, 8, requires_grad=True), torch.zeros(9, 8, requires_grad=True)
        infonce(x, y, torch.zeros(3, dtype=torch.int64)).backward()
        p = test_psnet_kernel.problem(3, 8, dtype=torch.float32)
        torch.stack(psnet_diffuse(*p.arguments())).sum().backward()
        svd_triton.svd_triton(torch.zeros(3, 4, 4))
        rows = torch.arange(3)
        topk_triton.top_k_triton(x.detach(), torch.ones(3).double(), ItemTable(y), 2, rows, (rows, rows, rows))
    kernels = {"unit_kernel", "forward_kernel", "anchor_kernel", "candidate_kernel", "backward_kernel", "svd_kernel"}
    kernels |= {"select_kernel", "order_kernel"}
    assert kernels <= set(launched)
    assert psnet_triton.forward_kernel.__name__ in launched


@pytest.mark.parametrize("target", list(TARGETS))
def test_top_k_spills_nothing_where_training_validates(target: str) -> None:
    from infodcl_geo.kernels import ItemTable
    from infodcl_geo.kernels.topk_triton import top_k_triton

    found: dict[Specialisation, None] = {}
    with launching_nothing(found, 0 if target.startswith("gfx") else int(target.removeprefix("sm_"))):
        users, table, rows = torch.zeros(2048, 64), ItemTable(torch.zeros(9000, 64)), torch.zeros(2048).long()
        top_k_triton(users, torch.ones(2048).double(), table, 64, rows, (rows, rows, rows))
    assert [one.kernel for one in found] == ["select_kernel", "order_kernel"]
    for one in found:
        check(one, target)


# -- The benchmark's own kernel ----------------------------------------------------------------------------------------


def test_the_kernel_that_measures_exponentials_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS.parent / "benchmarks"))
    from gpu_rates import exponentials

    report = compile_report(exponentials, {"out": "*fp32"}, {"ROUNDS": 512, "BLOCK": 1024}, "sm_90")
    assert report.fits
    assert report.threads == 128
