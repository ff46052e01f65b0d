"""The plots of a sweep, as matplotlib figures: they show in notebooks and save as any format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from lepjax.tune.distributions import distributions, optuna
from lepjax.tune.space import Choice, Dimension, LogUniform, Space
from lepjax.tune.trial import COMPLETE, FAILED, PRUNED, Trial

BLUE, GREY, RED = "#1f5fa8", "#9aa3ad", "#c0392b"
COLOURS = "viridis"
FEW = 4  # complete trials below which importances mean nothing


def history(trials: Sequence[Trial], metric: str, mode: str) -> Figure:
    """Scores by ordinal; pruned trials with their last score, failed ones below the axis."""
    figure, axes = _figure(6.4, 3.6)
    complete = [t for t in trials if t.state == COMPLETE and t.score is not None]
    pruned = [t for t in trials if t.state == PRUNED and t.score is not None]
    axes.scatter([t.ordinal for t in pruned], [_score(t) for t in pruned], s=14, color=GREY, label="pruned")
    axes.scatter([t.ordinal for t in complete], [_score(t) for t in complete], s=18, color=BLUE, label="complete")
    if complete:
        best = np.minimum.accumulate if mode == "min" else np.maximum.accumulate
        axes.step(
            [t.ordinal for t in complete],
            best([_score(t) for t in complete]),
            where="post",
            color=BLUE,
            label="best so far",
        )
    failed = [t.ordinal for t in trials if t.state == FAILED]
    if failed:
        low = axes.get_ylim()[0]
        axes.scatter(failed, [low] * len(failed), marker="x", s=24, color=RED, label="failed", clip_on=False)
    axes.set(xlabel="trial", ylabel=metric)
    axes.legend(frameon=False, fontsize=8)
    return figure


def importance(trials: Sequence[Trial], space: Space, metric: str, mode: str) -> Figure:
    """Bars of `importances`, or a sentence where there are too few trials."""
    figure, axes = _figure(6.4, 0.8 + 0.35 * len(space))
    shares = importances(trials, space, mode)
    if not shares:
        axes.text(0.5, 0.5, f"fewer than {FEW} complete trials with different scores", ha="center", va="center")
        axes.axis("off")
        return figure
    names = sorted(shares, key=lambda name: shares[name])
    bars = axes.barh(names, [shares[name] for name in names], color=BLUE, height=0.6)
    axes.bar_label(bars, fmt=" %.2f", fontsize=8)
    axes.set(xlabel=f"importance for {metric}", xlim=(0, max(1.08 * max(shares.values()), 1e-9)))
    return figure


def importances(trials: Sequence[Trial], space: Space, mode: str) -> dict[str, float]:
    """{name: share}, summing to 1; empty where too few trials are complete."""
    complete = [trial for trial in trials if trial.state == COMPLETE and trial.score is not None]
    if len(complete) < FEW or len({trial.score for trial in complete}) < 2:
        return {}
    o, ranges = optuna(), distributions(space)
    study = o.create_study(direction="minimize" if mode == "min" else "maximize")
    for trial in complete:
        study.add_trial(o.trial.create_trial(value=trial.score, params=trial.values, distributions=ranges))
    return {name: float(share) for name, share in o.importance.get_param_importances(study).items()}


def parallel(trials: Sequence[Trial], space: Space, metric: str, mode: str) -> Figure:
    """Complete and pruned trials; the better, the darker and the later drawn."""
    figure, axes = _figure(1.6 + 1.3 * (len(space) + 1), 4.0)
    shown = [trial for trial in trials if trial.score is not None and trial.values]
    names = [*space, metric]
    if shown:
        scores = np.array([_score(t) for t in shown])
        low, high = np.quantile(scores, [0.0, 0.9] if mode == "min" else [0.1, 1.0])
        cost = np.clip((scores - low) / max(high - low, 1e-12), 0.0, 1.0)
        cost = cost if mode == "min" else 1.0 - cost
        span = max(scores.max() - scores.min(), 1e-12)
        for i in np.argsort(-cost):
            heights = [_height(space[name], shown[i].values[name]) for name in space]
            heights.append((scores[i] - scores.min()) / span)
            faint = float(cost[i])
            colour = colormaps[COLOURS](faint)
            axes.plot(range(len(names)), heights, color=colour, alpha=0.9 - 0.7 * faint, linewidth=1.8 - faint)
        ends = [
            *((_label(space[n], 0.0), _label(space[n], 1.0)) for n in space),
            (short(scores.min()), short(scores.max())),
        ]
        for place, (bottom, top) in enumerate(ends):
            axes.axvline(place, color="black", linewidth=0.6)
            axes.text(place, -0.04, bottom, ha="center", va="top", fontsize=7)
            axes.text(place, 1.04, top, ha="center", va="bottom", fontsize=7)
        for place, name in enumerate(space):
            if isinstance(dimension := space[name], Choice) and len(dimension.values) <= 8:
                for value in dimension.values:
                    axes.text(place + 0.04, _height(dimension, value), short(value), fontsize=6, va="center")
    axes.set_xticks(range(len(names)), [name.replace(".", ".\n") for name in names], fontsize=8)
    axes.tick_params(axis="x", length=0, pad=14)
    axes.set_yticks([])
    axes.set_ylim(-0.02, 1.02)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def slices(trials: Sequence[Trial], space: Space, metric: str, mode: str) -> Figure:
    """A panel for each dimension; later trials are darker, so that it shows where a sampler went."""
    columns = min(len(space), 3)
    rows = math.ceil(len(space) / columns)
    figure = Figure(figsize=(3.1 * columns + 0.7, 2.7 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    shown = [trial for trial in trials if trial.score is not None and trial.values]
    scale = Normalize(0, max((trial.ordinal for trial in trials), default=1) or 1)
    for panel in panels.flat[len(space) :]:
        panel.axis("off")
    for panel, (name, dimension) in zip(panels.flat, space.items(), strict=False):
        values = [trial.values[name] for trial in shown]
        if isinstance(dimension, Choice):
            values = [dimension.values.index(value) for value in values]
            panel.set_xticks(range(len(dimension.values)), [short(v) for v in dimension.values], fontsize=7)
        pruned = [trial.state == PRUNED for trial in shown]
        ages = np.array([trial.ordinal for trial in shown], float)
        colours = np.asarray(colormaps["Blues"](0.35 + 0.65 * np.asarray(scale(ages))))
        for marker, flag in (("o", False), (".", True)):
            at = [i for i, one in enumerate(pruned) if one is flag]
            panel.scatter([values[i] for i in at], [_score(shown[i]) for i in at], s=16, c=colours[at], marker=marker)
        if isinstance(dimension, LogUniform):
            panel.set(xlim=(dimension.low / 1.2, dimension.high * 1.2), xscale="log")
        panel.set_xlabel(name, fontsize=8)
        panel.tick_params(labelsize=7)
        _plain(panel)
    for row in panels:
        row[0].set_ylabel(metric, fontsize=8)
    if shown:
        bar = figure.colorbar(ScalarMappable(scale, "Blues"), ax=panels, shrink=0.7, label="trial")
        bar.ax.tick_params(labelsize=7)
    return figure


def told(values: Mapping[str, Any]) -> str:
    """`learning_rate 0.02, layers 4`"""
    return ", ".join(f"{name} {short(value)}" for name, value in values.items())


def short(value: Any) -> str:
    """A value in few characters."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _score(trial: Trial) -> float:
    return math.nan if trial.score is None else trial.score


def _height(dimension: Dimension, value: Any) -> float:
    options = dimension.options
    if options is not None and len(options) > 1:
        return options.index(value) / (len(options) - 1)
    return dimension.unit(value)


def _label(dimension: Dimension, unit: float) -> str:
    return short(dimension.value(unit))


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
