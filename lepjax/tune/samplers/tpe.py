"""Tree-structured Parzen estimator (Bergstra et al., 2011; multivariate, Watanabe, 2023): Optuna's, as a pure function."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

from lepjax.tune.distributions import distributions, optuna
from lepjax.tune.samplers.sampler import Sampler, Seen
from lepjax.tune.space import Space, Values


@dataclasses.dataclass(frozen=True)
class Tpe(Sampler):
    """Random for the first `startup` trials. Trials that run count as bad ones (constant liar), so that those that are asked
    for together differ; failed ones are left out, as Optuna does.
    """

    startup: int = 10

    def suggest(self, space: Space, seen: Sequence[Seen], ordinal: int, seed: int) -> Values:
        """A fresh study with what was seen, asked once by a sampler whose seed is this trial's own."""
        o = optuna()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", o.exceptions.ExperimentalWarning)
            sampler = o.samplers.TPESampler(seed=(seed * 1_000_003 + ordinal) % 2**32, n_startup_trials=self.startup)
            study = o.create_study(sampler=sampler)
        ranges = distributions(space)
        for one in seen:
            study.add_trial(_frozen(one, ranges))
        asked = study.ask(ranges)
        return {name: asked.params[name] for name in space}


def _frozen(seen: Seen, ranges: dict[str, object]) -> object:
    o = optuna()
    states = o.trial.TrialState
    failed = seen.score is not None and not abs(seen.score) < float("inf")
    running = seen.score is None
    return o.trial.create_trial(
        state=states.RUNNING if running else states.FAIL if failed else states.COMPLETE,
        value=None if running or failed else seen.score,
        params=seen.values,
        distributions=ranges,
    )
