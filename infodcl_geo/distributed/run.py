"""Train and score a model on several ranks; the outcome is on rank 0, as one process has it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..configuration import Config
from ..data.interactions import Interactions
from ..environment import versions
from ..errors import OptionError
from ..experiment import prepare
from ..models.base import EmbeddingModel, Fitted, Model
from ..models.scoring import dot_scorer
from ..outcome import Run, check_item_term, with_test
from ..training.callbacks import Callback
from ..training.loop import train
from ..training.options import CheckpointOptions
from .build import build_part
from .evaluation import full_ranking, mean_metrics, own_pairs
from .group import Group
from .input import OwnInteractions
from .partition import Partition, partition
from .plan import Shape, expected
from .workers import Tables, Workers, choose_tables, take_part


def run_several(
    data: Interactions | OwnInteractions,
    config: Config,
    group: Group,
    *,
    tables: Tables = "auto",
    ks: tuple[int, ...] = (10, 20, 50),
    mask_validation: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
    checkpoint: CheckpointOptions | None = None,
    resume: str | Path | None = None,
) -> Run:
    """Train a model with the other ranks and score it, as :func:`~infodcl_geo.experiment.run` does alone.

    Every rank reads ``data`` and prepares the model as one process does, then keeps its part. Of interactions that no
    process can hold (:mod:`~infodcl_geo.distributed.input`) each rank builds its part at once; ``num_layers`` is then 1
    where it is missing, smoothing its default, and the test split has averages alone.

    Args:
        data, config, ks, mask_validation, progress, callbacks, checkpoint, resume: as there; the same on all ranks,
            whose first alone shows and logs.
        group: the ranks.
        tables: whether tables lie in parts ('sharded'), every rank has a copy ('whole'), or size decides ('auto').

    Returns:
        The outcome, which on ranks other than 0 has no metrics of the test split and this rank's part of the model.

    Raises:
        OptionError: if the model cannot be trained so.
        DistributedError: if the ranks have other data, options or versions.
    """
    recipe = config.recipe
    if recipe.closed_form:
        raise OptionError(f"{recipe.name} is fitted at once: start one process for it, not {group.size}")
    if getattr(config.options, "item_term", "none") != "none":
        raise OptionError("item_term is chosen by one process: leave it out on several")
    group.check_same(
        {
            "version": {name: value for name, value in versions().items() if name != "python"},
            "data": data.fingerprint,
            "options": {**config.identity(), "tables": tables, "ks": list(ks)},
        }
    )
    model: Model
    nodes, begun = data.num_users + data.num_items, time.perf_counter()
    if isinstance(data, OwnInteractions):
        if tables == "whole":
            raise OptionError("--tables whole wants all interactions on every process, which have read parts of them")
        sharded, why = choose_tables(recipe, config.options, nodes, "sharded")
        part, channels = data.part, []
        config, model = build_part(data, config, group)
        seconds = {"model": time.perf_counter() - begun}
    else:
        check_item_term(config, data)
        sharded, why = choose_tables(recipe, config.options, nodes, tables)
        prepared = prepare(data, config, device=group.device, progress=False)
        config, model, channels, seconds = prepared.config, prepared.model, prepared.channels, prepared.seconds
        part = partition(data.num_users, data.num_items, group.size, group.rank)
        if sharded:
            take_part(model, own_pairs(data.train, part.users), part, group)
    shape = Shape.of(data, model, config, group, sharded=sharded)
    if group.first:
        print(f"{group.size} processes: {why}", *expected(shape), sep="\n", flush=True)
    workers = Workers(group, part, sharded=sharded, recipe=recipe, options=config.options)
    result = train(
        model,
        data,  # type: ignore[arg-type]
        config.training,
        ks=ks,
        name=config.name,
        callbacks=callbacks if group.first else (),
        progress=progress and group.first,
        checkpoint=checkpoint,
        resume=resume,
        identity=json.dumps({"data": data.fingerprint, **config.identity()}, sort_keys=True),
        processes=workers,
    )
    outcome = Run(config, model, dot_scorer(*_nothing()), result, preparation_seconds=seconds, channels=channels)
    if not result.interrupted:
        how: Any = {"part": part, "group": group, "sharded": sharded, "ks": ks, "mask_validation": mask_validation}
        how["name"] = config.name
        if isinstance(data, OwnInteractions):
            outcome = replace(outcome, test=mean_metrics(model, data, "test", **how) if data.totals[2] else {})
        else:
            ranking = full_ranking(model, data, "test", **how)
            outcome = outcome if ranking is None else with_test(outcome, data, ranking)
    model = gathered(model, part, group) if sharded else model
    return replace(outcome, model=model, scorer=model.scorer())


def gathered(model: Model, part: Partition, group: Group) -> Model:
    """A model of all embeddings that rank, on rank 0; an empty one elsewhere."""
    assert isinstance(model, EmbeddingModel)
    tables = []
    for table in model.embeddings():
        sizes = group.all_counts(table.size(0))
        give = [table.size(0), *[0] * (group.size - 1)]
        tables.append(group.exchange(table, give, sizes if group.first else [0] * group.size, "export"))
    return Fitted({"users": tables[0], "items": tables[1]}, dot_scorer(*tables))


def _nothing() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty(0, 1), torch.empty(0, 1)
