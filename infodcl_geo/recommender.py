"""A trained recommender on disk and in memory: recommendations for raw user ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .data.ids import IdMap
from .data.interactions import Interactions
from .data.options import DataOptions
from .errors import CheckpointError
from .evaluation.ranking import Ranking, evaluate, rank_items
from .experiment import Run
from .models import RECIPES, Recipe, find_recipe
from .models.scoring import Scorer, UserRows, dot_scorer, item_scorer

WEIGHTS, METADATA = "model.safetensors", "model.json"
_FORMAT = 2


@dataclass(frozen=True)
class Recommendation:
    """The best items of one user, best first."""

    user: Any
    items: np.ndarray
    """raw item ids"""
    scores: np.ndarray
    """what the model ranks by, such as inner products; float32"""


@dataclass(frozen=True, eq=False)
class Recommender:
    """What ranks, with the ids and the seen items that belong to it.

    Args:
        state: tensors that rank, see :meth:`~infodcl_geo.models.base.Model.state`.
        user_ids, item_ids: raw ids of the rows.
        train: training pairs ``[2, E]``.
        valid: validation pairs, which are not recommended again either.
        config: what ran: ``model``, ``options``, ``training`` and ``data``.
        recipe: the model; needed where the state does not rank by itself.
    """

    state: dict[str, Tensor]
    user_ids: IdMap
    item_ids: IdMap
    train: Tensor
    valid: Tensor
    config: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None

    @classmethod
    def from_run(cls, run: Run, data: Interactions, options: DataOptions | None = None) -> Recommender:
        """The recommender of a training run; items of the training and validation splits count as seen."""
        config = run.config.to_dict()
        return cls(
            {name: value.cpu() for name, value in run.model.state().items()},
            data.user_ids,
            data.item_ids,
            data.train,
            data.valid,
            config if options is None else {"data": asdict(options), **config},
            run.config.recipe,
        )

    @property
    def seen(self) -> Tensor:
        """Pairs that are not recommended again."""
        return torch.cat([self.train, self.valid], dim=1)

    def scorer(self) -> Scorer:
        """What ranks, for rows of users and items.

        Raises:
            CheckpointError: if what the model ranks by is missing.
        """
        sizes, state = (len(self.user_ids), len(self.item_ids)), self.state
        if self.recipe is not None and self.recipe.restore is not None:
            options = self.recipe.options(**self.config.get("options", {}))
            return self.recipe.restore(state, options, self.train, sizes)
        if {"users", "items"} <= set(state):
            return dot_scorer(state["users"], state["items"])
        if "item_weights" in state:
            return item_scorer(UserRows(self.train, *sizes), state["item_weights"])
        name = self.config.get("model", "a model")
        raise CheckpointError(f"this checkpoint of {name} has nothing to rank by: give the recipe it was trained with")

    def recommend(self, users: Sequence[Any], k: int = 10, *, exclude_seen: bool = True) -> list[Recommendation]:
        """The ``k`` best items of each user.

        Args:
            users: raw user ids.
            k: length of the lists; shorter where fewer items are left.
            exclude_seen: leave out items the user interacted with in training and validation.

        Raises:
            UnknownIdError: if a user is not among the trained ones.
            ValueError: if ``k`` is not positive, or the checkpoint has nothing to rank by, see :meth:`scorer`.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}")
        rows = torch.from_numpy(self.user_ids.encode(np.asarray(users)))
        distinct, place = rows.unique(return_inverse=True)
        items, scores = rank_items(
            self.scorer(),
            distinct,
            k,
            num_users=len(self.user_ids),
            num_items=len(self.item_ids),
            seen=[self.seen] if exclude_seen else [],
        )
        answers = []
        for user, row in zip(users, place.tolist(), strict=True):
            kept = items[row] >= 0
            answers.append(
                Recommendation(user, self.item_ids.decode(items[row][kept].numpy()), scores[row][kept].numpy())
            )
        return answers

    def evaluate(
        self,
        data: Interactions,
        split: Literal["valid", "test"] = "test",
        *,
        ks: tuple[int, ...] = (10, 20, 50),
        mask_validation: bool = False,
    ) -> tuple[dict[str, float], int]:
        """Metrics on a held-out split of ``data``, whose ids are matched with the trained ones.

        Returns:
            The metrics, and the number of held-out interactions left out because user or item was not trained.
        """
        ranking, _, unknown = self.ranking(data, split, ks=ks, mask_validation=mask_validation)
        return ranking.mean(), unknown

    def ranking(
        self,
        data: Interactions,
        split: Literal["valid", "test"] = "test",
        *,
        ks: tuple[int, ...] = (10, 20, 50),
        mask_validation: bool = False,
    ) -> tuple[Ranking, Tensor, int]:
        """What :meth:`evaluate` averages: each user's metrics, and the place of each held-out item.

        Returns:
            The ranking, the training pairs of ``data`` ``[2, E]`` in the rows of this recommender, and the number of
            held-out interactions left out because user or item was not trained.
        """
        known = {}
        unknown = 0
        for name in ("train", "valid", "test"):
            pairs = getattr(data, name)
            rows = np.stack(
                [
                    self.user_ids.encode(data.user_ids.decode(pairs[0].numpy()), missing=-1),
                    self.item_ids.encode(data.item_ids.decode(pairs[1].numpy()), missing=-1),
                ]
            )
            matched = (rows >= 0).all(0)
            if name == split:
                unknown = int((~matched).sum())
            known[name] = torch.from_numpy(rows[:, matched])
        ranking = evaluate(
            self.scorer(),
            known[split],
            num_users=len(self.user_ids),
            num_items=len(self.item_ids),
            seen=[known["train"], known["valid"]] if mask_validation and split == "test" else [known["train"]],
            ks=ks,
        )
        return ranking, known["train"], unknown

    def save(self, folder: str | PathLike[str]) -> None:
        """Write ``model.safetensors`` (what ranks, training and validation pairs) and ``model.json`` (settings, ids)."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"state.{name}": value for name, value in self.state.items()}
        tensors |= {"train": self.train, "valid": self.valid}
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, folder / WEIGHTS)
        content = {
            "format": _FORMAT,
            "config": self.config,
            "restores": self.recipe is not None and self.recipe.restore is not None,
            "user_ids": json.loads(self.user_ids.to_json()),
            "item_ids": json.loads(self.item_ids.to_json()),
        }
        (folder / METADATA).write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | PathLike[str], *, recipe: Recipe | str | None = None) -> Recommender:
        """Read what :meth:`save` wrote.

        Args:
            folder: the checkpoint.
            recipe: of a model that is not the library's; needed only where its state does not rank by itself.

        Raises:
            CheckpointError: if a file is missing, damaged, or of a newer format.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        try:
            content = json.loads((folder / METADATA).read_text(encoding="utf-8"))
            if content["format"] > _FORMAT:
                raise CheckpointError(f"{folder / METADATA}: written by a newer version, format {content['format']}")
            tensors = load_file(folder / WEIGHTS)
            name = content["config"].get("model", "")
            found = find_recipe(recipe) if recipe is not None else next((r for r in RECIPES if r.name == name), None)
            if content["restores"] and found is None:
                raise CheckpointError(
                    f"{folder}: {name} is no model of the library; give its recipe, as file.py:recipe"
                )
            return cls(
                {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")},
                IdMap.from_json(json.dumps(content["user_ids"])),
                IdMap.from_json(json.dumps(content["item_ids"])),
                tensors["train"],
                tensors["valid"],
                content["config"],
                found if content["restores"] else None,
            )
        except FileNotFoundError as error:
            missing = Path(error.filename or WEIGHTS).name
            raise CheckpointError(f"{folder}: no checkpoint here, {missing} is missing") from error
        except (json.JSONDecodeError, KeyError, TypeError, SafetensorError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{folder}: damaged checkpoint ({reason})") from error
