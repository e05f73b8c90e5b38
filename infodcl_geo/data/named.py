"""Data sets that come by name: the generated demo, and public ones that are downloaded once and then work offline."""

from __future__ import annotations

import csv
import gzip
import hashlib
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from .ids import InteractionError
from .interactions import Interactions, Split, load_interactions

__all__ = ["NAMED", "DatasetError", "download", "load_named"]

IntArray = npt.NDArray[np.int64]


# ---------------------------------------------------------------------------------------------------------------------
# Public data sets


class DatasetError(InteractionError):
    """A public data set cannot be had; the message is one line that says what to do by hand."""


@dataclass(frozen=True)
class _Reviews:
    """A file of Amazon reviews, one JSON object a line, in which every user and item has at least five.

    ``reviews`` is the published number of reviews, ``size`` is in bytes, ``sha256`` is None where none is published:
    the file's own is then recorded beside it when it is first read, and checked from then on.
    """

    url: str
    reviews: int | None
    size: int | None = None
    sha256: str | None = None


_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
_AMAZON: dict[str, _Reviews] = {
    "amazon-electronics": _Reviews(_SNAP + "reviews_Electronics_5.json.gz", reviews=1_689_188, size=495_854_086),
    "amazon-office": _Reviews(_SNAP + "reviews_Office_Products_5.json.gz", reviews=53_258),
    "amazon-baby": _Reviews(_SNAP + "reviews_Baby_5.json.gz", reviews=160_792),
}

# PyG's class, and the file or folder of interactions among the raw files that it unpacks.
_FROM_PYG: dict[str, tuple[str, str]] = {
    "ml-100k": ("MovieLens100K", "u.data"),
    "ml-1m": ("MovieLens1M", "ratings.dat"),
    "amazon-book": ("AmazonBook", ""),
}

NAMED: tuple[str, ...] = (*_AMAZON, *_FROM_PYG)
"""The names that :func:`load_named` knows."""


def load_named(
    name: str,
    *,
    root: str | PathLike[str] | None = None,
    split: Split = Split(),  # noqa: B008 - frozen
    min_rating: float | None = None,
    k_core: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> Interactions:
    """A public data set, downloaded at first use.

    - ``amazon-electronics``, ``amazon-office``, ``amazon-baby``: the 5-core reviews of 2014 (every user and item has
      at least five; J. McAuley, http://jmcauley.ucsd.edu/data/amazon/). Raw ids are ``reviewerID`` and ``asin``, the
      rating is ``overall``, the time ``unixReviewTime``. Every review is an interaction, unless ``min_rating`` says
      otherwise. ``<root>/<name>/`` keeps the downloaded file and, once it is read, ``ratings.csv``, after which the
      former is not needed any more.
    - ``ml-100k``, ``ml-1m`` (GroupLens) and ``amazon-book`` (as LightGCN's authors split it, validation held out of
      training by ``split.valid``): downloaded by PyG's classes ``MovieLens100K``, ``MovieLens1M``, ``AmazonBook``.

    What is not split by its publishers is split by ``split``, as in
    :func:`~infodcl_geo.data.interactions.load_interactions`.

    Args:
        name: one of :data:`NAMED`.
        root: where data sets are kept; default: environment variable ``INFODCL_GEO_CACHE``, else
            ``~/.cache/infodcl-geo``.
        split: how to split.
        min_rating: keep only ratings of at least this many stars.
        k_core: keep only users and items with at least this many interactions.
        seed: of the random split.
        progress: show progress bars.

    Raises:
        DatasetError: if the name is unknown, or the file cannot be downloaded or is damaged.
    """
    cache = Path(root or os.environ.get("INFODCL_GEO_CACHE") or Path.home() / ".cache" / "infodcl-geo")
    options: dict[str, Any] = {"split": split, "min_rating": min_rating, "k_core": k_core, "seed": seed, "name": name}
    try:
        if name in _AMAZON:
            return load_interactions(_amazon_ratings(name, cache / name, progress), **options)
        if name in _FROM_PYG:
            return load_interactions(_pyg_raw(name, cache / name), **options)
    except OSError as error:
        raise DatasetError(f"{name}: {error.filename or cache}: {error.strerror or error}") from None
    raise DatasetError(f"no data set is called {name!r}; there are {', '.join(NAMED)}")


def _pyg_raw(name: str, folder: Path) -> Path:
    from torch_geometric import datasets

    class_name, interactions = _FROM_PYG[name]
    dataset = getattr(datasets, class_name)
    try:
        return Path(dataset(str(folder)).raw_dir) / interactions
    except Exception as error:  # PyG lets through whatever its download and its parsers meet
        raise DatasetError(
            f"{name}: torch_geometric.datasets.{class_name} failed ({_first_line(error)}); without a network, put the "
            f"content of {dataset.url} into {folder / 'raw'}"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _amazon_ratings(name: str, folder: Path, progress: bool) -> Path:
    """The table of ratings of a file of reviews, made at first use."""
    ratings = folder / "ratings.csv"
    if ratings.exists():
        return ratings
    source = _AMAZON[name]
    file = folder / source.url.rsplit("/", 1)[1]
    by_hand = f"without a network, download {source.url} by hand and put it at {file}"
    folder.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        try:
            download(source.url, file, size=source.size, progress=progress)
        except DatasetError as error:
            raise DatasetError(f"{name}: {error}; {by_hand}") from None
    record = file.with_name(file.name + ".sha256")
    expected = source.sha256 or (record.read_text().split()[0] if record.exists() else None)
    with open(file, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if source.size is not None and file.stat().st_size != source.size:
        raise DatasetError(f"{file}: has {file.stat().st_size} bytes, not {source.size}; delete it; {by_hand}")
    if expected is not None and digest != expected:
        also = "" if source.sha256 else f" (and {record.name}, if the publisher changed the file)"
        raise DatasetError(f"{file}: its SHA-256 is {digest}, not {expected}; delete it{also}; {by_hand}")
    _write_ratings(file, ratings, source, progress)
    if expected is None:
        # Only now, when the file has been read to its end: a damaged one must not become the standard.
        record.write_text(f"{digest}  {file.name}\n")
        tqdm.write(f"{file.name}: no published checksum; SHA-256 {digest} recorded in {record}", file=sys.stderr)
    return ratings


def _write_ratings(file: Path, ratings: Path, source: _Reviews, progress: bool) -> None:
    """Reviews, read in a stream, to a table of user, item, rating and time."""
    part = ratings.with_name(ratings.name + ".part")
    number = 0
    try:
        with (
            gzip.open(file, "rb") as lines,
            open(part, "w", newline="", encoding="utf-8") as out,
            tqdm(total=source.reviews, desc=file.name, unit=" reviews", disable=not progress) as bar,
        ):
            table = csv.writer(out)
            table.writerow(["user", "item", "rating", "timestamp"])
            for number, line in enumerate(lines, 1):
                review = json.loads(line)
                table.writerow([review[k] for k in ("reviewerID", "asin", "overall", "unixReviewTime")])
                if number % 10_000 == 0:
                    bar.update(10_000)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"{file}: damaged ({_first_line(error)}); delete it and try again") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{file}:{number}: not a review ({_first_line(error)})") from None
    if source.reviews is not None and number != source.reviews:
        raise DatasetError(f"{file}: has {number} reviews, not {source.reviews}; delete it and try again")
    part.replace(ratings)


def download(
    url: str,
    file: str | PathLike[str],
    *,
    size: int | None = None,
    attempts: int = 4,
    wait: float = 0.5,
    timeout: float = 30.0,
    progress: bool = True,
) -> None:
    """Download a file; a cut connection is taken up where it broke, also by a later call.

    What has arrived waits in ``<file>.part``. A server that cannot continue a file sends it from the start.

    Args:
        url: what to download.
        file: where to put it.
        size: number of bytes that it must have; default: what the server announces.
        attempts: how many connections in a row may bring nothing new.
        wait: seconds before the second attempt; doubled for each further one.
        timeout: seconds without a byte after which a connection counts as cut.
        progress: show a progress bar.

    Raises:
        DatasetError: if the server refuses, keeps failing, or sends another number of bytes.
    """
    file = Path(file)
    part = file.with_name(file.name + ".part")
    failures = most = 0
    with tqdm(desc=file.name, total=size, unit="B", unit_scale=True, disable=not progress) as bar:
        while True:
            most = max(most, part.stat().st_size if part.exists() else 0)
            problem = "the connection was cut"
            try:
                announced = _fetch(url, part, bar, timeout)
            except urllib.error.HTTPError as error:
                if error.code not in (408, 429) and error.code < 500:
                    raise DatasetError(f"cannot download {url} (HTTP {error.code} {error.reason})") from None
                announced, problem = None, f"HTTP {error.code} {error.reason}"
            except (OSError, http.client.HTTPException) as error:
                announced, problem = None, _first_line(error)
            have = part.stat().st_size if part.exists() else 0
            wanted = size if size is not None else announced
            if announced is not None and have >= announced:
                if wanted != have:
                    part.unlink()
                    raise DatasetError(f"{url} has {have} bytes, not {wanted}")
                part.replace(file)
                return
            failures = 0 if have > most else failures + 1
            if failures >= attempts:
                raise DatasetError(f"cannot download {url} ({problem})") from None
            time.sleep(wait * 2 ** max(0, failures - 1))


def _fetch(url: str, part: Path, bar: tqdm[Any], timeout: float) -> int | None:
    """One connection: append to the part, or begin it anew; returns the size of the whole file if it is known."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "infodcl-geo", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
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
    return have if total is None else total
