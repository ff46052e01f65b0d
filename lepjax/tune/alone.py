"""Trials one after another, each on the experiment's own mesh: for models that fill the devices by themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lepjax.core.state import State
from lepjax.data.loader import placed_ahead, read_ahead
from lepjax.experiment import Built, with_hparams
from lepjax.run.compiled import compile_step, planned_shapes
from lepjax.run.evaluation import Evaluator
from lepjax.tune.objective import Objective
from lepjax.tune.programs import Job


@dataclasses.dataclass
class Lone:
    """A state, and `state.skipped` after each of its steps."""

    state: State
    skipped: list[Any]


class Alone:
    """A `Program` of size 1. Compiled once for all trials of its shape."""

    size = 1

    def __init__(self, built: Built, objective: Objective) -> None:
        self.built, self.objective = built, objective
        shapes = planned_shapes(built.source, built.plan.shapes(), built.placement)
        self._shardings = {name: shape.sharding for name, shape in shapes[0].items()}
        self._weights = built.experiment.model.weights(built.model.leaves)
        self._init = jax.jit(built.fresh, out_shardings=built.shardings)
        self.compiled = compile_step(built.step, built.abstract, shapes, built.placement)
        splits = {objective.split: built.splits.evaluation[objective.split]}
        scored = dataclasses.replace(built, splits=dataclasses.replace(built.splits, evaluation=splits, final={}))
        self._evaluate = Evaluator(scored, only=(objective.metric,))

    def init(self, jobs: Sequence[Job]) -> Lone:
        return Lone(with_hparams(self._init(jobs[0].experiment.seed, self._weights), jobs[0].hparams), [])

    def stream(self, jobs: Sequence[Job], start: int = 0) -> Iterator[Any]:
        batches = dataclasses.replace(jobs[0].batches, count=jobs[0].total_steps)
        return (batch for _, batch in placed_ahead(read_ahead(batches, start), self._shardings, part=batches.part))

    def step(self, states: Lone, batch: Any) -> tuple[Lone, jax.Array]:
        state, metrics = self.compiled(states.state, batch)
        states.skipped.append(metrics["skipped"])
        return Lone(state, states.skipped), metrics["loss"]

    def score(self, states: Lone) -> list[float]:
        return [self._evaluate(states.state)[self.objective.name]]

    def stuck(self, states: Lone) -> list[int]:
        longest = row = last = 0
        for skipped in map(int, jax.device_get(states.skipped)):
            row = row + 1 if skipped > last else 0
            longest, last = max(longest, row), skipped
        return [longest]


@dataclasses.dataclass(frozen=True)
class InTurn:
    """A `Program` of several jobs, the seeds of one trial, which take their steps in turn.

    So their scores are there at the same steps. Their states and next batches lie on the devices side by side; gradients and
    activations are only those of the one whose turn it is. Batches of different orders may differ in shape.
    """

    program: Alone
    size: int

    def init(self, jobs: Sequence[Job]) -> list[Lone]:
        return [self.program.init([job]) for job in jobs]

    def stream(self, jobs: Sequence[Job], start: int = 0) -> Iterator[Any]:
        """What several read in the same order is read and held once."""
        steps = max(job.total_steps for job in jobs)
        each = {job.order: dataclasses.replace(job, total_steps=steps) for job in jobs}
        for batches in zip(*(self.program.stream([job], start) for job in each.values()), strict=True):
            held = dict(zip(each, batches, strict=True))
            yield [held[job.order] for job in jobs]

    def step(self, states: list[Lone], batch: Any) -> tuple[list[Lone], jax.Array]:
        taken = [self.program.step(lone, own) for lone, own in zip(states, batch, strict=True)]
        return [lone for lone, _ in taken], jnp.stack([loss for _, loss in taken])

    def score(self, states: list[Lone]) -> list[float]:
        return [score for lone in states for score in self.program.score(lone)]

    def stuck(self, states: list[Lone]) -> list[int]:
        return [row for lone in states for row in self.program.stuck(lone)]
