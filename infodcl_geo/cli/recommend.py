"""``infodcl-geo recommend``: the best items of users of a saved model."""

from __future__ import annotations

import json
from collections.abc import Sequence

from . import parsing
from .parsing import Parser
from .show import table

DESCRIPTION = "Recommend items to users of a saved model."


def make_parser() -> Parser:
    parser = Parser("recommend", DESCRIPTION)
    parser.add("checkpoint", str, None, "folder that train wrote", required=True)
    parser.add("model", str | None, None, "file.py:recipe of a model that is not the library's")
    parser.add("users", str, None, "raw user ids, such as: 3 17", required=True, nargs="+")
    parser.add("k", int, 10, "items for each user")
    parser.add("include_seen", bool, False, "also items the user already has")
    parser.add("json", bool, False, "print JSON instead of a table")
    return parser


def main(argv: Sequence[str]) -> int:
    from ..recommender import Recommender

    parser = make_parser()
    options = parser.parse_args(parsing.with_flags(parsing.words_of(argv), parser))
    recommender = Recommender.load(options.checkpoint, recipe=options.model)
    answers = recommender.recommend(options.users, options.k, exclude_seen=not options.include_seen)
    if options.json:
        rows = [
            {"user": answer.user, "items": answer.items.tolist(), "scores": answer.scores.tolist()}
            for answer in answers
        ]
        print(json.dumps(rows))
        return 0
    lines = [
        [answer.user, place, item, f"{score:.4f}"]
        for answer in answers
        for place, (item, score) in enumerate(zip(answer.items, answer.scores, strict=True), 1)
    ]
    print(table(lines, ["user", "rank", "item", "score"]))
    return 0
