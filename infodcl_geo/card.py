"""What a saved model says of itself to people: a page of Markdown beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .saved import Saved
from .text import escape, markdown_cell

_PARTS = ("data", "options", "training")
GENERATED = "The data are generated: the numbers say that the program works, nothing more."
LIMITS = """\
- {users} users without a training interaction get popular items, as unknown users do where that is asked for.
- {items} items without a training interaction are ranked by vectors or weights that learned nothing of them.
- Scores order the items of one user. They are no probabilities, and those of two users cannot be compared.
- The model learned who took what from the data above, with whatever bias they have: what is popular is recommended more
  often than its share.
"""


def card(saved: Saved) -> str:
    """The model card: data, split, settings, metrics and limits, all of what was recorded and nothing else."""
    config, record = saved.config, saved.record
    sizes = len(saved.user_ids), len(saved.item_ids)
    cold = [size - int(saved.train[row].unique().numel()) for row, size in enumerate(sizes)]
    lines = [
        f"# {escape(config.get('model', 'model'))}",
        "",
        f"Recommends {sizes[1]} items to {sizes[0]} users. Made by infodcl-geo"
        f"{_version(record.versions)}{f', {escape(record.date)}' if record.date else ''}.",
        "",
        "## Data",
        "",
        *_table(
            {
                "name": record.name or "not recorded",
                "source": record.source or "not recorded",
                "split": record.split or "not recorded",
                "pairs of train, valid, test": ", ".join(map(str, record.counts)) or "not recorded",
                "users and items without a training interaction": f"{cold[0]} and {cold[1]}",
                "fingerprint of data and split": record.fingerprint or "not recorded",
            }
        ),
        "",
        *([GENERATED, ""] if record.generated else []),
        "## Metrics",
        "",
        *_metrics(record.metrics),
        "",
        "All items are ranked for every user, training items left out; the epoch was chosen on validation.",
        "",
        "## Settings",
        "",
        *_table({f"{part}: {key}": value for part in _PARTS for key, value in config.get(part, {}).items()}),
        "",
        "## Limits",
        "",
        LIMITS.format(users=cold[0], items=cold[1]),
    ]
    return "\n".join(lines)


def _version(versions: Mapping[str, str]) -> str:
    return f" {escape(versions['infodcl-geo'])}" if "infodcl-geo" in versions else ""


def _table(rows: Mapping[str, Any]) -> list[str]:
    cells = [f"| {markdown_cell(name)} | {markdown_cell(value)} |" for name, value in rows.items()]
    return ["| | |", "|---|---|", *cells]


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
    splits = {name: part for name in ("validation", "test") if isinstance(part := metrics.get(name), Mapping) and part}
    names = list(dict.fromkeys(name for part in splits.values() for name in part))
    if not names:
        return ["Not recorded."]
    numbers = {name: [_number(part.get(name)) for part in splits.values()] for name in names}
    rows = [f"| {markdown_cell(name)} | {' | '.join(cells)} |" for name, cells in numbers.items()]
    return [f"| | {' | '.join(splits)} |", f"|---|{'---|' * len(splits)}", *rows]


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"
