"""Files that are there whole or not at all, whoever is killed when, and locks between processes.

A file is written under a temporary name in the same folder, flushed to the disk and renamed over the old one. A folder
of several files is one generation: each data file carries its content's hash in its name, and one index in JSON,
renamed last, says which belong together. A reader therefore sees the old generation or the new one, never a mixture.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

try:
    import fcntl
except ImportError:  # no POSIX: processes cannot be kept apart, everything else works
    fcntl = None  # type: ignore[assignment]

from .errors import FileError
from .text import escape

Content: TypeAlias = bytes | Callable[[BinaryIO], object]
"""What a file holds, or what writes it into the open file."""

INDEX_BYTES = 1 << 24
"""Size beyond which an index is not read."""

_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.tmp-([0-9]+)$")
_HASHED = re.compile(r"-[0-9a-f]{16}$")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "it would be larger than a file may be here",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ENOENT: "its folder is not there (any more)",
    errno.ENOTDIR: "a part of its path is no folder",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EIO: "the disk reports an error",
}


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message of one line: control characters and undecodable bytes are escaped."""
    return escape(os.fsdecode(path))


def reason_of(error: OSError) -> str:
    """Why the operating system refused, in words."""
    return _REASONS.get(error.errno or 0) or (error.strerror or str(error) or type(error).__name__).lower()


def file_error(action: str, path: str | os.PathLike[str], error: OSError) -> FileError:
    """The error of one line for what the operating system refused: ``cannot ACTION PATH: reason``."""
    return FileError(f"cannot {action} {shown(path)}: {reason_of(error)}")


@contextmanager
def _one_line(action: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise file_error(action, path, error) from error


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder with its parents, if it is not there, and see that files can be written in it.

    Raises:
        FileError: if it cannot be made or written to.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise FileError(f"cannot make the folder {shown(folder)}: a file of that name is there")
    with _one_line("make the folder", folder):
        folder.mkdir(parents=True, exist_ok=True)
    prune_temporaries(folder, "probe")  # of processes that were killed right here
    probe = _temporary(folder / "probe")
    with _one_line("write in", folder):
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        probe.unlink()
    return folder


def write_atomically(path: str | os.PathLike[str], content: Content) -> None:
    """Write a file so that any reader, at any moment and after any crash, finds the old content or the new one.

    The mode is that of any new file (0644 with the usual umask). A link is followed: its target is replaced.

    Args:
        path: where; its folder must be there. Anything but a regular file (a device, a pipe) is refused.
        content: the bytes, or a function that writes them into an open binary file.

    Raises:
        FileError: if the disk is full, the folder read-only or gone, and the like; the old content is still there.
    """
    target = Path(os.path.realpath(path))
    with _one_line("write", target):
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            raise FileError(f"cannot write {shown(target)}: it is no regular file")
        temporary = _temporary(target)
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            with os.fdopen(descriptor, "wb") as file:
                _lock(file.fileno(), wait=False)
                if callable(content):
                    content(file)
                else:
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _flush_folder(target.parent)
    prune_temporaries(target.parent, target.name)


def prune_temporaries(folder: str | os.PathLike[str], name: str = "") -> int:
    """Remove the temporary files that dead processes left in ``folder``, and return their number.

    Args:
        name: only those of the file of this name.
    """
    removed = 0
    try:
        names = os.listdir(folder)
    except OSError:
        return 0
    for found in names:
        match = _TEMPORARY.search(found)
        if match is None or (name and found[: match.start()] != name) or _alive(int(match[1])):
            continue
        path = Path(folder) / found
        # A process of another machine or container may have this number: it still holds its lock then.
        with suppress(OSError), open(path, "rb+") as file:
            if _lock(file.fileno(), wait=False) is not False:
                path.unlink()
                removed += 1
    return removed


@contextmanager
def locked(path: str | os.PathLike[str], *, wait: bool = True) -> Iterator[None]:
    """Keep other processes, and other threads, that lock the same path out; the lock ends with the process.

    The lock is held on ``PATH.lock`` (in a folder: its ``.lock``), a file that stays, for removing it would let two in.

    Args:
        path: the file or folder to be changed; the file need not be there yet.
        wait: until it is free; otherwise being locked is an error.

    Raises:
        FileError: if it is locked, or cannot be.
    """
    target = Path(path)
    lock = target / ".lock" if target.is_dir() else target.with_name(f"{target.name}.lock")
    with _one_line("lock", target):
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        if _lock(descriptor, wait=wait) is False:
            raise FileError(f"{shown(target)} is being changed by another process: wait for it or name another")
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Generation:
    """What a folder holds, read as one."""

    about: dict[str, Any]
    """the description in the index"""
    files: dict[str, bytes]
    """content by the name it was written under"""


def write_folder_atomically(
    folder: str | os.PathLike[str],
    files: Mapping[str, bytes],
    *,
    about: Mapping[str, Any] | None = None,
    index: str = "index.json",
) -> None:
    """Replace what a folder holds as one: a reader finds all of the old generation or all of the new one.

    ``weights.safetensors`` becomes ``weights-HASH.safetensors`` with 16 digits of its SHA-256. The index, renamed last,
    names the files with their sizes and whole hashes; then files of older generations go. Other files of the folder
    are left alone.

    Args:
        folder: made if it is not there; writers of one folder wait for each other.
        files: content by plain file name.
        about: a description, of what JSON can hold, that is kept in the index.
        index: file name of the index.

    Raises:
        FileError: see :func:`write_atomically`; the old generation is then still whole.
    """
    place = make_folder(folder)
    described: dict[str, dict[str, Any]] = {}
    for name, content in files.items():
        if not _PLAIN_NAME.fullmatch(name) or name == index:
            raise FileError(f"{name!r} is no plain file name")
        digest = hashlib.sha256(content).hexdigest()
        stem, suffix = os.path.splitext(name)
        described[name] = {"file": f"{stem}-{digest[:16]}{suffix}", "sha256": digest, "bytes": len(content)}
    text = json.dumps({"format": 1, "about": dict(about or {}), "files": described}, indent=1, allow_nan=False)
    with locked(place):
        for name, content in files.items():
            write_atomically(place / described[name]["file"], content)
        write_atomically(place / index, text.encode())
        current = {entry["file"] for entry in described.values()}
        for found in os.listdir(place):
            stem, suffix = os.path.splitext(found)
            of_ours = _HASHED.search(stem) is not None and stem[:-17] + suffix in described
            if of_ours and found not in current:
                with suppress(OSError):
                    (place / found).unlink()
        prune_temporaries(place)


def read_folder(folder: str | os.PathLike[str], *, index: str = "index.json") -> Generation:
    """Read what :func:`write_folder_atomically` wrote, as one generation, whoever writes meanwhile.

    Raises:
        FileError: if the index is missing or damaged, or a file does not have the size and the hash it names.
    """
    place = Path(folder)
    for _ in range(100):
        text = _read(place / index, INDEX_BYTES)
        try:
            return _generation(place, index, text)
        except FileNotFoundError as error:
            # A writer has replaced this generation since the index was read: then the index is another one.
            if _read(place / index, INDEX_BYTES) == text:
                raise FileError(f"{shown(place / index)} names {shown(error.filename)}, which is missing") from None
    raise FileError(f"{shown(place)} is replaced faster than it can be read")


def read_file(path: str | os.PathLike[str], *, limit: int | None = None) -> bytes:
    """Content of a regular file; pipes and devices, which may have no end, are refused.

    Args:
        limit: bytes that it may hold at most.

    Raises:
        FileError: if it cannot be read or is larger.
    """
    return _read(Path(path), limit)


def _generation(place: Path, index: str, text: bytes) -> Generation:
    where = shown(place / index)
    try:
        found = json.loads(text)
        about, entries = found["about"], found["files"]
        names = {str(name): (entry["file"], entry["sha256"], entry["bytes"]) for name, entry in entries.items()}
        good = found["format"] == 1 and isinstance(about, dict)
        good &= all(
            _PLAIN_NAME.fullmatch(f) and isinstance(h, str) and type(b) is int and b >= 0 for f, h, b in names.values()
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        good = False
    if not good:
        raise FileError(f"{where} is no index of this library: it is damaged or another program's")
    files = {}
    for name, (file, digest, size) in names.items():
        content = _read(place / file, size, missing_is_error=False)
        if len(content) != size or hashlib.sha256(content).hexdigest() != digest:
            raise FileError(f"{shown(place / file)} is damaged: its content is not what {where} says")
        files[name] = content
    return Generation(about, files)


def _read(path: Path, limit: int | None, *, missing_is_error: bool = True) -> bytes:
    try:
        # Not blocking: a pipe put in the file's place would hang here.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FileError(f"cannot read {shown(path)}: it is no regular file")
            if limit is not None and status.st_size > limit:
                raise FileError(f"{shown(path)} has {status.st_size} bytes where at most {limit} can be")
            return file.read(status.st_size if limit is None else min(limit, status.st_size) + 1)
    except FileNotFoundError as error:
        if not missing_is_error:
            raise
        raise FileError(f"cannot read {shown(path)}: it is not there") from error
    except OSError as error:
        raise file_error("read", path, error) from error


def _temporary(target: Path) -> Path:
    # The random part keeps the threads of one process apart.
    return target.with_name(f"{target.name}.{secrets.token_hex(4)}.tmp-{os.getpid()}")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _lock(descriptor: int, *, wait: bool) -> bool | None:
    """Whether the lock was taken; ``None`` where the file system or the platform knows no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _flush_folder(folder: Path) -> None:
    """Make a renaming durable, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
