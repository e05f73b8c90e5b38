"""Public data sets that come by name: downloaded once, checked at each use, and then working offline.

Only raw files are taken: a file of reviews, a named member of an archive, adjacency lists. Nothing of an archive is
unpacked beside that member, and nothing that is read can run code.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Any, TypeAlias

from tqdm import tqdm

from .download import DatasetError, download, file_sha256, locked, put_in_place, write_in_place
from .ids import one_line
from .interactions import Interactions, Split, load_interactions

__all__ = ["NAMED", "DatasetError", "download", "load_named"]

_Row: TypeAlias = tuple[str, str, float, int]
"""User, item, rating and time of one interaction."""

_LINE = 2**22
"""Bytes that a line may have; the longest Amazon review has about 35,000."""


# ---------------------------------------------------------------------------------------------------------------------
# What there is


@dataclass(frozen=True)
class _File:
    """A file that its publisher offers.

    ``size`` is in bytes. ``sha256`` is ``None`` where none is known: the file's own is then recorded beside it when it
    has been read to its end for the first time, and is the only one accepted from then on.
    """

    url: str
    size: int | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class _Ratings:
    """Ratings in one file: ``rows`` yields them, ``count`` is the published number of them."""

    file: _File
    rows: Callable[[Path], Iterator[_Row]]
    count: int


@dataclass(frozen=True)
class _List:
    """Adjacency lists: a user and its items a line, ``count`` items together."""

    file: _File
    count: int

    def verify(self, file: Path) -> None:
        with open(file, "rb") as lines:
            number = sum(max(0, len(line.split()) - 1) for line in _bounded(lines, file, file.stat().st_size))
        if number != self.count:
            raise DatasetError(f"{file}: has {number} interactions, not {self.count}")


@dataclass(frozen=True)
class _Lists:
    """Adjacency lists that are split already."""

    train: _List
    test: _List


def _reviews(file: Path) -> Iterator[_Row]:
    """Amazon reviews, one JSON object a line, gzip."""
    # A file of reviews packs to a third; what packs to a fiftieth is none.
    bound = 50 * file.stat().st_size + 2**26
    with gzip.open(file, "rb") as lines:
        for number, line in enumerate(_bounded(lines, file, bound), 1):
            try:
                review = json.loads(line)
                user, item, rating, time = (review[k] for k in ("reviewerID", "asin", "overall", "unixReviewTime"))
                if not (isinstance(user, str) and isinstance(item, str) and user.isprintable() and item.isprintable()):
                    raise TypeError("ids are not words")
                if not math.isfinite(stars := float(rating)):
                    raise ValueError("a rating that is not finite")
                yield user, item, stars, int(time)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                raise DatasetError(f"{file}:{number}: not a review ({one_line(error)})") from None


def _member(name: str, separator: str) -> Callable[[Path], Iterator[_Row]]:
    """Rows ``user item rating time`` of one member of a zip archive, by their separator."""

    def rows(file: Path) -> Iterator[_Row]:
        try:
            with zipfile.ZipFile(file) as archive:
                member = archive.getinfo(name)
                if member.file_size > 2**28:
                    raise DatasetError(f"{file}: {name} says that it has {member.file_size} bytes")
                with archive.open(member) as lines:
                    for number, line in enumerate(_bounded(lines, file, member.file_size), 1):
                        try:
                            user, item, rating, time = (int(x) for x in line.decode("ascii").split(separator))
                        except ValueError:
                            raise DatasetError(f"{file}: {name}:{number}: not user, item, rating and time") from None
                        yield str(user), str(item), float(rating), time
        except KeyError:
            raise DatasetError(f"{file}: has no {name}") from None

    return rows


def _bounded(lines: IO[bytes] | gzip.GzipFile, file: Path, bound: int) -> Iterator[bytes]:
    """Lines of a stream, neither longer than a line may be nor more than ``bound`` bytes together."""
    total = 0
    while line := lines.readline(_LINE):
        total += len(line)
        if len(line) == _LINE or total > bound:
            raise DatasetError(f"{file}: unpacks to more than such a file can hold; delete it and try again")
        yield line


_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/reviews_"
_GROUPLENS = "https://files.grouplens.org/datasets/movielens/"
_LIGHTGCN = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/master/data/amazon-book/"

# SHA-256 of the archives of GroupLens as other libraries pin them; of the other files none is published.
_SOURCES: dict[str, _Ratings | _Lists] = {
    "amazon-electronics": _Ratings(_File(_SNAP + "Electronics_5.json.gz", 495_854_086), _reviews, 1_689_188),
    "amazon-office": _Ratings(_File(_SNAP + "Office_Products_5.json.gz"), _reviews, 53_258),
    "amazon-baby": _Ratings(_File(_SNAP + "Baby_5.json.gz"), _reviews, 160_792),
    "ml-100k": _Ratings(
        _File(
            _GROUPLENS + "ml-100k.zip",
            4_924_029,
            "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        ),
        _member("ml-100k/u.data", "\t"),
        100_000,
    ),
    "ml-1m": _Ratings(
        _File(
            _GROUPLENS + "ml-1m.zip",
            5_917_549,
            "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        ),
        _member("ml-1m/ratings.dat", "::"),
        1_000_209,
    ),
    "amazon-book": _Lists(
        _List(_File(_LIGHTGCN + "train.txt"), 2_380_730), _List(_File(_LIGHTGCN + "test.txt"), 603_378)
    ),
}

NAMED: tuple[str, ...] = tuple(_SOURCES)
"""The names that :func:`load_named` knows."""


# ---------------------------------------------------------------------------------------------------------------------
# Loading


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
      rating is ``overall``, the time ``unixReviewTime``.
    - ``ml-100k``, ``ml-1m``: MovieLens (GroupLens, https://grouplens.org/datasets/movielens/).
    - ``amazon-book``: as LightGCN's authors split it, validation held out of training by ``split.valid``.

    Every rating is an interaction, unless ``min_rating`` says otherwise. What is not split by its publishers is split
    by ``split``, as in :func:`~infodcl_geo.data.interactions.load_interactions`.

    ``<root>/<name>/`` keeps the downloaded file and, once it is read, ``ratings.csv``, after which the former is not
    needed any more. The length and the SHA-256 of both are checked at each use: what was cut or changed is made again,
    or downloaded again. The archives of MovieLens must have the SHA-256 that other libraries know. For the rest none is
    published: the number of interactions is checked, and the SHA-256 of the first download is recorded beside the file
    and must be that of later ones.

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
    if name not in _SOURCES:
        raise DatasetError(f"no data set is called {name!r}; there are {', '.join(NAMED)}")
    cache = Path(root or os.environ.get("INFODCL_GEO_CACHE") or Path.home() / ".cache" / "infodcl-geo")
    source, folder = _SOURCES[name], cache / name
    options: dict[str, Any] = {"split": split, "min_rating": min_rating, "k_core": k_core, "seed": seed, "name": name}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if isinstance(source, _Ratings):
                files = [_table(name, source, folder, progress)]
            else:
                files = [
                    _checked(name, part.file, folder, progress, part.verify) for part in (source.train, source.test)
                ]
        if len(files) == 1:
            return load_interactions(files[0], **options)
        return load_interactions(files[0], test=files[1], format="adjacency", **options)
    except OSError as error:
        raise DatasetError(f"{name}: {error.filename or cache}: {error.strerror or error}") from None


def _table(name: str, source: _Ratings, folder: Path, progress: bool) -> Path:
    """The table of ratings, made at first use, and again where it is not what was written."""
    ratings = folder / "ratings.csv"
    if not (ratings.is_file() and _recorded(ratings) == _content_of(ratings)):
        _checked(name, source.file, folder, progress, lambda file: _write_ratings(file, ratings, source, progress))
        _record(ratings)
    return ratings


def _checked(name: str, source: _File, folder: Path, progress: bool, use: Callable[[Path], None]) -> Path:
    """The file of ``source``, verified and then used; one that turns out wrong is downloaded again, once."""
    file = folder / source.name
    recorded = _recorded(file)
    sha256 = source.sha256 or (recorded or {}).get("sha256")
    by_hand = f"without a network, download {source.url} by hand and put it at {file}"
    if recorded is not None and not source.sha256:
        by_hand += f"; if its publisher has changed it, delete {_beside(file)}"
    problem = ""
    if file.is_file():
        try:
            _verify(file, source.size, sha256)
            _used(file, use)
        except DatasetError as error:
            problem = f" ({error})"
        else:
            if sha256 is None:
                _first_seen(file)
            return file
    fresh = file.with_name(file.name + ".new")  # what is there stays until there is better
    try:
        download(source.url, fresh, size=source.size, sha256=sha256, progress=progress)
        _used(fresh, use)
    except DatasetError as error:
        fresh.unlink(missing_ok=True)
        raise DatasetError(f"{name}: {error}{problem}; {by_hand}") from None
    put_in_place(fresh, file)
    if sha256 is None:
        _first_seen(file)
    return file


def _used(file: Path, use: Callable[[Path], None]) -> None:
    try:
        use(file)
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DatasetError(f"{file}: damaged ({one_line(error)})") from None


def _verify(file: Path, size: int | None, sha256: str | None) -> None:
    have = file.stat().st_size
    if size is not None and have != size:
        raise DatasetError(f"{file}: has {have} bytes, not {size}")
    if sha256 is not None and (found := file_sha256(file)) != sha256:
        raise DatasetError(f"{file}: its SHA-256 is {found}, not {sha256}")


def _write_ratings(file: Path, ratings: Path, source: _Ratings, progress: bool) -> None:
    """A table of user, item, rating and time, in place once all of the file has been read."""

    def write(out: IO[str]) -> None:
        table, number = csv.writer(out), 0
        table.writerow(["user", "item", "rating", "timestamp"])
        with tqdm(total=source.count, desc=ratings.name, unit=" ratings", disable=not progress) as bar:
            for number, row in enumerate(source.rows(file), 1):
                table.writerow(row)
                if number % 10_000 == 0:
                    bar.update(10_000)
        if number != source.count:
            raise DatasetError(f"{file}: has {number} ratings, not {source.count}")

    write_in_place(ratings, write)


# ---------------------------------------------------------------------------------------------------------------------
# Records beside files


def _beside(file: Path) -> Path:
    return file.with_name(file.name + ".json")


def _content_of(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": file_sha256(file)}


def _recorded(file: Path) -> dict[str, Any] | None:
    """What was recorded of a file; ``None`` without a record that can be read."""
    try:
        with open(_beside(file), encoding="utf-8") as stream:
            found = json.loads(stream.read(4096))
        if isinstance(found["bytes"], int) and isinstance(found["sha256"], str):
            return {"bytes": found["bytes"], "sha256": found["sha256"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def _record(file: Path) -> dict[str, Any]:
    content = _content_of(file)
    write_in_place(_beside(file), lambda out: print(json.dumps(content), file=out))
    return content


def _first_seen(file: Path) -> None:
    """Record a file that nobody has published a checksum of, once it has been read to its end without a fault."""
    digest = _record(file)["sha256"]
    tqdm.write(f"{file.name}: no published checksum; SHA-256 {digest} recorded in {_beside(file)}", file=sys.stderr)
