"""Starts functions in several processes that meet through a file, for the tests of :mod:`infodcl_geo.distributed`."""

from __future__ import annotations

import multiprocessing as mp
import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXT = mp.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch", "torch.distributed", "infodcl_geo.distributed.workers", "infodcl_geo.experiment"]
)


def _entry(
    function: Callable[..., Any], rank: int, size: int, folder: str, timeout: float, arguments: tuple[Any, ...]
) -> None:
    os.environ["INFODCL_GEO_TIMEOUT"] = str(timeout)
    import torch

    from infodcl_geo.distributed.group import start, stop

    torch.set_num_threads(1)
    try:
        group = start(rank=rank, size=size, url=f"file://{folder}/meet")
        result = ("value", function(group, *arguments))
    except BaseException as error:
        result = ("error", f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
    (Path(folder) / f"result-{rank}").write_bytes(pickle.dumps(result))
    stop()


def run_ranks(
    function: Callable[..., Any], size: int, folder: Path, *arguments: Any, timeout: float = 240.0
) -> list[Any]:
    """What ``function(group, *arguments)`` returns on each of ``size`` ranks; an error of one fails the test."""
    folder.mkdir(parents=True, exist_ok=True)
    started = [
        CONTEXT.Process(target=_entry, args=(function, rank, size, str(folder), timeout, arguments))
        for rank in range(size)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(4 * timeout)
    values = []
    for rank in range(size):
        kind, value = pickle.loads((folder / f"result-{rank}").read_bytes())
        assert kind == "value", f"rank {rank}: {value}"
        values.append(value)
    return values
