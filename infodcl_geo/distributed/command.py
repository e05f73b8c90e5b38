"""``torchrun ... -m infodcl_geo train``: the same options on several processes, one progress bar, one output."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable

import torch

from ..environment import device_of
from ..errors import InfodclGeoError
from .group import Group, LostRank, is_communication, number_of, start, stop


def together(work: Callable[[Group], int], device: str | None) -> int:
    """Meet, work, and end together: whatever ends one rank ends all, with one line by one of them.

    Args:
        work: of a rank; an error of the user's ends it as on one process.
        device: where tensors are; by default a GPU for each rank where there are any.
    """
    rank = number_of("RANK")
    if rank:
        # One output: that of rank 0. Errors are said by the rank that has them, or by the first that notices.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the interpreter ends
        warnings.simplefilter("ignore")
    target = device_of(device)
    if target.type == "cuda" and target.index is None:
        target = torch.device("cuda", number_of("LOCAL_RANK") if "LOCAL_RANK" in os.environ else 0)
        torch.cuda.set_device(target)
    group = start(device=target)
    try:
        code = work(group)
        group.barrier()
        return code
    except InfodclGeoError as error:
        # The same error on all ranks (other data, a full disk) is said once.
        if group.note_failure(str(error)):
            raise
        return 1
    except KeyboardInterrupt:
        group.note_failure("interrupted")
        raise
    except Exception as error:
        if not is_communication(error):
            group.note_failure(f"{type(error).__name__}: {error}"[:300])
            raise
        reason, speaks = group.lost(error)
        if not speaks:
            return 1
        raise LostRank(f"{reason}: all have ended; what was kept last is whole, --resume goes on from it") from error
    finally:
        stop()
