"""``infodcl-geo inspect``: what a data set holds, and what channels know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from . import parsing
from .parsing import Parser

if TYPE_CHECKING:
    from jsonargparse import Namespace

DESCRIPTION = (
    "Read a data set and print what it holds; of metadata channels, what they know: coverage, degrees, how much better "
    "than random their neighbours predict validation items, and how loud they are. Channels made from the training "
    "interactions agree with the validation ones as a matter of course."
)


def make_parser() -> Parser:
    from ..channels.build import ChannelOptions

    parser = Parser("inspect", DESCRIPTION)
    parsing.add_data(parser)
    parser.add_dataclass(ChannelOptions, "channels to measure", {"channels": ""})
    parser.add("dim", int, 64, "size of the pretrained vectors that channels are made of")
    return parser


def main(argv: Sequence[str]) -> int:
    parser = make_parser()
    options = parser.parse_args(parsing.with_flags(parsing.words_of(argv), parser))
    data = parsing.data_of(options).load()
    print(data.summary())
    names = options.channels or _of_files(options)
    if not names:
        return 0

    from ..channels.build import ChannelOptions, channel_builders
    from ..channels.diagnostics import inspect_channel
    from ..models.options import VectorOptions
    from ..pretraining import pretrain

    @dataclass(frozen=True)
    class Asked(ChannelOptions, VectorOptions):
        dim: int = 64

    given = {part.name: options[part.name] for part in fields(ChannelOptions)}
    asked = Asked(**{**given, "channels": names, "dim": options.dim})
    builders = channel_builders(asked, data)
    vectors = pretrain(data, asked)[1]
    for build in builders:
        print(f"\n{inspect_channel(data, build(data, vectors), vectors=vectors).summary()}")
    return 0


def _of_files(options: Namespace) -> str:
    """The channels whose files are given."""
    files = {"social": options.social, "knowledge": options.knowledge, "modal": options.features}
    return ",".join(name for name, file in files.items() if file is not None)
