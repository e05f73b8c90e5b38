"""A trained model in a folder: what ranks, whose ids, what it was trained on, and how it scored.

``model.safetensors`` holds all tensors, ids included, so that its size bounds whatever it can claim. ``model.json`` is
the index of :func:`~infodcl_geo.files.write_folder_atomically`, renamed last: it names the weights with their size and
SHA-256, and holds the configuration and the record of the run with a SHA-256 of their own. A reader finds the old model
or the new one. Everything is validated before it is used, and nothing that is read is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from .data.ids import IdMap
from .data.interactions import Interactions
from .errors import CheckpointError, InfodclGeoError
from .files import INDEX_BYTES, read_file, read_folder, shown, write_folder_atomically
from .text import escape, json_ready

WEIGHTS, INDEX = "model.safetensors", "model.json"
FORMAT = 3
"""Newest format; 2, of version 0.2, is read as well."""
LARGEST = 2**31
"""Users or items that a model may have."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


@dataclass(frozen=True)
class Record:
    """What a model remembers of its data and its run; empty where that was not written down.

    Args:
        name: of the data set.
        generated: whether the data are made up.
        fingerprint: of the data and their split, see :attr:`~infodcl_geo.data.interactions.Interactions.fingerprint`.
        interactions: the same whatever the split, see :func:`digest_of`.
        counts: training, validation and test pairs.
        source: where they came from.
        split: how they were split, in words.
        metrics: ``validation`` and ``test`` metrics by name, and ``best_epoch``.
        versions: of the packages that decide numbers.
        date: of the training.
    """

    name: str = ""
    generated: bool = False
    fingerprint: str = ""
    interactions: str = ""
    counts: tuple[int, ...] = ()
    source: str = ""
    split: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    date: str = ""

    @classmethod
    def from_json(cls, content: Any) -> Record:
        """The record that was written, every part of its own type.

        Raises:
            CheckpointError: if a part is of another.
        """
        if not isinstance(content, dict):
            raise CheckpointError("the record of the run is no mapping")
        found = {part.name: content[part.name] for part in fields(cls) if part.name in content}
        for name, value in found.items():
            kind = type(getattr(cls(), name))
            if kind is tuple:
                good = isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)
                found[name] = tuple(value) if good else ()
            else:
                good = type(value) is kind
            if name == "versions":
                good &= isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
            if not good:
                raise CheckpointError(f"{name} in the record of the run is no {kind.__name__}")
        return cls(**found)


@dataclass(frozen=True, eq=False)
class Saved:
    """The content of a folder.

    Args:
        state: tensors that rank, see :meth:`~infodcl_geo.models.base.Model.state`.
        user_ids, item_ids: raw ids of the rows.
        train, valid: training and validation pairs ``[2, E]``.
        config: what ran: ``model``, ``options``, ``training`` and ``data``.
        restores: whether ranking by ``state`` needs the model's recipe.
        record: see :class:`Record`.
    """

    state: dict[str, Tensor]
    user_ids: IdMap
    item_ids: IdMap
    train: Tensor
    valid: Tensor
    config: dict[str, Any]
    restores: bool = False
    record: Record = field(default_factory=Record)


def digest_of(data: Interactions) -> str:
    """SHA-256, hexadecimal, of raw ids and interactions, whatever their split."""
    keys = torch.cat([part[0] * data.num_items + part[1] for part in (data.train, data.valid, data.test)])
    found = hashlib.sha256(data.user_ids.digest() + data.item_ids.digest())
    found.update(keys.sort().values.cpu().numpy().data)
    return found.hexdigest()


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def write_model(folder: str | PathLike[str], saved: Saved) -> None:
    """Replace the model in a folder as one.

    Raises:
        CheckpointError: if what is to be written could not be read again, such as weights that are not finite.
        FileError: see :func:`~infodcl_geo.files.write_folder_atomically`; the old model is then still whole.
    """
    place = Path(folder)
    tensors = {f"state.{name}": value for name, value in saved.state.items()}
    sizes = (len(saved.user_ids), len(saved.item_ids))
    train, valid = (_sorted(pairs, sizes[1]) for pairs in (saved.train, saved.valid))
    tensors |= {"train": train, "valid": valid}
    for who, ids in (("users", saved.user_ids), ("items", saved.item_ids)):
        tensors |= _id_tensors(who, ids)
    config = json_ready(saved.config)
    checked = Saved(saved.state, saved.user_ids, saved.item_ids, train, valid, config, saved.restores)
    _validate(checked, f"{shown(place)}: cannot be written")
    content = {"config": config, "restores": saved.restores, "record": json_ready(asdict(saved.record))}
    about = {"format": FORMAT, "content": content, "sha256": _digest(content)}
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_folder_atomically(place, {WEIGHTS: save_tensors(own)}, about=about, index=INDEX)
    with suppress(OSError):  # of format 2
        (place / WEIGHTS).unlink(missing_ok=True)


def _sorted(pairs: Tensor, num_items: int) -> Tensor:
    return pairs[:, (pairs[0] * num_items + pairs[1]).argsort()]


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _id_tensors(who: str, ids: IdMap) -> dict[str, Tensor]:
    """Ids as tensors: integers, or the bytes of all strings with the number of signs of each."""
    if ids.are_integers:
        return {f"ids.{who}": torch.from_numpy(ids.values.to_numpy().copy())}
    content = bytearray("".join(ids.values).encode())
    text = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
    lengths = torch.from_numpy(ids.values.str.len_chars().cast(pl.Int64).to_numpy().copy())
    return {f"ids.{who}.text": text, f"ids.{who}.lengths": lengths}


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def read_model(folder: str | PathLike[str]) -> Saved:
    """The model in a folder, validated: types, shapes against ids, finite values, pairs distinct and inside bounds.

    Nothing is allocated for what the files claim: memory is bounded by a small multiple of their sizes.

    Raises:
        CheckpointError: if there is none, or it is damaged or of a newer format; one line that names the folder.
    """
    place = Path(folder)
    if not place.is_dir() or not (place / INDEX).exists():
        raise CheckpointError(f"{shown(place)}: no checkpoint here, {INDEX} is missing")
    try:
        saved = _read(place)
        _validate(saved, f"{shown(place)}: damaged checkpoint")
    except CheckpointError as error:
        message = escape(error)
        raise CheckpointError(message if shown(place) in message else f"{shown(place)}: {message}") from None
    except InfodclGeoError as error:
        raise CheckpointError(f"{shown(place)}: damaged checkpoint ({escape(error)})") from None
    return saved


def _read(place: Path) -> Saved:
    index = _json(read_file(place / INDEX, limit=INDEX_BYTES), place)
    if "about" not in index:
        return _read_format_2(place, index)
    described = index.get("about")
    files = index.get("files")
    if isinstance(described, dict) and type(described.get("format")) is int and described["format"] > FORMAT:
        raise CheckpointError(
            f"{shown(place / INDEX)}: written by a newer version (format {described['format']}; this one reads up to "
            f"{FORMAT}): update infodcl-geo"
        )
    if not isinstance(files, dict) or set(files) != {WEIGHTS}:
        raise CheckpointError(f"{shown(place / INDEX)} is damaged: it names other files than {WEIGHTS}")
    generation = read_folder(place, index=INDEX)
    about, content = generation.about, generation.about.get("content")
    if about.get("format") != FORMAT or not isinstance(content, dict) or set(generation.files) != {WEIGHTS}:
        raise CheckpointError(f"{shown(place / INDEX)} is damaged: it is of no format that is known")
    if about.get("sha256") != _digest(content):
        raise CheckpointError(f"{shown(place / INDEX)} was changed after it was written")
    tensors = _tensors(generation.files[WEIGHTS], place)
    return Saved(
        _state(tensors),
        _ids(tensors, "users"),
        _ids(tensors, "items"),
        _one(tensors, "train"),
        _one(tensors, "valid"),
        content.get("config"),  # type: ignore[arg-type] # validated below
        content.get("restores"),  # type: ignore[arg-type]
        Record.from_json(content.get("record")),
    )


def _read_format_2(place: Path, content: Mapping[str, Any]) -> Saved:
    version = content.get("format")
    if version != 2:
        what = f"format {version}" if type(version) is int else "no format that is known"
        raise CheckpointError(f"{shown(place / INDEX)} is damaged or of an old version ({what}): train the model again")
    if not (place / WEIGHTS).exists():
        raise CheckpointError(f"{shown(place)}: no checkpoint here, {WEIGHTS} is missing")
    tensors = _tensors(read_file(place / WEIGHTS), place)
    # A range is short however much it claims: no more ids than a file of this size has numbers for.
    size = sum(value.numel() for value in tensors.values())
    maps: list[IdMap] = []
    for who in ("user_ids", "item_ids"):
        ids = content.get(who)
        if isinstance(ids, dict) and ids.get("kind") == "range":
            start, stop = ids.get("start"), ids.get("stop")
            if not (type(start) is type(stop) is int and 0 <= stop - start <= size):
                raise CheckpointError(f"{who} are more than the weights have rows for")
        maps.append(IdMap.from_json(json.dumps(ids)))
    config, restores = content.get("config"), content.get("restores")
    train, valid = _one(tensors, "train"), _one(tensors, "valid")
    return Saved(_state(tensors), maps[0], maps[1], train, valid, config, restores)  # type: ignore[arg-type]


def _json(text: bytes, place: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CheckpointError(f"{shown(place / INDEX)} is damaged: no JSON of this library")
    return found


def _tensors(content: bytes, place: Path) -> dict[str, Tensor]:
    try:
        return load_tensors(content)
    except Exception as error:  # the parser is another library's: whatever it raises, the file cannot be read
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise CheckpointError(f"{shown(place)}: damaged checkpoint, the weights cannot be read ({reason})") from None


def _state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("state."): v for name, v in tensors.items() if name.startswith("state.")}


def _one(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"damaged checkpoint, {name} is missing")
    return tensors[name]


def _ids(tensors: Mapping[str, Tensor], who: str) -> IdMap:
    if f"ids.{who}" in tensors:
        values = tensors[f"ids.{who}"]
        if values.dtype != torch.int64 or values.dim() != 1:
            raise CheckpointError(f"damaged checkpoint, the ids of {who} are no list of integers")
        return IdMap(pl.Series(values.numpy()))
    text, lengths = _one(tensors, f"ids.{who}.text"), _one(tensors, f"ids.{who}.lengths")
    try:
        if text.dtype != torch.uint8 or lengths.dtype != torch.int64 or text.dim() != 1 or lengths.dim() != 1:
            raise ValueError("of other types")
        signs = text.numpy().tobytes().decode()
        ends = lengths.cumsum(0)
        outside = bool(((lengths < 0) | (lengths > len(signs))).any())
        if outside or (int(ends[-1]) if lengths.numel() else 0) != len(signs):
            raise ValueError("of other lengths than are said")
    except ValueError as error:
        raise CheckpointError(f"damaged checkpoint, the ids of {who} are no strings ({error})") from None
    starts = (ends - lengths).tolist()
    return IdMap(pl.Series([signs[a:b] for a, b in zip(starts, ends.tolist(), strict=True)], dtype=pl.String))


# ---------------------------------------------------------------------------------------------------------------------
# Validation


def _validate(saved: Saved, what: str) -> None:
    def require(good: bool, problem: str) -> None:
        if not good:
            raise CheckpointError(f"{what}, {problem}")

    config, sizes = saved.config, (len(saved.user_ids), len(saved.item_ids))
    require(isinstance(config, dict) and type(saved.restores) is bool, "its configuration is no mapping")
    require(isinstance(config.get("model", ""), str), "the name of the model is no text")
    for part in ("options", "training", "data"):
        require(isinstance(config.get(part, {}), dict), f"{part} of its configuration are no mapping")
    require(min(sizes) > 0 and max(sizes) < LARGEST, f"it has {sizes[0]} users and {sizes[1]} items")
    keys = []
    for name, pairs in (("train", saved.train), ("valid", saved.valid)):
        good = pairs.dtype == torch.int64 and pairs.dim() == 2 and pairs.size(0) == 2
        require(good, f"{name} are no pairs of rows")
        if pairs.size(1):
            inside = bool((pairs >= 0).all()) and int(pairs[0].max()) < sizes[0] and int(pairs[1].max()) < sizes[1]
            require(inside, f"{name} has rows outside of {sizes[0]} users and {sizes[1]} items")
        keys.append(pairs[0] * sizes[1] + pairs[1])
        require(not bool((keys[-1].diff() <= 0).any()), f"the pairs of {name} are not distinct and sorted")
    both = torch.cat(keys)
    require(both.unique().numel() == both.numel(), "train and valid share pairs")
    for name, value in saved.state.items():
        require(value.dtype in (*_FLOATS, *_WHOLE), f"{escape(name)} is of a type that no model has")
        if value.dtype in _FLOATS:
            require(bool(value.isfinite().all()), f"{escape(name)} holds numbers that are not finite")
    _validate_tables(saved.state, sizes, require)
    if not saved.restores:
        ranks = {"users", "items"} <= set(saved.state) or "item_weights" in saved.state
        require(ranks, "it has nothing to rank by")


def _validate_tables(state: Mapping[str, Tensor], sizes: tuple[int, int], require: Any) -> None:
    """The tensors whose names say what they are: see :meth:`~infodcl_geo.models.base.Model.state`."""
    rows = {"users": sizes[0], "items": sizes[1], "item_weights": sizes[1]}
    for name, size in rows.items():
        table = state.get(name)
        if table is None:
            continue
        good = table.dim() == 2 and table.size(0) == size and table.size(1) > 0
        if name == "item_weights":
            good = good and table.size(1) == size and table.dtype in (torch.float32, torch.float64)
        good = good and table.dtype in _FLOATS
        shape = " x ".join(map(str, table.shape))
        require(good, f"{name} are {shape} of {str(table.dtype).rpartition('.')[2]}, for {size} rows")
    for name, pointers in state.items():
        if name.endswith("pointers"):
            _validate_sparse(state, name.removesuffix("pointers"), pointers, sizes[1], require)
    if {"users", "items"} <= set(state):
        widths = state["users"].size(1), state["items"].size(1)
        require(widths[0] == widths[1], f"users have {widths[0]} dimensions and items {widths[1]}")


def _validate_sparse(state: Mapping[str, Tensor], prefix: str, pointers: Tensor, size: int, require: Any) -> None:
    """A matrix of items in compressed rows: a row or column outside would be read from memory of others."""
    empty = torch.empty(0)
    columns, values = state.get(f"{prefix}columns", empty), state.get(f"{prefix}values", empty)
    good = pointers.dtype == columns.dtype == torch.int64 and values.dtype in (torch.float32, torch.float64)
    good = good and pointers.dim() == columns.dim() == values.dim() == 1 and pointers.numel() == size + 1
    require(good and columns.numel() == values.numel(), f"{prefix}pointers, columns and values are no rows of items")
    inside = int(pointers[0]) == 0 and int(pointers[-1]) == columns.numel() and bool((pointers.diff() >= 0).all())
    inside = inside and bool(((columns >= 0) & (columns < size)).all())
    require(inside, f"{prefix}pointers and columns point outside of {size} items")
