"""Raw user-item interactions, as they lie on disk or in memory, to dense ids and a split.

The one entry point for files is :func:`load_interactions`; :func:`from_hetero_data` does the same for a PyG graph.
Both return :class:`Interactions`: three ``[2, E]`` tensors of dense ids and the two :class:`IdMap` that lead back to
the ids of the source.

Everything wrong in the input either stops with one :class:`InteractionError` that names file and line, or is repaired
by the rule documented in :func:`load_interactions` and reported by one :class:`InteractionWarning` with the number of
rows it concerns.
"""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from .assemble import assemble
from .container import Interactions, Origin
from .folders import find_files
from .ids import IdMap, InteractionError, InteractionWarning, UnknownIdError, one_line
from .layouts import LAYOUTS, Column, Columns, Format
from .readers import Reading, from_object, read
from .split import Split, split_interactions
from .tables import Table, joined

__all__ = [
    "LAYOUTS",
    "IdMap",
    "InteractionError",
    "InteractionWarning",
    "Interactions",
    "Origin",
    "Split",
    "UnknownIdError",
    "load_interactions",
    "split_interactions",
]


def load_interactions(
    source: Any,
    *,
    format: Format | None = None,
    train: str | PathLike[str] | None = None,
    valid: Any = None,
    test: Any = None,
    split: Split = Split(),  # noqa: B008 - frozen
    min_rating: float | None = None,
    k_core: int = 0,
    user_column: Column | None = None,
    item_column: Column | None = None,
    rating_column: Column | None = None,
    time_column: Column | None = None,
    split_column: Column | None = None,
    encoding: str | None = None,
    separator: str | None = None,
    time_format: str | None = None,
    seed: int = 0,
    name: str | None = None,
) -> Interactions:
    """Interactions of a folder, a file, a frame, a matrix or a tensor of pairs.

    A folder holds files whose names say train, valid (also validation, val, dev) and test; its split is kept. A folder
    without such names must hold one file of interactions (``*.inter``, a name like ``ratings`` or ``interactions``, or
    the only file there) or the portions of one (``part-0.csv``, ``part-1.csv``, ...; also in folders ``train``,
    ``test`` or ``split=train``), which is split by ``split``, as is a single file, unless a column called ``split``,
    ``x_label`` or ``fold`` holds train, valid and test (or 0, 1, 2): its split is kept too. A split without validation
    gets one from the training interactions by ``split.valid`` and a warning.

    Formats, told by the ending and the content (``format=`` overrides):

    - ``parquet``, ``npy`` (integer pairs, ``E x 2`` or ``2 x E``; ``2 x 2`` is read as two pairs; ``E x 3`` and
      ``E x 4`` have a rating and a time), ``npz`` (a scipy sparse matrix, users x items; stored zeros are no
      interactions), ``json`` (lines of objects, or one array of them);
    - ``recbole``: RecBole's atomic ``.inter``, header fields ``name:type``;
    - ``table``: text with a header line, separated by tabs, commas, semicolons, bars or spaces; ids may be strings;
    - ``pairs``: text without a header, ``user item [rating [time]]`` a line, ids integers (strings too, if the columns
      are named by position, or in a layout of :data:`LAYOUTS`);
    - ``adjacency``: text without a header, ``user item item ...`` or ``user:item item ...`` a line, integers.

    Text packed by gzip is unpacked, to at most 200 times its size and 64 MiB; lines at the start that begin with ``#``
    or ``%`` are comments; blank lines are skipped. *Pairs or adjacency:* the lines of the first megabyte of the
    (training) file decide. It is ``pairs`` if no line has more than two fields, or if the first field repeats from line
    to line and most lines have the same two to four fields; if they have more, the columns must be given. Else it is
    ``adjacency``. Three or four fields on every line with no user repeated can be read both ways: a fourth column that
    is a time, or a third that is no integer, makes it ``pairs``; so does a third with a value for every ten lines at
    most, with a warning; else it is ``adjacency``, with a warning.

    Columns of a header are found by usual names (``user``, ``user_id``, ``item_id``, ``movieId``, ``asin``,
    ``rating``, ``timestamp``, ...). Without a rating threshold every row is an interaction, whatever its rating; where
    ratings of 0 or less are among them, a warning says so.

    Ids: rows are the sorted distinct raw ids, over all splits, that have an interaction. A column of which all ids look
    like integers (no leading zeros) is a column of integers and sorts as numbers.

    Times are numbers, or dates that are all read in one way: day or month first as suits every row, with a warning
    where both do.

    Repairs, each with one :class:`InteractionWarning` that says how many: duplicate pairs are kept once (the earliest,
    where there is a time); pairs of validation that are also in training, and pairs of test that are in either, are
    removed from the later split. Users without a training item are kept, with a warning. Stored zeros of a sparse
    matrix and adjacency lines without an item are left out, with a warning.

    Args:
        source: path of a folder or a file; a pandas or polars frame or a pyarrow table; a scipy sparse matrix, users x
            items; or a tensor or an array of pairs, laid out as in ``npy``.
        format: how to read the files; default: see above.
        train: training file within the folder ``source``, if its name does not say so.
        valid: validation file, or an object like ``source``, if ``source`` is for training.
        test: the same for test.
        split: how to split what is not split yet.
        min_rating: keep only rows with at least this rating.
        k_core: keep only users and items with at least this many interactions, repeated until all have; counted over
            all splits, before splitting.
        user_column: header name of the user column, or its position from 0 if there is no header (also as digits).
        item_column: the same for items.
        rating_column: the same for ratings.
        time_column: the same for times (numbers or dates).
        split_column: the same for what declares the split: train, valid and test, or 0, 1, 2; 'none' if no column does.
        encoding: of text; default UTF-8.
        separator: between two fields of text; default: told from the first line.
        time_format: how dates are written, as for ``strptime``, such as ``%d.%m.%Y %H:%M``.
        seed: of the random split.
        name: what to call the data; default: the name of the folder or file.

    Returns:
        The interactions with dense ids.

    Raises:
        InteractionError: if the input cannot be read; one line that names file and line.
    """
    if format is not None and format not in get_args(Format):
        raise InteractionError(f"unknown format {format!r}: choose one of {', '.join(get_args(Format))}")
    if k_core < 0:
        raise InteractionError(f"k_core must be 0 or more, not {k_core}")
    columns = Columns(user_column, item_column, rating_column, time_column, split_column)
    how = Reading(format, columns, encoding, separator, time_format)
    tables: dict[str, Table] = {}
    shown = ""
    read_as: Format | None = None
    if isinstance(source, (str, PathLike)):
        where = Path(source)
        shown = str(where)
        name = name or (where.resolve().name if where.is_dir() else where.name.split(".")[0])
        try:
            files = find_files(where, {"train": train, "valid": valid, "test": test}, format)
            for part, of_part in files.items():
                portions = []
                for file in of_part:
                    table, found = _read_like(file, how, read_as, file.suffix == files["train"][0].suffix)
                    portions.append(table)
                    read_as = read_as or found
                tables[part] = joined(portions)
        except OSError as error:
            raise InteractionError(f"{error.filename or where}: {error.strerror or one_line(error)}") from None
    else:
        if train is not None:
            raise InteractionError("train= is a file of a folder; give the training interactions as the source")
        for part, given in (("train", source), ("valid", valid), ("test", test)):
            if given is not None or part == "train":
                tables[part], kind = from_object(given, how)
                shown = kind if part == "train" else shown
    return assemble(
        tables, name=name or "interactions", source=shown, format=read_as or shown, split=split, min_rating=min_rating,
        k_core=k_core, seed=seed,
    )  # fmt: skip


def _read_like(file: Path, how: Reading, first: Format | None, same_ending: bool) -> tuple[Table, Format]:
    """The table of a file beside one that was read as ``first``, which decides where both could be lists or pairs."""
    if how.format is None and first is not None and (same_ending or first in ("pairs", "adjacency")):
        try:
            return read(file, replace(how, format=first))
        except InteractionError:
            if same_ending:
                raise
    return read(file, how)
