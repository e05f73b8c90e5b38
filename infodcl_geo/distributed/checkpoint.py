"""Checkpoints that several ranks write together and another number of ranks can go on from.

A checkpoint is a folder of ``torch.distributed.checkpoint``: every rank writes its own rows, and what all have is
written once. It is written under another name and renamed when every rank is done, so a folder with a checkpoint's name
is whole; the one before goes after that. Reading the index of that format unpickles it: go on from folders of your own
alone.
"""

from __future__ import annotations

import json
import re
import shutil
import time
import warnings
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from ..errors import CheckpointError, FileError
from ..files import locked, make_folder, shown, write_atomically
from ..training.checkpoint import Checkpoint, CheckpointWarning, check_same_run, run_of
from ..training.optim import LazyAdam
from ..training.options import CheckpointOptions
from ..training.state import EpochProgress, TrainState
from .exchange import ShardedEmbedding
from .group import Group, is_communication

if TYPE_CHECKING:
    from .workers import Workers

FORMAT = 1
_NAME = re.compile(r"checkpoint-[0-9]{6,}-[0-9]{8,}")
_ABOUT = "run.json"


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints of several ranks in a folder, the newest first."""
    place = Path(folder)
    if not place.is_dir():
        return []
    found = [path for path in place.iterdir() if _NAME.fullmatch(path.name) and (path / _ABOUT).is_file()]
    return sorted(found, key=lambda path: [int(part) for part in path.name.split("-")[1:]], reverse=True)


def remove_checkpoints(folder: str | Path) -> None:
    """Remove the checkpoints of a run whose result is saved."""
    for path in checkpoints(folder):
        shutil.rmtree(path, ignore_errors=True)


class ShardedCheckpoint(Checkpoint):
    """Writes checkpoints of all ranks; rank 0 says when by its clock, and locks the folder.

    Args:
        options: see :class:`~infodcl_geo.training.options.CheckpointOptions`; the folder is seen by all ranks.
        workers: the rank's part of the run.
    """

    def __init__(self, options: CheckpointOptions, workers: Workers) -> None:
        super().__init__(options)
        self.workers, self.group = workers, workers.group

    def on_start(self, state: TrainState) -> None:
        if self.group.first:
            make_folder(self.folder)
            self._held.enter_context(locked(self.folder, wait=False))
            for path in self.folder.glob("*.unfinished"):
                shutil.rmtree(path, ignore_errors=True)
        self.group.barrier()
        if self.workers.resumed:  # what was gone on from stays until there is a newer one
            self._place = state.place
        self._write(state)

    def on_step(self, state: TrainState) -> None:
        if self.workers.due:
            self.workers.due = False
            self._write(state)

    def on_end(self, state: TrainState) -> None:
        with self._held:
            # After an error the ranks do not meet again.
            if state.error is None:
                self._write(state)

    def _write(self, state: TrainState) -> None:
        place = state.place
        if place != self._place:
            state.verify()
            self._place = place
            try:
                save_checkpoint(self.folder / f"checkpoint-{place[0]:06}-{place[1]:08}", state, self.workers)
            except FileError as error:
                warnings.warn(f"{error}; the checkpoint before stays", CheckpointWarning, stacklevel=2)
            else:
                if self.group.first:
                    for old in checkpoints(self.folder)[self.options.keep :]:
                        shutil.rmtree(old, ignore_errors=True)
        self._written = time.monotonic()


def save_checkpoint(path: Path, state: TrainState, workers: Workers) -> None:
    """Write what the next step depends on; all ranks call this at once.

    Raises:
        FileError: on all ranks, if one of them cannot write.
    """
    group, unfinished = workers.group, path.with_name(f"{path.name}.unfinished")
    if group.first:
        shutil.rmtree(unfinished, ignore_errors=True)
    group.barrier()
    problem = ""
    try:
        dcp.save(tensors_of(state, workers), storage_writer=dcp.FileSystemWriter(str(unfinished)))
        if group.first:
            write_atomically(unfinished / _ABOUT, (json.dumps(_described(state)) + "\n").encode())
            if path.exists():
                shutil.rmtree(path)
            unfinished.rename(path)
    except Exception as error:
        if is_communication(error):
            raise
        problem = " ".join(str(error).split())[:200] or type(error).__name__
    for rank, found in enumerate(group.objects(problem)):
        if found:
            raise FileError(f"{shown(path)}: rank {rank} cannot write the checkpoint ({found})")


def restore(state: TrainState, folder: str | Path, workers: Workers) -> Path:
    """Put a run that has just been set up where the newest checkpoint is, however many ranks wrote it.

    Raises:
        CheckpointError: if there is none, or it is another run's.
    """
    found = checkpoints(folder)
    if not found:
        raise CheckpointError(f"{shown(folder)} holds no checkpoint of several processes: begin without resuming")
    path = found[0]
    try:
        described = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise CheckpointError(f"{shown(path)} is of format {described['format']!r}: this version reads {FORMAT}")
        check_same_run(path, state, described)
        if described["sharded"] != workers.sharded:
            kinds = ["whole", "sharded"]
            raise CheckpointError(f"{shown(path)} was written with --tables {kinds[described['sharded']]}: give that")
        tensors = tensors_of(state, workers, described)
        dcp.load(tensors, storage_reader=dcp.FileSystemReader(str(path)))
        _take(state, tensors, described, workers)
    except CheckpointError:
        raise
    except Exception as error:
        if is_communication(error):
            raise
        raise CheckpointError(f"{shown(path)} is damaged or no checkpoint of this model: begin anew") from error
    return path


def tensors_of(state: TrainState, workers: Workers, described: dict[str, Any] | None = None) -> dict[str, Any]:
    """Tensors by name, those of this rank's rows as parts of whole ones.

    Args:
        state, workers: the run.
        described: of the checkpoint that is read: whether it has best weights, and what sums.
    """
    whole = Whole(workers)
    tensors = {f"model/{name}": whole(name, value) for name, value in state.model.state_dict().items()}
    has_best = state.best_weights is not None if described is None else described["best"] is not None
    if has_best:
        best = state.best_weights or state.model.state_dict()
        tensors |= {f"best/{name}": whole(name, value.clone()) for name, value in best.items()}
    for name, weight in state.model.named_parameters():
        found = state.optimizer.state.get(weight, {})
        if not found and described is not None and name in described["moments"]:
            # Moments appear with the first gradient: what is read needs a place.
            found = {"step": torch.zeros(()), **{key: torch.zeros_like(weight) for key in ("exp_avg", "exp_avg_sq")}}
            state.optimizer.state[weight] = found
        tensors |= {f"optimizer/{name}/{key}": whole(name, value) for key, value in found.items()}
    if isinstance(state.optimizer, LazyAdam):
        steps = state.optimizer.steps if described is None else int(described["steps"])
        tail = state.optimizer._tail[: steps + 1] if described is None else torch.zeros(steps + 1, dtype=torch.float64)
        tensors["tail"] = tail
    tensors |= {f"training/{name}": value for name, value in state.model.training_state().items()}
    tensors |= {f"buffer/{name}": value for name, value in state.moved_buffers().items()}
    generator = state.sampler.generator
    assert generator is not None
    tensors["random"] = generator.get_state()
    if state.progress is not None or (described is not None and described["step"] is not None):
        sums = {} if state.progress is None else state.progress.sums
        names = list(sums) if described is None else described["sums"]
        values = torch.tensor(
            [float(sums[name]) for name in names] if sums else [0.0] * len(names), dtype=torch.float64
        )
        # Each rank has its contributions; they are kept as their sum.
        tensors["sums"] = workers.group.sum_(values, "checkpoint")
    return tensors


class Whole:
    """Says of a tensor which part of a whole one it is."""

    def __init__(self, workers: Workers) -> None:
        self.group: Group = workers.group
        self.mesh: DeviceMesh = init_device_mesh(self.group.device.type, (self.group.size,))
        self.part = workers.part
        self.sharded = workers.sharded

    def __call__(self, name: str, value: Tensor) -> Tensor:
        side = next((s for s in ("user", "item") if name.startswith(f"{s}_embedding.local")), None)
        if not self.sharded or side is None or value.dim() == 0:
            return value
        rows = self.part.users if side == "user" else self.part.items
        shape = torch.Size([rows.total, *value.shape[1:]])
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(value.detach(), self.mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


def _described(state: TrainState) -> dict[str, Any]:
    progress, optimizer = state.progress, state.optimizer
    named = dict(state.model.named_parameters())
    return {
        "format": FORMAT,
        "identity": state.identity,
        "run": run_of(state),
        "sharded": any(isinstance(module, ShardedEmbedding) for module in state.model.modules()),
        "epoch": state.epoch,
        "step": None if progress is None else progress.step,
        "sums": None if progress is None else list(progress.sums),
        "epoch_seconds": None if progress is None else progress.seconds,
        "seconds": state.seconds,
        "best": state.best if state.best_weights is not None else None,
        "moments": [name for name, weight in named.items() if optimizer.state.get(weight)],
        "steps": optimizer.steps if isinstance(optimizer, LazyAdam) else None,
        "result": asdict(state.result),
    }


@torch.no_grad()
def _take(state: TrainState, tensors: dict[str, Any], described: dict[str, Any], workers: Workers) -> None:
    def local(value: Any) -> Tensor:
        return value.to_local() if isinstance(value, DTensor) else value

    # Weights and moments were read into their own memory; copies are only for what is not the run's own.
    for name, value in state.model.state_dict().items():
        value.copy_(local(tensors[f"model/{name}"]))
    for name, value in tensors.items():
        if name.startswith("buffer/"):
            owner, _, last = name.removeprefix("buffer/").rpartition(".")
            getattr(state.model.get_submodule(owner), last).copy_(value)
    state.model.load_training_state(
        {name.removeprefix("training/"): v for name, v in tensors.items() if name.startswith("training/")}
    )
    for name, weight in state.model.named_parameters():
        for key, value in state.optimizer.state.get(weight, {}).items():
            value.copy_(local(tensors[f"optimizer/{name}/{key}"]))
    if isinstance(state.optimizer, LazyAdam):
        state.optimizer.steps = int(described["steps"])
        size = 1024
        while size <= state.optimizer.steps + 1:
            size *= 2
        state.optimizer._tail = torch.zeros(size, dtype=torch.float64)
        state.optimizer._tail[: state.optimizer.steps + 1] = tensors["tail"]
    for key, value in described["result"].items():
        setattr(state.result, key, value)
    state.result.ended, state.result.interrupted = "", False
    if described["best"] is not None:
        state.best = float(described["best"])
        state.best_weights = {
            name.removeprefix("best/"): local(v).clone() for name, v in tensors.items() if name.startswith("best/")
        }
    state.epoch, state.seconds_before = int(described["epoch"]), float(described["seconds"])
    sampler: Any = state.sampler
    sampler.epoch = state.epoch
    generator = sampler.generator
    if described["step"] is not None:
        # What was summed is rank 0's from now on, so that the sum over the ranks stays what it was.
        share = 1.0 if workers.group.first else 0.0
        values = tensors["sums"] * share
        state.progress = EpochProgress(
            generator.get_state(),
            sampler.draw(),
            int(described["step"]),
            {name: value.to(workers.group.device) for name, value in zip(described["sums"], values, strict=True)},
            float(described["epoch_seconds"]),
        )
        state.watch.restart(state.progress.step)
    generator.set_state(tensors["random"])
    if not workers.contributes:
        # What such a model draws is for its own pairs: the ranks shall not all draw the same.
        place = f"{sampler.seed} {workers.group.rank} {state.epoch} {described['step']}"
        generator.manual_seed(zlib.crc32(place.encode()))
