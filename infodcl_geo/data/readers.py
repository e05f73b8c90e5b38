"""One file, frame, matrix or array to a table of raw ids, or columns of ids that are no interactions."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from torch import Tensor

from ..text import escape
from .columns import check_finite, fail_at, integer_ids, typed
from .folders import JSON, ending, format_of
from .ids import IdMap, IntArray, InteractionError, one_line, warn
from .json_files import read_json
from .layouts import Column, Columns, Format, column_at, find_columns, is_number, plain_name, positions_of, typed_names
from .streams import ALLOWANCE, DAMAGED, RATIO, open_text, require_file
from .tables import Ids, Table
from .text_files import read_adjacency, read_text, rows_of
from .words import narrow

NO_COLUMNS = Columns()
_EMPTY_ROWS = 10_000_000  # rows that a parquet file of any size may have


@dataclass(frozen=True)
class Reading:
    """The options of one reading, the same for every file of it."""

    format: Format | None = None
    columns: Columns = NO_COLUMNS
    encoding: str | None = None
    separator: str | None = None
    time_format: str | None = None


# ---------------------------------------------------------------------------------------------------------------------
# Files


def read(file: Path, how: Reading) -> tuple[Table, Format]:
    """The table of a file and the format it was read in."""
    format = how.format or format_of(file)
    try:
        if format == "npy":
            return from_array(str(file), _load_npy(file), how.columns), format
        if format == "npz":
            return from_matrix(str(file), _load_npz(file)), format
        if format == "parquet":
            return _read_parquet(file, how), format
        return _read_text(file, how)
    except DAMAGED as error:
        raise InteractionError(f"{file}: damaged compressed file ({one_line(error)})") from None


def _read_text(file: Path, how: Reading) -> tuple[Table, Format]:
    layout = open_text(file, how.format, how.columns, how.encoding, how.separator)
    if layout.format == "adjacency":
        users, items = read_adjacency(layout)
        return Table(str(file), users, items), "adjacency"
    if layout.format == "json":
        found, names, position = read_json(
            layout, lambda header: find_columns(header, how.columns, str(file)), time_format=how.time_format
        )
        return _table(str(file), found, names, position), "json"
    if layout.header is not None:
        names = layout.header
        position = find_columns(names, how.columns, f"{file}:{layout.first_line - 1}")
        integers_only = False
    else:
        names = [str(at) for at in range(layout.width)]
        position = dict(layout.known.roles) if layout.known else positions_of(how.columns, layout.width, str(file))
        integers_only = layout.known is None and not how.columns.positions
        if "rating" in position and "rating" not in how.columns.given and not integers_only:
            _, row = next(rows_of(layout))
            if position["rating"] < len(row) and not is_number(row[position["rating"]]):
                del position["rating"]
    return _table(
        str(file),
        read_text(layout, position, integers_only=integers_only, time_format=how.time_format),
        names,
        position,
    ), layout.format


def _table(source: str, found: Mapping[str, Any], names: Sequence[str], position: Mapping[str, int]) -> Table:
    taken = {role: at for role, at in position.items() if found.get(role) is not None}
    ignored = tuple(escape(name) for at, name in enumerate(names) if at not in taken.values())
    named = tuple((role, escape(names[at])) for role, at in taken.items())
    extra = {key: found.get(key) for key in ("rating", "time", "part")}
    return Table(source, found["user"], found["item"], **extra, taken=named, ignored=ignored)


def _load_npy(file: Path) -> np.ndarray:
    require_file(file)
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)  # mapped: a header cannot claim more than the file has
        if isinstance(array, np.ndarray):
            return array
        array.close()
    except Exception as error:  # whatever numpy meets in damaged bytes
        raise InteractionError(f"{file}: not an array of numbers ({one_line(error)})") from None
    raise InteractionError(f"{file}: an archive of arrays, not one array")


def _load_npz(file: Path) -> Any:
    import scipy.sparse as sp

    size = require_file(file)
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked <= RATIO * size + ALLOWANCE:
            matrix = sp.load_npz(file)
            if matrix.format in ("csr", "csc", "bsr"):
                matrix.check_format(full_check=True)
            return matrix
    except Exception as e:  # whatever numpy and scipy meet in damaged bytes
        raise InteractionError(f"{file}: not a sparse matrix saved by scipy ({one_line(e)})") from None
    raise InteractionError(f"{file}: {size} bytes that unpack to {unpacked}, over {RATIO} times as many")


def _read_parquet(file: Path, how: Reading) -> Table:
    frame, names, position = _parquet_columns(file, lambda names: find_columns(names, how.columns, str(file)))
    return _typed_table(str(file), frame, names, position, how)


def _parquet_columns(file: Path, find: Any) -> tuple[pl.DataFrame, list[str], dict[str, int]]:
    """The columns of a parquet file that ``find`` picks, the names of all its columns, and the positions picked."""
    size = require_file(file)
    try:
        names = list(pl.read_parquet_schema(file))
        position: dict[str, int] = find(names)
        rows = pl.scan_parquet(file).select(pl.len()).collect().item()
        if rows > _EMPTY_ROWS + RATIO * size:
            raise InteractionError(f"{file}: {size} bytes claim {rows} rows")
        wanted = sorted(set(position.values()))
        frame = pl.read_parquet(file, columns=[names[at] for at in wanted], use_statistics=False)
        return frame, names, position
    except InteractionError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # whatever polars meets in damaged bytes
        raise InteractionError(f"{file}: not readable as parquet ({one_line(error)})") from None


# ---------------------------------------------------------------------------------------------------------------------
# What is in memory


def from_object(source: Any, how: Reading) -> tuple[Table, str]:
    """The table of a frame, a matrix, a tensor or an array of pairs, and what it is."""
    import scipy.sparse as sp

    kind = type(source).__module__.partition(".")[0]
    name = f"{kind} {type(source).__name__}"
    if isinstance(source, pl.LazyFrame):
        source = source.collect()
    elif kind == "pandas" and hasattr(source, "columns"):
        source = pl.DataFrame({str(c): _from_pandas(source[c], name) for c in source.columns})
    elif kind == "pyarrow" and hasattr(source, "column_names"):
        try:
            position = find_columns(source.column_names, how.columns, name)
            names = list(source.column_names)
            source = pl.from_arrow(source.select([names[at] for at in sorted(set(position.values()))]))
            return _typed_table(name, source, names, position, how), name
        except InteractionError:
            raise
        except (Exception, pl.exceptions.PanicException) as error:  # types that polars does not have
            raise InteractionError(f"{name}: a column cannot be read ({one_line(error)})") from None
    if isinstance(source, pl.DataFrame):
        position = find_columns(source.columns, how.columns, name)
        return _typed_table(name, source, source.columns, position, how), name
    if sp.issparse(source):
        return from_matrix(name, source), name
    if isinstance(source, Tensor):
        source = source.detach().cpu().numpy()
    elif isinstance(source, (list, tuple)):
        try:
            source = np.asarray(source)
        except ValueError:
            raise InteractionError(f"{name}: rows of different lengths, not pairs") from None
    if isinstance(source, np.ndarray):
        return from_array(name, source, how.columns), name
    raise InteractionError(
        f"{name}: interactions are a path, a pandas or polars frame, a pyarrow table, a scipy sparse matrix or pairs "
        "in a tensor or an array (a PyG graph: from_hetero_data)"
    )


def _from_pandas(column: Any, name: str) -> pl.Series:
    """A column of a pandas frame without pyarrow: by numpy, missing values as null."""
    missing = column.isna().to_numpy()
    values = column.to_numpy()
    try:
        if str(column.dtype) == "category":
            column = column.astype(column.cat.categories.dtype)
            values = column.to_numpy()
        if values.dtype.kind == "O" or missing.any():
            listed = [None if m else v for v, m in zip(column.tolist(), missing, strict=True)]
            return pl.Series(listed, strict=not any(isinstance(v, str) for v in listed), dtype=_string_if_any(listed))
        if values.dtype.kind == "M":
            values = values.astype("datetime64[us]")
        return pl.Series(np.ascontiguousarray(values))
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise InteractionError(f"{name}: column {escape(column.name)} cannot be read ({one_line(error)})") from None


def _string_if_any(values: Sequence[Any]) -> Any:
    return pl.String if any(isinstance(v, str) for v in values) else None


def _typed_table(
    source: str, frame: pl.DataFrame, names: Sequence[str], position: dict[str, int], how: Reading
) -> Table:
    if len(frame) == 0:
        raise InteractionError(f"{source}: empty, no interactions")
    found = {role: typed(frame[names[at]], role, source, how.time_format) for role, at in position.items()}
    return _table(source, found, names, position)


def from_array(source: str, array: np.ndarray, columns: Columns = NO_COLUMNS) -> Table:
    """Pairs ``E x 2`` or ``2 x E``, or ``E x 3`` or ``4`` with rating and time."""
    if array.ndim == 2 and array.shape[0] == 2 and array.shape[1] != 2:
        array = array.T
    if array.ndim != 2 or (array.shape[1] not in (2, 3, 4) and not (columns.positions and array.shape[1] > 4)):
        raise InteractionError(
            f"{source}: shape {array.shape}; pairs are E x 2 or 2 x E, or E x 3 or 4 with rating and time"
        )
    if len(array) == 0:
        raise InteractionError(f"{source}: empty, no interactions")
    position = positions_of(columns, array.shape[1], source)
    found: dict[str, Any] = {}
    for key, at in position.items():
        values = np.ascontiguousarray(array[:, at])
        if key in ("user", "item"):
            found[key] = Ids(narrow(integer_ids(source, values, key)))
        else:
            check_finite(source, key, values)
            found[key] = values
    return _table(source, found, [str(at) for at in range(array.shape[1])], position)


def from_matrix(source: str, matrix: Any) -> Table:
    """A sparse matrix, users x items; its entries are the interactions, their values the ratings."""
    try:
        matrix = matrix.tocoo()
    except Exception as error:  # inconsistent arrays
        raise InteractionError(f"{source}: not a sparse matrix ({one_line(error)})") from None
    if matrix.ndim != 2 or matrix.data.dtype.kind not in "iufb":
        raise InteractionError(f"{source}: a matrix of {matrix.data.dtype}, not of numbers")
    check_finite(source, "value", matrix.data)
    users, items = integer_ids(source, matrix.row, "user"), integer_ids(source, matrix.col, "item")
    fail_at(source, (users >= matrix.shape[0]) | (items >= matrix.shape[1]), f"index outside the shape {matrix.shape}")
    stored = matrix.data != 0
    if not stored.all():
        warn(f"{source}: {int((~stored).sum())} stored zeros are no interactions, left out")
    table = Table(source, Ids(users), Ids(items), rating=matrix.data)[stored]
    if len(table) == 0:
        raise InteractionError(f"{source}: empty, no interactions")
    return table


def from_edges(source: str, edges: Tensor) -> Table:
    """Edges ``[2, E]`` from users to items."""
    if edges.dim() != 2 or edges.size(0) != 2:
        raise InteractionError(f"{source}: edges of shape {list(edges.shape)}, not [2, E]")
    if edges.size(1) == 0:
        raise InteractionError(f"{source}: empty, no interactions")
    array = edges.detach().cpu().numpy()
    return Table(source, Ids(integer_ids(source, array[0], "user")), Ids(integer_ids(source, array[1], "item")))


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
    encoding: str | None = None,
    separator: str | None = None,
) -> dict[str, Any]:
    """Columns of raw ids from a table: text with or without a header, RecBole's files, JSON, parquet, npy or npz.

    A header is recognised by RecBole's types (``name:type``) or by a usual name of one of the roles. Where every role
    has a column with a usual name, names decide, else the order of the columns.

    Args:
        path: the file.
        roles: what the columns hold, and the usual names of such columns (small letters and digits, blank-separated).
        weight: whether a column of numbers may follow: called ``weight``, or the next one of a file without a header.
        columns: header names or positions of the roles, in their order (one more for the weight).
        encoding: of the text; default UTF-8.
        separator: between two fields of the text; default: told from the first line.

    Returns:
        An :class:`IdColumn` for each role (``ids`` an int64 array, or an object array of Python strings), and a float
        array under ``weight`` where there is one.

    Raises:
        InteractionError: if the file cannot be read; one line that names file and line.
    """
    file = Path(path)
    keys = [*roles, *(["weight"] if weight else [])]
    if columns is not None and not len(roles) <= len(columns) <= len(keys):
        raise InteractionError(f"{file}: columns= names the columns of {', '.join(keys)}, not {len(columns)} columns")

    def find(header: Sequence[str]) -> dict[str, int]:
        if columns is not None:
            return {key: column_at(header, wanted, key, str(file)) for key, wanted in zip(keys, columns, strict=False)}
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
        if not file.exists():
            raise InteractionError(f"{file}: no such file")
        kind = format_of(file)
        if kind == "parquet":
            frame, names, position = _parquet_columns(file, find)
            if len(frame) == 0:
                raise InteractionError(f"{file}: empty, no interactions")
            values = {role: typed(frame[names[at]], role, str(file), None) for role, at in position.items()}
        elif kind == "npy":
            values = _array_columns(file, keys[: len(columns)] if columns else keys, len(roles), columns)
        elif kind == "npz":
            table = from_matrix(str(file), _load_npz(file))
            values = dict(zip(keys, (table.users, table.items, table.rating), strict=False))
        else:
            values = _text_columns(file, roles, keys, columns, find, encoding, separator)
    except OSError as error:
        raise InteractionError(f"{error.filename or file}: {error.strerror or one_line(error)}") from None
    except DAMAGED as error:
        raise InteractionError(f"{file}: damaged compressed file ({one_line(error)})") from None
    result = dict(values)
    for role in roles:
        column = values[role]
        if column.vocabulary is None:
            ids, codes = np.unique(column.codes, return_inverse=True)
            result[role] = IdColumn(codes, ids.astype(np.int64))
        else:
            result[role] = IdColumn(column.codes, column.vocabulary.to_numpy())
    if "weight" in result:
        result["weight"] = np.asarray(result["weight"], dtype=np.float64)
    return result


def _array_columns(file: Path, keys: Sequence[str], least: int, columns: Sequence[Column] | None) -> dict[str, Any]:
    array = _load_npy(file)
    if array.ndim == 2 and array.shape[0] in (least, len(keys)) and array.shape[1] > len(keys):
        array = array.T
    if array.ndim != 2 or array.shape[1] < least or array.size == 0:
        raise InteractionError(f"{file}: shape {array.shape}, not E x {least} or {least} x E")
    header = [str(p) for p in range(array.shape[1])]
    wanted = columns if columns is not None else range(min(len(keys), len(header)))
    values: dict[str, Any] = {}
    for key, column in zip(keys, wanted, strict=False):
        part = array[:, column_at(header, column, key, str(file))]
        if key == "weight":
            check_finite(str(file), key, part)
            values[key] = part.astype(np.float64)
        else:
            values[key] = Ids(integer_ids(file, part, key))
    return values


def _text_columns(
    file: Path,
    roles: Mapping[str, str],
    keys: Sequence[str],
    columns: Sequence[Column] | None,
    find: Any,
    encoding: str | None,
    separator: str | None,
) -> dict[str, Any]:
    as_json = ending(file) in JSON
    layout = open_text(file, "json" if as_json else "pairs", Columns(user=0, item=1), encoding, separator)
    if as_json:
        return read_json(layout, find)[0]
    _, first = next(rows_of(layout))
    typed = len(typed_names(first)) == len(first)
    usual = {plain_name(f) for f in first} & set(" ".join(roles.values()).split())
    named = any(isinstance(c, str) and not re.fullmatch(r"\d+", c) for c in columns or ())
    if typed or usual or named:
        layout = open_text(file, "recbole" if typed else "table", Columns(), encoding, separator)
        assert layout.header is not None
        return read_text(layout, find(layout.header))
    if layout.width < len(roles):
        raise InteractionError(
            f"{file}:{layout.first_line}: {layout.width} fields where {', '.join(roles)} are expected"
        )
    positions = columns if columns is not None else range(min(len(keys), layout.width))
    header = [str(p) for p in range(layout.width)]
    return read_text(
        layout, {key: column_at(header, at, key, str(file)) for key, at in zip(keys, positions, strict=False)}
    )
