"""When to save: at intervals, where a callback needs it, and at the end."""

from __future__ import annotations

from typing import Any

import jax

from lepjax.run.callbacks import Callback, collect_memory
from lepjax.run.checkpoint import Checkpoints
from lepjax.run.fit import Loop


class Save(Callback):
    """Stands after every callback that evaluates or decides, so that a step's decisions are in its checkpoint."""

    def __init__(self, checkpoints: Checkpoints, every: int, meta: dict[str, Any]) -> None:
        self.checkpoints, self.every, self.meta = checkpoints, every, meta

    def started(self, loop: Loop) -> None:
        if loop.step in needed(loop.callbacks):
            self.save(loop)

    def stepped(self, loop: Loop) -> None:
        self.checkpoints.check()
        due = self.every and loop.step % self.every == 0
        if due or loop.last or loop.step in needed(loop.callbacks):
            self.save(loop)

    def save(self, loop: Loop) -> None:
        """Saves this step, unless it was saved already."""
        loop.flush()
        jax.block_until_ready(loop.state)  # steps still running are not checkpoint time
        with loop.clock.phase("checkpoint"):
            memory = collect_memory(loop.callbacks)
            meta = {**self.meta, "memory": memory, "results": loop.results, "evaluated": loop.evaluated}
            self.checkpoints.save(loop.step, loop.state, meta, needed(loop.callbacks))


def needed(callbacks: tuple[Callback, ...]) -> set[int]:
    """Steps whose checkpoints some callback still needs."""
    return {step for callback in callbacks for step in callback.keeps()}
