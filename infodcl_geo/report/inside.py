"""What is inside the models: what their channels know, and how much their options matter."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..channels.build import channel_builders
from ..channels.diagnostics import ChannelReport, inspect_channel
from ..configuration import Config, from_dict
from ..data.interactions import Interactions
from ..errors import InfodclGeoError
from ..models.options import SPECTRAL
from ..pretraining import pretrain
from . import figures
from .collect import Material, is_number, settings_of, values
from .page import Section, Table

_PAIRS, _SHUFFLES = 2_000, 5
"""Held-out pairs and shuffled graphs that a channel is measured by: a first look, which takes seconds."""
_CHANNELS = 6
"""Channels that are measured at most."""
_FEWEST = 5
"""Trials below which nothing is said of an option."""
_SHOWN_OPTIONS = 4


def channels(material: Material, prefix: str, notes: list[str]) -> Section:
    """What the channels of the runs cover and weigh and, where the data are given, what they know."""
    title, rows = "What channels know", []
    sources: dict[str, str] = {}
    for run in material.runs:
        told = run.content.get("channels")
        for name, about in told.items() if isinstance(told, dict) else ():
            if isinstance(about, dict):
                row = [f"{run.label}, seed {run.seed}", str(name), _share(about.get("coverage"))]
                row += [_number(about.get(key)) for key in ("weight", "mean_row_weight")]
                rows.append(row)
                sources.setdefault(str(name), str(about.get("source", "")))
    if not rows:
        return Section(title, absent="No model here reads channels of metadata.")
    headers = ["model", "channel", "items covered", "weight", "mean weight of rows"]
    tables = [
        Table(f"{prefix}-channels", "Channels of the models", headers, rows),
        Table(f"{prefix}-sources", "Made from", ["channel", "made from"], [*map(list, sources.items())], wide=True),
    ]
    found = {} if material.data is None else _measured(material, material.data, notes)
    if found:
        tables.append(_knowledge(prefix, found))
    elif material.data is None:
        tables[0] = replace(tables[0], caption="With --data the page also measures what they know of held-out items.")
    return Section(title, tables)


def _share(value: object) -> str:
    return f"{100 * float(value):.1f}%" if is_number(value) else "-"  # type: ignore[arg-type]


def _number(value: object) -> str:
    return f"{value:.3g}" if is_number(value) else "-"


def _measured(material: Material, data: Interactions, notes: list[str]) -> dict[str, ChannelReport]:
    """The report of each channel that the runs built, by its name."""
    found: dict[str, ChannelReport] = {}
    for run in material.runs:
        try:
            config = from_dict(run.content.get("config") or {})
            if not config.recipe.reads_channels or getattr(config.options, "pretraining", None) != SPECTRAL:
                continue
            found |= {name: one for name, one in _of_config(config, data, found).items() if len(found) < _CHANNELS}
        except (InfodclGeoError, TypeError) as error:
            notes.append(f"{run.label}: its channels were not measured ({' '.join(str(error).split())})")
    return found


def _of_config(config: Config, data: Interactions, known: Mapping[str, ChannelReport]) -> dict[str, ChannelReport]:
    options: Any = config.options
    found = {}
    wanted = [name for name in options.channel_names if name not in known]
    if not wanted:
        return {}
    vectors = pretrain(data, options)[1]
    for build in channel_builders(options, data):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it would warn of stands in the table
            channel = build(data, vectors)
            if channel.name not in known:
                found[channel.name] = inspect_channel(
                    data, channel, vectors=vectors, shuffles=_SHUFFLES, max_pairs=_PAIRS
                )
    return found


def _knowledge(prefix: str, found: Mapping[str, ChannelReport]) -> Table:
    rows = []
    for name, report in found.items():
        agreed, beyond = report.agreement, report.beyond
        row = [name, f"{report.degrees.median:g}", f"{report.degrees.max}"]
        row += ["-", "-"] if agreed is None else [f"{agreed.lift:.2f}", f"{agreed.z:.1f}"]
        row += ["-", "-"] if beyond is None else [f"{100 * beyond.share:+.2f}%", f"{beyond.z:.1f}"]
        said = "adds nothing" if report.adds_nothing else "carries nothing" if report.carries_nothing else "adds"
        rows.append([*row, f"{report.signal_to_noise:.3g}", said if agreed is not None else "not measured"])
    caption = (
        f"By {_PAIRS} validation pairs at most. Times random: how much more often neighbours hold a held-out item than "
        "one of the same popularity; z is against shuffled edges. Beyond the vectors: what it adds to what the "
        "pretrained vectors know of held-out items. Channels made of the training interactions agree as a matter of "
        "course."
    )
    headers = ["channel", "neighbours, median", "most", "times random", "z", "beyond the vectors", "its z"]
    return Table(f"{prefix}-knows", "What they know", [*headers, "signal to noise", "verdict"], rows, caption)


def sensitivity(material: Material, prefix: str) -> Section:
    """How much options matter: runs of one model with other options, and the trials of searches."""
    title = "Sensitivity to options"
    tables: list[Table] = []
    pictures: list[figures.Picture] = []
    for number, (model, (labels, lines)) in enumerate(_variants(material).items(), 1):
        name, caption = f"Runs of {model} with other options", "Options that differ, and metrics; means over seeds."
        tables.append(Table(f"{prefix}-variants-{number}", name, ["", *labels], lines, caption))
    by_model: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for trial in material.trials:
        quality, options = _trial(trial)
        if quality is not None:
            by_model.setdefault(trial["model"], []).append((quality, options))
    rows = []
    for number, (model, trials) in enumerate(by_model.items()):
        about = _options(trials)
        rows += [[model, *row] for row in (_option_row(name, x, y) for name, (x, y) in about.items())]
        strongest = sorted(about, key=lambda name: -abs(_rank_correlation(*about[name])))[:_SHOWN_OPTIONS]
        for name in strongest if len(pictures) < 12 else ():
            place, axis = f"{prefix}-option-{len(pictures) + 1}", (name, "validation ndcg@20")
            caption = "A point for each trial of the search."
            pictures.append(figures.scatter(place, f"{model}: {name}", caption, *about[name], axis, number))
    if rows:
        headers = ["model", "option", "tried from", "to", "best trial's", "rank correlation", "trials"]
        caption = (
            "Correlation of the option's value with validation NDCG@20 over the trials of a search, which looks more "
            "often where it was good: a description of the search, and no effect by itself."
        )
        tables.append(Table(f"{prefix}-trials", "Options in searches", headers, rows, caption))
    if not tables:
        absent = "One setting of each model here, and no search: run compare --variants, or tune --out into the folder."
        return Section(title, absent=absent)
    return Section(title, tables, pictures)


def _variants(material: Material) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Of each model that ran with several settings: its labels, and lines of the options that differ and of metrics."""
    flat: dict[str, dict[str, Any]] = {}
    models: dict[str, str] = {}
    contents = [(entry.label, settings_of(entry)) for entry in material.entries]
    for label, content in [*contents, *((run.label, run.content.get("config") or {}) for run in material.runs)]:
        parts = [content.get(part) for part in ("options", "training")]
        merged = {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}
        if merged and label not in flat:
            flat[label], models[label] = merged, str(content.get("model", label))
    found = {}
    for model in dict.fromkeys(models.values()):
        labels = [label for label in flat if models[label] == model]
        if len(labels) < 2:
            continue
        # A table of runs leaves out what had no effect.
        common = [name for name in flat[labels[0]] if name != "seed" and all(name in flat[label] for label in labels)]
        lines = [[name, *(str(flat[label][name]) for label in labels)] for name in common]
        lines = [line for line in lines if len(set(line[1:])) > 1]
        for part in ("valid", "test"):
            name = f"{part} ndcg@{material.k}"
            of = [values([entry for entry in material.entries if entry.label == label], name) for label in labels]
            lines.append([name, *(f"{np.mean(one):.4f}" if one else "-" for one in of)])
        found[model] = labels, lines
    return found


def _trial(row: Mapping[str, str]) -> tuple[float | None, dict[str, Any]]:
    try:
        quality, options = float(row.get("valid ndcg@20") or "nan"), json.loads(row["options"])
    except ValueError:
        return None, {}
    return (quality if math.isfinite(quality) else None), options if isinstance(options, dict) else {}


def _options(trials: Sequence[tuple[float, Mapping[str, Any]]]) -> dict[str, tuple[list[float], list[float]]]:
    """Values and qualities of each numeric option that was varied in enough trials."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for quality, options in trials:
        for name, value in options.items():
            if is_number(value):
                x, y = found.setdefault(name, ([], []))
                x.append(float(value))
                y.append(quality)
    return {name: (x, y) for name, (x, y) in found.items() if len(x) >= _FEWEST and len(set(x)) > 2}


def _rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    from scipy.stats import spearmanr

    return 0.0 if len(set(y)) < 2 else float(spearmanr(x, y).statistic)


def _option_row(name: str, x: Sequence[float], y: Sequence[float]) -> list[str]:
    best = x[int(np.argmax(y))]
    return [name, f"{min(x):.3g}", f"{max(x):.3g}", f"{best:.3g}", f"{_rank_correlation(x, y):+.2f}", str(len(x))]
