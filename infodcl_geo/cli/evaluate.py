"""``infodcl-geo evaluate``: score a saved model, or another program's lists, on a held-out split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..errors import OptionError
from . import parsing
from .parsing import Parser
from .show import headline, shown, table

DESCRIPTION = (
    "Score a saved model on a held-out split of the data that it was trained on: its data options are the defaults. "
    "Other data are refused, unless --other_data is true."
)


def make_parser(data: Mapping[str, Any] = {}) -> Parser:
    """The parser, with the data options that a checkpoint records as defaults."""
    from ..data.options import DataOptions

    parser = Parser("evaluate", DESCRIPTION)
    parser.add("checkpoint", str | None, None, "folder that train wrote")
    parser.add("model", str | None, None, "file.py:recipe of a model that is not the library's; the file is run")
    parser.add("recommendations", str | None, None, "instead of a checkpoint: file of another program's lists")
    parser.add("on", Literal["valid", "test"], "test", "split to score")
    parser.add_list("ks", (10, 20, 50), "cut-offs K of the metrics")
    parser.add("mask_validation", bool, False, "leave validation items out of the test ranking too")
    parser.add("other_data", bool, False, "score on other data or another split than the model was trained on")
    parser.add("groups", bool, False, "also by the number of training interactions of users and of items")
    parser.add("beyond", bool, False, "also coverage, Gini, novelty and popularity of the lists")
    parser.add_dataclass(DataOptions, "data", data)
    return parser


def main(argv: Sequence[str]) -> int:
    words = parsing.with_flags(parsing.words_of(argv), make_parser())
    checkpoint, lists = parsing.peek(words, "checkpoint"), parsing.peek(words, "recommendations")
    if "--help" in words or "-h" in words:
        make_parser().parse_args(words)
    if (checkpoint is None) == (lists is None):
        raise OptionError("evaluate takes one of --checkpoint and --recommendations")
    return _score_lists(words) if checkpoint is None else _score_model(words, checkpoint)


def _score_model(words: Sequence[str], checkpoint: str) -> int:
    from ..recommender import Recommender

    recommender = Recommender.load(checkpoint, recipe=parsing.peek(words, "model"))
    recorded = _recorded(checkpoint, recommender.config.get("data", {}))
    if parsing.peek(words, "data") == "demo":  # how other data were read and divided is nothing for these
        recorded = {}
    options = make_parser(recorded).parse_args(words)
    if "data" not in recorded and parsing.peek(words, "data") is None:
        raise OptionError(f"{checkpoint} does not say where its data are: give --data")
    ks = parsing.whole_numbers("ks", options.ks)
    data = parsing.data_of(options).load()
    scored = recommender.score(
        data,
        options.on,
        ks=ks,
        mask_validation=options.mask_validation,
        other_data=options.other_data,
        beyond=options.beyond,
    )
    _print(scored, recommender.sizes, ks, options)
    return 0


def _score_lists(words: Sequence[str]) -> int:
    from ..evaluation.lists import read_lists, score_lists

    if parsing.peek(words, "data") is None:
        raise OptionError("--recommendations needs the interactions that they are scored on: give --data")
    options = make_parser().parse_args(words)
    ks = parsing.whole_numbers("ks", options.ks)
    data = parsing.data_of(options).load()
    scored = score_lists(
        read_lists(options.recommendations, data),
        data,
        options.on,
        ks=ks,
        mask_validation=options.mask_validation,
        beyond=options.beyond,
    )
    for count, what in (
        (scored.of_others, "lists of users without a held-out item are not needed"),
        (scored.seen, "training items in the lists are left out, as for every model"),
        (scored.repeated, "repeated items in the lists are left out"),
        (scored.strange, "items in the lists are none of the data set, and count as misses"),
        (scored.missing, "users with held-out items have no list, and count as zero"),
    ):
        if count:
            print(f"{count} {what}")
    _print(scored, (data.num_users, data.num_items), ks, options)
    return 0


def _recorded(checkpoint: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The data options of a checkpoint, if they are what data options can be."""
    from dataclasses import fields
    from typing import get_type_hints

    from ..data.options import DataOptions

    kinds = get_type_hints(DataOptions)
    for name, value in data.items():
        if name not in {part.name for part in fields(DataOptions)}:
            raise OptionError(f"{checkpoint} was trained with a data option that this version does not have: {name!a}")
        if not parsing.fits(value, kinds[name]):
            raise OptionError(f"{checkpoint}: the data option {name} of the checkpoint cannot be {value!a}")
    return dict(data)


def _print(scored: Any, sizes: tuple[int, int], ks: Sequence[int], options: Any) -> None:
    import torch

    from ..evaluation.groups import by_item_degree, by_user_degree
    from ..evaluation.metrics import BEYOND, METRICS

    ranking = scored.ranking
    if scored.unknown:
        print(f"{scored.unknown} held-out interactions of users or items the model does not know are left out")
    if scored.trained:
        print(f"{scored.trained} held-out interactions that the model was trained on are left out")
    popular = " (they get popular items)" if ranking.cold_users else ""
    items = f"; {ranking.cold_items} held-out items without one" if ranking.cold_items else ""
    print(
        f"{ranking.users.numel()} users evaluated, {ranking.cold_users} of them without a training interaction"
        f"{popular}{items}"
    )
    values = {**ranking.mean(), **ranking.beyond}
    rows = [
        [metric, *(f"{values[f'{metric}@{k}']:.4f}" for k in ks)]
        for metric in (*METRICS, *BEYOND)
        if f"{metric}@{ks[0]}" in values
    ]
    print(table(rows, [options.on, *(f"@{k}" for k in ks)]))
    if options.groups:
        degrees = [torch.bincount(part, minlength=size) for part, size in zip(scored.train, sizes, strict=True)]
        _print_groups("user", by_user_degree(ranking, degrees[0]), ["users"], headline(ks))
        _print_groups("item", by_item_degree(ranking, degrees[1]), ["items", "pairs"], [f"recall@{k}" for k in ks])


def _print_groups(
    who: str, groups: Mapping[str, Mapping[str, float]], counts: Sequence[str], names: Sequence[str]
) -> None:
    """One row for each group of users or items by their number of training interactions."""
    rows = [
        [name, *(str(int(group[count])) for count in counts), *shown(group, names)] for name, group in groups.items()
    ]
    print()
    print(table(rows, [f"training interactions of the {who}", *counts, *names]))
