"""What the finders of learning rates and batch sizes saw, drawn."""

from __future__ import annotations

import pathlib
from typing import Any

import matplotlib.figure
import numpy as np

from lepjax.core.colours import BLUE, SERIES
from lepjax.core.errors import UserError
from lepjax.tune.batch_finder import BatchSizes
from lepjax.tune.lr_finder import LrCurve

SUFFIXES = (".svg", ".png")


def lr_figure(curve: LrCurve) -> matplotlib.figure.Figure:
    """Loss over the learning rate. The axis ends where an exploding loss would flatten all that is of interest."""
    marks = {"steepest": curve.steepest, "lowest / 10": curve.tenth}
    marks |= {} if curve.breaks is None else {"breaks": curve.breaks}
    figure, axes = _panel("learning-rate range test", "learning rate", "loss")
    axes.plot(curve.rates, curve.losses, color=BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(curve.rates, curve.smooth, color=BLUE, linewidth=1.6, label="smoothed loss")
    for (name, rate), colour in zip(marks.items(), SERIES[1:], strict=False):
        axes.axvline(rate, color=colour, linewidth=1.2, linestyle="--", label=f"{name} {rate:.1e}")
    axes.set_xscale("log")
    low, high = float(curve.losses.min()), float(curve.smooth[: np.argmin(curve.smooth) + 1].max())
    axes.set_ylim(low - 0.08 * (high - low), high + 0.35 * (high - low))
    axes.legend(fontsize=8, frameon=False)
    return figure


def batch_figure(found: BatchSizes) -> matplotlib.figure.Figure:
    """Throughput over the rows of a batch."""
    rows, rates = zip(*((point.rows, point.per_second) for point in found.points), strict=True)
    figure, axes = _panel("throughput by batch size", "rows per batch", f"{found.unit} per second")
    axes.plot(rows, rates, color=BLUE, marker="o", markersize=4, linewidth=1.4)
    for (name, size), colour in zip({"knee": found.knee, "largest": found.largest}.items(), SERIES[1:], strict=False):
        axes.axvline(size, color=colour, linewidth=1.2, linestyle="--", label=f"{name} {size:,.0f}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(rows, [f"{size:,}" for size in rows], rotation=30, ha="right")
    axes.set_ylim(bottom=0.0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(fontsize=8, framealpha=1.0, edgecolor="none", loc="lower right")
    return figure


def check_path(path: str) -> pathlib.Path:
    """Raises `UserError` for a file that is no picture."""
    if pathlib.Path(path).suffix not in SUFFIXES:
        raise UserError(f"{path!r} is no picture", where="--out", fix=f"Use a name that ends in {', '.join(SUFFIXES)}.")
    return pathlib.Path(path)


def save(figure: matplotlib.figure.Figure, path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(title: str, x: str, y: str) -> tuple[matplotlib.figure.Figure, Any]:
    figure = matplotlib.figure.Figure(figsize=(5.6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
