"""How much each dimension of a space mattered for scoring well."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lepjax.tune.distributions import distributions, optuna
from lepjax.tune.space import Space
from lepjax.tune.trial import COMPLETE, Trial

FEW = 10
"""Complete trials below which importances are guesses: of four dimensions the one that matters came first in 3 of 10 sweeps
with 4 trials, in 8 of 10 with 10, in all with 30."""
TOP = 5  # trials that good ones are at least; Optuna's documents ask for so many


def importances(trials: Sequence[Trial], space: Space, mode: str) -> dict[str, float]:
    """{name: share}, the largest first, summing to 1; empty where fewer than `FEW` trials are complete, or all score alike.

    PED-ANOVA (Watanabe et al., IJCAI 2023), by Optuna: how far the values of the best tenth (at least `TOP` trials) lie from
    those of all. Trials that were pruned or failed do not count.
    """
    complete = [t for t in trials if t.state == COMPLETE and t.score is not None and math.isfinite(t.score)]
    if len(complete) < FEW or len({trial.score for trial in complete}) < 2:
        return {}
    known, ranges = optuna(), distributions(space)
    study = known.create_study(direction="minimize" if mode == "min" else "maximize")
    for trial in complete:
        params = {name: trial.values[name] for name in space}
        study.add_trial(known.trial.create_trial(value=trial.score, params=params, distributions=ranges))
    evaluator = known.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.1, TOP / len(complete)))
    shares = known.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}
