"""The baseline without personalisation."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Fitted
from .options import ModelOptions
from .recipe import Inputs, Recipe
from .scoring import dot_scorer


def popularity_embeddings(interactions: Tensor, num_users: int, num_items: int) -> tuple[Tensor, Tensor]:
    """Embeddings of size one whose inner product is the item's number of training interactions.

    Args:
        interactions: training pairs, int64 ``[2, E]``.

    Returns:
        Ones ``[num_users, 1]`` and counts ``[num_items, 1]``.
    """
    counts = torch.bincount(interactions[1], minlength=num_items).to(torch.float32)
    return torch.ones(num_users, 1, device=counts.device), counts.unsqueeze(1)


def _build(inputs: Inputs, options: ModelOptions) -> Fitted:
    users, items = popularity_embeddings(inputs.train, *inputs.sizes)
    return Fitted({"users": users, "items": items}, dot_scorer(users, items))


recipe = Recipe(
    name="popularity",
    summary="the items with the most training interactions, the same for everybody",
    paper="-",
    options=ModelOptions,
    build=_build,
    closed_form=True,
)
