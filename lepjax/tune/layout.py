"""Where scores and values lie on the axes of a sweep's plots."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lepjax.tune.space import Choice, Dimension, LogUniform
from lepjax.tune.words import cut, told_value

FAR = 3.0  # how many times as far from the best as nine in ten trials is the edge
BANDS = 10  # options up to which the lines through one are spread
ROUND = [1, 2, 2.5, 5, 10]  # what ticks are multiples of


def figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches with one panel."""
    made = Figure(figsize=(width, height), layout="constrained")
    axes = made.subplots()
    plain(axes)
    return made, axes


def plain(axes: Axes) -> None:
    """As all figures of the house: without a frame above and to the right."""
    axes.spines[["top", "right"]].set_visible(False)


def saying(sentence: str, width: float, height: float) -> Figure:
    """A figure that says why there is nothing to draw."""
    made, axes = figure(width, height)
    axes.axis("off")
    axes.text(0.5, 0.5, sentence, ha="center", va="center", transform=axes.transAxes)
    return made


def whole(axes: Axes) -> None:
    """Of trials or steps there are no parts."""
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))


def legend(figure: Figure, where: Any = "outside lower center", of: Axes | None = None) -> None:
    """One for the whole figure, of what a panel shows, none of it faint."""
    handles, labels = (of or figure.axes[0]).get_legend_handles_labels()
    drawn = figure.legend(handles, labels, frameon=False, fontsize=8, loc=where, ncols=6)
    for handle in drawn.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)


def window(scores: Any, mode: str) -> tuple[float, float]:
    """Where an axis of finite scores begins and ends: at the best, and at the worst or well before it."""
    sign = 1.0 if mode == "min" else -1.0
    costs = np.sort(sign * np.asarray(scores, np.float64))
    if len(costs) == 0:
        return 0.0, 1.0
    best, usual, worst = costs[0], np.quantile(costs, 0.9, method="lower"), costs[-1]
    edge = min(worst, best + FAR * (usual - best)) if usual > best else worst
    low, high = sorted((sign * best, sign * edge))
    return float(low), float(high)


def padded(low: float, high: float) -> tuple[float, float]:
    """With room for marks at both ends."""
    room = 0.05 * (high - low) or 0.05 * abs(low) or 1.0
    return low - room, high + room


def banded(dimension: Dimension) -> bool:
    """Whether there are so few options that each has a band of the axis."""
    return dimension.options is not None and (isinstance(dimension, Choice) or len(dimension.options) <= BANDS)


def height(dimension: Dimension, value: Any, rank: float) -> float:
    """Where a line with this rank, -0.5 to 0.5, crosses the axis, 0 to 1."""
    spread = 0.6 * rank / len(dimension.options or ()) if banded(dimension) else 0.0
    return dimension.unit(value) + spread


def place(dimension: Dimension, value: Any, ordinal: int) -> float:
    """Where a trial lies on the axis of `scale`; those of one option beside each other, so that their number shows."""
    if not banded(dimension):
        return value
    golden = (5**0.5 - 1) / 2
    at = dimension.values.index(value) if isinstance(dimension, Choice) else value
    return at + 0.5 * (ordinal * golden % 1 - 0.5)


def ticks(dimension: Dimension) -> list[Any]:
    """Values to name on an axis, away from its ends."""
    if banded(dimension):
        options = dimension.options or ()
        return list(options[:: math.ceil(len(options) / (2 * BANDS))])  # a name for each, or for every second, ...
    low, high = dimension.value(0.0), dimension.value(1.0)
    if isinstance(dimension, LogUniform):
        values = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    else:
        values = [
            type(low)(value)
            for value in MaxNLocator(4, steps=ROUND, integer=isinstance(low, int)).tick_values(low, high)
        ]
    return [value for value in values if low < value < high and 0.06 < dimension.unit(value) < 0.94]


def scale(axes: Axes, dimension: Dimension) -> None:
    """The x axis of a panel of slices: as wide as the dimension, wherever its trials are."""
    if isinstance(dimension, Choice):
        places = range(0, len(dimension.values), math.ceil(len(dimension.values) / BANDS))
        names = [cut(told_value(dimension.values[place]), 18) for place in places]
        tilted: dict[str, Any] = {"rotation": 30, "ha": "right"} if sum(map(len, names)) > 30 else {}
        axes.set_xticks(places, names, **tilted)
        axes.set_xlim(-0.5, len(dimension.values) - 0.5)
        return
    low, high = dimension.value(0.0), dimension.value(1.0)
    if isinstance(dimension, LogUniform):
        axes.set(xlim=(low / 1.2, high * 1.2), xscale="log")
    else:
        axes.set_xlim(*((low - 0.5, high + 0.5) if banded(dimension) else padded(low, high)))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=ROUND, integer=isinstance(low, int)))
