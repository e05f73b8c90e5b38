"""A trained recommender on disk and in memory: recommendations for raw user ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .data.ids import IdMap
from .data.interactions import Interactions
from .errors import CheckpointError
from .evaluation.ranking import Ranking, evaluate, rank_items
from .experiment import Run
from .models.diffrec import DiffRec, DiffRecOptions
from .models.gfcf import gfcf_scorer
from .models.scoring import Scorer, UserRows, dot_scorer, item_scorer

WEIGHTS, METADATA = "model.safetensors", "model.json"
_FORMAT = 1
_RANKING = ("users", "items", "item_weights", "history")


@dataclass(frozen=True)
class Recommendation:
    """The best items of one user, best first."""

    user: Any
    items: np.ndarray
    """raw item ids"""
    scores: np.ndarray
    """what the model ranks by, such as inner products; float32"""


@dataclass(frozen=True)
class Recommender:
    """What ranks, with the ids and the seen items that belong to it.

    A model ranks by user and item embeddings, or by what it makes of the user's training items: item-item weights
    (EASE), or a program of its own that is set up again from its weights (GF-CF, DiffRec).

    Args:
        users: user embeddings ``[M, d]``, or ``None``.
        items: item embeddings ``[N, d]``, or ``None``.
        user_ids, item_ids: raw ids of the rows.
        seen: pairs ``[2, E]`` that are not recommended again.
        config: settings of the training run.
        weights: parameters of the trained model by name.
        item_weights: item-item weights ``[N, N]``; a user's scores are the sum of the rows of ``history``.
        history: training pairs ``[2, E]``, of models that rank by them.
    """

    users: Tensor | None
    items: Tensor | None
    user_ids: IdMap
    item_ids: IdMap
    seen: Tensor
    config: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    item_weights: Tensor | None = None
    history: Tensor | None = None

    @classmethod
    def from_run(cls, run: Run, data: Interactions) -> Recommender:
        """The recommender of a training run; items of the training and validation splits count as seen."""
        users, items = (None, None) if run.embeddings is None else (table.cpu() for table in run.embeddings)
        weights = run.factors if run.model is None else run.model.state_dict()
        return cls(
            users,
            items,
            data.user_ids,
            data.item_ids,
            torch.cat([data.train, data.valid], dim=1),
            run.config.to_dict(),
            {name: value.cpu() for name, value in weights.items()},
            None if run.item_weights is None else run.item_weights.cpu(),
            data.train if users is None else None,
        )

    def scorer(self) -> Scorer:
        """What ranks, for rows of users and items.

        Raises:
            ValueError: if what the model ranks by is missing.
        """
        if self.users is not None and self.items is not None:
            return dot_scorer(self.users, self.items)
        name, sizes = self.config.get("model", {}).get("model"), (len(self.user_ids), len(self.item_ids))
        if self.history is not None:
            if self.item_weights is not None:
                return item_scorer(UserRows(self.history, *sizes), self.item_weights)
            if name == "gfcf":
                return gfcf_scorer(self.history, *sizes, self.weights["users"], self.weights["items"])
            if name == "diffrec":
                model = DiffRec(self.history, *sizes, options=DiffRecOptions(**self.config["diffrec"]))
                model.load_state_dict(self.weights)
                return model.scorer()
        raise ValueError(
            f"this checkpoint of {name or 'a model'} only keeps weights and settings, and nothing to rank by"
        )

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
        """Write ``model.safetensors`` (weights, what ranks, seen pairs) and ``model.json`` (settings, id maps)."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"weights.{name}": value.contiguous() for name, value in self.weights.items()}
        ranking = {name: getattr(self, name) for name in (*_RANKING, "seen")}
        tensors |= {name: value.contiguous() for name, value in ranking.items() if value is not None}
        # A second name for a tensor's memory is refused by the format; the one large matrix has no other.
        tensors = {name: value if name == "item_weights" else value.clone() for name, value in tensors.items()}
        save_file(tensors, folder / WEIGHTS)
        content = {
            "format": _FORMAT,
            "config": self.config,
            "user_ids": json.loads(self.user_ids.to_json()),
            "item_ids": json.loads(self.item_ids.to_json()),
        }
        (folder / METADATA).write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Recommender:
        """Read what :meth:`save` wrote.

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
            users, items, item_weights, history = (tensors.pop(name, None) for name in _RANKING)
            seen = tensors.pop("seen")
            return cls(
                users,
                items,
                IdMap.from_json(json.dumps(content["user_ids"])),
                IdMap.from_json(json.dumps(content["item_ids"])),
                seen,
                content["config"],
                {name.removeprefix("weights."): value for name, value in tensors.items()},
                item_weights,
                history,
            )
        except FileNotFoundError as error:
            missing = Path(error.filename or WEIGHTS).name
            raise CheckpointError(f"{folder}: no checkpoint here, {missing} is missing") from error
        except (json.JSONDecodeError, KeyError, TypeError, SafetensorError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{folder}: damaged checkpoint ({reason})") from error
