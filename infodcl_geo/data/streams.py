"""Files to streams of UTF-8 in portions of whole lines; what is no text is refused."""

from __future__ import annotations

import codecs
import gzip
import os
import re
import stat
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from ..text import escape
from .ids import InteractionError, one_line
from .layouts import Columns, Format, Layout, lay_out

_SAMPLE = 1 << 20
_BLOCK = 1 << 22
RATIO, ALLOWANCE = 200, 64 << 20  # a compressed file may unpack to 200 times its size and 64 MiB

_MAGIC: tuple[tuple[bytes, int, str], ...] = (
    (b"PK\x03\x04", 0, "a zip archive; unpack it and give the file in it (of a workbook, save the sheet as csv)"),
    (b"ustar", 257, "a tar archive; unpack it and give the file in it"),
    (b"7z\xbc\xaf'", 0, "a 7z archive; unpack it and give the file in it"),
    (b"Rar!", 0, "a rar archive; unpack it and give the file in it"),
    (b"BZh", 0, "compressed with bzip2; unpack it, or compress it with gzip"),
    (b"\xfd7zXZ", 0, "compressed with xz; unpack it, or compress it with gzip"),
    (b"\x28\xb5\x2f\xfd", 0, "compressed with zstd; unpack it, or compress it with gzip"),
    (b"SQLite format 3", 0, "an SQLite database; export the table of interactions as csv"),
    (b"\x89HDF", 0, "an HDF5 file; export the table of interactions as csv or parquet"),
    (b"%PDF", 0, "a PDF document, no table"),
    (b"ARROW1", 0, "an Arrow IPC file; write it as parquet"),
    (b"%%MatrixMarket", 0, "a Matrix Market file; write it with scipy.sparse.save_npz"),
    (b"version https://git-lfs", 0, "a pointer of Git LFS; fetch the file itself with git lfs pull"),
    (b"<", 0, "a page of HTML or XML, no table"),
    (b"{'", 0, "dictionaries of Python, no JSON; write each with json.dumps(ast.literal_eval(line))"),
)
PICKLE = "a pickle, which can run code when it is loaded, and is refused; save the matrix with scipy.sparse.save_npz"
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


def require_file(file: Path) -> int:
    """The size of a regular file.

    Raises:
        InteractionError: for a device, a pipe or a socket: reading one could wait forever, or never end; or for a name
            that no file can have.
    """
    try:
        status = os.stat(file)
    except ValueError:  # a NUL, which no name has
        raise InteractionError(f"{file}: no name of a file") from None
    if not stat.S_ISREG(status.st_mode):
        raise InteractionError(f"{file}: not a regular file")
    return status.st_size


@contextmanager
def in_silence() -> Iterator[None]:
    """What NumPy and SciPy warn of inside is not said: a file is read, or refused in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _stream(file: Path, encoding: str | None) -> Iterator[bytes]:
    """The text of a file as UTF-8 without a byte order mark, in portions."""
    size = require_file(file)
    with open(file, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        if file.suffix == ".gz" and not packed:
            raise InteractionError(f"{file}: damaged compressed file, or none (not of gzip); if it is text, rename it")
        if packed and size > 20:  # the last four bytes say the unpacked size, of honest files below 4 GiB
            raw.seek(-4, os.SEEK_END)
            _bound(file, size, int.from_bytes(raw.read(4), "little"))
        raw.seek(0)
        source: IO[bytes] = gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[assignment]
        try:
            "a".encode(encoding or "utf-8")  # refuses also what turns bytes to bytes
            decoder = codecs.getincrementaldecoder(encoding)() if encoding else None
        except (LookupError, ValueError):
            raise InteractionError(f"{file}: no text encoding is called {escape(encoding)!r}") from None
        total, first = 0, True
        while piece := source.read(_BLOCK):
            total += len(piece)
            if packed:
                _bound(file, size, total)
            if first and not encoding:
                _refuse(file, piece.removeprefix(b"\xef\xbb\xbf"))
            if decoder is not None:
                try:
                    piece = decoder.decode(piece).encode()
                except UnicodeError as error:
                    raise InteractionError(f"{file}: not text in {encoding} ({one_line(error)})") from None
            yield piece.removeprefix(b"\xef\xbb\xbf") if first else piece
            first = False


def _bound(file: Path, size: int, unpacked: int) -> None:
    if unpacked > RATIO * size + ALLOWANCE:
        raise InteractionError(
            f"{file}: {size} bytes unpack to {unpacked} or more, over {RATIO} times as many; if that is no mistake, "
            "unpack it yourself"
        )


def _refuse(file: Path, head: bytes) -> None:
    for magic, at, what in _MAGIC:
        if head[at : at + len(magic)] == magic:
            raise InteractionError(f"{file}: not a text file; it looks like {what}")
    if re.match(rb"\x80[\x02-\x05]", head):
        raise InteractionError(f"{file}: not a text file; it looks like {PICKLE}")
    for mark, name in ((b"\xff\xfe\0\0", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if head.startswith(mark):
            raise InteractionError(f"{file}: not a text file in UTF-8; encoding={name!r} reads it")
    if b"\0" in head[:_SAMPLE]:
        even, odd = head[0:2000:2].count(0), head[1:2000:2].count(0)
        name = "utf-16-be" if even > odd else "utf-16-le"
        hint = f" (encoding={name!r} if it is UTF-16)" if abs(even - odd) * 4 > len(head[:2000]) else ""
        raise InteractionError(f"{file}: not a text file but a binary one{hint}")


def open_text(
    file: Path, format: Format | None, columns: Columns, encoding: str | None = None, separator: str | None = None
) -> Layout:
    """How a text file is laid out; blank lines and comments (``#``, ``%``) before the first line are skipped."""
    if separator is not None and (not 0 < len(separator) <= 8 or "\n" in separator or '"' in separator):
        raise InteractionError(f"{file}: separator={separator!r}: give the one to eight characters between two fields")
    text, skipped, number, head = b"", 0, 1, True
    whole = True
    for piece in _stream(file, encoding):
        text += piece
        if head:
            blank = re.match(rb"(?:[ \t\r]*(?:[#%][^\n]*)?\n)*", text)
            done = blank.end() if blank else 0
            number += text.count(b"\n", 0, done)
            skipped, text = skipped + done, text[done:]
            head = not text.strip() or (text.lstrip()[:1] in (b"#", b"%") and b"\n" not in text)
        if len(text) > _SAMPLE and b"\n" in text:
            whole = False
            break
    if head and (not text.strip() or text.lstrip()[:1] in (b"#", b"%")):
        raise InteractionError(f"{file}: empty, no interactions")
    if not whole:
        end = text.rfind(b"\n", 0, _SAMPLE) + 1 or text.find(b"\n") + 1
        text = text[:end] if end else text
    try:
        sample = text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + number
        raise InteractionError(f"{file}:{line}: {not_utf8(encoding)}") from None
    if "\r" in sample and "\n" not in sample:
        raise InteractionError(f"{file}: lines end in bare carriage returns; convert the file to newlines")
    plain = Layout(file, "json", separator, skipped, number, encoding)
    if format == "json" or (format is None and separator is None and re.match(r'\s*(?:\{\s*"|\[\s*[\[{])', sample)):
        return plain
    return lay_out(plain, sample, columns, format, whole)


def not_utf8(encoding: str | None) -> str:
    """What to say of text that is not UTF-8."""
    return "not UTF-8 text; encoding= says what it is in, often 'latin-1' or 'cp1252'"


def blocks(layout: Layout) -> Iterator[bytes]:
    """The data of a file in portions of whole lines, each ending in a newline; no cut inside quotes."""
    rest: list[bytes] = []
    skip, inside = layout.start, 0
    for piece in _stream(layout.file, layout.encoding):
        if skip:
            piece, skip = piece[skip:], max(0, skip - len(piece))
        cut = piece.rfind(b"\n") + 1
        if layout.quoted and (inside or b'"' in piece):
            data = np.frombuffer(piece, dtype=np.uint8)
            open_quotes = (np.cumsum(data == 34, dtype=np.uint8) + np.uint8(inside)) & 1
            ends = np.flatnonzero((data == 10) & (open_quotes == 0))
            cut = int(ends[-1]) + 1 if len(ends) else 0
            inside = int(open_quotes[-1]) if len(data) else inside
        if cut:
            yield b"".join([*rest, piece[:cut]])
            rest = []
        rest.append(piece[cut:])
    last = b"".join(rest)
    if last:
        yield last if last.endswith(b"\n") else last + b"\n"
