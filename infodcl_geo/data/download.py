"""Files from the network: verified, continued where a connection broke, and put in place whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from .ids import InteractionError, one_line

__all__ = ["DatasetError", "download", "file_sha256", "locked", "put_in_place", "write_in_place"]

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class DatasetError(InteractionError):
    """A public data set cannot be had; the message is one line that says what to do by hand."""


def download(
    url: str,
    file: str | PathLike[str],
    *,
    size: int | None = None,
    sha256: str | None = None,
    max_size: int = 2**34,
    attempts: int = 4,
    wait: float = 0.5,
    timeout: float = 30.0,
    progress: bool = True,
    context: ssl.SSLContext | None = None,
) -> None:
    """Download a file; a cut connection is taken up where it broke, also by a later call.

    Certificates are verified. A redirect never leads from https to http, nor to anything else. An http address is taken
    only where ``sha256`` says what must come, or on this machine. What has arrived waits in ``<file>.part``, which is
    moved to its place once it is whole. A server that cannot continue a file sends it from the start.

    Args:
        url: what to download.
        file: where to put it; replaced if it is there.
        size: number of bytes that it must have; default: what the server announces.
        sha256: SHA-256 that it must have, in hexadecimal digits.
        max_size: bytes after which a file of unknown size is given up.
        attempts: how many connections in a row may bring nothing new.
        wait: seconds before the second attempt; doubled for each further one.
        timeout: seconds without a byte after which a connection counts as cut.
        progress: show a progress bar.
        context: whose certificates are trusted; default: the system's.

    Raises:
        DatasetError: if the address is not to be trusted, the server refuses, keeps failing, or sends other bytes.
    """
    address = urllib.parse.urlsplit(url)
    if address.scheme != "https" and not (address.scheme == "http" and (sha256 or address.hostname in _LOOPBACK)):
        raise DatasetError(f"{url}: only https is downloaded, and http where the SHA-256 is known beforehand")
    opener = urllib.request.build_opener(
        _Redirects(), urllib.request.HTTPSHandler(context=context or ssl.create_default_context())
    )
    file = Path(file)
    part = file.with_name(file.name + ".part")
    bound = size if size is not None else max_size
    failures = most = 0
    with tqdm(desc=file.name, total=size, unit="B", unit_scale=True, disable=not progress) as bar:
        while True:
            most = max(most, part.stat().st_size if part.exists() else 0)
            problem = "the connection was cut"
            try:
                announced = _fetch(opener, url, part, bar, timeout, bound)
            except urllib.error.HTTPError as error:
                error.close()
                if error.code not in (408, 429) and error.code < 500:
                    raise DatasetError(f"cannot download {url} (HTTP {error.code} {one_line(error.reason)})") from None
                announced, problem = None, f"HTTP {error.code} {one_line(error.reason)}"
            except (OSError, http.client.HTTPException, ValueError) as error:
                if isinstance(error, DatasetError):
                    raise
                reason = getattr(error, "reason", error)
                if isinstance(reason, ssl.SSLCertVerificationError):
                    raise DatasetError(f"cannot download {url}: its certificate is not valid") from None
                announced, problem = None, one_line(error)
            have = part.stat().st_size if part.exists() else 0
            wanted = size if size is not None else announced
            if announced is not None and have >= announced:
                if wanted != have:
                    part.unlink()
                    raise DatasetError(f"{url} has {have} bytes, not {wanted}")
                if sha256 is not None and (found := file_sha256(part)) != sha256.lower():
                    part.unlink()
                    raise DatasetError(f"{url}: its SHA-256 is {found}, not {sha256}")
                put_in_place(part, file)
                return
            failures = 0 if have > most else failures + 1
            if failures >= attempts:
                raise DatasetError(f"cannot download {url} ({problem})") from None
            time.sleep(wait * 2 ** max(0, failures - 1))


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects that stay as safe as they were."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = (urllib.parse.urlsplit(url) for url in (req.full_url, newurl))
        if new.scheme != "https" and not (new.scheme == old.scheme == "http"):
            raise DatasetError(f"cannot download {req.full_url}: it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(
    opener: urllib.request.OpenerDirector, url: str, part: Path, bar: tqdm[Any], timeout: float, bound: int
) -> int | None:
    """One connection: append to the part, or begin it anew; returns the size of the whole file if it is known."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "infodcl-geo", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing after what is there: it is whole, or not of this file
            if error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
                return have
            part.unlink()
            raise OSError("the server has less than was downloaded before") from None
        raise
    with response:
        sent, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        continued = response.status == 206 and sent.startswith(f"{have}-")
        if response.status == 206 and not continued:
            part.unlink()
            raise OSError("the server sent another part than was asked for")
        have = have if continued else 0
        length = response.headers.get("Content-Length", "")
        total = int(whole) if continued and whole.isdigit() else have + int(length) if length.isdigit() else None
        bar.total, bar.n = total or bar.total, have
        with open(part, "ab" if continued else "wb") as out:
            while block := response.read(1 << 16):
                out.write(block)
                bar.update(len(block))
                have += len(block)
                if have > bound:
                    break
    if have > bound:
        part.unlink()
        raise DatasetError(f"{url} has more than {bound} bytes")
    return have if total is None else total


# ---------------------------------------------------------------------------------------------------------------------
# Files in place


def file_sha256(file: Path) -> str:
    """SHA-256 of the content of a file, in hexadecimal digits."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def put_in_place(part: Path, file: Path) -> None:
    """Move a written file over ``file`` in the same folder, its bytes on the disk before its name is."""
    with open(part, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(part, file)
    with contextlib.suppress(OSError):  # a folder cannot be opened everywhere
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_in_place(file: Path, write: Callable[[IO[str]], None]) -> None:
    """Write a text file aside, by ``write``, and put it in place once it is whole; a failure leaves nothing.

    One process at a time (:func:`locked`): so what a killed one has left is written over.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        with open(part, "w", newline="", encoding="utf-8") as out:
            write(out)
        put_in_place(part, file)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder alone among the processes that ask for it, where the system has such locks; nothing is left."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
