"""Draws the report's charts with matplotlib, as SVG images that follow the reader's light or dark theme."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Name → colour on a light and on a dark page. Charts are drawn in the light colours, which become CSS variables.
_THEME = {
    "text": ("#1d2023", "#e8eaec"),
    "line": ("#e2e4e1", "#2d3236"),
    "kept": ("#0c7170", "#4cb8b0"),
    "full": ("#cfd5d6", "#444b50"),
    "s1": ("#b4552d", "#e2906a"),
    "s2": ("#5a5fb0", "#9da2ee"),
    "s3": ("#8a7a1c", "#cdbb52"),
}
_SERIES = ("kept", "s1", "s2", "s3")
_TEXT, _LINE = _THEME["text"][0], _THEME["line"][0]
_MOST_POINTS = 200


class Bars(NamedTuple):
    """A panel of horizontal bars.

    Attributes:
        title: title of the panel.
        bars: legend entry → lengths of its bars, one per row.
        labels: for each entry of ``bars``, or the first only, the texts behind its bars.
        over: draws the bars of a row over each other instead of side by side.
    """

    title: str
    bars: Mapping[str, Sequence[float]]
    labels: Sequence[Sequence[str]]
    over: bool


def bar_chart(rows: Sequence[str], panels: Sequence[Bars]) -> str:
    """Draw bar panels side by side, with the names of their ``rows`` from top to bottom, and return a data URI."""
    figure = _figure(8, 0.5 + len(rows) * (0.25 if panels[0].over else 0.5))
    for axes, panel in zip(np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels):
        height = 0.6 if panel.over else 0.36
        for i, (name, lengths) in enumerate(panel.bars.items()):
            places = np.arange(len(rows)) + (0 if panel.over else (i - 0.5) * 0.4)
            drawn = axes.barh(places, lengths, height, color=_THEME[("full", "kept")[i]][0], label=name)
            if not panel.over or i == 0:
                axes.bar_label(drawn, panel.labels[i], padding=4, color=_TEXT)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_title(panel.title, loc="left", color=_TEXT)
        axes.set_xticks([])
        axes.margins(x=0.35, y=0.02)
        axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=2, frameon=False, labelcolor=_TEXT)
    return _data_uri(figure)


def curve_chart(series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw lines through points (x, y) and return a data URI; longer lines are averaged to 200 points."""
    figure = _figure(4.2, 2.6)
    axes = figure.subplots()
    for i, (name, points) in enumerate(series.items()):
        parts = np.array_split(np.asarray(points, dtype=float), min(len(points), _MOST_POINTS))
        x, y = np.array([part.mean(axis=0) for part in parts]).T
        colour = _THEME[_SERIES[i % len(_SERIES)]][0]
        axes.plot(x, y, color=colour, linewidth=1.4, label=f"{name}, at the end {points[-1][1]:.4g}")
    axes.grid(color=_LINE, linewidth=0.8)
    axes.spines[:].set_color(_LINE)
    figure.legend(loc="outside upper left", frameon=False, labelcolor=_TEXT)
    return _data_uri(figure)


def _figure(width: float, height: float) -> Figure:
    """Create a figure of the given size in inches, without pyplot's global state."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "axes.titlesize": 9}):
        return Figure((width, height), layout="constrained")


def _data_uri(figure: Figure) -> str:
    from matplotlib import rc_context

    text = io.StringIO()
    for axes in figure.axes:
        axes.tick_params(length=0, labelcolor=_TEXT)
        axes.patch.set_alpha(0)
    # Text stays text, and a fixed salt and no date make equal reports give equal files.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "cagc"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    _, start, svg = text.getvalue().partition("<svg")
    for name, (light, _) in _THEME.items():
        svg = svg.replace(light, f"var(--{name})")
    light, dark = ("".join(f"--{name}:{both[i]};" for name, both in _THEME.items()) for i in (0, 1))
    style = f"<style>svg{{{light}}}@media (prefers-color-scheme: dark){{svg{{{dark}}}}}</style>"
    svg = start + svg.replace(">", f">{style}", 1)
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")
