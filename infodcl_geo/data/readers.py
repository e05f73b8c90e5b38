"""One file, or the edges of a graph, to a table of raw ids; and finding the files of a folder."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from .ids import IdMap, IntArray, InteractionError, one_line, warn
from .text_files import (
    NAMES,
    NUMBERS,
    Column,
    Columns,
    Fail,
    Format,
    Ids,
    Layout,
    Table,
    ids_from_words,
    lay_out,
    plain_name,
    read_adjacency,
    read_pairs,
    read_table,
    rows_of,
    shown_header,
    text_columns,
)

# ---------------------------------------------------------------------------------------------------------------------
# Finding files and telling formats


_PARTS = {
    "train": {"train", "training"},
    "valid": {"valid", "validation", "val", "dev"},
    "test": {"test", "testing"},
}
_BINARY = {".npy": "npy", ".npz": "npz", ".parquet": "parquet", ".pq": "parquet"}
_TEXT_ENDINGS = {"", ".txt", ".csv", ".tsv", ".dat", ".data", ".inter", ".edges", ".edgelist", ".list", ".tab"}
_ENDINGS_OF = {
    "npy": {".npy"},
    "npz": {".npz"},
    "parquet": {".parquet", ".pq"},
    "recbole": {".inter"},
}
_USUAL_NAMES = ("interactions", "interaction", "ratings", "rating", "inter", "u", "events", "reviews", "data")


def _ending(file: Path) -> str:
    """The ending that tells the format: the last, or the one before ``.gz``."""
    return (Path(file.stem) if file.suffix == ".gz" else file).suffix.lower()


def find_files(
    where: Path,
    valid: str | PathLike[str] | None,
    test: str | PathLike[str] | None,
    format: Format | None,
) -> dict[str, Path]:
    """The files of each part, ``train`` first; only ``train`` if there is one file to be split."""
    given = {"valid": valid, "test": test}
    if not where.exists():
        raise InteractionError(f"{where}: no such file or folder")
    if where.is_dir():
        if valid is not None or test is not None:
            raise InteractionError(f"{where}: valid= and test= go with a training file, not with a folder")
        return _files_of_folder(where, format)
    files = {"train": where}
    for part, file in given.items():
        if file is not None:
            files[part] = Path(file)
            if not files[part].is_file():
                raise InteractionError(f"{file}: no such file")
    return files


def _files_of_folder(folder: Path, format: Format | None) -> dict[str, Path]:
    endings = _ENDINGS_OF.get(format or "", _TEXT_ENDINGS if format else _TEXT_ENDINGS | set(_BINARY))
    readable = sorted(
        f
        for f in folder.iterdir()
        if f.is_file() and not f.name.startswith((".", "_")) and _ending(f) in endings and f.stem.lower() != "readme"
    )
    if not readable:
        raise InteractionError(f"{folder}: no file of interactions in this folder")
    files: dict[str, Path] = {}
    for part, words in _PARTS.items():
        named = [f for f in readable if words & set(re.split(r"[._\-]+", f.name.lower()))]
        exact = [f for f in named if f.name.lower().split(".")[0] in words]
        candidates = exact or named
        if len(candidates) > 1:
            shown = ", ".join(f.name for f in candidates[:5])
            raise InteractionError(f"{folder}: several files for {part} ({shown}); give the files, or format=")
        if candidates:
            files[part] = candidates[0]
    if "train" in files:
        return files
    if files:
        raise InteractionError(f"{folder}: has {next(iter(files.values())).name} but no training file")
    for choice in (
        [f for f in readable if _ending(f) == ".inter"],
        [f for f in readable if f.name.lower().split(".")[0] in (*_USUAL_NAMES, folder.name.lower())],
        readable,
    ):
        if len(choice) == 1:
            return {"train": choice[0]}
    shown = ", ".join(f.name for f in readable[:5])
    raise InteractionError(f"{folder}: cannot tell which file holds the interactions ({shown}); give the file itself")


def read(file: Path, format: Format | None, columns: Columns) -> tuple[Table, Format]:
    """The table of a file and the format it was read in."""
    format = format or _BINARY.get(_ending(file))  # type: ignore[assignment]
    if format == "npy":
        return _read_npy(file, columns), format
    if format == "npz":
        return _read_npz(file), format
    if format == "parquet":
        return _read_parquet(file, columns), format
    try:
        return _read_text(file, format, columns)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InteractionError(f"{file}: damaged compressed file ({one_line(error)})") from None


def _read_text(file: Path, format: Format | None, columns: Columns) -> tuple[Table, Format]:
    layout = lay_out(file, format, columns)
    if layout.format == "adjacency":
        return read_adjacency(layout), "adjacency"
    if layout.header is None:
        position = _positions_of(columns, layout.width, str(file))
        return read_pairs(layout, position, columns.are_positions), layout.format
    return read_table(layout, _find_columns(layout.header, columns, f"{file}:{layout.first_line - 1}")), layout.format


# ---------------------------------------------------------------------------------------------------------------------
# Binary formats


def _read_npy(file: Path, columns: Columns) -> Table:
    try:
        array = np.load(file, allow_pickle=False)
    except Exception as error:  # whatever numpy meets in damaged bytes
        raise InteractionError(f"{file}: not an array of numbers ({one_line(error)})") from None
    if not isinstance(array, np.ndarray):
        raise InteractionError(f"{file}: an archive of arrays, not one array")
    if array.ndim == 2 and array.shape[0] == 2 and array.shape[1] != 2:
        array = array.T
    if array.ndim != 2 or array.shape[1] not in (2, 3, 4):
        raise InteractionError(
            f"{file}: shape {array.shape}; pairs are E x 2 or 2 x E, or E x 3 or 4 with rating and time"
        )
    if len(array) == 0:
        raise InteractionError(f"{file}: empty, no interactions")
    position = _positions_of(columns, array.shape[1], str(file))
    users, items = (Ids(_integer_ids(file, array[:, position[c]], c)) for c in ("user", "item"))
    extra: dict[str, np.ndarray] = {}
    for key in ("rating", "time"):
        if key in position:
            extra[key] = np.ascontiguousarray(array[:, position[key]])
            check_finite(str(file), key, extra[key])
    return Table(str(file), users, items, **extra)


def _integer_ids(source: object, values: np.ndarray, what: str) -> IntArray:
    """Non-negative int64 ids of an array of numbers; anything else is an error that names the first such row."""
    if values.dtype.kind not in "iuf":
        raise InteractionError(f"{source}: {what} ids of type {values.dtype}, not integers")
    if values.dtype.kind == "f":
        # Beyond 2**53 (2**24, 2**11) neighbouring integers share a float: different ids may have become one.
        limit = 2.0 ** (np.finfo(values.dtype).nmant + 1)
        _fail_at(source, ~np.isfinite(values), f"{what} id is not a number")
        _fail_at(source, values != np.floor(values), f"{what} id is not an integer")
        _fail_at(source, values > limit, f"{what} id is too large for {values.dtype}")
    elif values.dtype == np.uint64:
        _fail_at(source, values > np.uint64(np.iinfo(np.int64).max), f"{what} id does not fit 64 bits")
    _fail_at(source, values < 0, f"{what} id is negative")
    return np.ascontiguousarray(values, dtype=np.int64)


def _fail_at(source: object, wrong: np.ndarray, message: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        more = int(wrong.sum()) - 1
        raise InteractionError(f"{source}: row {row} (from 0): {message}{f' (and {more} more)' if more else ''}")


def check_finite(source: str, what: str, values: np.ndarray) -> None:
    if values.dtype.kind not in "iufb":
        raise InteractionError(f"{source}: {what} of type {values.dtype}, not numbers")
    if values.dtype.kind == "f":
        _fail_at(source, ~np.isfinite(values), f"{what} is not a number")


def _read_npz(file: Path) -> Table:
    try:
        matrix = sp.load_npz(file)
        if matrix.format in ("csr", "csc", "bsr"):
            matrix.check_format(full_check=True)
        matrix = matrix.tocoo()
    except Exception as e:  # whatever numpy and scipy meet in damaged bytes
        raise InteractionError(f"{file}: not a sparse matrix saved by scipy ({one_line(e)})") from None
    if matrix.data.dtype.kind not in "iufb":
        raise InteractionError(f"{file}: a matrix of {matrix.data.dtype}, not of numbers")
    check_finite(str(file), "value", matrix.data)
    users, items = _integer_ids(file, matrix.row, "user"), _integer_ids(file, matrix.col, "item")
    _fail_at(file, (users >= matrix.shape[0]) | (items >= matrix.shape[1]), f"index outside the shape {matrix.shape}")
    stored = matrix.data != 0
    if not stored.all():
        warn(f"{file}: {int((~stored).sum())} stored zeros are no interactions, left out")
    table = Table(str(file), Ids(users), Ids(items), rating=matrix.data)[stored]
    if len(table) == 0:
        raise InteractionError(f"{file}: empty, no interactions")
    return table


def _read_parquet(file: Path, columns: Columns) -> Table:
    found = _parquet_columns(file, lambda names: _find_columns(names, columns, str(file)))
    return Table(str(file), found["user"], found["item"], found.get("rating"), found.get("time"))


def _parquet_columns(file: Path, find: Callable[[list[str]], dict[str, int]]) -> dict[str, Any]:
    """The columns of a parquet file that ``find`` picks by name: ids, or numbers for those of :data:`NUMBERS`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InteractionError(f"{file}: parquet needs pyarrow: pip install 'infodcl-geo[parquet]'") from None
    try:
        parquet = pq.ParquetFile(file)
        names = parquet.schema_arrow.names
        found = find(names)
        table = parquet.read(columns=[names[p] for p in found.values()])
        if table.num_rows == 0:
            raise InteractionError(f"{file}: empty, no interactions")
        values: dict[str, Any] = {}
        for key, position in found.items():
            column = table.column(names[position])
            if column.null_count:
                _fail_at(file, np.asarray(column.is_null()), f"{key} is missing")
            if key not in NUMBERS:
                if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
                    values[key] = Ids(_integer_ids(file, column.to_numpy(), key))
                    continue
                encoded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
                words = np.asarray(encoded.dictionary.to_pylist(), dtype=np.str_)
                codes = encoded.indices.to_numpy().astype(np.int64)
                values[key] = ids_from_words([(codes, words)], integers_only=False, fail=_failing_rows(file, key))
            elif pa.types.is_temporal(column.type):
                values[key] = column.cast(pa.timestamp("ns")).to_numpy().astype(np.int64)
            else:
                values[key] = column.to_numpy()
                check_finite(str(file), key, values[key])
    except InteractionError:
        raise
    except Exception as error:  # whatever pyarrow meets in damaged bytes
        raise InteractionError(f"{file}: not readable as parquet ({one_line(error)})") from None
    return values


def _failing_rows(file: Path, what: str) -> Fail:
    def fail(wrong: np.ndarray, message: str, integers: bool = False) -> None:
        _fail_at(file, wrong, f"{what} {message}")

    return fail


def from_edges(source: str, edges: Tensor) -> Table:
    if edges.dim() != 2 or edges.size(0) != 2:
        raise InteractionError(f"{source}: edges of shape {list(edges.shape)}, not [2, E]")
    if edges.size(1) == 0:
        raise InteractionError(f"{source}: empty, no interactions")
    array = edges.detach().cpu().numpy()
    return Table(source, Ids(_integer_ids(source, array[0], "user")), Ids(_integer_ids(source, array[1], "item")))


# ---------------------------------------------------------------------------------------------------------------------
# Columns


def _find_columns(header: Sequence[str], columns: Columns, source: str) -> dict[str, int]:
    """Position of the user, item and, where there are, rating and time columns of a header."""
    plain = [plain_name(h) for h in header]
    found: dict[str, int] = {}
    for key, names in NAMES.items():
        wanted = getattr(columns, key)
        if wanted is not None:
            found[key] = _column(header, wanted, key, source)
        else:
            match = next((plain.index(n) for n in names.split() if n in plain), None)
            if match is not None:
                found[key] = match
    for key in ("user", "item"):
        if key not in found:
            raise InteractionError(
                f"{source}: cannot tell the {key} column among {shown_header(header)}; name it with {key}_column="
            )
    if found["user"] == found["item"]:
        raise InteractionError(f"{source}: user and item cannot be the same column {header[found['user']]!r}")
    return found


def _positions_of(columns: Columns, width: int, source: str) -> dict[str, int]:
    """The columns of a source without a header: ``user item [rating [time]]`` unless positions are given."""
    found: dict[str, int] = {}
    taken = {c for c in (columns.user, columns.item, columns.rating, columns.time) if c is not None}
    for default, key in enumerate(NAMES):
        wanted = getattr(columns, key)
        if isinstance(wanted, str):
            raise InteractionError(f"{source}: no header, so no column {wanted!r}; give {key}_column= as a position")
        if wanted is not None:
            found[key] = _checked_position(wanted, width, key, source)
        elif default < width and default not in taken:
            found[key] = default
        elif key in ("user", "item"):
            raise InteractionError(f"{source}: {width} columns; say which is the {key} with {key}_column=")
    if found["user"] == found["item"]:
        raise InteractionError(f"{source}: user and item cannot be the same column {found['user']}")
    return found


def _checked_position(position: int, width: int, key: str, source: str) -> int:
    if not 0 <= position < width:
        raise InteractionError(f"{source}: no column {position} for {key}; there are {width}, counted from 0")
    return position


def _column(header: Sequence[str], wanted: Column, key: str, source: str) -> int:
    if isinstance(wanted, int):
        return _checked_position(wanted, len(header), key, source)
    matches = [p for p, h in enumerate(header) if wanted in (h, h.split(":")[0])]
    if not matches:
        raise InteractionError(f"{source}: no column {wanted!r} for {key}; there are {shown_header(header)}")
    return matches[0]


# ---------------------------------------------------------------------------------------------------------------------
# Columns of ids that are no interactions


class IdColumn(NamedTuple):
    """A column of raw ids: row ``e`` holds ``ids[codes[e]]``; ``ids`` may have entries that no row uses."""

    codes: IntArray
    ids: np.ndarray

    def encode(self, ids: IdMap) -> IntArray:
        """Dense row of every raw id, -1 where ``ids`` does not have it."""
        return ids.encode(self.ids, missing=-1)[self.codes]


def read_columns(
    path: str | PathLike[str],
    roles: Mapping[str, str],
    *,
    weight: bool = False,
    columns: Sequence[Column] | None = None,
) -> dict[str, Any]:
    """Columns of raw ids from a table: text with or without a header, RecBole's atomic files, parquet or npy.

    A header is recognised by RecBole's types (``name:type``) or by a usual name of one of the roles. Where every role
    has a column with a usual name, names decide, else the order of the columns.

    Args:
        path: the file.
        roles: what the columns hold, and the usual names of such columns (small letters and digits, blank-separated).
        weight: whether a column of numbers may follow: called ``weight``, or the next one of a file without a header.
        columns: header names or positions of the roles, in their order (one more for the weight).

    Returns:
        An :class:`IdColumn` for each role, and a float array under ``weight`` where there is one.

    Raises:
        InteractionError: if the file cannot be read; one line that names file and line.
    """
    file = Path(path)
    keys = [*roles, *(["weight"] if weight else [])]
    if columns is not None and not len(roles) <= len(columns) <= len(keys):
        raise InteractionError(f"{file}: columns= names the columns of {', '.join(keys)}, not {len(columns)} columns")

    def find(header: Sequence[str]) -> dict[str, int]:
        if columns is not None:
            return {key: _column(header, wanted, key, str(file)) for key, wanted in zip(keys, columns, strict=False)}
        plain = [plain_name(h) for h in header]
        found = {key: next((plain.index(n) for n in names.split() if n in plain), -1) for key, names in roles.items()}
        if min(found.values()) < 0:
            if len(header) < len(roles):
                raise InteractionError(f"{file}: {len(header)} columns where {', '.join(roles)} are expected")
            found = dict(zip(roles, range(len(roles)), strict=True))
        if weight and "weight" in plain:
            found["weight"] = plain.index("weight")
        return found

    try:
        if not file.is_file():
            raise InteractionError(f"{file}: no such file")
        kind = _BINARY.get(_ending(file))
        if kind == "parquet":
            values = _parquet_columns(file, find)
        elif kind == "npy":
            values = _array_columns(file, keys[: len(columns)] if columns else keys, len(roles), columns)
        elif kind == "npz":
            table = _read_npz(file)
            values = dict(zip(keys, (table.users, table.items, table.rating), strict=False))
        else:
            values = text_columns(*_lay_out_columns(file, roles, keys, columns, find))
    except OSError as error:
        raise InteractionError(f"{error.filename or file}: {error.strerror or one_line(error)}") from None
    except (EOFError, zlib.error) as error:
        raise InteractionError(f"{file}: damaged compressed file ({one_line(error)})") from None
    result = dict(values)
    for role in roles:
        column = values[role]
        if column.vocabulary is None:
            ids, codes = np.unique(column.codes, return_inverse=True)
            result[role] = IdColumn(codes, ids)
        else:
            result[role] = IdColumn(column.codes, column.vocabulary)
    return result


def _array_columns(file: Path, keys: Sequence[str], least: int, columns: Sequence[Column] | None) -> dict[str, Any]:
    try:
        array = np.load(file, allow_pickle=False)
    except Exception as error:  # whatever numpy meets in damaged bytes
        raise InteractionError(f"{file}: not an array of numbers ({one_line(error)})") from None
    if array.ndim == 2 and array.shape[0] in (least, len(keys)) and array.shape[1] > len(keys):
        array = array.T
    if array.ndim != 2 or array.shape[1] < least or array.size == 0:
        raise InteractionError(f"{file}: shape {array.shape}, not E x {least} or {least} x E")
    header = [str(p) for p in range(array.shape[1])]
    wanted = columns if columns is not None else range(min(len(keys), len(header)))
    values: dict[str, Any] = {}
    for key, column in zip(keys, wanted, strict=False):
        part = array[:, _column(header, column, key, str(file))]
        if key == "weight":
            check_finite(str(file), key, part)
            values[key] = part.astype(np.float64)
        else:
            values[key] = Ids(_integer_ids(file, part, key))
    return values


def _lay_out_columns(
    file: Path,
    roles: Mapping[str, str],
    keys: Sequence[str],
    columns: Sequence[Column] | None,
    find: Callable[[Sequence[str]], dict[str, int]],
) -> tuple[Layout, dict[str, int]]:
    """The layout of a text file for :func:`read_columns`, and the position of each column."""
    layout = lay_out(file, "pairs", Columns(user=0, item=1))
    _, first = next(rows_of(layout))
    typed = all(re.fullmatch(r"[^:]+:(token|float|token_seq|float_seq)", f) for f in first)
    usual = {plain_name(f) for f in first} & set(" ".join(roles.values()).split())
    if typed or usual or any(isinstance(c, str) for c in columns or ()):
        layout = lay_out(file, "recbole" if typed else "table", Columns())
        assert layout.header is not None
        return layout, find(layout.header)
    if layout.width < len(roles):
        raise InteractionError(
            f"{file}:{layout.first_line}: {layout.width} fields where {', '.join(roles)} are expected"
        )
    positions = columns if columns is not None else range(min(len(keys), layout.width))
    header = [str(p) for p in range(layout.width)]
    found = zip(keys, positions, strict=False)
    return layout, {key: _column(header, position, key, str(file)) for key, position in found}
