"""Curves over steps, as SVG text."""

from __future__ import annotations

import dataclasses
import io

import matplotlib.figure
import numpy as np

from lepjax.core.colours import SERIES

NOISY = ("loss", "grad norm", "tokens per second")  # shown with their running mean


@dataclasses.dataclass(frozen=True)
class Curve:
    """One panel: `points` is {split: [(step, value), ...]}."""

    title: str
    points: dict[str, list[tuple[int, float]]]


def curve_svg(curve: Curve) -> str:
    """Noisy training values are drawn thin with their running mean; evaluations as points joined by a line."""
    figure = matplotlib.figure.Figure(
        figsize=(5.2, 2.9), layout="constrained"
    )  # no pyplot: no global state, no display
    axes = figure.add_subplot()
    for (split, points), colour in zip(sorted(curve.points.items(), reverse=True), SERIES, strict=False):
        steps, values = np.array(points, np.float64).T
        if split == "train" and len(steps) > 20 and curve.title in NOISY:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(steps, running_mean(values, max(len(values) // 25, 2)), color=colour, linewidth=1.6, label=split)
        else:
            marker = None if split == "train" else "o"
            axes.plot(steps, values, color=colour, marker=marker, markersize=4, linewidth=1.4, label=split)
    axes.set_title(curve.title, fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if curve.title == "loss" and len(curve.points.get("train", ())) > 20:
        low = min(min(v for _, v in points) for points in curve.points.values())
        early = np.percentile([v for _, v in curve.points["train"]], 97)  # the first steps would flatten the rest
        axes.set_ylim(low - 0.05 * (early - low), early)
    if len(curve.points) > 1:
        axes.legend(fontsize=8, frameon=False)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    return svg[svg.index("<svg") :]


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of the last `width` values (fewer at the start)."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
