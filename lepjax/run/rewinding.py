"""Going back from a loss spike: to the checkpoint before it, past the data that led to it.

Every decision is a function of the logged losses and of the interval of checkpoints, and the checkpoints carry it on. So a
run that is killed anywhere, also while it goes back, comes by the same decisions again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from lepjax.core.spikes import Memory, RewindSpikes
from lepjax.core.state import State
from lepjax.run import files
from lepjax.run.callbacks import Callback, Values, give_memory
from lepjax.run.checkpoint import Checkpoints
from lepjax.run.cursor import SKIPPED, Jumps, cursor_after, read_jumps
from lepjax.run.directory import RunDirectory
from lepjax.run.fit import Loop, diverged
from lepjax.run.processes import main_process, on_main


@dataclasses.dataclass(frozen=True)
class History:
    """What a run can go back to."""

    directory: RunDirectory
    checkpoints: Checkpoints
    every: int
    """Steps between checkpoints; 0: there are none on the way."""
    restore: Callable[[int], tuple[State, dict[str, Any]]]
    """(state, meta) of a checkpoint, with the hyperparameters of now."""
    stream: Callable[[int, int], Iterable[Any]]
    """`stream(step, cursor)`: the placed batches after a step, from a cursor on."""


class Rewind(Callback):
    """Goes back when `rule` says so, at most `rule.most` times; then it ends the run.

    A logged step decides one step later, as `StopDiverged` explains; what the last step of a run shows comes too late.
    """

    memory_name = "spikes"

    def __init__(self, rule: RewindSpikes, history: History, say: Callable[[str], None]) -> None:
        self.rule, self.history, self.say = rule, history, say
        self.seen = Memory()
        self.step = 0  # the newest logged step
        self.times = 0
        self.jumps: Jumps = []

    def memory(self) -> Any:
        return {"seen": dataclasses.asdict(self.seen), "step": self.step, "times": self.times, "jumps": self.jumps}

    def remember(self, memory: Any) -> None:
        seen = memory["seen"]
        self.seen = Memory(tuple(seen["losses"]), seen["good"], seen["row"])
        self.step, self.times = memory["step"], memory["times"]
        self.jumps = [(step, cursor) for step, cursor in memory["jumps"]]

    @property
    def target(self) -> int:
        """The last step with a checkpoint, by interval, that certainly lies before the spike."""
        every = self.history.every
        return self.seen.good - self.seen.good % every if every else 0

    def keeps(self) -> set[int]:
        return {self.target}

    def started(self, loop: Loop) -> None:
        self._tell()  # killed while it went back, a run does not yet know of it

    def published(self, loop: Loop, step: int, values: Values) -> None:
        if "train_loss" in values:
            self.seen, self.step = self.rule.update(self.seen, step, values["train_loss"]), step

    def stepped(self, loop: Loop) -> None:
        if not self.rule.due(self.seen) or loop.step <= self.step or loop.stop is not None:
            return
        what = f"loss spike: above {self.rule.band(self.seen):.4g} from after step {self.seen.good} to step {self.step}"
        if self.times >= self.rule.most:
            self._give_up(loop, f"{what}, and the run went back {self.times} times before")
            return
        self.history.checkpoints.wait()
        step = on_main(self._newest_good)
        if step is None:
            self._give_up(loop, f"{what}, and no good checkpoint from before it is left")
            return
        with loop.clock.phase("rewind"):
            first, cursor = self._go_back(loop, step)
        self.say(
            f"{what}; went back to step {step} and passed over batches {first} to {cursor - 1} "
            f"({self.times} of {self.rule.most} times)"
        )

    def _give_up(self, loop: Loop, reason: str) -> None:
        loop.stop = diverged(f"diverged: {reason}; lower --optimizer.learning-rate or --optimizer.clip-norm")
        self.seen = dataclasses.replace(self.seen, row=0)  # run again, it has as much patience as before

    def _newest_good(self) -> int | None:
        checkpoints, target = self.history.checkpoints, self.target
        earlier = (step for step in reversed(checkpoints.steps()) if step <= target)
        return next((step for step in earlier if checkpoints.damage(step) is None), None)

    def _go_back(self, loop: Loop, step: int) -> tuple[int, int]:
        """The first batch that is passed over, and the first that is not."""
        times, first = self.times + 1, cursor_after(self.jumps, step)
        cursor = max(first + self.rule.skip, cursor_after(self.jumps, self.step))
        jumps = [*(jump for jump in self.jumps if jump[0] < step), (step, cursor)]
        loop.state = None  # makes room
        state, meta = self.history.restore(step)
        state = dataclasses.replace(state, cursor=_like(cursor, state.cursor))
        on_main(lambda: self._forget_after(step))
        loop.go_back(state, step, self.history.stream(step, cursor))
        loop.results, loop.evaluated = meta["results"], meta["evaluated"]
        give_memory(loop.callbacks, meta["memory"])
        self.times, self.jumps = times, jumps
        self._tell()
        for callback in loop.callbacks:
            callback.went_back(loop)
        return first, cursor

    def _forget_after(self, step: int) -> None:
        self.history.checkpoints.remove_after(step)
        self.history.directory.forget_after(step)

    def _tell(self) -> None:
        path = self.history.directory.path
        if main_process() and self.jumps != read_jumps(path):
            files.write_json(path / SKIPPED, self.jumps)


def _like(value: int, old: jax.Array) -> jax.Array:
    return jax.device_put(np.asarray(value, old.dtype), old.sharding)
