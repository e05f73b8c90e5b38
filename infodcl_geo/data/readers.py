"""One file, frame, matrix or array to a table of raw ids, or columns of ids that are no interactions."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from ..text import escape
from .columns import check_finite, fail_at, integer_ids, typed
from .folders import JSON, ending, format_of
from .ids import InteractionError, one_line, warn
from .json_files import read_json
from .layouts import (
    Column,
    Columns,
    Format,
    column_at,
    find_columns,
    is_number,
    is_position,
    plain_name,
    positions_of,
    typed_names,
)
from .panics import quiet_panics
from .parquet_pages import read_pages
from .streams import ALLOWANCE, DAMAGED, RATIO, in_silence, open_text, require_file
from .tables import Ids, Table
from .text_files import read_adjacency, read_text, rows_of
from .words import NUMBERS, narrow

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
            frame, names, _ = _parquet_columns(file, lambda names: find_columns(names, how.columns, str(file)))
            return _typed_table(str(file), len(frame), names, lambda at: frame[names[at]], how), format
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
        return _table(str(file), found, names, position, how.columns), "json"
    if layout.header is not None:
        names = layout.header
        position = find_columns(names, how.columns, f"{file}:{layout.first_line - 1}")
        integers_only = False
    else:
        names = [str(at) for at in range(layout.width)]
        if layout.known:
            names = [f"{at} ({name})" for at, (name, _) in enumerate(layout.known.fields)]
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
        how.columns,
    ), layout.format


def _table(
    source: str, found: Mapping[str, Any], names: Sequence[str], position: Mapping[str, int], columns: Columns
) -> Table:
    if found.get("part") is None and "part" in columns.given:
        raise InteractionError(
            f"{source}: column {escape(columns.part)} does not say train, valid or test of every row"
        )
    taken = {role: at for role, at in position.items() if found.get(role) is not None}
    ignored = tuple(escape(name) for at, name in enumerate(names) if at not in taken.values())
    named = tuple((role, escape(names[at])) for role, at in taken.items())
    extra = {key: found.get(key) for key in ("rating", "time", "part")}
    return Table(source, found["user"], found["item"], **extra, taken=named, ignored=ignored)


def _load_npy(file: Path) -> np.ndarray:
    require_file(file)
    try:
        with in_silence():
            # Mapped: a header cannot claim more than the file has.
            array = np.load(file, mmap_mode="r", allow_pickle=False)
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
            with in_silence():
                matrix = sp.load_npz(file)
            if matrix.format in ("csr", "csc", "bsr"):
                matrix.check_format(full_check=True)
            return matrix
    except Exception as e:  # whatever numpy and scipy meet in damaged bytes
        raise InteractionError(f"{file}: not a sparse matrix saved by scipy ({one_line(e)})") from None
    raise InteractionError(f"{file}: {size} bytes that unpack to {unpacked}, over {RATIO} times as many")


def _parquet_columns(file: Path, find: Any) -> tuple[pl.DataFrame, list[str], dict[str, int]]:
    """The columns of a parquet file that ``find`` picks, the names of all its columns, and the positions picked."""
    size = require_file(file)
    try:
        with quiet_panics():
            names = list(pl.read_parquet_schema(file))
            position: dict[str, int] = find(names)
            rows = pl.scan_parquet(file).select(pl.len()).collect().item()
            if rows > _EMPTY_ROWS + RATIO * size:
                raise InteractionError(f"{file}: {size} bytes claim {rows} rows")
            frame = read_pages(file, [names[at] for at in sorted(set(position.values()))])
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
    if isinstance(source, pl.DataFrame):
        return _typed_table(name, len(source), source.columns, source.to_series, how), name
    if kind == "pandas" and hasattr(source, "columns"):
        names = [str(c) for c in source.columns]
        return _typed_table(name, len(source), names, lambda at: _from_pandas(source.iloc[:, at], name), how), name
    if kind == "pyarrow" and hasattr(source, "column_names"):

        def column(at: int) -> Any:
            try:
                return pl.from_arrow(source.column(at))
            except (Exception, pl.exceptions.PanicException) as error:  # types that polars does not have
                raise InteractionError(f"{name}: a column cannot be read ({one_line(error)})") from None

        return _typed_table(name, len(source), source.column_names, column, how), name
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
    try:
        if str(column.dtype) == "category":
            column = column.astype(column.cat.categories.dtype)
        missing, values = column.isna().to_numpy(), column.to_numpy()
        if values.dtype.kind == "O" or missing.any():
            listed = [None if m else v for v, m in zip(column.tolist(), missing, strict=True)]
            text = any(isinstance(v, str) for v in listed)
            return pl.Series(listed, strict=not text, dtype=pl.String if text else None)
        return pl.Series(np.ascontiguousarray(values.astype("datetime64[us]") if values.dtype.kind == "M" else values))
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise InteractionError(f"{name}: column {escape(column.name)} cannot be read ({one_line(error)})") from None


def _typed_table(source: str, rows: int, names: Sequence[str], column: Callable[[int], Any], how: Reading) -> Table:
    """The table of columns that have a type, each given by its position."""
    position = find_columns(names, how.columns, source)
    if not rows:
        raise InteractionError(f"{source}: empty, no interactions")
    found = {role: typed(column(at).alias(names[at]), role, source, how.time_format) for role, at in position.items()}
    return _table(source, found, names, position, how.columns)


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
    names = [str(at) for at in range(array.shape[1])]
    return _table(source, _of_array(source, array, position), names, position, columns)


def _of_array(source: str, array: np.ndarray, position: Mapping[str, int]) -> dict[str, Any]:
    """Columns of an array: ids, or numbers as they are."""
    found: dict[str, Any] = {}
    for key, at in position.items():
        values = np.ascontiguousarray(array[:, at])
        if key in (*NUMBERS, "part"):
            check_finite(source, key, values)
        found[key] = values if key in (*NUMBERS, "part") else Ids(narrow(integer_ids(source, values, key)))
    return found


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


def read_columns(
    path: str | PathLike[str],
    roles: Mapping[str, str],
    *,
    weight: bool = False,
    columns: Sequence[Column] | None = None,
) -> dict[str, Any]:
    """Columns of raw ids from a table: text with or without a header, RecBole's files, JSON, parquet, npy or npz.

    A header is recognised by RecBole's types (``name:type``) or by a usual name of one of the roles. Where every role
    has a column with a usual name, names decide, else the order of the columns.

    Args:
        path: the file.
        roles: what the columns hold, and the usual names of such columns (small letters and digits, blank-separated).
        weight: whether a column of numbers may follow: called ``weight``, or the next one of a file without a header.
        columns: header names or positions of the roles, in their order (one more for the weight).

    Returns:
        :class:`~infodcl_geo.data.tables.Ids` for each role, and an array under ``weight`` where there is such a column.

    Raises:
        InteractionError: if the file cannot be read; one line that names file and line.
    """
    file = Path(path)
    keys = [*roles, *(["weight"] if weight else [])]
    if columns is not None and not len(roles) <= len(columns) <= len(keys):
        raise InteractionError(f"{file}: columns= names the columns of {', '.join(keys)}, not {len(columns)} columns")

    def find(header: Sequence[str], unnamed: str = "") -> dict[str, int]:
        """Positions of the roles; ``unnamed`` is the place of what has no header."""
        if columns is not None:
            return {key: column_at(header, wanted, key, str(file)) for key, wanted in zip(keys, columns, strict=False)}
        if len(header) < len(roles):
            what = f"{len(header)} {'fields' if unnamed else 'columns'} where {', '.join(roles)} are expected"
            raise InteractionError(f"{unnamed or file}: {what}")
        plain = [plain_name(h) for h in header]
        found = {key: next((plain.index(n) for n in names.split() if n in plain), -1) for key, names in roles.items()}
        if unnamed or min(found.values()) < 0:
            found = dict(zip(keys if unnamed else roles, range(len(header)), strict=False))
        if not unnamed and weight and "weight" in plain:
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
            return {role: typed(frame[names[at]], role, str(file), None) for role, at in position.items()}
        if kind == "npy":
            array = _load_npy(file)
            if array.ndim == 2 and array.shape[0] in (len(roles), len(keys)) and array.shape[1] > len(keys):
                array = array.T
            if array.ndim != 2 or array.shape[1] < len(roles) or array.size == 0:
                raise InteractionError(f"{file}: shape {array.shape}, not E x {len(roles)} or {len(roles)} x E")
            return _of_array(str(file), array, find([str(at) for at in range(array.shape[1])], str(file)))
        if kind == "npz":
            table = from_matrix(str(file), _load_npz(file))
            return dict(zip(keys, (table.users, table.items, table.rating), strict=False))
        if ending(file) in JSON:
            return read_json(open_text(file, "json", NO_COLUMNS), find)[0]
        layout = open_text(file, "pairs", Columns(user=0, item=1))
        _, first = next(rows_of(layout))
        recbole = len(typed_names(first)) == len(first)
        usual = {plain_name(f) for f in first} & set(" ".join(roles.values()).split())
        if recbole or usual or any(not is_position(c) for c in columns or ()):
            layout = open_text(file, "recbole" if recbole else "table", NO_COLUMNS)
            return read_text(layout, find(layout.header or []))
        return read_text(layout, find([str(at) for at in range(layout.width)], f"{file}:{layout.first_line}"))
    except OSError as error:
        raise InteractionError(f"{error.filename or file}: {error.strerror or one_line(error)}") from None
    except DAMAGED as error:
        raise InteractionError(f"{file}: damaged compressed file ({one_line(error)})") from None
