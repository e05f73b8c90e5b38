"""Where the interactions come from, as options of the command line and of a run's record."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from .generated import demo
from .interactions import InteractionError, Interactions, Split, load_interactions
from .named import NAMED, load_named
from .text_files import Format


@dataclass(frozen=True)
class DataOptions:
    """Where the interactions come from.

    Args:
        data: a folder with train/valid/test files or one file of interactions; 'demo' is the
            generated data set; 'amazon-office' and other public sets are downloaded once.
        format: how to read the files; told from their names and content by default.
        split: how to split what is not split yet: 'ratio' (of each user), 'leave-one-out' or 'temporal'.
        valid_share: share of the interactions for validation, where the library splits.
        test_share: share of the interactions for test, where the library splits.
        split_seed: of the random split; kept apart from --seed, so that seeds are compared on one split.
        min_rating: keep only rows with at least this rating.
        k_core: keep only users and items with at least this many interactions.
        user_column: name of the user column in the header, or its position from 0.
        item_column: the same for items.
        rating_column: the same for ratings.
        time_column: the same for times.
        split_column: the same for what says train, valid and test (or 0, 1, 2); 'none' ignores such a column.
        encoding: of text files, such as latin-1; UTF-8 by default.
        separator: of the columns of text files, such as ',' or '::'; told from the content by default.
        time_format: of dates, such as '%d.%m.%Y %H:%M'; told from the column by default.
        train_file: name of the training file in a folder, where names do not tell.
        valid_file: the same for validation.
        test_file: the same for test.
    """

    data: str = "demo"
    format: Format | None = None
    split: Literal["ratio", "leave-one-out", "temporal"] = "ratio"
    valid_share: float = 0.1
    test_share: float = 0.2
    split_seed: int = 0
    min_rating: float | None = None
    k_core: int = 0
    user_column: str | None = None
    item_column: str | None = None
    rating_column: str | None = None
    time_column: str | None = None
    split_column: str | None = None
    encoding: str | None = None
    separator: str | None = None
    time_format: str | None = None
    train_file: str | None = None
    valid_file: str | None = None
    test_file: str | None = None

    def _refuse_others_than(self, names: Collection[str]) -> None:
        """Refuse options that would have no effect."""
        for part in fields(self):
            if part.name not in ("data", *names) and getattr(self, part.name) != part.default:
                raise InteractionError(f"{part.name} has no effect on the data set {self.data}: leave it out")

    def load(self) -> Interactions:
        """Read the data set."""
        if self.data == "demo":
            self._refuse_others_than(())
            return demo().interactions
        split = Split(self.split, self.valid_share, self.test_share)
        if self.data in NAMED and not Path(self.data).exists():
            self._refuse_others_than(("split", "valid_share", "test_share", "split_seed", "min_rating", "k_core"))
            return load_named(
                self.data, split=split, min_rating=self.min_rating, k_core=self.k_core, seed=self.split_seed
            )
        return load_interactions(
            self.data,
            format=self.format,
            split=split,
            min_rating=self.min_rating,
            k_core=self.k_core,
            user_column=self.user_column,
            item_column=self.item_column,
            rating_column=self.rating_column,
            time_column=self.time_column,
            split_column=self.split_column,
            encoding=self.encoding,
            separator=self.separator,
            time_format=self.time_format,
            train=self.train_file,
            valid=self.valid_file,
            test=self.test_file,
            seed=self.split_seed,
        )
