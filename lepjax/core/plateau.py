"""Reduce on plateau: lower the learning rate when a metric stops improving.

Pure: `update(memory, value) -> memory`. The run applies `memory.scale` to the leaf `hparams["lr_scale"]`, so that a
reduction never recompiles. The rule is torch.optim.lr_scheduler.ReduceLROnPlateau's.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Memory:
    """What the rule remembers between evaluations."""

    best: float
    bad: int = 0
    cooldown: int = 0
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Plateau:
    """After `patience` evaluations without an improvement, multiply the learning rate by `factor`."""

    monitor: str = "dev_loss"
    """The metric to watch."""
    mode: str = "min"
    """Whether lower (`min`) or higher (`max`) is better."""
    factor: float = 0.1
    """What a reduction multiplies the learning rate by."""
    patience: int = 10
    """Evaluations without an improvement that are tolerated."""
    threshold: float = 1e-4
    """The relative change that counts as an improvement."""
    cooldown: int = 0
    """Evaluations to wait after a reduction."""
    smallest: float = 0.0
    """The least factor reached."""

    def start(self) -> Memory:
        return Memory(best=float("inf") if self.mode == "min" else float("-inf"))

    def update(self, memory: Memory, value: float) -> Memory:
        if self.mode == "min":
            better = value < memory.best * (1.0 - self.threshold)
        else:
            better = value > memory.best * (1.0 + self.threshold)
        best, bad = (value, 0) if better else (memory.best, memory.bad + 1)
        cooldown, scale = memory.cooldown, memory.scale
        if cooldown > 0:
            cooldown, bad = cooldown - 1, 0
        if bad > self.patience:
            scale, cooldown, bad = max(scale * self.factor, self.smallest), self.cooldown, 0
        return Memory(best, bad, cooldown, scale)
