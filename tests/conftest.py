"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # In the background of a shell Ctrl-C is ignored, and every process that a test starts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets; skips the test where there is none."""
    root = Path(os.environ.get("INFODCL_GEO_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip("no real data: set INFODCL_GEO_DATA to the folder of the data sets")
    return root


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same numbers whichever tests ran before it."""
    torch.manual_seed(0)


def module_at(path: Path) -> ModuleType:
    """A file that is in no package, imported by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """Imports a benchmark script by its name."""
    return lambda name: module_at(ROOT / "benchmarks" / f"{name}.py")


@pytest.fixture(scope="session")
def example() -> Callable[[str], ModuleType]:
    """Imports an example by its name."""
    return lambda name: module_at(ROOT / "examples" / f"{name}.py")


@pytest.fixture(scope="session")
def doc_script() -> Callable[[str], ModuleType]:
    """Imports a script or an extension of the documentation by its path below ``docs``, without the ending."""
    docs = ROOT / "docs"
    if str(docs / "_ext") not in sys.path:  # they import each other
        sys.path.insert(0, str(docs / "_ext"))
    return lambda name: module_at(docs / f"{name}.py")
