"""Importances find what matters, are Optuna's, and are not made up where there is too little to say."""

import dataclasses

import numpy as np
import optuna
import pytest

from lepjax.tune import importance
from lepjax.tune.distributions import distributions
from lepjax.tune.importance import FEW, importances
from lepjax.tune.trial import PRUNED
from tests.tune.planted import SPACE, planted


def optunas(trials, mode="min", **settings):
    study = optuna.create_study(direction={"min": "minimize", "max": "maximize"}[mode])
    for t in trials:
        made = optuna.trial.create_trial(value=t.score, params=t.values, distributions=distributions(SPACE))
        study.add_trial(made)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(**settings)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_one_that_matters_comes_first_and_shares_are_optunas(mode):
    """Of 60 trials the best tenth is more than five: Optuna's defaults. Pruned and failed trials do not count."""
    trials = [dataclasses.replace(t, score=t.score and (1 if mode == "min" else -1) * t.score) for t in planted(60)]
    shares = importances(trials, SPACE, mode)
    assert list(shares)[0] == "rate" and shares["rate"] > 0.6
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares == pytest.approx(optunas(trials[:60], mode))


def firsts(count, sweeps=20):
    """In how many sweeps of `count` trials the one that matters comes first."""
    found = [importances(planted(count, seed), SPACE, "min") for seed in range(sweeps)]
    return sum(next(iter(shares)) == "rate" for shares in found)


def test_a_dozen_trials_mostly_suffice():
    assert firsts(12) >= 16


def test_sabotage_optunas_tenth_of_a_dozen_is_a_guess(monkeypatch):
    """One or two trials are no group that could be told from the others."""
    monkeypatch.setattr(importance, "TOP", 0)
    assert firsts(12) < 16


def test_too_little_to_say():
    assert importances(planted(FEW - 1), SPACE, "min") == {}
    assert importances(planted(FEW), SPACE, "min")
    same = [dataclasses.replace(t, score=1.0) for t in planted(40)[:40]]
    assert importances(same, SPACE, "min") == {}
    assert importances([dataclasses.replace(t, state=PRUNED) for t in planted(40)[:40]], SPACE, "min") == {}


def test_scores_that_are_not_finite_do_not_count():
    trials = planted(20)[:20]
    bad = dataclasses.replace(trials[0], score=float(np.inf))
    assert importances((bad, *trials), SPACE, "min") == importances(trials, SPACE, "min")
