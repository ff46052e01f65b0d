"""When to save: at intervals, at the best so far, and at the end."""

from __future__ import annotations

from typing import Any

import jax

from lepjax.run.callbacks import Callback, collect_memory
from lepjax.run.checkpoint import Checkpoints
from lepjax.run.fit import Loop
from lepjax.run.stopping import Best


class Save(Callback):
    """Stands after every callback that evaluates or decides, so that a step's decisions are in its checkpoint."""

    def __init__(self, checkpoints: Checkpoints, every: int, meta: dict[str, Any], best: Best | None) -> None:
        self.checkpoints, self.every, self.meta, self.best = checkpoints, every, meta, best

    def stepped(self, loop: Loop) -> None:
        self.checkpoints.check()
        if loop.last or self._best == loop.step or (self.every and loop.step % self.every == 0):
            self.save(loop)

    @property
    def _best(self) -> int | None:
        return self.best.step if self.best is not None and self.best.step >= 0 else None

    def save(self, loop: Loop) -> None:
        """Saves this step, unless it was saved already."""
        loop.flush()
        jax.block_until_ready(loop.state)  # steps still running are not checkpoint time
        with loop.clock.phase("checkpoint"):
            memory = collect_memory(loop.callbacks)
            meta = {**self.meta, "memory": memory, "results": loop.results, "evaluated": loop.evaluated}
            self.checkpoints.save(loop.step, loop.state, meta, self._best)
