"""What an experiment costs on this machine, measured: nothing of a budget is guessed."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from lepjax import experiment as experiments
from lepjax.experiment import Built, Experiment
from lepjax.run.backend import use_compile_cache
from lepjax.tune.alone import Alone
from lepjax.tune.budget import Cost, Work
from lepjax.tune.objective import objective
from lepjax.tune.programs import Job

STEPS, SECONDS = 3, 2.0
"""Steps that are timed: so many, and more for so long."""
SCORED = 200
"""Records that are scored to time it."""
SAVED = "/jax/compilation_cache/compile_time_saved_sec"


def measure(experiment: Experiment, held_records: int, most: float = 60.0) -> tuple[Cost, Work]:
    """Compiles the training step, takes some steps and scores some of the slice to choose by. Nothing is written.

    `held_records` are those to be scored at the end. Where steps take over `most` seconds, one alone is timed.
    """
    use_compile_cache()
    begun = time.perf_counter()
    built = experiments.build(experiment)
    building = time.perf_counter() - begun
    goal = objective(experiment, tuple(built.splits.evaluation))
    records = len(built.splits.evaluation[goal.split])
    few, scored = _beginning(built, goal.split)
    begun = time.perf_counter()
    with SavedByCache() as cache:
        program = Alone(few, goal)
        job = Job(experiment, max(built.total_steps, STEPS), built.batches(), built.plan.fingerprint)
        states = program.init([job])
        jax.block_until_ready(states.state.params)
    compiling = time.perf_counter() - begun + cache.seconds
    times: list[float] = []
    for batch in program.stream([job]):
        begun = time.perf_counter()
        states, loss = program.step(states, batch)
        jax.block_until_ready((states.state.params, loss))
        times.append(time.perf_counter() - begun)
        if (len(times) > STEPS and sum(times) > SECONDS) or (len(times) > 1 and sum(times) > most):
            break
    begun = time.perf_counter()
    program.score(states)
    scoring = (time.perf_counter() - begun) / scored
    counted = times[1:] or times  # the first step waits for what the machine still has to fetch
    whole = built.plan.steps_per_epoch * (1.0 + records / len(built.splits.train))
    cost = Cost(sum(counted) / len(counted), compiling, scoring, building)
    return cost, Work(whole, built.plan.steps_per_epoch, records, held_records, 0.0)


class SavedByCache:
    """While inside, counts the seconds of compiling that the persistent cache saves: another shape will not be in it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> SavedByCache:
        jax.monitoring.register_event_duration_secs_listener(self._duration)
        return self

    def __exit__(self, *exc: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._duration)

    def _duration(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == SAVED:
            self.seconds += max(duration_secs, 0.0)


@dataclasses.dataclass(frozen=True)
class FirstBatches:
    """The first `count` batches of an evaluation plan."""

    plan: Any
    count: int

    def __len__(self) -> int:
        return self.count

    def batch(self, cursor: int) -> tuple[np.ndarray, np.ndarray]:
        return self.plan.batch(cursor)

    def shapes(self) -> list[np.ndarray]:
        return self.plan.shapes()


def _beginning(built: Built, split: str) -> tuple[Built, int]:
    """(the same with only the first batches of a split to score, records in these)"""
    source, plan = built.scoring[split]
    count = records = 0
    while count < len(plan) and records < SCORED:
        records += int((plan.batch(count)[0] >= 0).sum())
        count += 1
    return dataclasses.replace(built, scoring={**built.scoring, split: (source, FirstBatches(plan, count))}), records
