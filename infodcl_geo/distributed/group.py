"""The processes of a run: how they find each other, agree, count what they send, and end together."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import InfodclGeoError

TIMEOUT = 300.0
"""Seconds after which a process that does not answer counts as lost, unless INFODCL_GEO_TIMEOUT says otherwise."""
_CPU = torch.device("cpu")
_LARGE = 1 << 22
"""Bytes of a rank from which on what all get is not copied for each of them first."""
_SIGN_OF_LIFE = 2.0
"""Seconds that the others have to say that they live, once something failed."""


class DistributedError(InfodclGeoError):
    """Processes cannot train together, or one is lost; the message is one line and names the rank."""


class LostRank(DistributedError):
    """Another rank is lost or has failed: what it was doing is in its own message, or in this one."""


def timeout_seconds() -> float:
    """The time-out of everything that waits for another process.

    Raises:
        DistributedError: if the variable is no positive number.
    """
    text = os.environ.get("INFODCL_GEO_TIMEOUT", "")
    try:
        value = float(text or TIMEOUT)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise DistributedError(f"INFODCL_GEO_TIMEOUT is a number of seconds, not {text!r}")
    return value


def number_of(name: str) -> int:
    """A whole number that ``torchrun`` sets in the environment.

    Raises:
        DistributedError: if it is none.
    """
    text = os.environ.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise DistributedError(f"{name} is a whole number that torchrun sets, not {text[:40]!r}")
    return int(text)


@dataclass
class Group:
    """The processes of a run, and the bytes that this one has sent to others.

    Args:
        rank: of this process, from 0.
        size: number of processes.
        store: where they leave short notes for each other.
        timeout: seconds after which a process that does not answer counts as lost.
        device: of this process's tensors.
    """

    rank: int
    size: int
    store: Any
    timeout: float
    device: torch.device = _CPU
    sent: Counter[str] = field(default_factory=Counter)
    """bytes by what they were for"""

    @property
    def first(self) -> bool:
        """Whether this is the process that shows and writes what there is one of."""
        return self.rank == 0

    # -- collectives ----------------------------------------------------------------------------------------------

    def exchange(self, x: Tensor, give: list[int], take: list[int], what: str) -> Tensor:
        """Send ``give[r]`` rows of ``x`` to rank r, in order; the rows of all ranks in theirs.

        Args:
            x: ``[sum(give), ...]``.
            give, take: rows for and from each rank.
            what: under which the bytes are counted.
        """
        x = x.contiguous()
        self.sent[what] += (sum(give) - give[self.rank]) * x[:1].nbytes if x.numel() else 0
        if self.size == 1:
            return x.clone()
        received = x.new_empty(sum(take), *x.shape[1:])
        dist.all_to_all_single(received, x, take, give)
        return received

    def counts(self, give: list[int]) -> list[int]:
        """How many rows each rank will send to this one, which sends ``give[r]`` to rank r."""
        take = self.exchange(torch.tensor(give, device=self.device), [1] * self.size, [1] * self.size, "counts")
        return [int(n) for n in take.tolist()]

    def gather(self, x: Tensor, what: str) -> tuple[Tensor, list[int]]:
        """The rows of all ranks, in their order, and how many each has."""
        sizes = self.all_counts(x.size(0))
        if self.size > 1 and max(sizes) * math.prod(x.shape[1:]) * x.element_size() > _LARGE:
            out = x.new_empty(sum(sizes), *x.shape[1:])
            self.sent[what] += (self.size - 1) * x.nbytes
            for source, part in enumerate(out.split(sizes)):
                if source == self.rank:
                    part.copy_(x)
                dist.broadcast(part, source)
            return out, sizes
        out = self.exchange(x.repeat(self.size, *[1] * (x.dim() - 1)), [x.size(0)] * self.size, sizes, what)
        return out, sizes

    def all_counts(self, count: int) -> list[int]:
        """A whole number of each rank."""
        return [int(n) for n in self.counts([count] * self.size)]

    def sum_(self, x: Tensor, what: str) -> Tensor:
        """The sum over the ranks, in place."""
        if self.size > 1:
            # A ring sends each part once around to add it up and once more to hand it out.
            self.sent[what] += round(2 * (self.size - 1) / self.size * x.nbytes)
            dist.all_reduce(x)
        return x

    def max_(self, x: Tensor, what: str) -> Tensor:
        """The largest over the ranks, in place."""
        if self.size > 1:
            self.sent[what] += round(2 * (self.size - 1) / self.size * x.nbytes)
            dist.all_reduce(x, op=dist.ReduceOp.MAX)
        return x

    def broadcast_(self, x: Tensor, source: int, what: str) -> Tensor:
        """The values of rank ``source``, in place."""
        if self.size > 1:
            self.sent[what] += x.nbytes * (self.size - 1) if self.rank == source else 0
            dist.broadcast(x, source)
        return x

    def objects(self, value: Any) -> list[Any]:
        """A small value of each rank, as JSON."""
        content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)
        everything, sizes = self.gather(content, "agreement")
        return [json.loads(bytes(part.tolist())) for part in everything.split(sizes)]

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.all_counts(0)

    # -- agreement --------------------------------------------------------------------------------------------------

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """See that all ranks have the same of everything that must be.

        Args:
            facts: by a name that a user knows, values that JSON has a form for.

        Raises:
            DistributedError: names the first rank that differs, and in what.
        """
        found = self.objects(dict(facts))
        for rank, other in enumerate(found):
            for name in facts:
                if other.get(name) != found[0].get(name):
                    raise DistributedError(_difference(name, found[0].get(name), other.get(name), rank))

    # -- the end ----------------------------------------------------------------------------------------------------

    def note_failure(self, message: str) -> bool:
        """Leave the reason why this rank ends; whether it is the one that has to say it."""
        with suppress(Exception):
            self.store.set("failed", f"rank {self.rank}: {message}")
        return self._speaks()

    def _speaks(self) -> bool:
        try:
            return int(self.store.add("said", 1)) == 1
        except Exception:  # the store is gone with its process: better twice than not at all
            return True

    def lost(self, error: BaseException) -> tuple[str, bool]:
        """What to say when a collective failed, and whether this rank has to say it.

        A rank that failed by itself has left its reason; one that died or hangs gives no sign of life.
        """
        with suppress(Exception):
            self.store.set(f"alive/{self.rank}", "")
        silent = list(range(self.size))
        end = time.monotonic() + _SIGN_OF_LIFE
        try:
            while time.monotonic() < end and len(silent) > 0:
                silent = [rank for rank in silent if not self.store.check([f"alive/{rank}"])]
                if self.store.check(["failed"]):
                    reason = self.store.get("failed").decode()
                    return f"another process failed ({reason})", self._speaks()
                time.sleep(0.05)
        except Exception:
            silent = []
        if silent:
            who = f"rank {silent[0]} is" if len(silent) == 1 else f"ranks {', '.join(map(str, silent))} are"
            return f"{who} gone or did not answer within {self.timeout:g} s", self._speaks()
        short = " ".join(str(error).split())[:160]
        return f"another process is gone or did not answer within {self.timeout:g} s ({short})", self._speaks()


def _difference(name: str, first: Any, other: Any, rank: int) -> str:
    if isinstance(first, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*first, *other]):
            if first.get(key) != other.get(key):
                return _difference(f"{name} {key}", first.get(key), other.get(key), rank)
    shown = [json.dumps(value)[:60] for value in (other, first)]
    return f"rank {rank} has another {name} ({shown[0]}) than rank 0 ({shown[1]}): start all with the same"


def is_communication(error: BaseException) -> bool:
    """Whether an error of PyTorch is one of the connection between processes."""
    if isinstance(error, dist.DistError):
        return True
    words = ("gloo", "NCCL", "Connection closed", "Connection reset", "Timed out waiting", "recv", "Broken pipe")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _resolve(host: str, port: int) -> None:
    """Look an address up, before PyTorch does and prints where in its code it could not."""
    try:
        socket.getaddrinfo(host or None, port)
    except (OSError, UnicodeError, ValueError, OverflowError):
        raise DistributedError(f"MASTER_ADDR and MASTER_PORT: no address {host[:80]!r}:{port} is known here") from None
    if not host or not 0 < port < 1 << 16:
        raise DistributedError(f"MASTER_ADDR and MASTER_PORT say where processes meet, not {host[:80]!r}:{port}")


def start(
    *, rank: int | None = None, size: int | None = None, url: str | None = None, device: torch.device | None = None
) -> Group:
    """Meet the other processes.

    Args:
        rank, size: of this process, and how many there are; by the variables of ``torchrun`` if missing.
        url: where they meet: ``env://`` (MASTER_ADDR and MASTER_PORT), ``tcp://host:port`` or ``file:///path`` (of a
            file that is not there yet, in a folder that all see); INFODCL_GEO_MEET or ``env://`` if missing.
        device: of the tensors; NCCL carries them where it is a GPU, gloo on a CPU.

    Raises:
        DistributedError: if not all come within the time-out.
    """
    timeout = timeout_seconds()
    device = device or torch.device("cpu")
    url = url or os.environ.get("INFODCL_GEO_MEET") or "env://"
    where = url if url != "env://" else f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    rank = number_of("RANK") if rank is None else rank
    size = number_of("WORLD_SIZE") if size is None else size
    if rank >= size:
        raise DistributedError(f"RANK is below WORLD_SIZE, not {rank} of {size}")
    if url == "env://":
        _resolve(os.environ.get("MASTER_ADDR", ""), number_of("MASTER_PORT"))
    wait = timedelta(seconds=timeout)
    here = 0
    try:
        store, rank, size = next(iter(dist.rendezvous(url, rank, size, timeout=wait)))
        store.set_timeout(wait)
        here = int(store.add("here", 1))
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.PrefixStore("pg", store), rank=rank, world_size=size, timeout=wait)
        group = Group(rank, size, dist.PrefixStore("notes", store), timeout, device)
        group.barrier()
    except (RuntimeError, dist.DistError, OSError, ValueError, OverflowError) as error:
        with suppress(Exception):
            here = int(store.add("here", 0))
        came = f"{here} of {size} processes came" if here else "it cannot be reached"
        raise DistributedError(
            f"rank {rank}: the processes did not meet at {where} within {timeout:g} s ({came}): see that all are "
            "started, with one address, and that no firewall is between them"
        ) from error
    return group


def stop() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        with suppress(Exception):
            dist.destroy_process_group()
