"""Figures of final evaluations, as SVG text. To draw another kind, register a function for its type."""

from __future__ import annotations

import functools
from typing import Any

import matplotlib.figure
import numpy as np

from lepjax.core.colours import SERIES
from lepjax.run import page
from lepjax.run.final import Heatmap, Lines


@functools.singledispatch
def draw(figure: Any, canvas: matplotlib.figure.Figure) -> None:
    raise TypeError(f"no drawing for {type(figure).__name__}")


@draw.register
def _(figure: Heatmap, canvas: matplotlib.figure.Figure) -> None:
    """Colours are shares of each row, so that a rare class can be read; numbers are counts."""
    axes = canvas.add_subplot()
    values = np.asarray(figure.values, np.float64)
    shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    places = range(len(figure.names))
    tilted: dict[str, Any] = {"rotation": 45, "ha": "right"} if len(figure.names) > 4 else {}
    axes.set_xticks(places, figure.names, **tilted)
    axes.set_yticks(places, figure.names)
    axes.set_xlabel(figure.columns, fontsize=9)
    axes.set_ylabel(figure.rows, fontsize=9)
    if len(figure.names) <= 20:
        for i in places:
            for j in places:
                colour = "white" if shares[i, j] > 0.55 else "#1c2530"
                axes.text(j, i, f"{values[i, j]:,.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=8, length=0)
    axes.set_title(figure.title, fontsize=10, loc="left")


@draw.register
def _(figure: Lines, canvas: matplotlib.figure.Figure) -> None:
    axes = canvas.add_subplot()
    for index, (name, (x, y)) in enumerate(figure.curves.items()):
        axes.plot(x, y, color=SERIES[index % len(SERIES)], linewidth=1.4, label=name)
    axes.set_xlabel(figure.x, fontsize=9)
    axes.set_ylabel(figure.y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(figure.title, fontsize=10, loc="left")
    if any(figure.curves):
        axes.legend(fontsize=8, frameon=False)


def figure_svg(figure: Any) -> str:
    """The figure as an <svg> element."""
    side = 3.6 if not isinstance(figure, Heatmap) else max(3.6, 0.42 * len(figure.names) + 1.5)
    canvas = matplotlib.figure.Figure(figsize=(max(side, 4.4), side), layout="constrained")
    draw(figure, canvas)
    return page.svg(canvas)
