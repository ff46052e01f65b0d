"""Tree-structured Parzen estimator (Bergstra et al., 2011; multivariate, Watanabe, 2023): Optuna's, as a pure function."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lepjax.tune.distributions import distributions, optuna
from lepjax.tune.samplers.qmc import quasi_random
from lepjax.tune.samplers.sampler import Sampler, Seen
from lepjax.tune.space import Space, Values


@dataclasses.dataclass(frozen=True)
class Tpe(Sampler):
    """Quasi-random until `startup` trials have scores. Trials that run count as bad ones (constant liar), so that those that
    are asked for together differ. So do failed ones: Optuna forgets those, and so goes on where trials fail.
    """

    startup: int = 10

    def suggest(self, space: Space, seen: Sequence[Seen], ordinal: int, seed: int) -> Values:
        """A fresh study with what was seen, asked once by a sampler whose seed is this trial's own."""
        if sum(one.score is not None and math.isfinite(one.score) for one in seen) < self.startup:
            return quasi_random(space, ordinal, seed)
        own = int(np.random.SeedSequence([seed, ordinal]).generate_state(1)[0])
        study = optuna().create_study(sampler=optuna().samplers.TPESampler(seed=own, n_startup_trials=self.startup))
        ranges = distributions(space)
        study.add_trials([_frozen(one, ranges) for one in seen])
        asked = study.ask(ranges)
        return {name: asked.params[name] for name in space}

    def check(self, space: Space) -> None:
        optuna()


def _frozen(seen: Seen, ranges: dict[str, Any]) -> Any:
    states = optuna().trial.TrialState
    given: dict[str, Any] = {"params": seen.values, "distributions": ranges}
    if seen.pruned:  # Optuna ranks it behind complete trials, by how far it came
        return optuna().trial.create_trial(state=states.PRUNED, intermediate_values={seen.steps: seen.score}, **given)
    state = states.RUNNING if seen.score is None else states.COMPLETE  # an infinite score ranks last
    return optuna().trial.create_trial(state=state, value=seen.score, **given)
