"""From interactions and a recipe to a trained model with its numbers: prepare, fit, score."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .channels.base import Channel, ChannelBuilder, PretrainedVectors
from .channels.build import ChannelOptions, channel_builders
from .configuration import Config, configure
from .data.interactions import Interactions
from .environment import device_of
from .errors import OptionError, TrainingError
from .models import RECIPES, EmbeddingModel, Inputs, Model, Recipe
from .outcome import Run, check_item_term, with_item_term, with_test
from .pretraining import best_num_layers, pretrain
from .training.callbacks import Callback
from .training.loop import rank, train
from .training.options import CheckpointOptions
from .training.state import TrainResult

Channels: TypeAlias = Mapping[str, Tensor] | Sequence[Channel | ChannelBuilder]
"""Metadata ``[num_items, d]`` by name, or channels, ready or to be built."""


@dataclass
class Prepared:
    """What there is before the first epoch."""

    config: Config
    """with the smoothing and the number of layers that were chosen, see :mod:`~infodcl_geo.pretraining`"""
    model: Model
    channels: list[Channel]
    """those that were built or given ready"""
    seconds: dict[str, float]
    """what pretraining, the channels and the model took"""


def prepare(
    data: Interactions,
    config: Config,
    *,
    channels: Channels | None = None,
    vectors: PretrainedVectors | None = None,
    device: torch.device | str | None = "cpu",
    progress: bool = False,
) -> Prepared:
    """Pretrain, build the channels and the model, whatever of it ``config`` asks for.

    Args:
        data, config, channels, vectors, progress: as in :func:`fit`.
        device: where a model is pretrained, and the model's.
    """
    target, recipe, options = device_of(device), config.recipe, config.options
    seed, clock = config.training.seed, _Clock()
    if not recipe.reads_channels:
        channels = {}
    elif channels is None:
        assert isinstance(options, ChannelOptions)
        channels = channel_builders(options, data)
    to_build = not isinstance(channels, Mapping) and any(not isinstance(channel, Channel) for channel in channels)
    starts_pretrained = getattr(options, "init", None) == "pretrained"
    if vectors is None and (to_build or recipe.needs_vectors or starts_pretrained):
        options, vectors = pretrain(data, options, seed=seed, device=target, progress=progress)
        clock.lap("pretraining")
    if recipe.propagates_afterwards and getattr(options, "num_layers", None) is None:
        if vectors is None:
            raise OptionError(f"{recipe.name} has no pretrained vectors to choose num_layers by: give num_layers")
        options = replace(options, num_layers=best_num_layers(data, vectors))  # type: ignore[call-arg]
    ready: list[Channel] = []
    if not isinstance(channels, Mapping):
        for channel in channels:
            if not isinstance(channel, Channel):
                assert vectors is not None
                channel = channel(data, vectors)
            ready.append(channel)
    if to_build:
        clock.lap("channels")

    def of_size(dim: int) -> PretrainedVectors:
        if vectors is not None and vectors.items.size(1) == dim:
            return vectors
        return pretrain(data, replace(options, dim=dim), seed=seed)[1]  # type: ignore[call-arg]

    pairs = data.train.to(target) if recipe.closed_form else data.train
    inputs = Inputs(
        pairs, data.num_users, data.num_items, channels if isinstance(channels, Mapping) else ready, of_size
    )
    torch.manual_seed(seed)
    model = recipe.build(inputs, options)
    if starts_pretrained:
        if not isinstance(model, EmbeddingModel):
            raise OptionError(f"{recipe.name} has no embeddings that could start from pretrained vectors")
        start = of_size(model.dim)
        model.start_from(start.users, start.items)
    model = model.to(target)
    clock.lap("fit" if recipe.closed_form else "model")
    return Prepared(replace(config, options=options), model, ready, clock.seconds)


class _Clock:
    """Seconds between laps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now


def fit(
    data: Interactions,
    config: Config | Recipe | str = RECIPES[0],
    *,
    channels: Channels | None = None,
    vectors: PretrainedVectors | None = None,
    ks: tuple[int, ...] = (10, 20, 50),
    device: torch.device | str | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    checkpoint: CheckpointOptions | None = None,
    resume: str | Path | None = None,
) -> Run:
    """Train a model and select its epoch on validation, or fit a closed form; the test split is not read.

    Args:
        data: interactions with their split.
        config: model and settings, see :func:`~infodcl_geo.configuration.configure`; or a recipe or a model's name,
            with its defaults.
        channels: instead of the channels of ``config``: builders, ready channels, or metadata ``[num_items, d]`` by
            name (for models with modalities features of any widths).
        vectors: pretrained vectors; otherwise pretrained as ``config`` says, where channels or embeddings need them.
        ks: cut-offs of the metrics.
        device: where to train; a CUDA device if there is one.
        progress: show progress bars.
        callbacks: see :class:`~infodcl_geo.training.callbacks.Callback`.
        checkpoint: where and how often a run that is trained writes checkpoints.
        resume: folder of the checkpoints of this very run, to go on from; the data and ``config`` must be the same.
    """
    config = config if isinstance(config, Config) else configure(config)
    check_item_term(config, data)
    target = device_of(device)
    prepared = prepare(data, config, channels=channels, vectors=vectors, device=target, progress=progress)
    model, result = prepared.model, TrainResult()
    if not config.recipe.closed_form:
        identity = {"data": data.fingerprint, **config.identity()}
        try:
            result = train(
                model,
                data,
                config.training,
                ks=ks,
                name=config.name,
                callbacks=callbacks,
                progress=progress,
                checkpoint=checkpoint,
                resume=resume,
                identity=json.dumps(identity, sort_keys=True),
            )
        except TrainingError as error:
            if error.result is not None and error.result.best_epoch:
                error.run = with_item_term(_outcome(prepared, error.result), data, ks, target)
            raise
    outcome = with_item_term(_outcome(prepared, result), data, ks, target)
    if config.recipe.closed_form and data.valid.size(1):
        result.validation = rank(data, outcome.scorer, "valid", ks=ks, device=target, name=config.name).mean()
    return outcome


def _outcome(prepared: Prepared, result: TrainResult) -> Run:
    model, seconds = prepared.model, prepared.seconds
    return Run(prepared.config, model, model.scorer(), result, preparation_seconds=seconds, channels=prepared.channels)


def run(
    data: Interactions,
    config: Config | Recipe | str = RECIPES[0],
    *,
    ks: tuple[int, ...] = (10, 20, 50),
    mask_validation: bool = False,
    device: torch.device | str | None = None,
    **fitting: Any,
) -> Run:
    """:func:`fit` a model, then :func:`score` it.

    Args:
        data, config, ks, device, fitting: as in :func:`fit`.
        mask_validation: leave validation items out of the test ranking.
    """
    outcome = fit(data, config, ks=ks, device=device, **fitting)
    return score(data, outcome, ks=ks, mask_validation=mask_validation, device=device)


def score(
    data: Interactions,
    run: Run,
    *,
    ks: tuple[int, ...] = (10, 20, 50),
    mask_validation: bool = False,
    device: torch.device | str | None = None,
) -> Run:
    """A copy of ``run`` with the metrics of the test split, which is read here and nowhere else."""
    target = device_of(device)
    ranking = rank(
        data, run.scorer, "test", ks=ks, mask_validation=mask_validation, device=target, name=run.config.name
    )
    return with_test(run, data, ranking)
