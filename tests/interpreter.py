"""Where the tests of Triton kernels run: on a GPU, or in Triton's interpreter, in a process that was started for it."""

from __future__ import annotations

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda")

needs_kernels = pytest.mark.skipif(
    not INTERPRETED and DEVICE.type == "cpu", reason="no GPU: test_compiled.py runs these in the interpreter"
)
