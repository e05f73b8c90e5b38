"""``benchmarks/gpu.sh`` where there is no GPU: its rehearsal, with no more packages than it promises to need."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]

#: The extras, without which the script works.
HIDDEN = """
import sys
from importlib.machinery import PathFinder

class WithoutOptional(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] not in {"matplotlib", "numba", "optuna", "pandas", "pyarrow", "pytest",
                                      "torch_scatter", "torch_sparse", "triton"}:
            return super().find_spec(name, path, target)

sys.meta_path = [WithoutOptional if finder is PathFinder else finder for finder in sys.meta_path]
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_rehearsal_in_a_bare_environment(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDDEN)
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--device", "cpu", "--out", str(tmp_path)],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    lines = (tmp_path / "rehearsal.csv").read_text().splitlines()
    header = dict(line.removeprefix("# ").split(": ", 1) for line in lines if line.startswith("#"))
    assert header["triton"] == "none"
    assert header["sparse products"] == "torch CSR"
    assert float(header["copy_bytes_per_s"]) > 0
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    failed = [row for row in rows if not row["median_ms"]]
    assert not failed
    timed = {(row["operation"], row["implementation"], row["pass"]) for row in rows}
    for operation, ours, peer in (
        ("infonce", "infonce", "eager"),
        ("psnet, population", "psnet", "torch.compile"),
        ("psnet, item", "psnet", "eager"),
    ):
        for which in ("forward", "backward", "both"):
            assert {(operation, ours, which), (operation, peer, which)} <= timed
    assert ("svd", "batched_svd", "forward") in timed
    assert {("top 5", "top_k", "forward"), ("top 5", "eager", "forward")} <= timed
    assert ("ranking, 1 items", "rank_items", "forward") in timed
    models = {row["implementation"] for row in rows if row["operation"] == "training epoch"}
    assert models == {"mf", "infodcl, one channel", "infodcl, two channels", "lightgcn", "simgcl"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_runs_up_to_the_first_timing(tmp_path: Path) -> None:
    """The kernels' tests are found with the package as links lay it out, and then there is nothing to time."""
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--out", str(tmp_path)],
        env={**os.environ, "PYTHON": sys.executable},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "skipped" in done.stdout, said
    assert "failed" not in done.stdout, said
    assert "error" not in done.stdout, said
    assert done.stderr.strip().endswith("no GPU: nothing to time"), said
    assert done.returncode == 1
