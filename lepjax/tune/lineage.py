"""The plot of a population: who went on from whom, with what, and how well (as in Jaderberg et al., 2017, figure 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lepjax.core.colours import BLUE, GREY, ORANGE
from lepjax.tune import layout
from lepjax.tune.plots import SIZE
from lepjax.tune.words import folded

if TYPE_CHECKING:
    from lepjax.tune.population import Evolution

ENDED, LIVED, BEST = "replaced later", "has descendants at the end", "best member's line"
LOOKS: dict[str, dict[str, Any]] = {
    ENDED: {"color": GREY, "linewidth": 0.8, "alpha": 0.6},
    LIVED: {"color": BLUE, "linewidth": 1.2, "alpha": 0.8},
    BEST: {"color": ORANGE, "linewidth": 2.4},
}


def lineage(evolution: Evolution) -> Figure:
    """A panel of scores over steps and one for each hyperparameter; what is drawn over a round belongs to one member.

    A line of scores begins at the score of the member whose state was taken over; a line of a hyperparameter jumps there to
    the changed value.
    """
    panels = 1 + len(evolution.names)
    figure = Figure(figsize=(SIZE[0], 0.6 + 1.8 * panels), layout="constrained")
    scores, *others = figure.subplots(panels, 1, squeeze=False, sharex=True)[:, 0]
    kinds = _kinds(evolution)
    for axes in (scores, *others):
        layout.plain(axes)
        axes.tick_params(labelsize=8)
    low, high = layout.window(evolution.scores[np.isfinite(evolution.scores)], evolution.mode)
    scores.set_ylim(*layout.padded(low, high))
    scores.set_ylabel(evolution.metric, fontsize=8)
    for axes, name in zip(others, evolution.names, strict=True):
        axes.set_yscale("log" if name in evolution.logarithmic else "linear")
        axes.set_ylabel(folded(name, 20), fontsize=8)
    for kind in LOOKS:  # the best over the others
        for axes, name in zip((scores, *others), ("", *evolution.names), strict=True):
            _draw(axes, evolution, kinds == kind, name, kind)
    scores.plot([], [], label=BEST, **LOOKS[BEST])
    for kind in (LIVED, ENDED):
        if (kinds == kind).any():
            scores.plot([], [], label=kind, **LOOKS[kind])
    layout.whole(others[-1])
    others[-1].set_xlabel("step")
    layout.legend(figure)
    return figure


def _kinds(evolution: Evolution) -> np.ndarray:
    """The kind of line of each member in each round, str[rounds, members]."""
    kinds = np.full(evolution.source.shape, ENDED, dtype=object)
    for member in range(evolution.source.shape[1]):
        for r, ancestor in enumerate(evolution.line(member)):
            kinds[r, ancestor] = LIVED
    for r, ancestor in enumerate(evolution.line(evolution.best)):
        kinds[r, ancestor] = BEST
    return kinds


def _draw(axes: Axes, evolution: Evolution, chosen: np.ndarray, name: str, kind: str) -> None:
    """The chosen members' parts, bool[rounds, members], of one panel: scores without a name, else that hyperparameter."""
    begins = (0, *evolution.ends[:-1])
    for r, member in np.argwhere(chosen):
        begin, end, source = begins[r], evolution.ends[r], evolution.source[r, member]
        if not name:
            if r:
                axes.plot([begin, end], [evolution.scores[r - 1, source], evolution.scores[r, member]], **LOOKS[kind])
            else:
                axes.plot(end, evolution.scores[r, member], ".", markersize=4, color=LOOKS[kind]["color"])
            continue
        value = evolution.values[name][r, member]
        axes.plot([begin, end], [value, value], **LOOKS[kind])
        if r:
            before = evolution.values[name][r - 1, source]
            axes.plot([begin, begin], [before, value], **LOOKS[kind])
