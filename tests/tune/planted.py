"""A sweep that was made up: its scores depend on `rate` alone, and best is 1e-2."""

from __future__ import annotations

import pathlib

import numpy as np

from lepjax import tune
from lepjax.tune.result import Rescored, Result
from lepjax.tune.trial import COMPLETE, FAILED, PRUNED, Trial

SPACE = {
    "rate": tune.loguniform(1e-4, 1.0),
    "noise": tune.uniform(0.0, 1.0),
    "steps": tune.integer(0, 200),
    "model.kind": tune.choice(["x", "<b>&[red]", None]),
}


def planted(count: int = 40, seed: int = 0) -> tuple[Trial, ...]:
    """`count` complete trials, and then one that was pruned, one that failed and one that waits."""
    rng = np.random.default_rng(seed)
    trials = [_trial(i, tune.space.at(SPACE, rng.random(len(SPACE)))) for i in range(count)]
    more = [tune.space.at(SPACE, rng.random(len(SPACE))) for _ in range(2)]
    return (
        *trials,
        Trial(count, count, PRUNED, more[0], 2.0, {10: 2.5, 20: 2.0}, steps=20, seconds=0.5),
        Trial(
            count + 1, count + 1, FAILED, more[1], None, {10: float("nan")}, steps=10, note="the score is nan & gone"
        ),
        Trial(count + 2, count + 2, "waiting"),
    )


def _trial(ordinal: int, values: dict) -> Trial:
    score = float(np.log10(values["rate"]) + 2.0) ** 2
    return Trial(ordinal, ordinal, COMPLETE, values, score, {10: score + 1, 40: score}, steps=40, seconds=1.5)


def result(trials: tuple[Trial, ...], rescored: Rescored | None = None, **changes: object) -> Result:
    facts = {
        "trials": trials,
        "space": SPACE,
        "metric": "dev_loss",
        "mode": "min",
        "compiles": 3,
        "groups": 2,
        "seconds": 61.0,
        "command": "lepjax train x.py --rate 0.01 --kind '<b>&'" if trials else "",
        "rescored": rescored,
        "study_url": "postgresql://me:secret@host/studies",
        "study_name": "planted",
        "directory": pathlib.Path("unused"),
    }
    return Result(**{**facts, **changes})
