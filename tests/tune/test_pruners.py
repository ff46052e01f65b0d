"""Pruners decide as Optuna's, and as their papers say."""

import math

import numpy as np
import optuna
import pytest

from lepjax.core.errors import UserError
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
    ).round(2)  # so that some are equal


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


def test_halving_leaves_one_of_sixteen():
    values, rule = curves(16), Halving()
    values = values + 1e-6 * np.arange(16)[:, None]
    reports, alive = {o: {} for o in range(16)}, set(range(16))
    assert rule.rungs(0, TOTAL) == (4, 16)
    for step in rule.rungs(0, TOTAL):
        for o in alive:
            reports[o][step] = values[o][step - 1]
        alive = {o for o in alive if not rule.ends(o, step, TOTAL, reports)}
    assert len(alive) == 1


def test_halving_looks_at_its_own_cohort_only():
    reports = {o: {16: float(o)} for o in range(32)}
    assert not Halving().ends(16, 16, TOTAL, reports)
    assert Asha().ends(16, 16, TOTAL, reports)


@pytest.mark.parametrize(("reduction", "most"), [(3, 3), (4, 2), (2, 4), (17, 1)])
def test_hyperband_brackets_get_their_shares_of_any_sweep(reduction, most):
    rule = Hyperband(reduction, most)
    shares = np.array([reduction**k / (k + 1) for k in range(most + 1)])
    for begin in (0, 1000):
        counts = np.bincount([rule.bracket(o) for o in range(begin, begin + 200)], minlength=most + 1)
        np.testing.assert_allclose(counts / 200, shares / shares.sum(), atol=0.02)
    assert {k: Hyperband(3, 3).rungs(o, 81) for o, k in ((o, Hyperband(3, 3).bracket(o)) for o in range(40))} == {
        3: (3, 9, 27),
        2: (9, 27),
        1: (27,),
        0: (),
    }


def test_hyperband_compares_within_a_bracket():
    rule = Hyperband()
    ordinals = [o for o in range(60) if rule.bracket(o) == 2]
    others = {o: {27: 0.0} for o in range(60) if o not in ordinals}
    reports = {**others, **{o: {27: float(o)} for o in ordinals}}
    kept = [o for o in ordinals if not rule.ends(o, 27, 81, reports)]
    assert kept == ordinals[: len(ordinals) // 3]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", sorted({*names_in(pruners, Pruner)} - {"none"}))
def test_what_is_not_finite_ends_and_holds_up_nobody_else(name, bad):
    rule = named(pruners, Pruner, name)
    ordinal = next(o for o in range(40) if len(rule.rungs(o, TOTAL)) > 1)
    first, second = rule.rungs(ordinal, TOTAL)[:2]
    others = {o: {first: bad, second: bad, TOTAL: 1.0} for o in range(ordinal + 40) if o != ordinal}
    good = {**others, ordinal: {first: 1.0, second: 1.0}}
    assert not rule.ends(ordinal, first, TOTAL, good) and not rule.ends(ordinal, second, TOTAL, good)
    assert rule.ends(ordinal, second, TOTAL, {**others, ordinal: {first: 1.0, second: bad}})


@pytest.mark.parametrize("name", names_in(pruners, Pruner))
@pytest.mark.parametrize("total", [1, 2, 3, 10, 64, 1000])
def test_rungs_ascend_below_the_end(name, total):
    for ordinal in range(20):
        rungs = (0, *named(pruners, Pruner, name).rungs(ordinal, total), total)
        assert all(a < b for a, b in zip(rungs, rungs[1:], strict=False))


@pytest.mark.parametrize("rule", [Asha, Halving, Hyperband])
def test_a_reduction_that_reduces_nothing_is_one_line(rule):
    with pytest.raises(UserError, match="a reduction of 1"):
        rule(reduction=1)


def test_sabotage_a_rule_that_looks_at_higher_scores_is_noticed():
    values = curves(40)
    assert ours(Asha(count=3), values) != ours(Asha(count=3), -values)


def test_sabotage_a_rule_that_is_a_little_stricter_is_noticed():
    values = curves(40)
    theirs = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=4)
    assert ours(Asha(reduction=4, count=3), values * (1 + 1e-9)) == optunas(theirs, values, (1, 4, 16))
    stricter = {o: {16: value} for o, value in enumerate(values[:, 15])}
    kept = [sum(not Asha(reduction).ends(o, 16, TOTAL, stricter) for o in stricter) for reduction in (4, 5)]
    assert kept[0] > kept[1]
