"""A trained recommender on disk and in memory: recommendations for raw ids, and the scores of held-out splits."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .data.ids import IdMap
from .data.interactions import Interactions
from .data.options import DataOptions
from .environment import versions
from .errors import CheckpointError, OptionError
from .files import shown, write_atomically
from .models import RECIPES, Recipe, find_recipe
from .models.item_term import restored_scorer
from .models.scoring import Scorer, UserRows, dot_scorer, item_scorer
from .outcome import Run
from .rescoring import Scored, score_split
from .saved import Record, Saved, digest_of, read_model, write_model
from .serving import (
    Neighbours,
    Recommendation,
    Server,
    check_length,
    fold_in_map,
    histories_of,
    mean_vectors,
    plain_ids,
)
from .text import escape

CARD = "card.md"


@dataclass(frozen=True, eq=False)
class Recommender:
    """What ranks, with the ids and the seen items that belong to it. It is never changed: threads may share it.

    Args:
        state: tensors that rank, see :meth:`~infodcl_geo.models.base.Model.state`.
        user_ids, item_ids: raw ids of the rows.
        train: training pairs ``[2, E]``.
        valid: validation pairs, which are not recommended again either.
        config: what ran: ``model``, ``options``, ``training`` and ``data``.
        recipe: the model; needed where the state does not rank by itself.
        record: of the data and the run, by which :meth:`score` knows the data again.
    """

    state: dict[str, Tensor]
    user_ids: IdMap
    item_ids: IdMap
    train: Tensor
    valid: Tensor
    config: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None
    record: Record = field(default_factory=Record)
    _lock: Any = field(default_factory=threading.RLock, init=False, repr=False)

    @classmethod
    def from_run(cls, run: Run, data: Interactions, options: DataOptions | None = None) -> Recommender:
        """The recommender of a training run; items of the training and validation splits count as seen."""
        config = run.config.to_dict()
        parts = (data.train, data.valid, data.test)
        origin = data.origin
        record = Record(
            data.name,
            data.generated,
            data.fingerprint,
            digest_of(data),
            tuple(part.size(1) for part in parts),
            "" if origin is None else origin.source,
            "" if origin is None else origin.how,
            {"best_epoch": run.result.best_epoch, "validation": run.result.validation, "test": run.test},
            versions(),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        return cls(
            {name: value.detach().cpu() for name, value in run.state().items()},
            data.user_ids,
            data.item_ids,
            data.train.cpu(),
            data.valid.cpu(),
            config if options is None else {"data": asdict(options), **config},
            run.config.recipe,
            record,
        )

    # -----------------------------------------------------------------------------------------------------------------
    # On disk

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the model into a folder, as one: a reader finds the old model or the new one.

        Beside it lies ``card.md``, which says what the model is, on what it was trained and how it scored.

        Raises:
            FileError: if it cannot be written; the old model is then still whole.
        """
        from .card import card

        restores = self.recipe is not None and self.recipe.restore is not None
        parts = (self.state, self.user_ids, self.item_ids, self.train, self.valid, self.config, restores, self.record)
        saved = Saved(*parts)
        write_model(folder, saved)
        write_atomically(Path(folder) / CARD, card(saved).encode())

    @classmethod
    def load(cls, folder: str | PathLike[str], *, recipe: Recipe | str | None = None) -> Recommender:
        """Read what :meth:`save` wrote, of this version of the library or an earlier one.

        No code of the folder is run. Code is run only if ``recipe`` names a file.

        Args:
            folder: the checkpoint.
            recipe: of a model that is not the library's; needed only where its state does not rank by itself.

        Raises:
            CheckpointError: if a file is missing, damaged, or of a newer format; one line.
        """
        saved = read_model(folder)
        name = saved.config.get("model", "")
        found = None
        if saved.restores:
            given = find_recipe(recipe) if recipe is not None else None
            found = given or next((known for known in RECIPES if known.name == name), None)
            if found is None or found.restore is None:
                who = f"{escape(name)} is no model of the library" if found is None else f"{found.name} has no restore"
                raise CheckpointError(f"{shown(folder)}: {who}; give its recipe, as file.py:recipe")
            if found.name != name:
                raise CheckpointError(f"{shown(folder)}: a checkpoint of {escape(name)}, not of {found.name}")
        parts = (saved.state, saved.user_ids, saved.item_ids, saved.train, saved.valid, saved.config)
        recommender = cls(*parts, found, saved.record)
        if found is not None or recommender._has_item_term:
            recommender._try(folder)
        return recommender

    def _try(self, folder: str | PathLike[str]) -> None:
        """See that what a recipe restores ranks: its tensors and options are known to nobody else."""
        try:
            scores = self.scorer()(self.train[0, :1], slice(0, 1))
            good = tuple(scores.shape) == (self.train[0, :1].numel(), 1)
        except Exception as error:  # whatever a recipe raises, the checkpoint does not fit it
            reason = escape(" ".join(str(error).split())[:160]) or type(error).__name__
            raise CheckpointError(f"{shown(folder)}: damaged checkpoint, its model cannot rank ({reason})") from None
        if not good:
            raise CheckpointError(f"{shown(folder)}: damaged checkpoint, its model gives scores of other shapes")

    # -----------------------------------------------------------------------------------------------------------------
    # What ranks

    @property
    def name(self) -> str:
        """Name of the model."""
        return str(self.config.get("model", "the model"))

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of users and of items."""
        return len(self.user_ids), len(self.item_ids)

    @cached_property
    def seen(self) -> Tensor:
        """Pairs that are not recommended again."""
        return torch.cat([self.train, self.valid], dim=1)

    def scorer(self) -> Scorer:
        """What ranks rows of users and items; of users without a training interaction it knows nothing.

        Raises:
            CheckpointError: if what the model ranks by is missing.
        """
        with self._lock:
            return self._scorer

    @cached_property
    def _scorer(self) -> Scorer:
        return self._with_item_term(self._own_scorer(), UserRows(self.train, *self.sizes))

    def _own_scorer(self) -> Scorer:
        if self.recipe is not None and self.recipe.restore is not None:
            return self.recipe.restore(self.state, self._options(self.recipe), self.train, self.sizes)
        if {"users", "items"} <= set(self.state):
            return dot_scorer(self.state["users"], self.state["items"])
        if "item_weights" in self.state:
            return item_scorer(UserRows(self.train, *self.sizes), self.state["item_weights"])
        raise CheckpointError(
            f"this checkpoint of {escape(self.name)} has nothing to rank by: give the recipe it was trained with"
        )

    @property
    def _has_item_term(self) -> bool:
        return bool(self.config.get("options", {}).get("item_term_weight"))

    def _with_item_term(self, scorer: Scorer, rows: UserRows) -> Scorer:
        """``scorer`` with the item term of the users of ``rows``, if the model has one."""
        weight = self.config.get("options", {}).get("item_term_weight")
        return restored_scorer(scorer, rows, self.state, weight) if weight else scorer

    def _options(self, recipe: Recipe) -> Any:
        try:
            return recipe.options(**self.config.get("options", {}))
        except TypeError as error:
            raise CheckpointError(f"{escape(self.name)} has no such options: {escape(error)}") from None

    @property
    def _server(self) -> Server:
        with self._lock:
            return self._made

    @cached_property
    def _made(self) -> Server:
        return Server(self._scorer, self.train, self.seen, self.sizes, escape(self.name))

    @property
    def tables(self) -> tuple[Tensor, Tensor] | None:
        """User and item embeddings ``[M, d]``, ``[N, d]`` of a model that ranks by their inner product alone."""
        return None if self._has_item_term else self._tables

    @property
    def _tables(self) -> tuple[Tensor, Tensor] | None:
        if (self.recipe is not None and self.recipe.restore is not None) or not {"users", "items"} <= set(self.state):
            return None
        return self.state["users"], self.state["items"]

    # -----------------------------------------------------------------------------------------------------------------
    # Recommendations

    def recommend(
        self,
        users: Sequence[Any],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allowed: Collection[Any] | None = None,
        excluded: Collection[Any] = (),
        unknown: Literal["error", "popular", "skip"] = "error",
    ) -> list[Recommendation]:
        """The ``k`` best items of each user, equal scores in the order of :mod:`~infodcl_geo.evaluation.ranking`.

        Users without a training interaction, of whom the model knows nothing, get popular items.

        Args:
            users: raw user ids.
            k: length of the lists; shorter where fewer items are left.
            exclude_seen: leave out items the user interacted with in training and validation.
            allowed: raw ids of the only items that may be recommended.
            excluded: raw ids of items that may not.
            unknown: what users get who are not among the trained ones: an error, popular items, or no answer at all.

        Raises:
            UnknownIdError: if a user, with ``unknown="error"``, or an allowed or excluded item is not known.
            OptionError: if ``k`` is no positive whole number.
        """
        check_length(k)
        if unknown not in ("error", "popular", "skip"):
            raise OptionError(f"unknown must be one of error, popular, skip, not {unknown!r}")
        asked = plain_ids(users)
        hidden = self._hidden(allowed, excluded)
        nobody = len(self.user_ids)
        rows = torch.from_numpy(self.user_ids.encode(asked, missing=None if unknown == "error" else nobody))
        if unknown == "skip":
            kept = rows < nobody
            asked, rows = [user for user, keep in zip(asked, kept.tolist(), strict=True) if keep], rows[kept]
        distinct, place = (rows, None) if rows.numel() == 1 else rows.unique(return_inverse=True)
        server = self._server
        items, scores = server.top(distinct, k, exclude_seen=exclude_seen, hidden=hidden)
        known = (server.degree[distinct] > 0).tolist()
        lists = self._lists(items, scores)
        places = range(len(asked)) if place is None else place.tolist()
        return [Recommendation(user, lists[p][0], lists[p][1], known[p]) for user, p in zip(asked, places, strict=True)]

    def recommend_for(
        self,
        histories: Sequence[Sequence[Any]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        allowed: Collection[Any] | None = None,
        excluded: Collection[Any] = (),
        unknown: Literal["error", "skip"] = "error",
    ) -> list[Recommendation]:
        r"""The ``k`` best items of users who were not trained, by nothing but the items they took; nothing is trained.

        Models that rank by a history (item-item weights, GF-CF, DiffRec) rank by these. For embeddings U and V the
        vector of a user is a linear function of the mean of the items' vectors, fitted once on the trained users:

        .. math:: u = C^\top \bar v(H), \qquad \bar v(H) = \frac{1}{|H|} \sum_{i \in H} v_i, \qquad
            C = \arg\min_C \sum_{w:\, H_w \ne \emptyset} \| C^\top \bar v(H_w) - u_w \|^2 + \lambda \|C\|^2

        with :math:`\lambda` a tenth of the mean eigenvalue of the means' Gram matrix.

        Args:
            histories: raw item ids of each user; an empty one gets popular items.
            k, exclude_seen, allowed, excluded: as in :meth:`recommend`.
            unknown: what items do that the model does not have: raise an error, or nothing at all.

        Returns:
            A recommendation for each history, whose ``user`` is its position.

        Raises:
            UnknownIdError: if an item is not known, with ``unknown="error"``.
            OptionError: if ``k`` is no positive whole number, or the model cannot rank for other users.
        """
        check_length(k)
        if unknown not in ("error", "skip"):
            raise OptionError(f"unknown must be error or skip, not {unknown!r}")
        hidden = self._hidden(allowed, excluded)
        asked = [self.item_ids.encode(plain_ids(h), missing=None if unknown == "error" else -1) for h in histories]
        rows = histories_of([row[row >= 0] for row in asked], len(self.item_ids))
        scorer = self._with_item_term(self._folded(rows), rows)
        items, scores = self._server.top_of_histories(scorer, rows, k, exclude_seen=exclude_seen, hidden=hidden)
        known = (rows.degree > 0).tolist()
        return [Recommendation(n, a, b, known[n]) for n, (a, b) in enumerate(self._lists(items, scores))]

    def _folded(self, histories: UserRows) -> Scorer:
        """What ranks for the users of ``histories``."""
        recipe = self.recipe
        if recipe is not None and recipe.restore is not None:
            if recipe.fold_in is None:
                raise OptionError(f"{recipe.name} cannot recommend to users it was not trained on: it has no fold_in")
            return recipe.fold_in(self.state, self._options(recipe), self.train, self.sizes, histories)
        if self._tables is not None:
            items = self.state["items"]
            return dot_scorer((mean_vectors(histories, items) @ self._map).to(torch.float32), items)
        self.scorer()  # says what is missing
        return item_scorer(histories, self.state["item_weights"])

    @property
    def _map(self) -> Tensor:
        with self._lock:
            return self._fitted_map

    @cached_property
    def _fitted_map(self) -> Tensor:
        return fold_in_map(self._server.train, self.state["users"], self.state["items"])

    def similar_items(self, items: Sequence[Any], k: int = 10) -> list[Recommendation]:
        """The ``k`` items most like each, itself left out.

        By the cosine of item embeddings where the model has them; otherwise by what it would recommend to somebody who
        took that item alone, which for item-item weights is the item's row.

        Raises:
            UnknownIdError: if an item is not known.
            OptionError: if ``k`` is no positive whole number.
        """
        check_length(k)
        asked = plain_ids(items)
        if "items" in self.state:
            return self._similar(asked, self.item_ids, "items", k)
        self.item_ids.encode(asked)
        answers = self.recommend_for([[item] for item in asked], k)
        return [Recommendation(item, a.items, a.scores) for item, a in zip(asked, answers, strict=True)]

    def similar_users(self, users: Sequence[Any], k: int = 10) -> list[Recommendation]:
        r"""The ``k`` users most like each, themselves left out; their raw ids are in ``items``.

        By the cosine of user embeddings where the model has them, otherwise of the sets of training items:
        :math:`|H_u \cap H_v| / \sqrt{|H_u| |H_v|}`.

        Raises:
            UnknownIdError: if a user is not known.
            OptionError: if ``k`` is no positive whole number.
        """
        check_length(k)
        return self._similar(plain_ids(users), self.user_ids, "users", k)

    def _similar(self, asked: list[Any], ids: IdMap, who: str, k: int) -> list[Recommendation]:
        rows, place = torch.from_numpy(ids.encode(asked)).unique(return_inverse=True)
        with self._lock:
            neighbours = self._neighbours.get(who)
            if neighbours is None:
                table = self.state.get(who)
                neighbours = self._neighbours[who] = Neighbours(self._server.train if table is None else table)
        found, scores = neighbours.top(rows, k, escape(self.name))
        lists = self._lists(found, scores, ids)
        return [Recommendation(user, *lists[p]) for user, p in zip(asked, place.tolist(), strict=True)]

    @cached_property
    def _neighbours(self) -> dict[str, Neighbours]:
        return {}

    def _hidden(self, allowed: Collection[Any] | None, excluded: Collection[Any]) -> Tensor | None:
        """Rows of the items that nobody gets."""
        if allowed is None and not len(excluded):
            return None
        hidden = torch.zeros(len(self.item_ids), dtype=torch.bool)
        if allowed is not None:
            hidden[:] = True
            hidden[torch.from_numpy(self.item_ids.encode(plain_ids(allowed)))] = False
        hidden[torch.from_numpy(self.item_ids.encode(plain_ids(excluded)))] = True
        return hidden.nonzero()[:, 0]

    def _lists(self, items: Tensor, scores: Tensor, ids: IdMap | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
        """Raw ids and scores of each row, without what is none."""
        ids = self.item_ids if ids is None else ids
        counts, found, values = (items >= 0).sum(1).tolist(), items.numpy(), scores.to(torch.float32).numpy()
        return [(ids.decode(found[n, :c]), values[n, :c]) for n, c in enumerate(counts)]

    # -----------------------------------------------------------------------------------------------------------------
    # Held-out splits

    def score(
        self,
        data: Interactions,
        split: Literal["valid", "test"] = "test",
        *,
        ks: tuple[int, ...] = (10, 20, 50),
        mask_validation: bool = False,
        other_data: bool = False,
        beyond: bool = False,
    ) -> Scored:
        """Each user's metrics on a held-out split; of the data it was trained on these are the numbers of training.

        A pair that the model was trained on is never scored. Other interactions, or the same ones split otherwise, are
        refused unless ``other_data`` says that they are meant: then users and items are matched by their raw ids, what
        the model was trained on is left out of the split and of the lists, and both are counted.

        Args:
            data: interactions with their split.
            split: which one.
            ks: cut-offs.
            mask_validation: of test: leave the validation items of ``data`` out of the lists.
            other_data: whether these may be other data than the model was trained on.
            beyond: also coverage, Gini, novelty and popularity of the lists.

        Raises:
            OptionError: if these are other data and ``other_data`` is false, or nothing is left to score.
        """
        own = (escape(self.name), self.scorer(), (self.user_ids, self.item_ids), (self.train, self.valid), self.record)
        return score_split(
            *own, data, split, ks=ks, mask_validation=mask_validation, other_data=other_data, beyond=beyond
        )

    def evaluate(
        self, data: Interactions, split: Literal["valid", "test"] = "test", **how: Any
    ) -> tuple[dict[str, float], int]:
        """The metrics of :meth:`score`, averaged over users, and the number of held-out pairs that were left out."""
        scored = self.score(data, split, **how)
        return scored.ranking.mean(), scored.unknown + scored.trained
