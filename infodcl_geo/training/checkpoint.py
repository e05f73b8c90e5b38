"""Checkpoints of a training run: all that the next step depends on, in one file of tensors and JSON.

A file is in the safetensors format, so reading it runs no code. Its header holds what is no tensor, and the SHA-256 of
the whole file (with zeros in the digest's own place), which is checked before anything is used.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..errors import CheckpointError, FileError, InfodclGeoError, TrainingError
from ..files import locked, make_folder, prune_temporaries, read_file, shown, write_atomically
from .callbacks import Callback
from .options import CheckpointOptions
from .state import EpochProgress, TrainState

FORMAT = 1
_NO_DIGEST = "0" * 64
_NAME = re.compile(r"checkpoint-[0-9]{6,}-[0-9]{8,}\.safetensors")
_FREE = ("epochs", "patience")  # options that may be others when a run goes on


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written, or an older one is gone on from."""


class Checkpoint(Callback):
    """Writes checkpoints as training goes on, and a last one when it ends, whatever ended it.

    The folder is locked meanwhile. A checkpoint that cannot be written in the midst of training is a warning: the one
    before is still there, and training may be worth more than another. A batch that made training diverge is kept in
    ``diverged-batch.safetensors``.

    Args:
        options: see :class:`~infodcl_geo.training.options.CheckpointOptions`.
    """

    def __init__(self, options: CheckpointOptions) -> None:
        self.options = options
        self.folder = Path(options.folder)
        self._held = ExitStack()
        self._written = time.monotonic()
        self._place = (-1, -1)

    def on_start(self, state: TrainState) -> None:
        make_folder(self.folder)
        self._held.enter_context(locked(self.folder, wait=False))
        prune_temporaries(self.folder)
        self._write(state)

    def is_due(self) -> bool:
        """Whether it is time for one, by this process's clock."""
        minutes = self.options.every_minutes
        return minutes is not None and time.monotonic() - self._written >= 60 * minutes

    def on_step(self, state: TrainState) -> None:
        if self.is_due():
            self._try(state)

    def on_epoch(self, state: TrainState) -> None:
        self.on_step(state)
        if self.options.every_epochs is not None and state.epoch % self.options.every_epochs == 0:
            self._try(state)

    def on_end(self, state: TrainState) -> None:
        with self._held:
            if isinstance(state.error, TrainingError):
                self._keep_batch(state.error)
            elif state.error is None:
                self._try(state)

    def _try(self, state: TrainState) -> None:
        try:
            self._write(state)
        except FileError as error:
            self._written = time.monotonic()
            warnings.warn(f"{error}; the checkpoint before stays", CheckpointWarning, stacklevel=2)

    def _write(self, state: TrainState) -> None:
        place = state.place
        if place != self._place:
            state.verify()
            path = self.folder / f"checkpoint-{place[0]:06}-{place[1]:08}.safetensors"
            save_checkpoint(path, state)
            self._place = place
            for old in checkpoints(self.folder)[self.options.keep :]:
                old.unlink(missing_ok=True)
        self._written = time.monotonic()

    def _keep_batch(self, error: TrainingError) -> None:
        if error.batch is None:
            return
        tensors = {name: value.cpu() for name, value in error.batch._asdict().items() if isinstance(value, Tensor)}
        place = {"epoch": error.epoch, "step": error.step, "term": error.term, "weight": error.batch.anchor_weight}
        header = {name: str(value) for name, value in place.items()}
        try:
            write_atomically(self.folder / "diverged-batch.safetensors", save_tensors(tensors, header))
        except FileError as failed:
            warnings.warn(str(failed), CheckpointWarning, stacklevel=2)


def checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    place = Path(folder)
    if not place.is_dir():
        raise CheckpointError(f"{shown(place)} is no folder of checkpoints: begin without resuming")
    found = [path for path in place.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: [int(part) for part in path.stem.split("-")[1:]], reverse=True)


def remove_checkpoints(folder: str | Path) -> None:
    """Remove the checkpoints of a run whose result is saved."""
    place = Path(folder)
    if place.is_dir():
        with locked(place):
            for path in checkpoints(place):
                path.unlink(missing_ok=True)
            prune_temporaries(place)


def save_checkpoint(path: str | Path, state: TrainState) -> None:
    """Write all that the next step of a run depends on, at the end of a step or of an epoch.

    Raises:
        FileError: see :func:`~infodcl_geo.files.write_atomically`.
    """
    tensors, optimizer = _flattened("optimizer", state.optimizer.state_dict())
    model = state.model
    for part, values in (
        ("model", model.state_dict()),
        ("buffer", state.moved_buffers()),
        ("training", model.training_state()),
        ("best", state.best_weights or {}),
        ("random", _random_states(state)),
    ):
        tensors |= {f"{part}/{name}": value for name, value in values.items()}
    progress = state.progress
    if progress is not None:
        tensors["random/epoch"] = progress.start
        tensors |= {f"sums/{name}": value for name, value in progress.sums.items()}
    described = {
        "format": FORMAT,
        "identity": state.identity,
        "run": run_of(state),
        "epoch": state.epoch,
        "step": None if progress is None else progress.step,
        "sums": None if progress is None else list(progress.sums),
        "epoch_seconds": None if progress is None else progress.seconds,
        "seconds": state.seconds,
        "best": state.best if state.best_weights is not None else None,
        "result": asdict(state.result),
        "optimizer": optimizer,
    }
    header = {"sha256": _NO_DIGEST, "infodcl_geo": json.dumps(described)}
    content = memoryview(save_tensors({name: _own(value) for name, value in tensors.items()}, header))
    start = _digest_place(content)
    digest = hashlib.sha256(content).hexdigest().encode()

    def write(file: BinaryIO) -> None:
        file.write(content[:start])
        file.write(digest)
        file.write(content[start + len(digest) :])

    write_atomically(path, write)


def restore(state: TrainState, folder: str | Path) -> Path:
    """Put a run that has just been set up where the newest checkpoint in ``folder`` is, and return that file.

    Raises:
        CheckpointError: if there is none that is whole, or it is another run's.
    """
    found = checkpoints(folder)
    if not found:
        raise CheckpointError(f"{shown(folder)} holds no checkpoint: begin without resuming")
    for path, is_last in zip(found, [*[False] * (len(found) - 1), True], strict=True):
        try:
            tensors, described = read_checkpoint(path)
        except CheckpointError as error:
            if is_last:
                raise
            warnings.warn(f"{error}; going on from the one before", CheckpointWarning, stacklevel=2)
            continue
        check_same_run(path, state, described)
        with _one_line(path):
            _load(state, tensors, described)
        return path
    raise AssertionError


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description in a checkpoint whose digest is right.

    Raises:
        CheckpointError: if it is damaged or something else.
    """
    try:
        content = bytearray(read_file(path))
    except FileError as error:
        raise CheckpointError(str(error)) from error
    with _one_line(path):
        start = _digest_place(memoryview(content))
        digest = bytes(content[start : start + 64])
        content[start : start + 64] = _NO_DIGEST.encode()
        if hashlib.sha256(content).hexdigest().encode() != digest:
            raise ValueError("digest")
        size = int.from_bytes(content[:8], "little")
        described = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["infodcl_geo"])
        if described["format"] != FORMAT:
            raise CheckpointError(f"{shown(path)} is of format {described['format']!r}: this version reads {FORMAT}")
        return load_tensors(bytes(content)), described


def _load(state: TrainState, tensors: dict[str, Tensor], described: dict[str, Any]) -> None:
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = value
    if not all(bool(value.isfinite().all()) for value in tensors.values() if value.is_floating_point()):
        raise ValueError("not finite")
    model, device = state.model, next(state.model.parameters()).device
    model.load_state_dict(parts["model"])
    for name, value in parts.get("buffer", {}).items():
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, value.to(device))
    model.load_training_state(parts.get("training", {}))
    optimizer = _nested(described["optimizer"], parts.get("optimizer", {}))
    _check_shapes(state.optimizer, optimizer)
    state.optimizer.load_state_dict(optimizer)
    for key, value in described["result"].items():
        wanted = type(getattr(state.result, key))
        if type(value) is not wanted or (isinstance(value, int) and value < 0):
            raise TypeError("result")
        setattr(state.result, key, value)
    rows = state.result.history
    if not all(isinstance(row, dict) and all(type(v) in (int, float) for v in row.values()) for row in rows):
        raise TypeError("history")
    if not all(type(v) in (int, float) for v in [*state.result.epoch_seconds, *state.result.validation.values()]):
        raise TypeError("numbers")
    state.result.ended, state.result.interrupted = "", False
    if described["best"] is not None:
        state.best = float(described["best"])
        own = model.state_dict()
        if {name: value.shape for name, value in parts["best"].items()} != {n: v.shape for n, v in own.items()}:
            raise ValueError("shape")
        state.best_weights = {name: value.to(device) for name, value in parts["best"].items()}
    epoch, step = described["epoch"], described["step"]
    steps = len(state.sampler)
    if type(epoch) is not int or epoch < 0 or not (step is None or (type(step) is int and 0 <= step <= steps)):
        raise ValueError("place")
    state.epoch, state.seconds_before = epoch, float(described["seconds"])
    random, generator = parts["random"], state.sampler.generator
    if described["step"] is not None:
        if generator is not None:
            generator.set_state(random["epoch"])
        start, sums = random["epoch"], parts.get("sums", {})
        state.progress = EpochProgress(
            start,
            state.sampler.draw(),
            int(described["step"]),
            {name: sums[name].to(device) for name in described["sums"]},
            float(described["epoch_seconds"]),
        )
        state.watch.restart(state.progress.step)
    if generator is not None:
        generator.set_state(random["generator"])
    torch.set_rng_state(random["cpu"])
    if device.type == "cuda" and "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"], device)


def _check_shapes(optimizer: torch.optim.Optimizer, loaded: dict[str, Any]) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    own = optimizer.state_dict()["param_groups"]
    # The options are those of this run already; of its optimiser nothing but the rate can have changed since.
    for group, found in zip(own, loaded["param_groups"], strict=True):
        # As text, where 0 is not False and 1 not 1.0: the optimiser's own code tells them apart.
        if type(found["lr"]) is not type(group["lr"]) or repr(sorted({**found, "lr": group["lr"]}.items())) != repr(
            sorted(group.items())
        ):
            raise ValueError("groups")
    moments = {"exp_avg", "exp_avg_sq"} if isinstance(optimizer, torch.optim.Adam) else set()
    if set(loaded["state"]) - set(range(len(weights))):
        raise ValueError("state")
    for index, values in loaded["state"].items():
        shape = weights[index].shape
        if not moments <= set(values):
            raise ValueError("moments")
        step = values.get("step")
        if type(optimizer) is torch.optim.Adam and not (
            isinstance(step, Tensor) and step.shape == () and step.dtype == torch.float32
        ):
            raise ValueError("step")
        for name in moments:  # a smaller tensor, or another type, would be read beyond its end
            if values[name].shape != shape or values[name].dtype != weights[index].dtype:
                raise ValueError("moments")
        for value in values.values():
            if isinstance(value, Tensor) and value.shape not in ((), shape, shape[:1]):
                raise ValueError("shape")


def _random_states(state: TrainState) -> dict[str, Tensor]:
    device = next(state.model.parameters()).device
    states = {"cpu": torch.get_rng_state()}
    if state.sampler.generator is not None:
        states["generator"] = state.sampler.generator.get_state()
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def run_of(state: TrainState) -> dict[str, Any]:
    """What must be the same for a run to go on, beside the caller's identity."""
    options = {name: value for name, value in asdict(state.options).items() if name not in _FREE}
    return {
        "model": type(state.model).__name__,
        "interactions": state.sampler.num_interactions,
        "optimizer": type(state.optimizer).__name__,
        **options,
    }


def check_same_run(path: Path, state: TrainState, described: dict[str, Any]) -> None:
    """Refuse the checkpoint of another run, whose ``run`` and ``identity`` are ``described``.

    Raises:
        CheckpointError: names what differs.
    """
    with _one_line(path):
        before = {"run": described["run"], "identity": _unpacked(described["identity"])}
    now = {"run": json.loads(json.dumps(run_of(state))), "identity": _unpacked(state.identity)}
    other = list(_differences(before, now))
    if other:
        more = f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise CheckpointError(f"{shown(path)} is of another run: {'; '.join(other[:3])}{more}")


def _unpacked(identity: object) -> object:
    try:
        return json.loads(identity) if isinstance(identity, str) else identity
    except (ValueError, RecursionError):
        return identity


def _differences(before: object, now: object, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}".removeprefix("."))
    elif before != now:
        yield f"{name.removeprefix('run.').removeprefix('identity.')} was {_short(before)}, is {_short(now)}"


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _flattened(name: str, value: Any) -> tuple[dict[str, Tensor], Any]:
    """The tensors in nested dictionaries and lists, and the rest as JSON, with the tensors' names in their places."""
    tensors: dict[str, Tensor] = {}

    def walk(path: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value
            return {"tensor": path.partition("/")[2]}
        if isinstance(value, dict):
            return {"dict": [[key, walk(f"{path}/{key}", inner)] for key, inner in value.items()]}
        if isinstance(value, list | tuple):
            return {type(value).__name__: [walk(f"{path}/{k}", inner) for k, inner in enumerate(value)]}
        return {"value": value}

    return tensors, walk(name, value)


def _nested(described: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, value),) = described.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: _nested(inner, tensors) for key, inner in value}
    if kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(_nested(inner, tensors) for inner in value)
    return value


def _own(value: Tensor) -> Tensor:
    """A tensor that shares its memory with no other, as the format wants it."""
    return value.detach().to("cpu").contiguous().clone()


def _digest_place(content: memoryview) -> int:
    size = int.from_bytes(content[:8], "little")
    found = re.search(rb'"sha256":"([0-9a-f]{64})"', content[8 : 8 + size])
    if found is None:
        raise ValueError("no digest")
    return 8 + found.start(1)


@contextmanager
def _one_line(path: str | Path) -> Iterator[None]:
    """Whatever a foreign or damaged content leads to becomes one error."""
    try:
        yield
    except InfodclGeoError:
        raise
    except (
        ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, OverflowError, SafetensorError,
    ) as error:  # fmt: skip
        raise CheckpointError(f"{shown(path)} is damaged or no checkpoint of this model: begin anew") from error
