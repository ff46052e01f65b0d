"""A training run that ends in time, and well: with a learning rate that has come down."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lepjax.run.callbacks import Callback
from lepjax.run.fit import Loop, early

EVERY = 10
"""Steps between two looks at the clock."""


def fitting(step: int, goal: int, pace: float, left: float) -> int:
    """The last step to take: `goal`, or as many more than `step` as `left` seconds hold at `pace` each; one at least."""
    return min(goal, step + max(int(left / pace), 1))


class KeepDeadline(Callback):
    """Where the steps are slower than planned, fewer are taken, and the decay ends with them: its length is a leaf of the
    state, so nothing compiles. `clock() >= deadline` is when training must have ended.
    """

    memory_name = "deadline"

    def __init__(self, deadline: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.deadline, self.clock = deadline, clock
        self.goal = 0
        """The last step, where it was brought forward; 0: it was not."""
        self._first, self._began = 0, 0.0

    def memory(self) -> Any:
        return {"goal": self.goal}

    def remember(self, memory: Any) -> None:
        self.goal = memory["goal"]

    def started(self, loop: Loop) -> None:
        self._first, self._began = loop.step, self.clock()

    def stepped(self, loop: Loop) -> None:
        taken = loop.step - self._first
        if taken and taken % EVERY == 0:
            now, planned = self.clock(), self.goal or loop.total_steps
            goal = fitting(loop.step, planned, (now - self._began) / taken, self.deadline - now)
            if goal < planned:
                self.goal = goal
                loop.set_hparam("decay_steps", float(goal))
        if self.goal and loop.step >= self.goal and loop.step < loop.total_steps:
            loop.stop = early(f"the budget has room for {loop.step} of {loop.total_steps} steps")
