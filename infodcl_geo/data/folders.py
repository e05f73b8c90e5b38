"""Finding the files of interactions, and telling binary formats."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from .ids import InteractionError
from .layouts import NAMES, Format, plain_name
from .streams import PICKLE, require_file

_PARTS = {
    "train": {"train", "training", "trn", "trnmat", "trainmat"},
    "valid": {"valid", "validation", "val", "dev", "valmat"},
    "test": {"test", "testing", "tst", "tstmat", "testmat"},
}
_BINARY: dict[str, Format] = {".npy": "npy", ".npz": "npz", ".parquet": "parquet", ".pq": "parquet"}
JSON = {".json", ".jsonl", ".ndjson"}
_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".joblib"}
_TEXT_ENDINGS = {"", ".txt", ".csv", ".tsv", ".dat", ".data", ".inter", ".edges", ".edgelist", ".list", ".tab"}
_TEXT_ENDINGS |= {".rating", ".ratings"}
_ENDINGS_OF = {"npy": {".npy"}, "npz": {".npz"}, "parquet": {".parquet", ".pq"}, "recbole": {".inter"}, "json": JSON}
_USUAL_NAMES = (
    "interactions", "interaction", "ratings", "rating", "inter", "u", "events", "reviews", "data", "user_artists",
    "bx-book-ratings", "book-ratings", "userbehavior", "yelp_academic_dataset_review", "review",
    "loc-gowalla_totalcheckins", "gowalla_totalcheckins", "loc-brightkite_totalcheckins", "checkins",
    "usersha1-artmbid-artname-plays", "userid-timestamp-artid-artname-traid-traname",
)  # fmt: skip


def ending(file: Path) -> str:
    """The ending that tells the format: the last, or the one before ``.gz``."""
    return (Path(file.stem) if file.suffix == ".gz" else file).suffix.lower()


def find_files(
    where: Path, given: Mapping[str, str | PathLike[str] | None], format: Format | None
) -> dict[str, list[Path]]:
    """The files of each part, ``train`` first; only ``train`` if there is one table to be split."""
    if not where.exists():
        raise InteractionError(f"{where}: no such file or folder")
    named = {part: Path(file) for part, file in given.items() if file is not None}
    if where.is_dir():
        named = {part: file if file.is_absolute() or file.is_file() else where / file for part, file in named.items()}
        if "train" not in named:
            found = _files_of_folder(where, format, set(named))
            return {p: [named[p]] if p in named else found[p] for p in _PARTS if p in named or p in found}
    elif "train" in named:
        raise InteractionError(f"{where}: train= is a file of a folder; give the folder, or leave train= out")
    else:
        named = {"train": where, **named}
    for file in named.values():
        if not file.exists():
            raise InteractionError(f"{file}: no such file")
    return {part: [named[part]] for part in _PARTS if part in named}


def _files_of_folder(folder: Path, format: Format | None, known: set[str]) -> dict[str, list[Path]]:
    endings = _ENDINGS_OF.get(format or "", _TEXT_ENDINGS if format else _TEXT_ENDINGS | set(_BINARY) | JSON)
    inside = sorted(f for f in folder.iterdir() if not f.name.startswith((".", "_")))
    readable = [f for f in inside if f.is_file() and ending(f) in endings and f.stem.lower() != "readme"]
    split = {p: d for d in inside if d.is_dir() for p in _PARTS if re.split("=", d.name.lower())[-1] in _PARTS[p]}
    if "train" in split:
        found = {p: _table_in(d, endings) for p, d in split.items()}
        if all(found.values()):
            return found
    if partitions := [d for d in inside if d.is_dir() and "=" in d.name]:
        return {"train": _partitions(folder, partitions, endings)}
    portions = [f for f in readable if _is_portion(f)]
    if portions and len(portions) == len(readable):
        return {"train": portions}
    if not readable:
        pickles = [f for f in inside if f.suffix.lower() in _PICKLES]
        if pickles:
            raise InteractionError(f"{pickles[0]}: {PICKLE}")
        archives = [f for f in inside if f.suffix.lower() in (".zip", ".tar", ".tgz", ".7z", ".rar")]
        folders = [f for f in inside if f.is_dir()]
        hint = f" (unpack {archives[0].name})" if archives else f" (give {folders[0]}?)" if folders else ""
        raise InteractionError(f"{folder}: no file of interactions in this folder{hint}")
    files: dict[str, list[Path]] = {}
    for part, words in _PARTS.items():
        if part in known:
            continue
        named = [f for f in readable if words & set(re.split(r"[._\-]+", f.name.lower()))]
        exact = [f for f in named if f.name.lower().split(".")[0] in words]
        candidates = exact or named
        if len(candidates) > 1:
            shown = ", ".join(f.name for f in candidates[:5])
            raise InteractionError(
                f"{folder}: several files for {part} ({shown}); give the files ({part}=), or format="
            )
        if candidates:
            files[part] = candidates
    if "train" in files:
        for part in (p for p, words in _PARTS.items() if p not in files and p not in known):
            for file in inside:
                if file.is_file() and _PARTS[part] & set(re.split(r"[._\-]+", file.name.lower())):
                    raise InteractionError(f"{file}: its name says {part}, but not how it is read; give it ({part}=)")
        return files
    if files:
        raise InteractionError(
            f"{folder}: has {next(iter(files.values()))[0].name} but no training file; name it with train="
        )
    for choice in (
        [f for f in readable if ending(f) == ".inter"],
        [f for f in readable if f.name.lower().split(".")[0] in (*_USUAL_NAMES, folder.name.lower())],
        readable,
    ):
        if len(choice) == 1:
            return {"train": choice}
    shown = ", ".join(f.name for f in readable[:5])
    raise InteractionError(f"{folder}: cannot tell which file holds the interactions ({shown}); give the file itself")


def _table_in(folder: Path, endings: set[str]) -> list[Path]:
    """The portions of a table in a folder, or the one file there."""
    files = [f for f in sorted(folder.iterdir()) if f.is_file() and ending(f) in endings and f.name[0] not in "._"]
    return [f for f in files if _is_portion(f)] or (files if len(files) == 1 else [])


def _partitions(folder: Path, folders: Sequence[Path], endings: set[str]) -> list[Path]:
    """The files of a table in folders ``column=value``, at any depth, whose column the files do not have."""
    files: list[Path] = []
    for part in folders:
        column = plain_name(part.name.partition("=")[0])
        if column in " ".join(NAMES.values()).split():
            raise InteractionError(
                f"{folder}: divided by {column}, whose values are in the names of folders only; write them as a column"
            )
        inner = [d for d in sorted(part.iterdir()) if d.is_dir() and "=" in d.name]
        found = _partitions(folder, inner, endings) if inner else _table_in(part, endings)
        if not found:
            raise InteractionError(f"{part}: no file of interactions in this folder")
        files += found
    return files


def _is_portion(file: Path) -> bool:
    return re.match(r"part[-_.]?\d+", file.name.lower()) is not None


def format_of(file: Path) -> Format | None:
    """The format of a binary file, by its ending or its first bytes."""
    require_file(file)
    if file.suffix.lower() in _PICKLES:
        raise InteractionError(f"{file}: {PICKLE}")
    if ending(file) in _BINARY:
        return _BINARY[ending(file)]
    with open(file, "rb") as stream:
        head = stream.read(6)
    return "parquet" if head[:4] == b"PAR1" else "npy" if head == b"\x93NUMPY" else None
