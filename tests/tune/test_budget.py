"""Arithmetic on seconds: no clock is looked at."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepjax.core.errors import UserError
from lepjax.tune import budget
from lepjax.tune.budget import Cost, Plan, Work

COST = Cost(step=0.5, compile=10.0, score=0.01)
WORK = Work(steps_per_epoch=100, search_steps_per_epoch=80, tune_records=500, held_records=800, epochs=3.0)


def taken(plan, cost=COST, work=WORK):
    """Seconds that the plan's parts take by themselves."""
    often = budget.rungs(plan.trial_epochs * work.search_steps_per_epoch)
    each = budget.trial_seconds(cost, work, plan.trial_epochs)
    trials = budget.kept(plan.trials, often) * each if plan.trials else 0.0
    reading = budget.SAFETY * cost.build if plan.trials else 0.0  # by the search; the final training reads by itself
    programs = max(plan.groups - 1, 0) * budget.SAFETY * (cost.compile + cost.build)
    return reading + trials + programs + budget.final_seconds(cost, work, plan.epochs)


@pytest.mark.parametrize(("text", "expected"), [("20m", 1200), ("90s", 90), ("1.5h", 5400), ("45", 45)])
def test_times(text, expected):
    assert budget.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "-5m", "5d", "1e3", "10s", "0h"])
def test_times_that_are_none(text):
    with pytest.raises(UserError, match="--budget"):
        budget.seconds(text)


def test_enough_time_gives_all_epochs_and_whole_trials():
    plan = budget.plan(3000.0, COST, WORK)
    assert plan.epochs == plan.trial_epochs == 3.0 and plan.trials > budget.FEW and plan.groups > 1


def test_less_time_gives_fewer_trials_before_shorter_ones():
    short = budget.plan(450.0, COST, WORK)
    assert short.epochs == 3.0 and short.trials == budget.FEW and 1.5 <= short.trial_epochs < 3.0
    assert budget.plan(350.0, COST, WORK).trials == 0


@pytest.mark.parametrize(("steps", "often"), [(20, 1), (134, 1), (135, 2)])
def test_only_long_trials_are_judged_twice(steps, often):
    assert budget.rungs(steps) == often and budget.kept(1, often) == 1.0 < budget.kept(2, often)


@pytest.mark.parametrize("left", range(350, 700, 7))
def test_trials_shorter_than_the_final_training_are_judged_as_often_as_they_are_planned(left):
    plan = budget.plan(
        left, COST, WORK
    )  # 240 steps at the end; trials of 135 to 240 are judged twice, shorter ones once
    assert taken(plan) <= left * 1.0001


def test_sabotage_counting_rungs_by_the_final_training_takes_too_long(monkeypatch):
    monkeypatch.setattr(budget, "rungs", lambda steps: 2)
    plan = budget.plan(397.0, COST, WORK)
    monkeypatch.undo()
    assert plan.trials == budget.FEW and budget.rungs(plan.trial_epochs * WORK.search_steps_per_epoch) == 1
    assert taken(plan) > 1.2 * 397.0


def test_a_recipe_that_is_cut_short_is_trained_and_not_searched():
    long = dataclasses.replace(WORK, epochs=30.0)
    plan = budget.plan(600.0, COST, long)
    assert plan.trials == 0 and plan.final == pytest.approx(budget.MOST_SHARE * 600.0)


def test_few_trials_are_not_spread_over_shapes():
    for left in (200.0, 400.0, 800.0, 3000.0):
        plan = budget.plan(left, COST, WORK)
        assert plan.groups == 1 or plan.groups * budget.TRIALS_PER_SHAPE <= plan.trials


def test_small_data_is_searched_with_whole_trials():
    plan = budget.plan(600.0, COST, Work(3.0, 2.4, 20, 20, 3.0))
    assert plan.trials == budget.MANY and plan.trial_epochs == 3.0


def test_little_time_goes_to_the_training():
    plan = budget.plan(130.0, COST, WORK)
    assert plan.trials == 0 and 1.0 < plan.epochs < 3.0
    assert plan.final == pytest.approx(budget.MOST_SHARE * 130.0)
    assert budget.plan(50.0, COST, WORK).epochs < 1.0


def test_no_time_is_told_with_what_it_would_take():
    with pytest.raises(UserError, match=r"one epoch takes 83 s"):
        budget.plan(25.0, COST, WORK)


@given(
    left=st.floats(20, 1e5),
    step=st.floats(1e-3, 10),
    compiling=st.floats(0.5, 100),
    score=st.floats(1e-5, 0.1),
    build=st.floats(0.0, 100),
    records=st.integers(100, 10**6),
)
def test_no_plan_takes_more_than_there_is(left, step, compiling, score, build, records):
    cost = Cost(step, compiling, score, build)
    work = Work(records / 32, records / 40, min(records // 5, 1000), records // 10, 3.0)
    try:
        plan = budget.plan(left, cost, work)
    except UserError:
        return
    assert taken(plan, cost, work) <= left * 1.0001 and plan.final + plan.search == pytest.approx(left)


def test_sabotage_a_plan_that_forgets_compiling_takes_too_long():
    cost = dataclasses.replace(COST, compile=60.0)
    forgetful = budget.plan(300.0, dataclasses.replace(cost, compile=1e-9), WORK)
    capped = dataclasses.replace(forgetful, groups=4)
    assert taken(capped, cost) > 300.0 >= taken(budget.plan(300.0, cost, WORK), cost)


def test_reading_is_planned_for_the_search_and_for_the_final_training():
    slow = dataclasses.replace(COST, build=20.0)
    assert budget.final_seconds(slow, WORK, 1.0) - budget.final_seconds(COST, WORK, 1.0) == pytest.approx(22.0)
    assert budget.plan(450.0, COST, WORK).trials and not budget.plan(450.0, slow, WORK).trials
    plan, quick = budget.plan(494.0, slow, WORK), budget.plan(450.0, COST, WORK)  # 22 s more for each
    assert plan.trials == quick.trials and plan.trial_epochs == pytest.approx(quick.trial_epochs)


def test_sabotage_a_plan_that_forgets_reading_takes_too_long():
    slow = dataclasses.replace(COST, build=20.0)
    assert taken(budget.plan(450.0, COST, WORK), slow) > 450.0 >= taken(budget.plan(450.0, slow, WORK), slow)


def test_epochs_within_is_the_inverse_of_final_seconds():
    assert budget.epochs_within(COST, WORK, budget.final_seconds(COST, WORK, 1.7)) == pytest.approx(1.7)
    assert budget.epochs_within(COST, WORK, 1.0) == 0.0
    assert isinstance(budget.plan(1000.0, COST, WORK), Plan)
