"""What an experiment costs on this machine, measured: nothing of a budget is guessed."""

from __future__ import annotations

import time

import jax

from lepjax import experiment as experiments
from lepjax.experiment import Experiment
from lepjax.run.backend import use_compile_cache
from lepjax.tune.alone import Alone
from lepjax.tune.budget import Cost, Work
from lepjax.tune.objective import objective
from lepjax.tune.programs import Job

STEPS, SECONDS = 3, 2.0
"""Steps that are timed: so many, and more for so long."""


def measure(experiment: Experiment, held_records: int) -> tuple[Cost, Work]:
    """Compiles the training step, takes some steps and scores the slice to choose by. Nothing is written.

    `held_records` are those to be scored at the end.
    """
    use_compile_cache()
    built = experiments.build(experiment)
    goal = objective(experiment, tuple(built.splits.evaluation))
    begun = time.perf_counter()
    program = Alone(built, goal)
    job = Job(experiment, max(built.total_steps, STEPS), built.batches(), built.plan.fingerprint)
    states = program.init([job])
    jax.block_until_ready(states.state.params)
    compiling = time.perf_counter() - begun
    times: list[float] = []
    for batch in program.stream([job]):
        begun = time.perf_counter()
        states, loss = program.step(states, batch)
        jax.block_until_ready((states.state.params, loss))
        times.append(time.perf_counter() - begun)
        if len(times) > STEPS and sum(times) > SECONDS:
            break
    begun = time.perf_counter()
    program.score(states)
    records = len(built.splits.evaluation[goal.split])
    scoring = (time.perf_counter() - begun) / records
    counted = times[1:] or times  # the first step waits for what the machine still has to fetch
    whole = built.plan.steps_per_epoch * (1.0 + records / len(built.splits.train))
    cost = Cost(sum(counted) / len(counted), compiling, scoring)
    return cost, Work(whole, built.plan.steps_per_epoch, records, held_records, 0.0)
