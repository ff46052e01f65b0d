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
        best = self.best.step if self.best is not None and self.best.step >= 0 else None
        if loop.last or best == loop.step or (self.every and loop.step % self.every == 0):
            loop.flush()
            jax.block_until_ready(loop.state)  # steps still running are not checkpoint time
            memory = collect_memory(loop.callbacks)
            with loop.clock.phase("checkpoint"):
                meta = {**self.meta, "memory": memory, "results": loop.results, "evaluated": loop.evaluated}
                self.checkpoints.save(loop.step, loop.state, meta, best)
