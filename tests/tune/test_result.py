"""What a result tells: the best trial, the counts, the luck, and JSON that any reader takes."""

import dataclasses
import io
import json
import math

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from lepjax.tune.result import Rescored
from lepjax.tune.trial import COMPLETE, FAILED, PRUNED, Trial, winner
from tests.tune.planted import planted, result


def refused(word):
    raise ValueError(f"{word} is no JSON")


def strictly(value):
    """What a strict reader gets."""
    return json.loads(json.dumps(value), parse_constant=refused)


def test_the_best_is_complete_and_of_the_direction():
    trials = planted()
    scores = [trial.score for trial in trials if trial.state == COMPLETE]
    assert result(trials).best.score == min(scores)
    assert result(trials, mode="max").best.score == max(scores)
    better_but_pruned = Trial(99, 99, PRUNED, trials[0].values, -1.0)
    not_finite = Trial(98, 98, COMPLETE, trials[0].values, math.nan)
    assert winner([not_finite, better_but_pruned, *trials], "min").score == min(scores)
    assert winner([better_but_pruned, trials[41]], "min") is None


def test_the_first_of_equals_is_best():
    trials = planted(3)[:3]
    assert winner([dataclasses.replace(t, score=1.0) for t in trials], "max").ordinal == 0


def test_counts_and_rates():
    made = result(planted())
    assert [made.count(state) for state in (COMPLETE, PRUNED, FAILED)] == [40, 1, 1]
    assert made.trial_steps == 40 * 40 + 20 + 10
    assert made.trials_per_minute == pytest.approx(60 * 41 / 60.5)
    two_seeds = [dataclasses.replace(t, by_seed=(1.0, 2.0)) for t in planted(4)[:4]]
    assert result(tuple(two_seeds)).trial_steps == 4 * 40 * 2


def test_the_table_has_a_flat_row_for_every_trial():
    """Also where a dimension is called as one of its own columns."""
    rows = result(planted()).table
    columns = ("trial", "state", "score", "rate", "noise", "values.steps", "model.kind", "steps", "seconds")
    assert len(rows) == 43 and {tuple(row) for row in rows} == {columns}
    assert not any(isinstance(value, (dict, list, tuple)) for row in rows for value in row.values())
    assert rows[0]["rate"] == planted()[0].values["rate"] and rows[42]["rate"] is None
    assert rows[0]["steps"] == 40 and rows[0]["values.steps"] == planted()[0].values["steps"]


def test_json():
    told = strictly(result(planted(), Rescored((0.1, 0.2, 0.3))).to_json())
    assert [told[f"trials_{state}"] for state in ("completed", "pruned", "failed")] == [40, 1, 1]
    best = result(planted()).best
    assert told["best"] == {"trial": best.ordinal, "score": best.score, "values": best.values}
    assert told["rescored"]["mean"] == pytest.approx(0.2) and len(told["rescored"]["scores"]) == 3
    assert {"compiles", "groups", "trial_steps", "trials_per_minute", "seconds", "metric", "mode", "command"} <= set(
        told
    )


def test_json_of_what_is_not_finite():
    """A fresh seed that diverged, and a choice that is infinite."""
    trial = dataclasses.replace(planted(1)[0], values={"clip": math.inf})
    told = strictly(result((trial,), Rescored((0.1, math.nan, math.inf))).to_json())
    assert told["rescored"] == {"scores": [0.1, None, None], "mean": None, "half": None}
    assert told["best"]["values"] == {"clip": "inf"}
    assert strictly(result(()).to_json())["best"] is None


def test_sabotage_a_strict_reader_notices_a_nan():
    with pytest.raises(ValueError, match="NaN"):
        strictly({"mean": math.nan})


def test_the_interval_is_students():
    scores = (0.91, 0.93, 0.90, 0.95)
    again = Rescored(scores)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(scores), scale=stats.sem(scores))
    assert (again.mean - again.half, again.mean + again.half) == pytest.approx((low, high))
    assert math.isnan(Rescored((0.9,)).half)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    drawn = [Rescored(tuple(rng.normal(size=4))) for _ in range(2000)]
    assert 0.94 < np.mean([abs(again.mean) <= again.half for again in drawn]) < 0.96


def test_sabotage_the_normal_interval_covers_too_seldom():
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(2000, 4))
    halves = 1.96 * drawn.std(axis=1, ddof=1) / 2
    assert np.mean(np.abs(drawn.mean(axis=1)) <= halves) < 0.9


def test_luck_is_told_against_the_score_it_was_chosen_for():
    assert result(planted()).told_again() == ""
    made = result(planted(), Rescored((0.5, 0.6, 0.7)))
    assert made.told_again().startswith("0.6 +- 0.25 (95 %) on 3 fresh seeds, ") and "best of 40" in made.told_again()
    assert result(planted(), Rescored((0.5,))).told_again().startswith("0.5 on 1 fresh seed,")
    assert "1 of 2 fresh seeds diverged" in result(planted(), Rescored((0.5, math.nan))).told_again()


def shown(made, width=120):
    out = io.StringIO()
    made.show(Console(file=out, width=width))
    return out.getvalue()


def test_what_is_shown():
    text = shown(result(planted(), Rescored((0.5, 0.6))))
    best = result(planted()).best
    assert f"(trial {best.ordinal})" in text and "fresh seeds" in text and "--rate 0.01" in text
    assert "40 complete, 1 pruned, 1 failed" in text and "3 compiled for 2 shapes" in text
    assert text.count("<b>&[red]") == sum(t.values["model.kind"] == "<b>&[red]" for t in result(planted()).ranked[:10])
    assert "no trial came to its end" in shown(result(planted()[40:]))
    shown(result(()))


def test_a_password_is_not_shown():
    made = result(planted())
    assert "secret" not in shown(made) and "secret" not in json.dumps(made.to_json())
    assert "postgresql://me:***@host/studies" in shown(made)
