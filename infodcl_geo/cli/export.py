"""``infodcl-geo export``: the embeddings of a saved model, with raw ids, for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..errors import FileError
from . import parsing
from .parsing import Parser

DESCRIPTION = "Write user and item embeddings with raw ids, or a FAISS index of the items; scores are inner products."


def make_parser() -> Parser:
    parser = Parser("export", DESCRIPTION)
    parser.add("checkpoint", str, None, "folder that train wrote", required=True)
    parser.add("model", str | None, None, "file.py:recipe of a model that is not the library's; the file is run")
    parser.add("format", Literal["npz", "parquet", "safetensors", "faiss"], "parquet", "of the files")
    parser.add("index", Literal["flat", "hnsw"], "flat", "kind of a FAISS index: flat is exact, hnsw approximate")
    parser.add("out", str, None, "folder to write into; one that holds files is not written to", required=True)
    parser.add("overwrite", bool, False, "write into a folder that holds files")
    return parser


def main(argv: Sequence[str]) -> int:
    from ..index import export
    from ..recommender import Recommender

    parser = make_parser()
    options = parser.parse_args(parsing.with_flags(parsing.words_of(argv), parser))
    out = Path(options.out)
    if out.is_dir() and any(out.iterdir()) and not options.overwrite:
        raise FileError(f"{out} holds files already: give another --out, or --overwrite true")
    for path in export(Recommender.load(options.checkpoint, recipe=options.model), out, options.format, options.index):
        print(path)
    return 0
