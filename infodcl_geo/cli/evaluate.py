"""``infodcl-geo evaluate``: score a saved model on a held-out split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from . import parsing
from .parsing import Parser
from .show import headline, shown, table

DESCRIPTION = "Score a saved model on a held-out split of the data that it was trained on."


def make_parser() -> Parser:
    parser = Parser("evaluate", DESCRIPTION)
    parser.add("checkpoint", str, None, "folder that train wrote", required=True)
    parser.add("model", str | None, None, "file.py:recipe of a model that is not the library's")
    parser.add("on", Literal["valid", "test"], "test", "split to score")
    parser.add_list("ks", (10, 20, 50), "cut-offs K of the metrics")
    parser.add("mask_validation", bool, False, "leave validation items out of the test ranking too")
    parser.add("groups", bool, False, "also by the number of training interactions of users and of items")
    parsing.add_data(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    import torch

    from ..evaluation.groups import by_item_degree, by_user_degree
    from ..recommender import Recommender

    parser = make_parser()
    options = parser.parse_args(parsing.with_flags(parsing.words_of(argv), parser))
    ks = parsing.whole_numbers("ks", options.ks)
    recommender = Recommender.load(options.checkpoint, recipe=options.model)
    data = parsing.data_of(options).load()
    ranking, train, unknown = recommender.ranking(data, options.on, ks=ks, mask_validation=options.mask_validation)
    metrics = ranking.mean()
    if unknown:
        print(f"{unknown} held-out interactions of users or items the model does not know are left out")
    rows = [
        [metric, *(f"{metrics[f'{metric}@{k}']:.4f}" for k in ks)]
        for metric in ("recall", "ndcg", "precision", "mrr", "hit")
    ]
    print(table(rows, [options.on, *(f"@{k}" for k in ks)]))
    if options.groups:
        user_degree = torch.bincount(train[0], minlength=len(recommender.user_ids))
        item_degree = torch.bincount(train[1], minlength=len(recommender.item_ids))
        _print_groups("user", by_user_degree(ranking, user_degree), ["users"], headline(ks))
        _print_groups("item", by_item_degree(ranking, item_degree), ["items", "pairs"], [f"recall@{k}" for k in ks])
    return 0


def _print_groups(
    who: str, groups: Mapping[str, Mapping[str, float]], counts: Sequence[str], names: Sequence[str]
) -> None:
    """One row for each group of users or items by their number of training interactions."""
    rows = [
        [name, *(str(int(group[count])) for count in counts), *shown(group, names)] for name, group in groups.items()
    ]
    print()
    print(table(rows, [f"training interactions of the {who}", *counts, *names]))
