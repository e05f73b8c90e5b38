"""From runs to one page: what the data are, how the models did, and what they recommend."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from .. import __version__
from ..data.interactions import Interactions
from ..errors import InfodclGeoError, OptionError
from ..evaluation.metrics import BEYOND, beyond_accuracy
from ..evaluation.ranking import rank_items
from ..recommender import Recommender
from . import figures, inside
from .collect import Material, collect, model_table, seconds_of, values
from .page import Chapter, Section, Table, render

__all__ = ["report"]

_LISTS = 1000
"""Users whose lists the metrics beyond accuracy are of."""
_SHOWN = 10
"""Items of a list, and of a history, that are shown."""


def report(
    folder: str | Path,
    data: Interactions | None = None,
    *,
    notes: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """The page of all runs in a folder and below it.

    Args:
        folder: with what ``train --out``, ``compare --out`` or ``report --quick`` wrote.
        data: the interactions of the runs; without them the page knows those of training and validation alone, from
            the saved models.
        notes: lines to show at the end of the page.
        say: told which data set the page is at, and about how long the others take.

    Returns:
        HTML that needs no other file.

    Raises:
        FileError: if there is no run in the folder.
        OptionError: if matplotlib is absent, or no run is of ``data``.
    """
    figures.require_matplotlib()
    kept = list(notes)
    materials = collect(folder, kept)
    if data is not None:
        same = [material for material in materials if material.fingerprint in (data.fingerprint, "")]
        if not any(material.fingerprint == data.fingerprint for material in same):
            raise OptionError(f"{folder}: no run there is of {data.name} with this split; leave --data out, or mend it")
        for material in same:
            material.data = data if material.fingerprint == data.fingerprint else None
    chapters: list[Chapter] = []
    begin = time.monotonic()
    for number, material in enumerate(materials, 1):
        each = (time.monotonic() - begin) / max(1, len(chapters))
        left = f"; about {each * (len(materials) - len(chapters)):.0f} s left" if chapters else ""
        say(f"page: data set {number} of {len(materials)}, {material.name}{left}")
        chapters.append(_chapter(material, f"d{number}", kept))
    runs = sum(len(material.entries) for material in materials)
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    subtitle = f"{runs} run{'s' * (runs != 1)}, made {when} by infodcl-geo {__version__}"
    return render("Recommendation report", subtitle, chapters, list(dict.fromkeys(kept)))


def _chapter(material: Material, prefix: str, notes: list[str]) -> Chapter:
    made_up = "The data are generated, with planted tastes: the numbers say that the program works, nothing more."
    chapter = Chapter(material.name or "data set without a name", made_up if material.generated else "")
    chapter.sections = [
        _data(material, prefix), _models(material, prefix), _training(material, prefix), _groups(material, prefix),
        _beyond(material, prefix, notes), inside.channels(material, prefix, notes),
        inside.sensitivity(material, prefix), _examples(material, prefix, notes),
    ]  # fmt: skip
    return chapter


def _data(material: Material, prefix: str) -> Section:
    title = "What the data are"
    source = material.data or next(iter(material.models.values()), None)
    if source is None:
        return Section(title, absent="No saved model and no --data: the interactions themselves are not known here.")
    train, valid = source.train, source.valid
    if isinstance(source, Recommender):
        users, items = source.sizes
        counts = source.record.counts
        tested, how = counts[2] if len(counts) == 3 else None, source.record.split
    else:
        users, items = source.num_users, source.num_items
        tested, how = source.test.size(1), source.origin.how if source.origin else ""
    of_users, of_items = (
        torch.bincount(pairs, minlength=size).numpy() for pairs, size in zip(train, (users, items), strict=True)
    )
    bipartite = coo_matrix((np.ones(train.size(1)), (train[0].numpy(), users + train[1].numpy())), (users + items,) * 2)
    node = connected_components(bipartite, directed=False)[1]
    linked = np.bincount(node)[np.bincount(node) > 1]
    total = None if tested is None else train.size(1) + valid.size(1) + tested
    rows = [
        ("users", str(users)),
        ("items", str(items)),
        ("interactions", "not known" if total is None else str(total)),
        ("density", "not known" if total is None else f"{100 * total / max(1, users * items):.4f}%"),
        ("training / validation / test", f"{train.size(1)} / {valid.size(1)} / {'?' if tested is None else tested}"),
        ("split", how or "not recorded"),
        ("users without a training interaction (cold)", str(int((of_users == 0).sum()))),
        ("items without a training interaction (cold)", str(int((of_items == 0).sum()))),
        ("training interactions of a user: median, mean, most", _spread(of_users)),
        ("training interactions of an item: median, mean, most", _spread(of_items)),
        ("connected components of the training graph", str(len(linked))),
        ("share of users and items in the largest", f"{100 * linked.max(initial=0) / max(1, users + items):.2f}%"),
        ("pairs in training and validation (leak)", str(_common(train, valid, items))),
    ]
    if isinstance(source, Interactions):
        held = torch.cat([train, valid], dim=1)
        rows.append(("test pairs in training or validation (leak)", str(_common(held, source.test, items))))
        strangers = int((of_users[source.test[0].unique().numpy()] == 0).sum())
        rows.append(("test users without a training interaction", str(strangers)))
    table = Table(f"{prefix}-data", "Sizes, split and leaks", ["what", "value"], rows, wide=True)
    pictures = [
        figures.degrees(f"{prefix}-user-degrees", "Training interactions of users", of_users),
        figures.degrees(f"{prefix}-item-degrees", "Training interactions of items", of_items),
    ]
    return Section(title, [table], pictures if train.size(1) else [])


def _spread(counts: np.ndarray) -> str:
    return f"{np.median(counts):g}, {counts.mean():.2f}, {counts.max()}" if counts.size else "-"


def _common(one: Tensor, other: Tensor, items: int) -> int:
    return int(torch.isin(other[0] * items + other[1], one[0] * items + one[1]).sum())


def _models(material: Material, prefix: str) -> Section:
    headers, rows, caption = model_table(material)
    spread = "± is the standard deviation over the runs, which differ in their seed. "
    table = Table(f"{prefix}-models", "Models", headers, rows, spread + caption)
    metric = f"ndcg@{material.k}"
    points = []
    for label in material.labels:
        of_label = [entry for entry in material.entries if entry.label == label]
        runs = [entry for entry in of_label if seconds_of(entry) >= 0 and values([entry], f"test {metric}")]
        if runs:
            points.append((label, [seconds_of(e) for e in runs], values(runs, f"test {metric}")))
    pictures = [figures.against_time(f"{prefix}-time", points, metric, material.numbers)] if points else []
    return Section("Models", [table], pictures)


def _training(material: Material, prefix: str) -> Section:
    title, metric = "Training", f"ndcg@{material.k}"
    by_epoch: dict[str, tuple[list[float], list[float]]] = {}
    by_time: dict[str, tuple[list[float], list[float]]] = {}
    losses: list[figures.Picture] = []
    numbers: dict[str, int] = {}
    for run in material.runs:
        history = run.history
        checked = [row for row in history if metric in row and "epoch" in row]
        label = run.label if run.label not in by_epoch else f"{run.label}, seed {run.seed}"
        if checked:
            numbers[label] = material.numbers[run.label] if label == run.label else len(material.labels) + len(numbers)
            by_epoch[label] = ([row["epoch"] for row in checked], [row[metric] for row in checked])
            if all("seconds" in row for row in checked):
                by_time[label] = ([row["seconds"] for row in checked], by_epoch[label][1])
        terms = [n for n in dict.fromkeys(k for row in history for k in row) if "@" not in n]
        lines: dict[str, tuple[list[float], list[float]]] = {}
        for term in terms:
            found = [(row["epoch"], row[term]) for row in history if term in row and "epoch" in row]
            if term not in ("epoch", "seconds") and found:
                lines[term] = ([epoch for epoch, _ in found], [value for _, value in found])
        if lines and len(losses) < 12:
            losses.append(figures.curves(
                f"{prefix}-loss-{len(losses) + 1}", f"Losses of {label}", "Mean over the steps of an epoch.",
                lines, ("epoch", "loss"), logarithmic=True,
            ))  # fmt: skip
    if not by_epoch and not losses:
        return Section(title, absent="No run here was trained by epochs, or none has its history.")
    pictures = []
    selects = f"{metric} on validation, which selects the epoch"
    for name, axis, of, caption in (
        ("epochs", "epoch", by_epoch, f"{selects}."),
        ("seconds", "seconds", by_time, f"{selects}; since training started, validations included."),
    ):
        if of:
            pictures.append(figures.curves(
                f"{prefix}-validation-{name}", f"Validation by {name}", caption, of, (axis, f"validation {metric}"),
                numbers=numbers,
            ))  # fmt: skip
    return Section(title, pictures=[*pictures, *losses])


def _groups(material: Material, prefix: str) -> Section:
    title, tables, pictures = "By degree of users and items", [], []
    for what, metric, size in (("user", "ndcg", "users"), ("item", "recall", "pairs")):
        name = f"{metric}@{material.k}"
        found: dict[str, dict[str, list[float]]] = {}
        sizes: dict[str, str] = {}
        for run in material.runs:
            for group, numbers in run.groups(f"test_by_{what}_degree").items():
                if isinstance(numbers.get(size), int):
                    sizes.setdefault(group, str(numbers[size]))
                if isinstance(numbers.get(name), float | int):
                    found.setdefault(run.label, {}).setdefault(group, []).append(float(numbers[name]))
        if not found:
            continue
        means = {label: {g: float(np.mean(v)) for g, v in groups.items()} for label, groups in found.items()}
        rows = [[label, *(f"{of[g]:.4f}" if g in of else "-" for g in sizes)] for label, of in means.items()]
        rows.append([f"number of {'test users' if what == 'user' else 'test pairs'}", *sizes.values()])
        caption = f"Columns are training interactions of the {what}; means over the seeds."
        heading = f"Test {name} by degree of the {what}"
        tables.append(Table(f"{prefix}-by-{what}", heading, ["model", *sizes], rows, caption))
        pictures.append(figures.by_group(
            f"{prefix}-by-{what}-figure", heading, "Groups of few are noisy: the table has their sizes.",
            list(sizes), means, (f"training interactions of the {what}", name), material.numbers,
        ))  # fmt: skip
    return Section(title, tables, pictures, "" if tables else "No run here has its metrics by degree.")


def _beyond(material: Material, prefix: str, notes: list[str]) -> Section:
    title, rows, k = "Beyond accuracy", [], material.k
    for label, model in material.models.items():
        users, items = model.sizes
        counts = torch.bincount(model.train[1], minlength=items)
        known = model.train[0].unique()
        asked = known[torch.linspace(0, known.numel() - 1, min(_LISTS, known.numel())).long()]
        try:
            lists = rank_items(
                model.scorer(), asked, k, num_users=users, num_items=items, seen=[model.seen], name=label
            )[0]
        except InfodclGeoError as error:
            notes.append(f"{label}: no lists ({error})")
            continue
        found = beyond_accuracy(lists, counts, users, [k])
        rows.append([label, *(f"{found[f'{name}@{k}']:.4g}" for name in BEYOND)])
    if not rows:
        return Section(title, absent="No saved model here whose lists could be looked at.")
    caption = (
        f"Of lists of {k} items for at most {_LISTS} users spread evenly over those with a training interaction, items "
        "of training and validation left out. Coverage is the share of the catalogue that is shown (of more users it "
        "is larger); Gini is 0 where every item is shown as often; novelty in bits; popularity is the mean number of "
        "training interactions of what is shown."
    )
    return Section(title, [Table(f"{prefix}-beyond", title, ["model", *(f"{n}@{k}" for n in BEYOND)], rows, caption)])


def _examples(material: Material, prefix: str, notes: list[str]) -> Section:
    title, models = "What a few users are recommended", material.models
    first = next(iter(models.values()), None)
    if first is None or not first.train.size(1):
        return Section(title, absent="No saved model here to ask.")
    degree = torch.bincount(first.train[0], minlength=first.sizes[0])
    known = torch.argsort(degree, stable=True)[int((degree == 0).sum()) :]
    chosen = known[[int(q * (known.numel() - 1)) for q in (0.1, 0.5, 0.9)]].unique_consecutive().tolist()
    tables = []
    for number, row in enumerate(chosen, 1):
        user = first.user_ids.decode([row])[0]
        history = first.item_ids.decode(first.train[1][first.train[0] == row].numpy())
        more = f", … ({len(history)} in all)" if len(history) > _SHOWN else ""
        lines = [["history (training)", ", ".join(map(str, history[:_SHOWN])) + more]]
        held: set[str] = set()
        if material.data is not None:
            test = material.data.test
            held = set(map(str, material.data.item_ids.decode(test[1][test[0] == row].numpy())))
        for label, model in models.items():
            try:
                answer = model.recommend([user], _SHOWN)[0]
            except InfodclGeoError as error:
                notes.append(f"{label}: no recommendation ({error})")
                continue
            lines.append([label, ", ".join(f"{item} ✓" if str(item) in held else str(item) for item in answer.items)])
        caption = "" if material.data is None else "✓ marks an item that the user took in the test split."
        name = re.sub(r"\s+", " ", str(user))
        tables.append(Table(
            f"{prefix}-user-{number}", f"User {name}: {int(degree[row])} training interactions",
            ["", "items, best first"], lines, caption, wide=True,
        ))  # fmt: skip
    return Section(title, tables)
