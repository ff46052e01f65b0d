"""Pruners decide as Optuna's, and as their papers say."""

import math

import numpy as np
import optuna
import pytest

from lepjax.tune import pruners
from lepjax.tune.named import named, names_in
from lepjax.tune.pruners.asha import Asha
from lepjax.tune.pruners.halving import Halving
from lepjax.tune.pruners.hyperband import Hyperband
from lepjax.tune.pruners.median import Median
from lepjax.tune.pruners.pruner import Pruner

TOTAL = 64


def curves(count, seed=0):
    """float[count, TOTAL]: losses that fall at different speeds, with noise."""
    rng = np.random.default_rng(seed)
    steps = np.arange(1, TOTAL + 1)
    return (
        rng.uniform(0.1, 1, (count, 1))
        + np.exp(-steps / rng.uniform(3, 60, (count, 1)))
        + rng.normal(0, 0.05, (count, TOTAL))
    )


def ours(pruner, values):
    """{ordinal: the step at which it ended}, one trial after another."""
    reports, ended = {}, {}
    for ordinal, curve in enumerate(values):
        reports[ordinal] = {}
        for step in pruner.rungs(ordinal, TOTAL):
            reports[ordinal][step] = curve[step - 1]
            if pruner.ends(ordinal, step, TOTAL, reports):
                ended[ordinal] = step
                break
        else:
            reports[ordinal][TOTAL] = curve[-1]
    return ended


def optunas(pruner, values, rungs):
    study, ended = optuna.create_study(pruner=pruner), {}
    for ordinal, curve in enumerate(values):
        trial = study.ask()
        for step in rungs:
            trial.report(curve[step - 1], step)
            if trial.should_prune():
                ended[ordinal] = step
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            trial.report(curve[-1], TOTAL)
            study.tell(trial, curve[-1])
    return ended


@pytest.mark.parametrize("seed", range(3))
def test_the_median_rule_is_optunas(seed):
    values = curves(30, seed)
    rule = Median(count=4, startup=5)
    theirs = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0)
    found = ours(rule, values)
    assert found == optunas(theirs, values, rule.rungs(0, TOTAL))
    assert len(found) > 5


@pytest.mark.parametrize("seed", range(3))
def test_asha_is_optunas_successive_halving(seed):
    values = curves(40, seed)
    rule = Asha(reduction=4, count=3)
    theirs = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=4)
    assert rule.rungs(0, TOTAL) == (1, 4, 16)
    assert ours(rule, values) == optunas(theirs, values, rule.rungs(0, TOTAL))


def test_halving_keeps_a_quarter_of_each_cohort():
    values = curves(32)
    rule = Halving(reduction=4, count=1, cohort=16)
    reports = {o: {16: curve[15]} for o, curve in enumerate(values)}
    kept = [o for o in range(32) if not rule.ends(o, 16, TOTAL, reports)]
    for block in (range(16), range(16, 32)):
        best = sorted(block, key=lambda o: values[o][15])[:4]
        assert [o for o in kept if o in block] == sorted(best)


def test_hyperband_brackets_begin_to_judge_at_different_steps():
    rule = Hyperband(reduction=3, most=3)
    firsts = [rule.rungs(o, 81) for o in range(40)]
    counts = {rungs: firsts.count(rungs) for rungs in set(firsts)}
    assert counts == {(3, 9, 27): 27, (9, 27): 9, (27,): 3, (): 1}


@pytest.mark.parametrize("name", names_in(pruners, Pruner))
def test_what_is_not_finite_ends(name):
    rule = named(pruners, Pruner, name)
    ordinal = next((o for o in range(40) if rule.rungs(o, TOTAL)), None)
    if ordinal is None:
        return
    step = rule.rungs(ordinal, TOTAL)[0]
    others = {o: {step: 1.0} for o in range(ordinal)}
    assert rule.ends(ordinal, step, TOTAL, {**others, ordinal: {step: math.nan}})


def test_sabotage_a_rule_that_looks_at_higher_scores_is_noticed():
    values = curves(40)
    assert ours(Asha(), values) != ours(Asha(), -values)
