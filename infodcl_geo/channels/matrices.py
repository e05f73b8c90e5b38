"""Matrices in files whose rows belong to raw ids: reading them, and finding whose rows they are.

Nothing that is read can run code, and nothing is allocated on the word of a header alone: what a file says it holds is
compared with its size first.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from safetensors import safe_open

from ..data.ids import IdMap, InteractionError, one_line
from ..data.panics import quiet_panics
from ..data.parquet_pages import read_pages
from ..data.streams import in_silence

IntArray = npt.NDArray[np.int64]

FORMATS = "npy, npz, safetensors, parquet, csv or tsv"
"""The formats of :func:`read_matrix`, by the ending of the file."""

_ID_COLUMNS = ("id", "ids", "item", "itemid", "iid", "asin", "movieid", "productid", "user", "userid", "uid")
_SLACK = 2**28
_PACKED = 100


def _bound(file: Path) -> int:
    """Bytes that the content of a file may take unpacked: 256 MiB, or a hundred times the file."""
    return max(_SLACK, _PACKED * file.stat().st_size)


def read_matrix(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """A float32 matrix ``[n, f]`` and the raw ids of its rows ``[n]``, ``None`` where the file has none.

    - npy: the matrix.
    - npz: one array, or arrays ``features`` and ``ids``, or a scipy sparse matrix.
    - safetensors: the same names; ids are integers.
    - parquet, csv, tsv: a column of ids (``item_id``, ``id``, ``asin``, ...) and a column for each feature; in parquet
      also one column of lists.

    Raises:
        InteractionError: if the file cannot be read, holds no such matrix, or would unpack to more than 256 MiB and a
            hundred times its size.
    """
    if not file.is_file():
        raise InteractionError(f"{file}: no such file")
    readers = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
        ".parquet": _read_parquet,
        ".pq": _read_parquet,
        ".csv": _read_text,
        ".tsv": _read_text,
    }
    read = readers.get(file.suffix.lower())
    if read is None:
        raise InteractionError(
            f"{file}: a matrix comes as {FORMATS}, told by the ending, not as {file.suffix or 'that'}"
        )
    try:
        with in_silence():
            matrix, ids = read(file)
    except InteractionError:
        raise
    except OSError as error:
        raise InteractionError(f"{file}: {error.strerror or one_line(error)}") from None
    except (Exception, pl.exceptions.PanicException) as error:  # whatever the libraries meet in damaged bytes
        raise InteractionError(f"{file}: not readable as {file.suffix[1:].lower()} ({one_line(error)})") from None
    if matrix.ndim != 2 or matrix.size == 0 or matrix.dtype.kind not in "iufb":
        raise InteractionError(f"{file}: an array of {matrix.dtype} and shape {matrix.shape}, not rows x features")
    with np.errstate(over="ignore"):  # what does not fit is infinite, and refused with its row
        return np.array(matrix, dtype=np.float32, order="C"), ids


def read_ids(ids: str | PathLike[str] | npt.ArrayLike) -> np.ndarray:
    """Raw ids: a file (npy, or text with one a line), or the ids themselves.

    Raises:
        InteractionError: if the file cannot be read.
    """
    if not isinstance(ids, str | PathLike):
        return np.asarray(ids)
    file = Path(ids)
    if not file.is_file():
        raise InteractionError(f"{file}: no such file")
    try:
        if file.suffix.lower() == ".npy":
            with in_silence():
                return _read_npy(file)[0]
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        return np.array([line.strip() for line in lines if line.strip()], dtype=object)
    except InteractionError:
        raise
    except OSError as error:
        raise InteractionError(f"{file}: {error.strerror or error}") from None
    except ValueError as error:
        raise InteractionError(
            f"{file}: not readable as ids, an npy or one a line in UTF-8 ({one_line(error)})"
        ) from None


def rows_of(source: object, count: int, ids: np.ndarray | None, of: IdMap, what: str, option: str) -> IntArray:
    """Dense row that each row of a matrix belongs to, ``[count]``, -1 where ``of`` does not have its id.

    Args:
        source: the matrix in messages.
        count: its number of rows.
        ids: raw id of each row; ``None`` if there are none.
        of: the ids that there are.
        what: what these are, in messages, such as "items of lastfm".
        option: how ids are given, in messages.

    Raises:
        InteractionError: without ids, unless row r can only be id r: the ids are the integers 0 to n - 1 and there are
            n rows; if the ids do not fit the rows or repeat; or if none is known.
    """
    if ids is None:
        raw = np.asarray(of.raw)
        if count == len(of) and raw.dtype.kind in "iu" and bool((raw == np.arange(len(of))).all()):
            return np.arange(count)
        raise InteractionError(
            f"{source}: whose rows are these? {count} rows for {len(of)} {what}, whose ids are not 0 to {count - 1}; "
            f"{option} gives the id of each row"
        )
    ids = _plain(source, ids)
    if ids.shape != (count,):
        raise InteractionError(f"{source}: {'x'.join(str(n) for n in ids.shape) or 'one'} ids for {count} rows")
    repeated = count - len(set(ids.tolist()))
    if repeated:
        raise InteractionError(f"{source}: {repeated} ids are repeated")
    rows = of.encode(ids, missing=-1)
    if not (rows >= 0).any():
        raise InteractionError(f"{source}: none of its {count} rows is of the {what}")
    return rows


def _plain(source: object, ids: np.ndarray) -> np.ndarray:
    """Ids as integers or strings."""
    if ids.dtype.kind == "f" and bool((ids == np.floor(ids)).all()) and bool((np.abs(ids) < 2**53).all()):
        return ids.astype(np.int64)
    if ids.dtype.kind == "S":
        ids = np.char.decode(ids, "utf-8")
    words = ids.dtype.kind in "UT" or (ids.dtype.kind == "O" and all(isinstance(i, str | int) for i in ids.flat))
    if ids.dtype.kind not in "iu" and not words:
        raise InteractionError(f"{source}: ids of type {ids.dtype}, not integers or strings")
    return ids


# ---------------------------------------------------------------------------------------------------------------------
# Formats


def _read_npy(file: Path) -> tuple[np.ndarray, None]:
    with open(file, "rb") as stream:
        return _array(stream, file.stat().st_size, str(file)), None


def _array(stream: IO[bytes], size: int, where: str) -> np.ndarray:
    """One array in numpy's format that takes ``size`` bytes with its header."""
    version = np.lib.format.read_magic(stream)  # type: ignore[arg-type]
    if version not in ((1, 0), (2, 0)):
        raise InteractionError(f"{where}: version {version} of the npy format; 1 and 2 are read")
    parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = parse(stream)  # type: ignore[arg-type]
    if dtype.kind not in "iufbUS":
        raise InteractionError(f"{where}: an array of {dtype}, not of numbers or words")
    content = stream.read(max(0, size) + 1)
    if min(shape, default=0) < 0 or len(content) != math.prod(shape) * dtype.itemsize:
        raise InteractionError(f"{where}: says that it holds {shape} of {dtype}, and has {len(content)} bytes for it")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _read_npz(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > _bound(file):
            raise InteractionError(f"{file}: unpacks to more than {_bound(file)} bytes; save it without compression")
        found: dict[str, np.ndarray] = {}
        for member in members:
            with archive.open(member) as stream:
                name = member.filename.removesuffix(".npy")
                found[name] = _array(stream, member.file_size, f"{file}: {name}")
    if "format" in found and "shape" in found:
        return _dense(file, found), found.get("ids")
    return _chosen(file, found)


def _dense(file: Path, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """A matrix of scipy's ``save_npz``."""
    import scipy.sparse as sp

    kind = str(np.asarray(parts["format"]).reshape(-1)[0])
    kind = kind.removeprefix("b'").removesuffix("'")
    shape = tuple(int(n) for n in parts["shape"])
    if kind not in ("csr", "csc", "coo") or len(shape) != 2:
        raise InteractionError(f"{file}: a sparse matrix of format {kind} and shape {shape}; csr, csc and coo are read")
    if math.prod(shape) * 4 > _bound(file) or min(shape) < 0:
        raise InteractionError(f"{file}: {shape[0]} x {shape[1]} is too large without its sparsity; reduce its columns")
    data = parts["data"].astype(np.float32)
    if kind == "coo":
        return sp.coo_matrix((data, (parts["row"], parts["col"])), shape=shape).toarray()
    make = sp.csr_matrix if kind == "csr" else sp.csc_matrix
    matrix = make((data, parts["indices"], parts["indptr"]), shape=shape)
    matrix.check_format(full_check=True)
    return matrix.toarray()


def _read_safetensors(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    found: dict[str, np.ndarray] = {}
    with safe_open(file, framework="pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118 - no mapping
            value = tensors.get_tensor(key)
            whole = not value.is_floating_point() or value.dtype == torch.float64
            found[key] = (value if whole else value.float()).numpy()
    return _chosen(file, found)


def _chosen(file: Path, found: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
    """The matrix among named arrays, and the ids beside it."""
    ids = found.get("ids")
    matrices = [key for key in found if key != "ids"]
    if "features" in found:
        return found["features"], ids
    if len(matrices) != 1:
        shown = ", ".join(matrices[:5]) or "none"
        raise InteractionError(f"{file}: arrays {shown}; call the matrix 'features'")
    return found[matrices[0]], ids


def _read_parquet(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with quiet_panics():
        return _of_frame(file, _parquet_frame(file))


def _parquet_frame(file: Path) -> pl.DataFrame:
    count = int(pl.scan_parquet(file, glob=False).select(pl.len()).collect().item())
    schema = pl.read_parquet_schema(file)
    values = count * max(1, len(schema))
    with contextlib.suppress(ImportError):  # alone knows the length of all lists before they are read
        import pyarrow.parquet as pq

        groups = pq.read_metadata(file)
        values = max(values, sum(_values_of(groups.row_group(group)) for group in range(groups.num_row_groups)))
    if values * 4 > _bound(file):
        raise InteractionError(f"{file}: its {values} values unpack to more than {_bound(file)} bytes")
    return read_pages(file, list(schema), _bound(file))


def _values_of(group: Any) -> int:
    return sum(group.column(column).num_values for column in range(group.num_columns))


def _read_text(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with open(file, "rb") as stream:
        first = stream.readline(2**20)
    separator = "\t" if b"\t" in first else ","
    header = [name.strip() for name in first.decode("utf-8-sig").strip().split(separator)]
    if all(_is_number(name) for name in header):
        raise InteractionError(f"{file}: no header; the first line names the columns: item_id, then the features")
    return _of_frame(file, pl.read_csv(file, separator=separator, infer_schema=False, glob=False))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _of_frame(file: Path, frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray | None]:
    """Features and ids of a table: the column of ids by its usual name, every other column a feature."""
    plain = {"".join(c for c in name.split(":")[0].lower() if c.isalnum()): name for name in reversed(frame.columns)}
    column = next((plain[name] for name in _ID_COLUMNS if name in plain), None)
    ids = None
    if column is not None:
        if frame[column].null_count():
            raise InteractionError(f"{file}: {frame[column].null_count()} rows have no {column}")
        values = frame[column]
        if values.dtype == pl.String and int(values.str.len_bytes().sum()) > _bound(file):
            raise InteractionError(f"{file}: the ids of column {column!r} unpack to more than {_bound(file)} bytes")
        ids = (
            values.to_numpy() if values.dtype.is_integer() else np.array(values.cast(pl.String).to_list(), dtype=object)
        )
        frame = frame.drop(column)
    columns: list[Any] = []
    for series in frame.iter_columns():
        if isinstance(series.dtype, pl.List | pl.Array):
            lengths = series.list.len() if isinstance(series.dtype, pl.List) else series.arr.len()
            if series.null_count() or lengths.n_unique() > 1:
                raise InteractionError(f"{file}: the lists of column {series.name!r} are not all of one length")
            inner = series.explode().cast(pl.Float32)
            columns.append(inner.to_numpy().reshape(len(series), -1))
            continue
        try:
            numbers = series.str.strip_chars().replace("", None) if series.dtype == pl.String else series
            columns.append(numbers.cast(pl.Float32).fill_null(math.nan).to_numpy().reshape(-1, 1))
        except pl.exceptions.PolarsError:
            raise InteractionError(
                f"{file}: column {series.name!r} does not hold numbers; call a column of ids item_id"
            ) from None
    if not columns:
        raise InteractionError(f"{file}: no column of features")
    return np.concatenate(columns, axis=1), ids
