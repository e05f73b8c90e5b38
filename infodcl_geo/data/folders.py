"""Finding the files of interactions, and telling binary formats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from .ids import InteractionError
from .layouts import Format
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
_ENDINGS_OF = {"npy": {".npy"}, "npz": {".npz"}, "parquet": {".parquet", ".pq"}, "recbole": {".inter"}, "json": JSON}
_USUAL_NAMES = (
    "interactions", "interaction", "ratings", "rating", "inter", "u", "events", "reviews", "data", "user_artists",
    "bx-book-ratings", "book-ratings", "userbehavior", "yelp_academic_dataset_review", "review",
    "loc-gowalla_totalcheckins", "gowalla_totalcheckins", "loc-brightkite_totalcheckins", "checkins",
    "usersha1-artmbid-artname-plays",
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
        found = {
            p: [f for f in sorted(d.iterdir()) if ending(f) in endings and _is_portion(f)] for p, d in split.items()
        }
        if all(found.values()):
            return found
    portions = [f for f in readable if _is_portion(f)]
    if portions and len(portions) == len(readable):
        return {"train": portions}
    if not readable:
        pickles = [f for f in inside if f.suffix.lower() in _PICKLES]
        if pickles:
            raise InteractionError(f"{pickles[0]}: {PICKLE}")
        archives = [f for f in inside if f.suffix.lower() in (".zip", ".tar", ".tgz", ".7z", ".rar")]
        hint = f" (unpack {archives[0].name})" if archives else ""
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
