"""Pretrained vectors, from the training split alone, and what validation says of them before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch

from .channels.base import PretrainedVectors
from .configuration import configure
from .data.interactions import Interactions
from .evaluation.ranking import evaluate
from .graph.graph import normalized_adjacency, propagate
from .graph.spectral import DEFAULT_SMOOTHING, EXACT_NODES, SVDOptions, spectral_embeddings
from .models import Inputs
from .models.options import SPECTRAL
from .models.scoring import dot_scorer
from .training.loop import train

Options = TypeVar("Options", bound=Any)

SMOOTHINGS = (0.05, 0.25, 0.75)
"""What is tried where the smoothing is not given."""
LAYERS = (1, 2, 3)
"""What is tried where the number of propagations is not given."""
_JUDGES = 4096


def spectral_vectors(data: Interactions, options: Options) -> tuple[Options, PretrainedVectors]:
    """Closed-form pretraining (:func:`~infodcl_geo.graph.spectral.spectral_embeddings`), and the smoothing taken.

    A smoothing that is missing is that of 0.05, 0.25 and 0.75 whose vectors, propagated once, have the best NDCG@20 for
    up to 4,096 users of the validation split: dense interactions want much, those that fall into many small groups
    little. It is 0.75 without a validation split, and above 200,000 users and items together, where a decomposition is
    no small thing.

    Args:
        data: its training split is decomposed.
        options: of a model, with ``dim``, ``smoothing`` and ``power``.

    Returns:
        The options with the smoothing that was taken, and the vectors.
    """
    sizes = data.num_users, data.num_items

    def vectors_of(smoothing: float) -> PretrainedVectors:
        return PretrainedVectors(
            *spectral_embeddings(data.train, *sizes, options.dim, SVDOptions(smoothing, options.power))
        )

    smoothing = options.smoothing
    if smoothing is None and not _can_be_judged(data):
        smoothing = DEFAULT_SMOOTHING
    if smoothing is not None:
        return replace(options, smoothing=smoothing), vectors_of(smoothing)
    candidates = {candidate: vectors_of(candidate) for candidate in SMOOTHINGS}
    quality = _validation_ndcg(data)
    chosen = max(candidates, key=lambda candidate: quality(candidates[candidate], 1))
    return replace(options, smoothing=chosen), candidates[chosen]


def best_num_layers(data: Interactions, vectors: PretrainedVectors) -> int:
    """The 1, 2 or 3 propagations of pretrained vectors with the best NDCG@20 for up to 4,096 users of validation.

    Where propagation is for inference alone this says what the graph wants before anything is trained: one on
    Amazon-Office, Taobao and LastFM, three on Amazon-Electronics and TikTok. It is 1 without a validation split and
    above 200,000 users and items together.
    """
    if not _can_be_judged(data):
        return 1
    quality = _validation_ndcg(data)
    return max(LAYERS, key=lambda num_layers: quality(vectors, num_layers))


def _can_be_judged(data: Interactions) -> bool:
    return bool(data.valid.size(1)) and data.num_users + data.num_items <= EXACT_NODES


def _validation_ndcg(data: Interactions) -> Callable[[PretrainedVectors, int], float]:
    """NDCG@20 of propagated vectors for at most 4,096 users of the validation split."""
    sizes, held_out = (data.num_users, data.num_items), data.valid
    users = held_out[0].unique()
    if len(users) > _JUDGES:
        some = users[torch.randperm(len(users), generator=torch.Generator().manual_seed(0))[:_JUDGES]]
        held_out = held_out[:, torch.isin(held_out[0], some)]
    graph = normalized_adjacency(data.train, *sizes)

    def quality(vectors: PretrainedVectors, num_layers: int) -> float:
        scorer = dot_scorer(*propagate(graph, torch.cat([vectors.users, vectors.items]), num_layers).split(sizes))
        ranking = evaluate(scorer, held_out, num_users=sizes[0], num_items=sizes[1], seen=[data.train], ks=(20,))
        return ranking.mean()["ndcg@20"]

    return quality


def pretrain(
    data: Interactions, options: Options, *, seed: int = 0, device: torch.device | str = "cpu", progress: bool = False
) -> tuple[Options, PretrainedVectors]:
    """User and item vectors ``[M, d]``, ``[N, d]`` that channels aggregate and embeddings start from.

    ``pretraining='svd'``: :func:`spectral_vectors`. A name of a model: its propagated embeddings, trained with the
    model's default settings and selected on validation.

    Args:
        data: the training split is read; validation only to choose.
        options: of a model, see :class:`~infodcl_geo.models.options.VectorOptions`.
        seed: of a model that is trained for it.
        device: where that is trained.
        progress: show its progress bar.

    Returns:
        The options with what was chosen, and the vectors.
    """
    teacher = getattr(options, "pretraining", SPECTRAL)
    if teacher == SPECTRAL:
        return spectral_vectors(data, options)
    config = configure(teacher, dim=options.dim, seed=seed)
    torch.manual_seed(seed)
    model = config.recipe.build(Inputs(data.train, data.num_users, data.num_items), config.options).to(device)
    train(model, data, config.training, progress=progress)
    state = model.state()
    return options, PretrainedVectors(state["users"].cpu(), state["items"].cpu())
