"""How a text file is laid out: told from its first megabyte, and the layouts of public data sets."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..text import escape
from .ids import InteractionError, warn

Format = Literal["pairs", "adjacency", "table", "recbole", "json", "parquet", "npy", "npz"]
Column = str | int

# The usual names of each column without capitals and punctuation, the most telling first.
NAMES: dict[str, str] = {
    "user": "user userid uid u useridx userindex reviewerid reviewer customerid customer visitorid visitor memberid "
    "member accountid sessionid",
    "item": "item itemid iid i itemidx itemindex movieid movie parentasin asin productid product bookid book isbn "
    "artistid artist trackid track songid song gameid game businessid business venueid venue locationid poi poiid "
    "videoid video newsid articleid",
    "rating": "rating ratings score stars overall bookrating weight value click label isclick clicked like liked "
    "islike purchased ispurchase feedback",
    "time": "timestamp time ts date datetime unixreviewtime reviewtime createdat checkintime",
    "part": "split xlabel fold subset partition",
}


@dataclass(frozen=True)
class Known:
    """A public layout without a header: name and look of each field, and where user, item, rating and time stand."""

    name: str
    fields: tuple[tuple[str, str], ...]
    roles: dict[str, int]
    quoted: bool = True


_ID, _STAMP, _STARS = r"\S+", r"\d{9,13}", r"[0-5](?:\.\d+)?"
_ASIN, _REVIEWER = r"B[0-9A-Z]{9}|\d{9}[\dX]", r"A[0-9A-Z]{9,20}"
_MOMENT, _DEGREES, _MBID = r"\d{4}-\d\d-\d\dT[\d:]+Z?", r"-?\d+(?:\.\d+)?", r"[0-9a-f-]{36}|"
KNOWN = (
    Known(
        "Amazon ratings, item first",
        (("item", _ASIN), ("user", _REVIEWER), ("rating", _STARS), ("time", _STAMP)),
        {"user": 1, "item": 0, "rating": 2, "time": 3},
    ),
    Known(
        "ratings with time",
        (("user", _ID), ("item", _ID), ("rating", _STARS), ("time", _STAMP)),
        {"user": 0, "item": 1, "rating": 2, "time": 3},
    ),
    Known(
        "Taobao UserBehavior",
        (("user", _ID), ("item", _ID), ("category", _ID), ("behaviour", "pv|buy|cart|fav"), ("time", _STAMP)),
        {"user": 0, "item": 1, "time": 4},
    ),
    Known(
        "Gowalla check-ins",
        (("user", _ID), ("time", _MOMENT), ("latitude", _DEGREES), ("longitude", _DEGREES), ("location", _ID)),
        {"user": 0, "time": 1, "item": 4},
    ),
    Known(
        "LastFM 360k",
        (("user", r"[0-9a-f]{40}"), ("artist id", _MBID), ("artist name", r".+"), ("plays", r"\d+")),
        {"user": 0, "item": 2, "rating": 3},
        quoted=False,
    ),
    Known(
        "LastFM 1k",
        (
            ("user", r"user_\d{6}"), ("time", _MOMENT), ("artist id", _MBID), ("artist name", r".+"),
            ("track id", _MBID), ("track name", r".*"),
        ),
        {"user": 0, "time": 1, "item": 3},
        quoted=False,
    ),
)  # fmt: skip

# What the documentation shows: data set, files, what is needed beside --data.
LAYOUTS: tuple[tuple[str, str, str], ...] = (
    ("MovieLens 100K", "u.data: user, item, rating, time (tabs)", ""),
    ("MovieLens 1M, 10M", "ratings.dat: user::item::rating::time", ""),
    ("MovieLens 20M, 25M, 32M", "ratings.csv with header userId,movieId,rating,timestamp", ""),
    ("Amazon ratings (2014)", "csv without header: user,item,rating,time", ""),
    ("Amazon ratings (2018)", "csv without header: item,user,rating,time", ""),
    ("Amazon reviews", "JSON lines, also .json.gz: reviewerID, asin, overall, unixReviewTime", ""),
    ("Amazon 2023", "csv or JSON lines: user_id, parent_asin, rating, timestamp", ""),
    ("Book-Crossing", "BX-Book-Ratings.csv: semicolons, quotes, Latin-1", "--encoding latin-1"),
    ("LastFM hetrec", "user_artists.dat with header userID, artistID, weight (tabs)", ""),
    (
        "LastFM 360k",
        "tsv without header: user, artist id, artist name, plays; items are names, as ids are missing",
        "",
    ),
    (
        "LastFM 1k",
        "tsv without header: user, time, artist id and name, track id and name; items are artists by name",
        "",
    ),
    ("Gowalla, Brightkite", "check-ins without header: user, time, latitude, longitude, location", ""),
    ("Yelp", "review JSON lines: user_id, business_id, stars, date", ""),
    ("Taobao UserBehavior", "csv without header: user, item, category, behaviour, time", ""),
    ("RecBole", "folder with name.inter, or name.train.inter, name.valid.inter, name.test.inter", ""),
    ("MMRec", "name.inter with x_label: 0 train, 1 validation, 2 test", ""),
    ("SELFRec", "train.txt, test.txt: user item weight, or user:item item", ""),
    ("NCF", "name.train.rating, name.test.rating: user, item, rating, time (tabs)", ""),
    ("LightGCN", "train.txt, test.txt: user item item ...", ""),
    ("SSLRec", "trnMat.npz, valMat.npz, tstMat.npz; .pkl is refused: save it with scipy.sparse.save_npz", ""),
)


NO_PART = "none"


@dataclass(frozen=True)
class Columns:
    """The columns a caller named: header names, or positions from 0 (also as digits) in a file without a header.

    ``part`` declares a split; :data:`NO_PART` says that no column does.
    """

    user: Column | None = None
    item: Column | None = None
    rating: Column | None = None
    time: Column | None = None
    part: Column | None = None

    @property
    def given(self) -> dict[str, Column]:
        return {k: v for k in NAMES if (v := getattr(self, k)) is not None and (k, v) != ("part", NO_PART)}

    @property
    def positions(self) -> dict[str, int]:
        return {k: int(v) for k, v in self.given.items() if is_position(v)}


def option(key: str) -> str:
    """What a caller names a column by."""
    return f"{'split' if key == 'part' else key}_column="


def is_position(column: Column) -> bool:
    """Whether a column is named by its position from 0."""
    return isinstance(column, int) or bool(re.fullmatch(r"\d{1,6}", column))


def plain_name(name: str) -> str:
    """A header field without its RecBole type, capitals and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.split(":")[0].lower())


def shown(fields: Sequence[str]) -> str:
    """The first fields of a header, for a message."""
    return ", ".join(repr(h[:80]) for h in fields[:8]) + (", ..." if len(fields) > 8 else "")


def typed_names(fields: Sequence[str]) -> list[str]:
    """The fields that are RecBole's ``name:type``."""
    return [f for f in fields if re.fullmatch(r"[^:]+:(token|float|token_seq|float_seq)", f)]


@dataclass(frozen=True)
class Layout:
    """How a text file is laid out."""

    file: Path
    format: Format
    separator: str | None  # None: any run of spaces and tabs
    start: int  # byte of the first line of data, in the text as UTF-8 without a byte order mark
    first_line: int  # its number, from 1
    encoding: str | None = None
    header: list[str] | None = None
    width: int = 0  # fields a line; for adjacency without meaning
    known: Known | None = None

    @property
    def quoted(self) -> bool:
        """Whether a field may stand in quotes."""
        own = self.known is None or self.known.quoted
        return own and self.format not in ("recbole", "adjacency") and len(self.separator or "") == 1

    def fields(self, line: str) -> list[str]:
        """The fields of a line."""
        line = line.rstrip("\r\n")
        if '"' in line and self.quoted and "\r" not in line:
            try:
                return next(csv.reader([line], delimiter=str(self.separator), skipinitialspace=True))
            except csv.Error as error:
                raise InteractionError(f"{self.file}: a line cannot be read ({error})") from None
        if self.separator == ":":
            line = line.replace(":", " ", 1)
        return line.split() if self.separator in (None, ":") else [f.strip() for f in line.split(self.separator)]


def lay_out(plain: Layout, text: str, columns: Columns, format: Format | None, whole: bool) -> Layout:
    """The layout of a file whose data begin with ``text``, or are it: whole lines, the first of them not blank."""
    lines = [line for line in text.split("\n") if line.strip()]
    where = f"{plain.file}:{plain.first_line}"
    if not lines:
        raise InteractionError(f"{plain.file}: empty, no interactions")
    first = lines[0].rstrip("\r")
    separator = plain.separator
    if separator is None:
        separator = next((s for s in ("::", "\t", ",", ";", "|") if s in first), None)
        if separator is None and re.fullmatch(r"\d+:\s*\d+(?: +\d+)*\s*", first):
            separator = ":"
    elif separator.isspace() and separator != "\t":
        separator = None
    plain = replace(plain, separator=separator, format="table")
    fields = plain.fields(first)
    typed = typed_names(fields)
    if format == "recbole" and len(typed) < len(fields):
        raise InteractionError(f"{where}: not a RecBole header (name:type), but {shown(fields)}")
    if format is None and len(typed) == len(fields):
        format = "recbole"
    if format is None and not columns.given:
        known = _known(lines[:1000], plain)
        if known is not None:
            return replace(plain, format="pairs", width=len(known.fields), known=known)
    rows = [fields, *(plain.fields(line) for line in lines[1:])]
    if format in ("recbole", "table") or (format is None and _has_header(rows, columns)):
        if format is None and not columns.given:
            _require_a_header(fields, where)
        if len(lines) == 1 and whole:
            raise InteractionError(f"{plain.file}: empty, a header and no interactions")
        start = plain.start + len(lines[0].encode()) + 1
        return replace(
            plain,
            format=format or "table",
            start=start,
            first_line=plain.first_line + 1,
            header=fields,
            width=len(fields),
        )
    if format is None:
        format = "pairs" if columns.positions else _pairs_or_adjacency(plain, rows)
    counts = [len(r) for r in rows]
    width = max(set(counts), key=lambda c: (counts.count(c), c)) if format == "pairs" else 0
    if format == "pairs" and width < 2:
        raise InteractionError(
            f"{where}: one field a line; interactions are 'user item' pairs (separator= splits lines)"
        )
    if format == "pairs" and width > 4 and not columns.positions:
        raise InteractionError(f"{where}: {_several(width)}")
    return replace(plain, format=format, width=width)


def _several(width: int) -> str:
    return f"{width} fields a line and no header; give user_column= and item_column= as positions from 0"


def _known(lines: Sequence[str], plain: Layout) -> Known | None:
    """The public layout that the lines have, if they are not numbers alone."""
    if lines[0].count(plain.separator or " ") > max(len(known.fields) for known in KNOWN):
        return None
    rows = [plain.fields(line) for line in lines]
    bare = [[f.strip() for f in line.rstrip("\r").split(plain.separator)] for line in lines]
    if all(is_number(f) for row in bare for f in row):
        return None
    return next((known for known in KNOWN if _fits(known, rows if known.quoted else bare)), None)


def _fits(known: Known, rows: Sequence[Sequence[str]]) -> bool:
    return all(
        len(row) == len(known.fields) and all(re.fullmatch(p, f) for (_, p), f in zip(known.fields, row, strict=True))
        for row in rows
    )


def is_number(token: str) -> bool:
    """Whether a field is a number, or empty."""
    try:
        float(token)
    except ValueError:
        return not token
    return True


def _has_header(rows: Sequence[Sequence[str]], columns: Columns) -> bool:
    first = rows[0]
    if all(is_number(f) for f in first):
        return False
    if not columns.positions:
        return True
    # Positions were given, for a file without a header; but a header may be there all the same: names that such
    # columns usually have, or a word above nothing but numbers.
    where = [at for at in columns.positions.values() if at < len(first)]
    if any(plain_name(first[at]) in NAMES[key].split() for key, at in columns.positions.items() if at in where):
        return True
    if any(is_number(first[at]) for at in where):
        return False
    for at in where:
        below = [r[at] for r in rows[1:1000] if at < len(r)]
        if below and all(is_number(f) for f in below):
            return True
    return False


def _require_a_header(header: Sequence[str], where: str) -> None:
    """A first line that is neither numbers nor a header with known names might be data: do not swallow it."""
    if not {plain_name(h) for h in header} & set(" ".join(NAMES.values()).split()):
        raise InteractionError(
            f"{where}: neither numbers nor a header with known column names: {shown(header)}; "
            "name the columns (user_column=, item_column=), by position if there is no header"
        )


def _pairs_or_adjacency(layout: Layout, rows: list[list[str]]) -> Format:
    """The rule of :func:`~infodcl_geo.data.interactions.load_interactions`."""
    if layout.separator == ":":
        return "adjacency"
    if any(":" in f for f in rows[0]) and layout.separator is None:
        raise InteractionError(
            f"{layout.file}:{layout.first_line}: fields such as {rows[0][-1]!r}; separator= splits them"
        )
    counts = [len(r) for r in rows]
    widest = max(counts)
    common = max(set(counts), key=counts.count)
    usual = counts.count(common) * 2 > len(counts)
    repeats = len({r[0] for r in rows}) < len(rows)
    if widest <= 2:
        return "pairs"
    same = len(set(counts)) == 1
    if common > 4 and ((repeats and usual) or (same and any(_no_item(r) for r in rows))):
        hint = "(format='adjacency' if they are lists of items)"
        raise InteractionError(f"{layout.file}:{layout.first_line}: {_several(common)} {hint}")
    if repeats:
        return "pairs" if common <= 4 and usual else "adjacency"
    if same and widest <= 4:
        if any(not re.fullmatch(r"0|[1-9]\d*", r[2]) for r in rows):
            return "pairs"
        if widest == 4 and all(r[3].isdigit() and int(r[3]) >= 10**8 for r in rows):
            return "pairs"
        values = len({r[2] for r in rows})
        if values * 10 <= len(rows):  # sorted by item, say
            warn(
                f"{layout.file}: every line has its own user, and the third column {values} values; read as user, "
                "item, rating (format='adjacency' if these are lists of items)"
            )
            return "pairs"
    if same and (widest <= 4 or len(rows) > 2):
        warn(
            f"{layout.file}: every line has {widest} integers and its own user; read as adjacency lists "
            "(format='pairs' if the third column is a rating; user_column=, item_column= if these are columns)"
        )
    return "adjacency"


def _no_item(row: Sequence[str]) -> bool:
    """Whether a line of many fields holds what no list of items does: times, fractions, words."""
    return any(not re.fullmatch(r"0|[1-9]\d{0,7}", f) for f in row[2:])


# ---------------------------------------------------------------------------------------------------------------------
# Columns by header or position


def find_columns(header: Sequence[str], columns: Columns, source: str) -> dict[str, int]:
    """Position of the user, item and, where there are, rating, time and part columns of a header."""
    plain = [plain_name(h) for h in header]
    found: dict[str, int] = {}
    for key, names in NAMES.items():
        wanted = columns.given.get(key)
        if wanted is not None:
            found[key] = column_at(header, wanted, key, source)
        elif getattr(columns, key) is None:
            match = next((plain.index(n) for n in names.split() if n in plain), None)
            if match is not None:
                found[key] = match
    for key in ("user", "item"):
        if key not in found:
            raise InteractionError(
                f"{source}: cannot tell the {key} column among {shown(header)}; name it with {key}_column="
            )
    if found["user"] == found["item"]:
        raise InteractionError(f"{source}: user and item cannot be the same column {header[found['user']]!r}")
    return found


def positions_of(columns: Columns, width: int, source: str) -> dict[str, int]:
    """The columns of a source without a header: ``user item [rating [time]]`` unless positions are given."""
    found: dict[str, int] = {}
    for default, key in enumerate(NAMES):
        wanted = columns.given.get(key)
        if wanted is not None and not is_position(wanted):
            raise InteractionError(f"{source}: no header, so no column {wanted!r}; give {option(key)} as a position")
        if wanted is not None:
            found[key] = checked_position(int(wanted), width, key, source)
        elif default < width and default not in columns.positions.values() and key != "part" and width <= 4:
            found[key] = default
        elif key in ("user", "item"):
            raise InteractionError(f"{source}: {width} columns; say which is the {key} with {option(key)}")
    if found["user"] == found["item"]:
        raise InteractionError(f"{source}: user and item cannot be the same column {found['user']}")
    return found


def checked_position(position: int, width: int, key: str, source: str) -> int:
    """The position, if there is such a column."""
    if not 0 <= position < width:
        raise InteractionError(f"{source}: no column {position} for {key}; there are {width}, counted from 0")
    return position


def column_at(header: Sequence[str], wanted: Column, key: str, source: str) -> int:
    """Position of a column of a header by its name, or by its position."""
    matches = [p for p, h in enumerate(header) if wanted in (h, h.split(":")[0])]
    if matches:
        return matches[0]
    if is_position(wanted):
        return checked_position(int(wanted), len(header), key, source)
    raise InteractionError(f"{source}: no column {escape(wanted)!r} for {key}; there are {shown(header)}")
