"""Which trials can share a program, and the programs that were made for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from lepjax import experiment as experiments
from lepjax.core.errors import UserError
from lepjax.data.loader import Batches
from lepjax.data.source import Data, Splits
from lepjax.experiment import Built, Experiment
from lepjax.tune.alone import Alone, InTurn
from lepjax.tune.memory import device_memory, needed
from lepjax.tune.objective import Objective
from lepjax.tune.programs import Job, Program, Stacked

SHRINK = 4  # a smaller program is worth compiling where at most this share of the trials is left


@dataclasses.dataclass
class Groups:
    """Programs by shape and size, compiled when they are needed and kept.

    Trials with equal identities, their seeds apart, differ in leaves only and share a program.
    """

    objective: Objective
    together: int
    """Jobs side by side, at most; 1: no two, each has the experiment's mesh for itself."""
    order_seed: int | None
    """Whose order all trials read the data in; None: each that of its own seed."""
    devices: Sequence[jax.Device]
    data: dict[Data, Splits]
    """What was read already."""
    compiles: int = 0
    """Training steps that were compiled."""

    def __post_init__(self) -> None:
        self.alone = self.together == 1
        self._built: dict[str, Built] = {}
        self._programs: dict[tuple[str, bool, int], Stacked] = {}
        self._lone: dict[str, Alone] = {}
        self._jobs: dict[str, Job] = {}

    def key(self, experiment: Experiment) -> str:
        """Equal for trials that can share a program."""
        key = experiments.identity(dataclasses.replace(experiment, seed=0))
        built = self._built.get(key) or self._build(experiment, key)
        if len(built.plan.shapes()) == 1:
            return key
        # Which shapes a plan of several has depends on how long it is.
        key = f"{key} {experiment.length}"
        if key not in self._built:
            self._build(experiment, key)
        return key

    @property
    def count(self) -> int:
        """Groups seen so far."""
        return len({key for key, _, _ in self._programs} | self._lone.keys())

    def _build(self, experiment: Experiment, key: str) -> Built:
        splits = self.splits(experiment)
        if self.alone:
            built = experiments.build(experiment, list(self.devices), splits=splits)
        else:
            alone = dataclasses.replace(experiment, mesh="auto", offload_optimizer=False)
            built = experiments.build(alone, list(self.devices[:1]), splits=splits)
        self._built[key] = built
        return built

    def splits(self, experiment: Experiment) -> Splits:
        if experiment.data not in self.data:
            self.data[experiment.data] = experiment.data.load()
        return self.data[experiment.data]

    def job(self, experiment: Experiment) -> Job:
        """What a program needs to train this experiment."""
        built = self._built[self.key(experiment)]
        ordered = experiment if self.order_seed is None else dataclasses.replace(experiment, seed=self.order_seed)
        key = f"{self.key(experiment)} {ordered.seed} {experiment.length}"
        if key not in self._jobs:
            order = experiments.planned(ordered, built.splits)
            part = built.placement.part(experiment.data.batch_size)
            batches = Batches(order.source, order.plan, order.total_steps, part)
            every = experiment.evaluate_every.in_steps(order.plan.steps_per_epoch, order.plan.records)
            self._jobs[key] = Job(experiment, order.total_steps, batches, order.plan.fingerprint, every)
        return dataclasses.replace(self._jobs[key], experiment=experiment)

    def miscible(self, key: str) -> bool:
        """Whether jobs that read the data in different orders can train side by side."""
        return not self.alone and len(self._built[key].plan.shapes()) == 1

    def program(self, key: str, shared: bool, count: int) -> Program:
        """One for at least `count` jobs, which read the data in the same order (`shared`) or each in its own.

        Raises `OutOfMemory` where so many do not fit, `UserError` where batches of the same step differ in shape.
        """
        if self.alone:
            return self._alone(key, count)
        size = self.size(count)
        if (key, shared, size) not in self._programs:
            built = self._built[key]
            self._programs[key, shared, size] = self._stacked(built, shared, size)
            self.compiles += len(built.plan.shapes())
        return self._programs[key, shared, size]

    def _alone(self, key: str, count: int) -> Program:
        if key not in self._lone:
            self._lone[key] = Alone(self._built[key], self.objective)
            self.compiles += len(self._built[key].plan.shapes())
        if count == 1:
            return self._lone[key]
        self._check_room(self._lone[key].compiled, f"the states of {count} seeds", states=count)
        return InTurn(self._lone[key], count)

    def _stacked(self, built: Built, shared: bool, size: int) -> Stacked:
        if not shared and len(built.plan.shapes()) > 1:
            fix = "Use order shared, together 1, or batches of one shape (no buckets)."
            raise UserError("jobs with different seeds read batches of different shapes", where="order", fix=fix)
        program = Stacked(built, size, self.objective, shared, self.devices)
        if size > self.least:
            self._check_room(program.compiled, f"{size} trials")
        return program

    def _check_room(self, compiled: Any, what: str, states: int = 1) -> None:
        need, free = needed(compiled, states), device_memory(self.devices[0], len(self.devices))
        if need > free:
            raise OutOfMemory(f"{what} need {need / 1e9:.1f} GB on each device, which has {free / 1e9:.1f} GB for them")

    @property
    def least(self) -> int:
        return 1 if self.alone else len(self.devices)

    @property
    def most(self) -> int:
        """Jobs that fit side by side, as far as is known."""
        return self._whole(self.together)

    def size(self, count: int) -> int:
        """The smallest of together, together / 4, together / 16, ... that holds `count`: few programs, little idle room."""
        size = self._whole(self.together)
        while self._whole(size // SHRINK) >= count and size > self.least:
            size = self._whole(size // SHRINK)
        return size

    def _whole(self, size: int) -> int:
        """Up to a multiple of the devices."""
        return -(-max(size, 1) // self.least) * self.least

    def halve(self) -> bool:
        """After the devices ran out of memory: half as many side by side; whether that is fewer."""
        before = self.most
        self.together = max(self.together // 2, 1)
        self._programs = {key: p for key, p in self._programs.items() if p.size <= self.most}
        return self.most < before


class OutOfMemory(Exception):
    """So many trials do not fit side by side."""
