"""Pictures of the papers' tables and figures, small enough to be kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infodcl_geo.report.figures import LIGHT, style

Rows = Sequence[Mapping[str, Any]]


def _labels(rows: Rows, name: str = "row") -> list[str]:
    return list(dict.fromkeys(str(row[name]) for row in rows))


def _bars(axes: Any, rows: Rows) -> None:
    """Published and measured test Recall@20 of each row, with the interval of the measured."""
    shown = [row for row in rows if row["metric"] == "recall@20"]
    for number, row in enumerate(shown):
        if row.get("published"):
            axes.plot(row["published"], number, "D", color=LIGHT[1], label="published", markersize=5)
        if row.get("measured"):
            axes.plot(row["measured"], number, "o", color=LIGHT[0], label="measured", markersize=5)
        if row.get("low"):
            axes.plot([row["low"], row["high"]], [number] * 2, color=LIGHT[0], linewidth=2, label="95% over users")
            best = row["best on test (no fair estimate)"]
            axes.plot(best, number, "|", color=LIGHT[6], label="best on test (no fair estimate)", markersize=9)
    axes.set_yticks(range(len(shown)), [row["row"] for row in shown])
    axes.invert_yaxis()
    axes.set(xlabel="test Recall@20", xlim=(0, None))
    _legend_once(axes)


def _sweep(axes: Any, rows: Rows) -> None:
    """Difference of each value of a weight to the default's Recall@20, with its interval."""
    shown = [row for row in rows if row["metric"] == "recall@20" and row.get("minus reference") not in (None, "")]
    weights = list(dict.fromkeys(row["row"].partition("=")[0] for row in shown))
    for number, row in enumerate(shown):
        look = style(weights.index(row["row"].partition("=")[0]))
        axes.plot([row["difference low"], row["difference high"]], [number] * 2, color=look["color"], linewidth=2)
        axes.plot(row["minus reference"], number, look["marker"], color=look["color"], markersize=5)
    axes.axvline(0, color=LIGHT[6], linewidth=1)
    axes.set_yticks(range(len(shown)), [row["row"] for row in shown])
    axes.invert_yaxis()
    axes.set(xlabel="test Recall@20 minus that of the default, 95% over users")


def _cold(axes: Any, rows: Rows) -> None:
    for number, label in enumerate(_labels(rows)):
        found = [row for row in rows if row["row"] == label and row.get("measured") not in (None, "")]
        if found:
            axes.plot([r["at most"] for r in found], [r["measured"] for r in found], **style(number), label=label)
    axes.set(xlabel="training interactions of the user, at most", ylabel="test Recall@20", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)


def _time(axes: Any, rows: Rows) -> None:
    shown = [row for row in rows if row["metric"] == "recall@20" and row.get("seconds an epoch")]
    for number, row in enumerate(shown):
        look = {**style(number), "linestyle": "none", "markersize": 6}
        axes.plot(row["seconds an epoch"], row["measured"], **look, label=row["row"])
    axes.set(xlabel="seconds an epoch, one busy core", ylabel="test Recall@20", xscale="log")
    axes.legend(frameon=False, fontsize=7, ncols=2)


def _lines(axes: Any, rows: Rows) -> None:
    """``y`` over ``x`` by ``line``; ``axes`` of the first row names both."""
    for number, label in enumerate(_labels(rows, "line")):
        found = [row for row in rows if row["line"] == label]
        x, y = [row["x"] for row in found], [row["y"] for row in found]
        axes.plot(x, y, **{**style(number), "markersize": 4}, markevery=max(1, len(x) // 10), label=label)
    across, up, scale = rows[0]["axes"].split("|")
    axes.set(xlabel=across, ylabel=up, yscale=scale)
    axes.legend(frameon=False, fontsize=8)


def _points(axes: Any, rows: Rows) -> None:
    """A scatter of each ``line``, side by side."""
    figure = axes.figure
    figure.clear()
    labels = _labels(rows, "line")
    for place, (label, one) in enumerate(zip(labels, figure.subplots(1, len(labels), squeeze=False)[0], strict=True)):
        found = [row for row in rows if row["line"] == label]
        one.scatter([r["x"] for r in found], [r["y"] for r in found], s=3, c=LIGHT[place], linewidths=0)
        one.set(xticks=[], yticks=[], aspect="equal")
        one.set_title(label, fontsize=9)


_KINDS = {"bars": _bars, "sweep": _sweep, "cold": _cold, "time": _time, "lines": _lines, "points": _points}


def _legend_once(axes: Any) -> None:
    found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(found.values(), found.keys(), frameon=False, fontsize=8)


def draw(kind: str, rows: Rows, title: str, path: Path) -> bool:
    """Draw rows of a kind; false where none of them has a number."""
    wanted = {"time": "seconds an epoch", "sweep": "minus reference", "lines": "y", "points": "y"}.get(kind, "measured")
    if not any(row.get(wanted) not in (None, "") for row in rows):
        path.unlink(missing_ok=True)
        return False
    from matplotlib.figure import Figure

    many = len({row["row"] for row in rows}) if kind in ("bars", "sweep") else 0
    figure = Figure(figsize=(6.4, max(3.4, 1.1 + 0.26 * many)), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    _KINDS[kind](axes, rows)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return True
