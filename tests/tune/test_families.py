"""Every family of models trains many trials in one program as it trains each alone, without an edit to it."""

import dataclasses

import jax
import numpy as np
import pytest

from lepjax import tune
from lepjax.experiment import Steps
from lepjax.tune.assign import assigned, resolve
from lepjax.tune.cohort import Entry, train
from lepjax.tune.groups import Groups
from lepjax.tune.objective import objective
from lepjax.tune.space import at
from tests.mesh.families import FAMILIES

SPACE = {
    "learning_rate": tune.loguniform(1e-4, 1e-2),
    "weight_decay": tune.loguniform(1e-3, 1.0),
    "beta2": tune.uniform(0.9, 0.999),
    "clip_norm": tune.loguniform(0.1, 10.0),
    "seed": tune.integer(0, 100),
}
TRIALS, STEPS = 3, 8


def trained(family, together):
    """(scores, losses float[steps, trials])."""
    base = dataclasses.replace(FAMILIES[family](), length=Steps(STEPS), mesh="data=1", best="")
    found, rng = resolve(base, SPACE), np.random.default_rng(0)
    many = [assigned(base, at(SPACE, rng.random(len(SPACE))), found) for _ in range(TRIALS)]
    goal = objective(base, tuple(base.data.load().evaluation))
    groups = Groups(goal, together, None, jax.devices()[:1], {})
    (key,) = {groups.key(one) for one in many}
    scores, losses = [], []
    for start in range(0, TRIALS, together):
        seen = []
        entries = [Entry((groups.job(one),), ()) for one in many[start : start + together]]
        ended = train(
            entries,
            lambda count: groups.program(key, False, count),
            goal,
            watch=lambda step, values: seen.append(np.atleast_1d(values)),  # noqa: B023
        )
        scores += [end.score for end in ended]
        losses.append(np.array(seen)[:, : len(entries)])
    assert groups.compiles == 1
    return scores, np.concatenate(losses, axis=1)


@pytest.mark.parametrize("family", ["bert", *(pytest.param(name, marks=pytest.mark.full) for name in ("gpt", "llama"))])
def test_trials_in_one_program_are_what_they_are_alone(family):
    (scores, losses), (lone_scores, lone) = trained(family, TRIALS), trained(family, 1)
    assert losses.shape == (STEPS, TRIALS) and len({*losses[-1].tolist()}) == TRIALS
    np.testing.assert_allclose(losses, lone, rtol=1e-5)
    np.testing.assert_allclose(scores, lone_scores, rtol=1e-4)
