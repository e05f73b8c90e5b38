"""The baseline without personalisation."""

from __future__ import annotations

import torch
from torch import Tensor


def popularity_embeddings(interactions: Tensor, num_users: int, num_items: int) -> tuple[Tensor, Tensor]:
    """Embeddings of size one whose inner product is the item's number of training interactions.

    Args:
        interactions: training pairs, int64 ``[2, E]``.

    Returns:
        Ones ``[num_users, 1]`` and counts ``[num_items, 1]``.
    """
    counts = torch.bincount(interactions[1], minlength=num_items).to(torch.float32)
    return torch.ones(num_users, 1, device=counts.device), counts.unsqueeze(1)
