"""The plots of a sweep, as matplotlib figures: they show in notebooks and save as any format.

A few trials that are far worse than the others are drawn at the edge, so that they do not flatten these.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lepjax.tune.importance import FEW, importances
from lepjax.tune.space import Choice, Dimension, LogUniform, Space
from lepjax.tune.trial import COMPLETE, FAILED, PRUNED, Trial, winner

BLUE, ORANGE, GREY, RED = "#2563a8", "#d1611b", "#9aa3ad", "#c0392b"
RING: dict[str, Any] = {"s": 90, "facecolors": "none", "edgecolors": ORANGE, "linewidths": 1.6, "clip_on": False}
FAR = 3.0  # how many times as far from the best as nine in ten trials is the edge
BANDS = 10  # options up to which the lines through one are spread


def history(trials: Sequence[Trial], metric: str, mode: str) -> Figure:
    """Scores by ordinal; pruned trials with their last score, failed ones at the worse edge."""
    figure, axes = _figure(6.4, 3.6)
    axes.set(xlabel="trial", ylabel=metric)
    scored, failed = _scored(trials), [trial.ordinal for trial in trials if trial.state == FAILED]
    if not scored and not failed:
        return _says(figure, "no trial has ended")
    low, high = _window([_score(trial) for trial in scored], mode)
    for state, colour, size in ((PRUNED, GREY, 14), (COMPLETE, BLUE, 18)):
        points = [(t.ordinal, _score(t)) for t in scored if t.state == state]
        near = [(x, y) for x, y in points if low <= y <= high]
        far = [(x, min(max(y, low), high)) for x, y in points if not low <= y <= high]
        if near:
            axes.scatter(*zip(*near, strict=True), s=size, color=colour, label=state)
        if far:
            beyond = "^" if mode == "min" else "v"
            axes.scatter(*zip(*far, strict=True), s=26, marker=beyond, color=colour, label=f"{state}, far worse")
    complete = [trial for trial in scored if trial.state == COMPLETE]
    if (best := winner(complete, mode)) is not None:
        so_far = (np.minimum if mode == "min" else np.maximum).accumulate([_score(trial) for trial in complete])
        places = [trial.ordinal for trial in complete]
        axes.step(places, np.clip(so_far, low, high), where="post", color=BLUE, linewidth=1.4, label="best so far")
        axes.scatter([best.ordinal], [_score(best)], label=f"best (trial {best.ordinal})", **RING)
    if failed:
        edge = (high if mode == "min" else low) if scored else 0.0
        axes.scatter(failed, [edge] * len(failed), marker="x", s=24, color=RED, label="failed")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=6)
    return figure


def curves(trials: Sequence[Trial], metric: str, mode: str) -> Figure:
    """What each trial reported on its way, over its steps."""
    figure, axes = _figure(6.4, 3.6)
    axes.set(xlabel="step", ylabel=metric)
    reported = [trial for trial in trials if trial.state in (COMPLETE, PRUNED, FAILED) and _reports(trial)]
    if not reported:
        return _says(figure, "no trial has reported a score")
    best = winner(reported, mode)
    faint = min(0.7, max(0.2, 20 / len(reported)))
    for state, colour, mark in ((PRUNED, GREY, "."), (COMPLETE, BLUE, "."), (FAILED, RED, "x")):
        some = [_reports(trial) for trial in reported if trial.state == state and trial is not best]
        for i, points in enumerate(some):
            steps, scores = zip(*points, strict=True)
            axes.plot(steps, scores, color=colour, linewidth=1.0, alpha=faint, label=state if i == 0 else None)
            axes.plot(steps[-1], scores[-1], mark, color=colour, markersize=5, alpha=faint)
    if best is not None:
        label = f"best (trial {best.ordinal})"
        axes.plot(*zip(*_reports(best), strict=True), color=ORANGE, linewidth=2.0, marker=".", label=label)
    low, high = _window([score for trial in reported for _, score in _reports(trial)], mode)
    axes.set_ylim(*_padded(low, high))
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=4)
    return figure


def importance(trials: Sequence[Trial], space: Space, metric: str, mode: str) -> Figure:
    """Bars of `importances`, or a sentence where there are too few trials."""
    figure, axes = _figure(6.4, 0.9 + 0.35 * len(space))
    shares = importances(trials, space, mode)
    if not shares:
        return _says(figure, f"Importances need {FEW} complete trials with different scores.")
    names = list(reversed(shares))
    bars = axes.barh(range(len(names)), [shares[name] for name in names], color=BLUE, height=0.6)
    axes.bar_label(bars, fmt=" %.2f", fontsize=8)
    axes.set_yticks(range(len(names)), [folded(name, 30) for name in names], fontsize=8)
    axes.set_xlabel(f"share in reaching the best {metric}", loc="left")
    axes.set_xlim(0, max(1.1 * max(shares.values()), 1e-9))
    return figure


def parallel(trials: Sequence[Trial], space: Space, metric: str, mode: str) -> Figure:
    """A line per complete or pruned trial; the better, the darker and the later drawn.

    Lines through one option are spread, the lower score the lower. Axes of `LogUniform` are logarithmic.
    """
    figure, axes = _figure(1.6 + 1.3 * (len(space) + 1), 4.2)
    axes.spines[:].set_visible(False)
    axes.set_yticks([])
    names = [*space, metric]
    axes.set_xticks(range(len(names)), [folded(name, 16) for name in names], fontsize=8)
    axes.tick_params(axis="x", length=0, pad=14)
    scored = [trial for trial in _scored(trials) if trial.values]
    if not scored:
        return _says(figure, "no trial has a score")
    scores = np.array([_score(trial) for trial in scored])
    low, high = _window(scores, mode)
    height = (np.clip(scores, low, high) - low) / max(high - low, 1e-12)
    cost = height if mode == "min" else 1.0 - height
    rank = np.argsort(np.argsort(scores)) / max(len(scores) - 1, 1) - 0.5
    best = winner(scored, mode)
    faint = min(0.6, max(0.15, 15 / len(scored)))
    for i in np.argsort(-cost):
        first = scored[i] is best
        colour = ORANGE if first else colormaps["viridis"](cost[i])
        heights = [_height(space[name], scored[i].values[name], rank[i]) for name in space]
        alpha = 1.0 if first else faint + (0.9 - faint) * (1 - cost[i]) ** 4
        width = 2.6 if first else 1.6 - cost[i]
        label = f"best (trial {scored[i].ordinal})" if first else None
        axes.plot(range(len(names)), [*heights, height[i]], color=colour, alpha=alpha, linewidth=width, label=label)
    ends = [(_value(d.value(0.0)), _value(d.value(1.0))) if not _banded(d) else ("", "") for d in space.values()]
    cut = [" or less" if scores.min() < low else "", " or more" if scores.max() > high else ""]
    for place, (bottom, top) in enumerate([*ends, (short(low) + cut[0], short(high) + cut[1])]):
        axes.axvline(place, color="black", linewidth=0.6)
        axes.text(place, -0.04, bottom, ha="center", va="top", fontsize=7)
        axes.text(place, 1.04, top, ha="center", va="bottom", fontsize=7)
    paper = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
    for place, dimension in enumerate(space.values()):
        for value in _ticks(dimension):
            text = _cut(_value(value), 14)
            axes.text(place + 0.03, dimension.unit(value), text, fontsize=6.5, va="center", bbox=paper, zorder=3)
    axes.set_ylim(-0.02, 1.02)
    if best is not None:
        figure.legend(frameon=False, fontsize=8, loc="outside upper right")
    return figure


def slices(trials: Sequence[Trial], space: Space, metric: str, mode: str) -> Figure:
    """A panel for each dimension; later trials are darker, so that it shows where a sampler went."""
    columns = min(len(space), 3)
    rows = math.ceil(len(space) / columns)
    figure = Figure(figsize=(3.1 * columns + 0.7, 2.7 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel in panels.flat[len(space) :]:
        panel.axis("off")
    scored = [trial for trial in _scored(trials) if trial.values]
    best = winner(scored, mode)
    low, high = _window([_score(trial) for trial in scored], mode)
    panels[0, 0].set_ylim(*_padded(low, high))
    age = Normalize(0, max((trial.ordinal for trial in trials), default=1) or 1)
    for panel, (name, dimension) in zip(panels.flat, space.items(), strict=False):
        _scale(panel, dimension)
        panel.set_xlabel(folded(name, 36), fontsize=8)
        panel.tick_params(labelsize=7)
        _plain(panel)
        for state in (PRUNED, COMPLETE):
            some = [trial for trial in scored if trial.state == state]
            colours = colormaps["Blues"](0.35 + 0.65 * np.asarray(age([trial.ordinal for trial in some])))
            faces: dict[str, Any] = {"edgecolors": colours, "facecolors": colours if state == COMPLETE else "none"}
            places = [_place(dimension, trial.values[name], trial.ordinal) for trial in some]
            heights = np.clip([_score(trial) for trial in some], low, high)
            panel.scatter(places, heights, s=16, linewidths=0.8, label=state, **faces)
        if best is not None:
            at = _place(dimension, best.values[name], best.ordinal)
            panel.scatter([at], [_score(best)], label=f"best (trial {best.ordinal})", **RING)
    for row in panels:
        row[0].set_ylabel(metric, fontsize=8)
    if scored:
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=3)
        bar = figure.colorbar(ScalarMappable(age, "Blues"), ax=panels, shrink=0.7, label="trial")
        bar.ax.tick_params(labelsize=7)
    return figure


def told(values: Mapping[str, Any]) -> str:
    """`learning_rate 0.02, layers 4`"""
    return ", ".join(f"{name} {_value(value)}" for name, value in values.items())


def short(value: Any) -> str:
    """A value in few characters."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def folded(name: str, width: int) -> str:
    """A name in lines of about so many characters, broken after dots and underscores."""
    lines = [""]
    for part in re.split(r"(?<=[._])", name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _value(value: Any) -> str:
    """A value of a dimension, where None is one like others."""
    return "None" if value is None else short(value)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _scored(trials: Sequence[Trial]) -> list[Trial]:
    return [t for t in trials if t.state in (COMPLETE, PRUNED) and math.isfinite(_score(t))]


def _score(trial: Trial) -> float:
    return math.nan if trial.score is None else trial.score


def _reports(trial: Trial) -> list[tuple[int, float]]:
    return [(step, score) for step, score in sorted(trial.reports.items()) if math.isfinite(score)]


def _window(scores: Any, mode: str) -> tuple[float, float]:
    """Where an axis of scores begins and ends."""
    sign = 1.0 if mode == "min" else -1.0
    costs = np.sort(sign * np.asarray(scores, np.float64))
    if len(costs) == 0:
        return 0.0, 1.0
    best, usual, worst = costs[0], np.quantile(costs, 0.9, method="lower"), costs[-1]
    edge = min(worst, best + FAR * (usual - best)) if usual > best else worst
    low, high = sorted((sign * best, sign * edge))
    return float(low), float(high)


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.05 * (high - low) or 0.05 * abs(low) or 1.0
    return low - room, high + room


def _banded(dimension: Dimension) -> bool:
    """Whether there are so few options that each has a band of the axis."""
    return dimension.options is not None and (isinstance(dimension, Choice) or len(dimension.options) <= BANDS)


def _height(dimension: Dimension, value: Any, rank: float) -> float:
    """Where a line with this rank, -0.5 to 0.5, crosses the axis, 0 to 1."""
    spread = 0.6 * rank / len(dimension.options or ()) if _banded(dimension) else 0.0
    return dimension.unit(value) + spread


def _ticks(dimension: Dimension) -> list[Any]:
    """Values to name on an axis, away from its ends."""
    if _banded(dimension):
        options = dimension.options or ()
        return list(options[:: math.ceil(len(options) / (2 * BANDS))])
    low, high = dimension.value(0.0), dimension.value(1.0)
    if isinstance(dimension, LogUniform):
        values = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    else:
        values = [type(low)(value) for value in MaxNLocator(4, integer=isinstance(low, int)).tick_values(low, high)]
    return [value for value in values if low < value < high and 0.06 < dimension.unit(value) < 0.94]


def _scale(axes: Axes, dimension: Dimension) -> None:
    """The x axis of a panel of slices: as wide as the dimension, wherever its trials are."""
    if isinstance(dimension, Choice):
        names = [_cut(_value(value), 18) for value in dimension.values]
        tilted: dict[str, Any] = {"rotation": 30, "ha": "right"} if sum(map(len, names)) > 30 else {}
        axes.set_xticks(range(len(names)), names, **tilted)
        axes.set_xlim(-0.5, len(names) - 0.5)
        return
    low, high = dimension.value(0.0), dimension.value(1.0)
    if isinstance(dimension, LogUniform):
        axes.set(xlim=(low / 1.2, high * 1.2), xscale="log")
    else:
        axes.set_xlim(*_padded(low, high))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=isinstance(low, int)))


def _place(dimension: Dimension, value: Any, ordinal: int) -> float:
    """Where a trial lies on such an axis; those of one option beside each other, so that their number shows."""
    if isinstance(dimension, Choice):
        golden = (5**0.5 - 1) / 2
        return dimension.values.index(value) + 0.5 * (ordinal * golden % 1 - 0.5)
    return value


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _says(figure: Figure, sentence: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    (axes,) = figure.axes
    axes.axis("off")
    axes.text(0.5, 0.5, sentence, ha="center", va="center", transform=axes.transAxes)
    return figure
