"""What a run finds around it: devices, and versions of packages."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from .errors import OptionError


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for name in ("infodcl-geo", "torch", "torch-geometric", "torch-sparse", "numpy", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def is_one_of_several() -> bool:
    """Whether this process was started as one of several, by ``torchrun`` or the same variables."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1") and "RANK" in os.environ


def keep_freed_memory() -> None:
    """Let the allocator of the C library keep up to 64 MiB of what is freed, instead of giving it back at each step.

    glibc maps blocks above a threshold anew each time, and gives the heap's end back to the system: each step of a
    small model then waits for thousands of pages of zeros (7% of an epoch of LightGCN on Amazon-Office). The threshold
    grows to the largest such block that was ever freed, at most 32 MiB. Other allocators do not mind.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def device_of(name: torch.device | str | None) -> torch.device:
    """The device of that name; a CUDA device if there is one, and a CPU otherwise, where none is named.

    Raises:
        OptionError: if there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise OptionError(f"device must be 'cpu' or 'cuda', not {str(name)!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"device {str(name)!r}: {torch.cuda.device_count()} CUDA devices can be used here; give cpu")
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"device must be 'cpu' or 'cuda', not {str(name)!r}")
    return device
