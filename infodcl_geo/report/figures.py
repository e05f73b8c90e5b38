"""Figures as SVG: inline ones that follow the page's colours, and files of their own."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import OptionError
from ..text import escape

# Okabe and Ito (2008): told apart with any of the usual kinds of colour blindness; lighter ones for a dark page.
LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07a00", "#56b4e9", "#767676")
DARK = ("#5aaee8", "#ff8f4d", "#2cc79b", "#e8a5cb", "#f0c04a", "#9ad8ff", "#b0b0b0")
_INK, _GRID = "#1b1b1e", "#b9b9be"
_MARKERS, _DASHES = "osD^vPX", ("-", "--", ":", "-.")
_SIZE = (4.1, 3.0)


@dataclass(frozen=True)
class Picture:
    """One figure of the page."""

    name: str
    """letters, digits and hyphens: its id and the name of its file"""
    title: str
    caption: str
    inline: str
    """SVG element for a page that defines ``--s0`` ... ``--s6`` and ``--grid``"""
    file: str
    """SVG document in colours for a white page"""


def require_matplotlib() -> None:
    """See that figures can be drawn.

    Raises:
        OptionError: where matplotlib is absent; one line.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise OptionError("a report needs matplotlib: pip install 'infodcl-geo[plot]'") from None


def _picture(name: str, title: str, caption: str, draw: Callable[[Any], None]) -> Picture:
    """Draw on one pair of axes, in text that stays text."""
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False, "font.size": 9.5,
        "font.family": ["sans-serif"], "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _GRID,
        "xtick.color": _INK, "ytick.color": _INK, "axes.grid": True, "grid.color": _GRID, "grid.linewidth": 0.5,
        "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none",
        "figure.facecolor": "none", "savefig.facecolor": "none", "legend.frameon": False, "legend.fontsize": 8.5,
        "lines.linewidth": 1.7, "lines.markersize": 4.5, "axes.formatter.use_mathtext": False,
    }  # fmt: skip
    buffer = io.StringIO()
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's fonts may have it
        figure = Figure(figsize=_SIZE, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # Ids of several figures on one page must differ.
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    inline = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"', "", text)
    inline = re.sub(r'<svg([^>]*?) (?:width|height)="[^"]*"', r"<svg\1", inline)
    inline = re.sub(r'<svg([^>]*?) (?:width|height)="[^"]*"', r"<svg\1", inline)
    for colour, variable in [*((c, f"--s{n}") for n, c in enumerate(LIGHT)), (_GRID, "--grid"), (_INK, "--ink")]:
        inline = re.sub(rf"(fill|stroke): {colour}\b", rf"\1: var({variable})", inline)
    return Picture(name, title, caption, inline, text)


def _label(text: str) -> str:
    """A label that no legend leaves out and no drawing obeys."""
    text = escape(text)
    text = text if len(text) <= 28 else f"{text[:27]}…"
    return f"\u2009{text}" if text.startswith("_") else text


def style(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of the series of this number; no two of the first 28 are alike."""
    return {
        "color": LIGHT[number % len(LIGHT)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linestyle": _DASHES[(number // len(LIGHT) + number) % len(_DASHES)],
    }


def _logarithmic(axis: Any, span: Sequence[float]) -> None:
    """A logarithmic scale with plain numbers, more of them where it spans little."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    positive = [value for value in span if value > 0]
    decades = math.log10(max(positive) / min(positive))
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    axis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2.5 else (1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _from_zero(axes: Any) -> None:
    axes.set_ylim(0, 1.06 * max(axes.dataLim.y1, 1e-12) if math.isfinite(axes.dataLim.y1) else 1)


def _legend(axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = 3 if max(map(len, labels)) < 14 else 2
        axes.figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


def degrees(name: str, title: str, counts: npt.NDArray[np.int64]) -> Picture:
    """How many users or items have how many training interactions, both on logarithmic axes."""

    def draw(axes: Any) -> None:
        positive = counts[counts > 0]
        largest = int(positive.max(initial=1))
        edges = np.unique(np.round(np.geomspace(1, largest + 1, 22)).astype(int)) - 0.5
        heights = axes.hist(positive, bins=edges, color=LIGHT[0], edgecolor=_GRID, linewidth=0.4)[0]
        axes.set(xlabel="training interactions", ylabel="how many have them")
        _logarithmic(axes.xaxis, (1, max(2, largest)))
        _logarithmic(axes.yaxis, (1, max(2, *heights)))
        axes.set_ylim(bottom=0.7)
        axes.set_xlim(0.51, 1.3 * max(2, largest))

    zero = int((counts == 0).sum())
    caption = f"Both axes are logarithmic; {zero} without a training interaction are not shown."
    return _picture(name, title, caption, draw)


def against_time(name: str, points: Sequence[tuple[str, list[float], list[float]]], metric: str,
                 numbers: Mapping[str, int]) -> Picture:  # fmt: skip
    """Test quality against training time; one point a run: label, seconds and qualities."""

    def draw(axes: Any) -> None:
        for label, seconds, quality in points:
            look = {**style(numbers[label]), "linestyle": "none", "markersize": 7}
            axes.plot(seconds, quality, **look, label=_label(label))
        positive = [s for _, seconds, _ in points for s in seconds]
        axes.set(xlabel="seconds of training", ylabel=f"test {metric}")
        if min(positive) > 0:
            _logarithmic(axes.xaxis, positive)
            axes.margins(x=0.12)
        _from_zero(axes)
        _legend(axes)

    caption = "Training with what happens once before it, without evaluation, on the machine of the run."
    return _picture(name, "Quality against training time", caption, draw)


def curves(
    name: str, title: str, caption: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    axis: tuple[str, str], *, numbers: Mapping[str, int] | None = None, logarithmic: bool = False,
) -> Picture:  # fmt: skip
    """Lines by label: ``x`` and ``y`` of each; ``numbers`` are those of :func:`style`."""

    def draw(axes: Any) -> None:
        for number, (label, (x, y)) in enumerate(lines.items()):
            look = style(numbers[label] if numbers else number)
            axes.plot(x, y, **look, markevery=max(1, len(x) // 12), label=_label(label))
        axes.set(xlabel=axis[0], ylabel=axis[1])
        if logarithmic and all(value > 0 for _, y in lines.values() for value in y):
            _logarithmic(axes.yaxis, [value for _, y in lines.values() for value in y])
        if axis[0] == "epoch":
            axes.xaxis.get_major_locator().set_params(integer=True)
        _legend(axes)

    return _picture(name, title, caption, draw)


def by_group(
    name: str, title: str, caption: str, groups: Sequence[str], lines: Mapping[str, Mapping[str, float]],
    axis: tuple[str, str], numbers: Mapping[str, int],
) -> Picture:  # fmt: skip
    """A value for each group of degrees, a line for each label; groups without a value are gaps."""

    def draw(axes: Any) -> None:
        for label, found in lines.items():
            y = [found.get(group, math.nan) for group in groups]
            axes.plot(range(len(groups)), y, **style(numbers[label]), label=_label(label))
        axes.set_xticks(range(len(groups)), [_label(group) for group in groups])
        axes.set(xlabel=axis[0], ylabel=axis[1])
        _from_zero(axes)
        _legend(axes)

    return _picture(name, title, caption, draw)


def scatter(
    name: str, title: str, caption: str, x: Sequence[float], y: Sequence[float], axis: tuple[str, str], number: int
) -> Picture:
    """A point for each pair; the first axis is logarithmic where its values span more than a factor of 20."""

    def draw(axes: Any) -> None:
        axes.plot(x, y, **{**style(number), "linestyle": "none", "markersize": 5})
        axes.set(xlabel=axis[0], ylabel=axis[1])
        if min(x) > 0 and max(x) > 20 * min(x):
            _logarithmic(axes.xaxis, x)
        elif all(float(value).is_integer() for value in x):
            axes.xaxis.get_major_locator().set_params(integer=True)

    return _picture(name, title, caption, draw)
