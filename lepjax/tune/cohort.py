"""Trials that train together: steps, rungs, and smaller programs for those that are left."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from lepjax.tune.objective import Objective
from lepjax.tune.programs import Job, Program, Stacked

Judge = Callable[[int, Mapping[int, float]], set[int]]
"""`judge(step, {place: score}) -> places that end here`; called with all that report at this step."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A trial in a cohort: a job for each of its seeds, and the steps at which it reports before its end.

    Where the number of steps depends on the seed (packed rows), all end with the first.
    """

    jobs: tuple[Job, ...]
    rungs: tuple[int, ...]

    @property
    def total_steps(self) -> int:
        return self.jobs[0].total_steps


@dataclasses.dataclass(frozen=True)
class Ended:
    """What came of a trial. `by_seed` are the metric's values where it counts: at the last, or at the best evaluation."""

    by_seed: tuple[float, ...]
    steps: int
    pruned: bool
    note: str = ""

    @property
    def score(self) -> float:
        return sum(self.by_seed) / len(self.by_seed)


def train(
    entries: Sequence[Entry],
    program_of: Callable[[int], Program],
    objective: Objective,
    judge: Judge = lambda step, scores: set(),
    max_skipped: int = 20,
    watch: Callable[[int, jax.Array], Any] | None = None,
) -> list[Ended]:
    """Trains all entries from their first step to their ends, or to where `judge` ends them.

    `program_of(count)` is a program for at least so many jobs; where far fewer are left, their states move on into a
    smaller one. `watch(step, losses)` sees the training losses of every step (float32[jobs], on the device).
    """
    places = [(i, s) for i, entry in enumerate(entries) for s in range(len(entry.jobs))]  # the program's slots
    program = program_of(len(places))
    jobs = [entries[i].jobs[s] for i, s in places]
    states, stream = program.init(jobs), program.stream(jobs)
    alive = set(range(len(entries)))
    best: dict[int, tuple[float, ...]] = {}
    ended: dict[int, Ended] = {}
    step = 0
    stops = sorted({stop for entry in entries for stop in (*entry.rungs, entry.total_steps)})
    for stop in stops:
        while step < stop:
            states, losses = program.step(states, next(stream))
            step += 1
            if watch is not None:
                watch(step, losses)
        due = [i for i in sorted(alive) if stop in (*entries[i].rungs, entries[i].total_steps)]
        if not due:
            continue
        values, stuck = program.score(states), program.stuck(states)
        scores: dict[int, float] = {}
        for i in due:
            mine = [slot for slot, (owner, _) in enumerate(places) if owner == i]
            now = tuple(values[slot] for slot in mine)
            best[i] = _counts(objective, best.get(i), now)
            if note := _failed(now, max(stuck[slot] for slot in mine), max_skipped):
                ended[i] = Ended(best[i], stop, pruned=False, note=note)
            else:
                scores[i] = sum(best[i]) / len(best[i])
        gone = judge(stop, scores)
        for i in scores:
            if stop == entries[i].total_steps:
                ended[i] = Ended(best[i], stop, pruned=False)
            elif i in gone:
                ended[i] = Ended(best[i], stop, pruned=True)
        alive -= ended.keys()
        if not alive:
            break
        kept = [slot for slot, (owner, _) in enumerate(places) if owner in alive]
        smaller = program_of(len(kept))
        if smaller.size < program.size and isinstance(program, Stacked) and isinstance(smaller, Stacked):
            states = program.picked(states, kept, smaller)
            places = [places[slot] for slot in kept]
            program = smaller
            stream = program.stream([entries[i].jobs[s] for i, s in places], step)
    return [ended[i] for i in range(len(entries))]


def _counts(objective: Objective, before: tuple[float, ...] | None, now: tuple[float, ...]) -> tuple[float, ...]:
    """The values that a trial is judged by."""
    if before is None or not objective.best or not all(map(math.isfinite, now)):
        return now
    return min(before, now, key=lambda values: objective.cost(sum(values)))


def _failed(values: tuple[float, ...], stuck: int, max_skipped: int) -> str:
    if not all(map(math.isfinite, values)):
        return f"the score is {values[0] if len(values) == 1 else values}"
    return f"{stuck} steps in a row were not finite" if stuck >= max_skipped else ""
