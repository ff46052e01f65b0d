"""Plots show every trial, on axes that a few bad ones and long names do not spoil."""

import dataclasses
import io
import warnings

import matplotlib.figure
import numpy as np
import pytest

from lepjax import tune
from lepjax.tune import layout, plots
from lepjax.tune.importance import FEW, importances
from lepjax.tune.trial import COMPLETE, FAILED, PRUNED
from lepjax.tune.words import folded, told
from tests.tune.planted import SPACE, planted, result

TRIALS = planted()


def points(axes):
    """All marks that are no rings around the best."""
    return np.concatenate([c.get_offsets() for c in axes.collections if not c.get_label().startswith("best")])


def words(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


@pytest.mark.parametrize("trials", [TRIALS, TRIALS[40:], ()], ids=["all", "none complete", "none"])
def test_all_are_figures_that_can_be_drawn(trials):
    made = result(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as a layout that does not fit
        for draw in (made.plot_history, made.plot_importance, made.plot_parallel, made.plot_slice, made.plot_curves):
            figure = draw()
            assert isinstance(figure, matplotlib.figure.Figure)
            figure.savefig(io.BytesIO(), format="png", dpi=30)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_history_has_every_trial_and_the_best_so_far(mode):
    (axes,) = plots.history(TRIALS, "dev_loss", mode).axes
    drawn = points(axes)
    assert sorted(drawn[:, 0]) == [t.ordinal for t in TRIALS if t.state in (COMPLETE, PRUNED, FAILED)]
    scores = [t.score for t in TRIALS if t.state == COMPLETE]
    steps = axes.lines[0].get_ydata()
    assert list(steps) == [(min if mode == "min" else max)(scores[: i + 1]) for i in range(len(scores))]


def test_a_few_that_are_far_worse_do_not_flatten_the_others():
    wild = dataclasses.replace(TRIALS[5], score=1e9)
    (axes,) = plots.history([*TRIALS[:5], wild, *TRIALS[6:]], "dev_loss", "min").axes
    assert axes.get_ylim()[1] < 20
    assert "complete, far worse" in [c.get_label() for c in axes.collections]
    assert "complete, far worse" not in [
        c.get_label() for c in plots.history(TRIALS, "dev_loss", "min").axes[0].collections
    ]


def test_the_window_keeps_the_best_and_nine_in_ten():
    scores = np.random.default_rng(0).normal(size=100)
    for mode, sign in (("min", 1), ("max", -1)):
        low, high = layout.window([*(sign * scores), sign * 1e6], mode)
        assert np.mean((low <= sign * scores) & (sign * scores <= high)) >= 0.9 and high - low < 20
        assert (low if mode == "min" else high) == pytest.approx(sign * scores.min())
    assert layout.window([2.0, 2.0], "min") == (2.0, 2.0) and layout.window([], "min") == (0.0, 1.0)


def test_parallel_has_a_line_for_every_score():
    (axes,) = plots.parallel(TRIALS, SPACE, "dev_loss", "min").axes
    lines = [line for line in axes.lines if len(line.get_xdata()) == len(SPACE) + 1]
    assert len(lines) == 41
    best = next(line for line in lines if line.get_color() == plots.ORANGE)
    assert best.get_ydata()[-1] == 0.0  # the lowest score
    assert best.get_ydata()[0] == pytest.approx(SPACE["rate"].unit(result(TRIALS).best.values["rate"]))
    shown = words(axes.figure)
    assert {"0.001", "0.01", "0.1", "<b>&[red]", "None"} <= set(shown)  # decades and options


def test_lines_through_an_option_stay_in_its_band():
    dimension = SPACE["model.kind"]
    for i, value in enumerate(dimension.values):
        spread = [layout.height(dimension, value, rank) for rank in (-0.5, 0.0, 0.5)]
        assert i / 3 < spread[0] < spread[1] < spread[2] < (i + 1) / 3
        assert abs(layout.place(dimension, value, 7) - i) < 0.5


def test_trials_of_one_whole_number_lie_beside_each_other():
    few, many = tune.integer(3, 7), tune.integer(0, 200)
    assert len({layout.place(few, 4, ordinal) for ordinal in range(50)}) == 50
    assert all(abs(layout.place(few, 4, ordinal) - 4) < 0.5 for ordinal in range(50))
    assert layout.place(many, 4, 7) == 4


def test_slices_have_a_panel_for_each_dimension():
    figure = plots.slices(TRIALS, SPACE, "dev_loss", "min")
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    assert [axes.get_xlabel() for axes in panels] == [folded(name, 36) for name in SPACE]
    assert [axes.get_xscale() for axes in panels] == ["log", "linear", "linear", "linear"]
    for axes in panels:
        assert len(points(axes)) == 41
        low, high = axes.get_xlim()
        assert (points(axes)[:, 0] >= low).all() and (points(axes)[:, 0] <= high).all()
    assert [label.get_text() for label in panels[3].get_xticklabels()] == ["x", "<b>&[red]", "None"]


def test_curves_are_the_reports():
    (axes,) = plots.curves(TRIALS, "dev_loss", "min").axes
    lines = {tuple(zip(*line.get_data(), strict=True)) for line in axes.lines if len(line.get_xdata()) > 1}
    assert lines == {tuple(trial.reports.items()) for trial in TRIALS[:41]}


def test_importance_has_bars_or_says_why_not():
    (axes,) = plots.importance(TRIALS, SPACE, "dev_loss", "min").axes
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx(sorted(importances(TRIALS, SPACE, "min").values()))
    assert any(str(FEW) in word for word in words(plots.importance(TRIALS[:3], SPACE, "dev_loss", "min")))


def test_names_fold_at_dots_and_underscores():
    name = "optimizer.schedule.some_very_long_nested_name.warmup_fraction"
    lines = folded(name, 16).split("\n")
    assert "".join(lines) == name and max(map(len, lines)) <= 16
    assert told({"model.layers": 2, "rate": 0.0123, "b": None}) == "layers 2, rate 0.0123, b None"
    assert told({"model.width": 2, "head.width": 3}) == "model.width 2, head.width 3"


def test_many_dimensions_and_options_can_be_drawn():
    space = {f"part_{i}.quite_a_long_name_{i}": tune.loguniform(1e-6, 1e-2) for i in range(9)}
    space["what"] = tune.choice([f"a rather long option {i}" for i in range(40)])
    rng = np.random.default_rng(0)
    trials = [
        dataclasses.replace(TRIALS[0], ordinal=i, values=tune.space.at(space, rng.random(10)), score=rng.random())
        for i in range(20)
    ]
    figure = result(tuple(trials), space=space).plot_parallel()
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    named = [word for word in words(figure) if word.startswith("a rathe")]
    assert len(set(named)) == 2 * layout.BANDS and max(map(len, named)) <= 14
