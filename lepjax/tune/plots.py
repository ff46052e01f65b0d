"""The plots of a sweep, as matplotlib figures: they show in notebooks and save as any format.

A few trials that are far worse than the others are drawn at the edge, so that they do not flatten these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from lepjax.core.colours import BLUE, GREY, ORANGE, RED
from lepjax.tune import layout
from lepjax.tune.importance import FEW, importances
from lepjax.tune.space import Dimension, Space
from lepjax.tune.trial import COMPLETE, FAILED, PRUNED, Trial, winner
from lepjax.tune.words import cut, folded, short, told_value

RING: dict[str, Any] = {"s": 90, "facecolors": "none", "edgecolors": ORANGE, "linewidths": 1.6, "clip_on": False}
SIZE = (6.4, 3.6)  # inches


def history(trials: Sequence[Trial], metric: str, mode: str) -> Figure:
    """Scores by ordinal; pruned trials with their last score, failed ones at the worse edge."""
    scored, failed = _scored(trials), [trial.ordinal for trial in trials if trial.state == FAILED]
    if not scored and not failed:
        return layout.saying("No trial has come to an end.", *SIZE)
    figure, axes = layout.figure(*SIZE)
    axes.set(xlabel="trial", ylabel=metric)
    low, high = layout.window([_score(trial) for trial in scored], mode)
    for state, colour, size in ((PRUNED, GREY, 14), (COMPLETE, BLUE, 18)):
        some = [trial for trial in scored if trial.state == state]
        near = [trial for trial in some if low <= _score(trial) <= high]
        far = [trial for trial in some if not low <= _score(trial) <= high]
        if near:
            heights = [_score(trial) for trial in near]
            axes.scatter([trial.ordinal for trial in near], heights, s=size, color=colour, label=state)
        if far:
            edges, mark = np.clip([_score(trial) for trial in far], low, high), "^" if mode == "min" else "v"
            label = f"{state}, far worse"
            axes.scatter([trial.ordinal for trial in far], edges, s=26, marker=mark, color=colour, label=label)
    complete = [trial for trial in scored if trial.state == COMPLETE]
    if (best := winner(complete, mode)) is not None:
        so_far = (np.minimum if mode == "min" else np.maximum).accumulate([_score(trial) for trial in complete])
        ordinals = [trial.ordinal for trial in complete]
        axes.step(ordinals, np.clip(so_far, low, high), where="post", color=BLUE, linewidth=1.4, label="best so far")
        axes.scatter([best.ordinal], [_score(best)], label=_named(best), **RING)
    if failed:
        edge = high if mode == "min" else low
        axes.scatter(failed, [edge] * len(failed), marker="x", s=24, color=RED, label="failed")
    layout.whole(axes)
    layout.legend(figure)
    return figure


def curves(trials: Sequence[Trial], metric: str, mode: str) -> Figure:
    """What each trial reported on its way, over its steps."""
    reported = [trial for trial in trials if trial.state in (COMPLETE, PRUNED, FAILED) and _reports(trial)]
    if not reported:
        return layout.saying("No trial has reported a score on its way.", *SIZE)
    figure, axes = layout.figure(*SIZE)
    axes.set(xlabel="step", ylabel=metric)
    best = winner(reported, mode)
    faint = min(0.7, max(0.25, 20 / len(reported)))
    for state, colour, mark in ((PRUNED, GREY, "."), (COMPLETE, BLUE, "."), (FAILED, RED, "x")):
        some = [_reports(trial) for trial in reported if trial.state == state and trial is not best]
        for i, points in enumerate(some):
            steps, scores = zip(*points, strict=True)
            axes.plot(steps, scores, color=colour, linewidth=1.0, alpha=faint, label=None if i else state)
            axes.plot(steps[-1], scores[-1], mark, color=colour, markersize=5, alpha=faint)
    if best is not None:
        axes.plot(*zip(*_reports(best), strict=True), color=ORANGE, linewidth=2.0, marker=".", label=_named(best))
    low, high = layout.window([score for trial in reported for _, score in _reports(trial)], mode)
    axes.set_ylim(*layout.padded(low, high))
    layout.whole(axes)
    layout.legend(figure)
    return figure


def importance(trials: Sequence[Trial], space: Space, metric: str, mode: str) -> Figure:
    """Bars of `importances`, or a sentence where there are too few trials."""
    size = (SIZE[0], 0.9 + 0.35 * len(space))
    shares = importances(trials, space, mode)
    if not shares:
        return layout.saying(f"Importances need {FEW} complete trials whose scores differ.", *size)
    figure, axes = layout.figure(*size)
    names = list(reversed(shares))
    bars = axes.barh(range(len(names)), [shares[name] for name in names], color=BLUE, height=0.6)
    axes.bar_label(bars, fmt=" %.2f", fontsize=8)
    axes.set_yticks(range(len(names)), [folded(name, 30) for name in names], fontsize=8)
    axes.set_xlabel(f"share in reaching the best {metric}", loc="left")
    axes.set_xlim(0, 1.1 * max(shares.values()))
    return figure


def parallel(trials: Sequence[Trial], space: Space, metric: str, mode: str) -> Figure:
    """A line per complete or pruned trial; the better, the darker and the later drawn.

    Lines through one option are spread, the lower score the lower. Axes of `LogUniform` are logarithmic.
    """
    size = (1.6 + 1.3 * (len(space) + 1), 4.2)
    scored = _scored(trials)
    if not scored:
        return layout.saying("No trial has a score.", *size)
    figure, axes = layout.figure(*size)
    scores = np.array([_score(trial) for trial in scored])
    low, high = layout.window(scores, mode)
    heights = (np.clip(scores, low, high) - low) / max(high - low, 1e-12)
    ranks = np.argsort(np.argsort(scores)) / max(len(scores) - 1, 1)  # 0: lowest
    best = winner(scored, mode)
    faint = min(0.6, max(0.1, 15 / len(scored)))
    for i in np.argsort(-ranks if mode == "min" else ranks):
        worse = float(ranks[i] if mode == "min" else 1.0 - ranks[i])
        crossings = [layout.height(d, scored[i].values[name], ranks[i] - 0.5) for name, d in space.items()]
        look: dict[str, Any] = {"color": ORANGE, "linewidth": 2.6, "zorder": 2.5, "label": _named(scored[i])}
        if scored[i] is not best:
            alpha = faint + (0.85 - faint) * (1 - worse) ** 8
            look = {"color": colormaps["viridis"](worse), "linewidth": 1.5 - 0.7 * worse, "alpha": alpha}
        axes.plot(range(len(crossings) + 1), [*crossings, heights[i]], **look)
    _axes_named(axes, space)
    far = (" or less" * bool(scores.min() < low), " or more" * bool(scores.max() > high))
    _ends_named(axes, len(space), short(low) + far[0], short(high) + far[1])
    axes.set_xticks(range(len(space) + 1), [folded(name, 16) for name in (*space, metric)], fontsize=8)
    axes.tick_params(axis="x", length=0, pad=14)
    axes.set(yticks=[], ylim=(-0.02, 1.02))
    axes.spines[:].set_visible(False)
    layout.legend(figure, "outside upper right")
    return figure


def slices(trials: Sequence[Trial], space: Space, metric: str, mode: str) -> Figure:
    """A panel for each dimension; later trials are darker, so that it shows where a sampler went."""
    columns = min(len(space), 3)
    rows = math.ceil(len(space) / columns)
    size = (3.1 * columns + 0.7, 2.7 * rows + 0.3)
    scored = _scored(trials)
    if not scored:
        return layout.saying("No trial has a score.", *size)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel in panels.flat[len(space) :]:
        panel.axis("off")
    low, high = layout.window([_score(trial) for trial in scored], mode)
    panels[0, 0].set_ylim(*layout.padded(low, high))
    best, age = winner(scored, mode), Normalize(0, max(trial.ordinal for trial in scored) or 1)
    for panel, (name, dimension) in zip(panels.flat, space.items(), strict=False):
        layout.scale(panel, dimension)
        panel.set_xlabel(folded(name, 36), fontsize=8)
        panel.tick_params(labelsize=7)
        layout.plain(panel)
        for state in sorted({trial.state for trial in scored}, reverse=True):  # complete ones over pruned ones
            some = [trial for trial in scored if trial.state == state]
            colours = colormaps["Blues"](0.35 + 0.65 * np.asarray(age([trial.ordinal for trial in some])))
            faces: dict[str, Any] = {"edgecolors": colours, "facecolors": colours if state == COMPLETE else "none"}
            places = [layout.place(dimension, trial.values[name], trial.ordinal) for trial in some]
            heights = np.clip([_score(trial) for trial in some], low, high)
            panel.scatter(places, heights, s=16, linewidths=0.8, label=state, **faces)
        if best is not None:
            at = layout.place(dimension, best.values[name], best.ordinal)
            panel.scatter([at], [_score(best)], label=_named(best), **RING)
    for row in panels:
        row[0].set_ylabel(metric, fontsize=8)
    layout.legend(figure, of=panels[0, 0])
    bar = figure.colorbar(ScalarMappable(age, "Blues"), ax=panels, shrink=0.7, label="trial")
    bar.ax.tick_params(labelsize=7)
    return figure


def _axes_named(axes: Axes, space: Space) -> None:
    """Values along every axis, and at its ends where it is a range."""
    paper = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
    for place, dimension in enumerate(space.values()):
        for value in layout.ticks(dimension):
            text = cut(told_value(value), 14)
            axes.text(place + 0.03, dimension.unit(value), text, fontsize=6.5, va="center", bbox=paper, zorder=3)
        _ends_named(axes, place, *_ends(dimension))


def _ends_named(axes: Axes, place: int, bottom: str, top: str) -> None:
    axes.axvline(place, color="black", linewidth=0.6)
    axes.text(place, -0.04, bottom, ha="center", va="top", fontsize=7)
    axes.text(place, 1.04, top, ha="center", va="bottom", fontsize=7)


def _ends(dimension: Dimension) -> tuple[str, str]:
    return ("", "") if layout.banded(dimension) else (short(dimension.value(0.0)), short(dimension.value(1.0)))


def _named(best: Trial) -> str:
    return f"best (trial {best.ordinal})"


def _scored(trials: Sequence[Trial]) -> list[Trial]:
    return [t for t in trials if t.state in (COMPLETE, PRUNED) and t.values and math.isfinite(_score(t))]


def _score(trial: Trial) -> float:
    return math.nan if trial.score is None else trial.score


def _reports(trial: Trial) -> list[tuple[int, float]]:
    return [(step, score) for step, score in sorted(trial.reports.items()) if math.isfinite(score)]
