"""Callbacks that steer a run: best so far, early stopping, plateau, divergence."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from lepjax.core import plateau
from lepjax.experiment import EarlyStopping
from lepjax.run.callbacks import Callback, Values
from lepjax.run.fit import Loop, diverged, early


def improves(value: float, best: float, mode: str, min_delta: float = 0.0) -> bool:
    """A NaN never improves on anything; anything finite improves on NaN."""
    if math.isnan(value):
        return False
    if math.isnan(best):
        return True
    return value < best - min_delta if mode == "min" else value > best + min_delta


class Best(Callback):
    """The best value of one metric, and its step."""

    memory_name = "best"

    def __init__(self, monitor: str, mode: str) -> None:
        self.monitor, self.mode = monitor, mode
        self.value, self.step = math.nan, -1

    def memory(self) -> Any:
        return {"value": self.value, "step": self.step}

    def remember(self, memory: Any) -> None:
        self.value, self.step = memory["value"], memory["step"]

    def keeps(self) -> set[int]:
        return {self.step}

    def published(self, loop: Loop, step: int, values: Values) -> None:
        if self.monitor in values and improves(values[self.monitor], self.value, self.mode):
            self.value, self.step = values[self.monitor], step


class StopEarly(Callback):
    """Ends the run when the monitored metric has not improved for more than `patience` evaluations."""

    memory_name = "early_stopping"

    def __init__(self, rule: EarlyStopping) -> None:
        self.rule = rule
        self.best, self.bad = math.nan, 0

    def memory(self) -> Any:
        return {"best": self.best, "bad": self.bad}

    def remember(self, memory: Any) -> None:
        self.best, self.bad = memory["best"], memory["bad"]

    def published(self, loop: Loop, step: int, values: Values) -> None:
        if self.rule.monitor not in values:
            return
        if improves(values[self.rule.monitor], self.best, self.rule.mode, self.rule.min_delta):
            self.best, self.bad = values[self.rule.monitor], 0
            return
        self.bad += 1
        if self.bad > self.rule.patience:
            best = f"{self.rule.monitor} {self.best:.4g}"
            loop.stop = early(f"early stopping at step {step}: no improvement on {best} in {self.bad} evaluations")


class ReduceOnPlateau(Callback):
    """Lowers `hparams["lr_scale"]` when the monitored metric stops improving."""

    memory_name = "plateau"

    def __init__(self, rule: plateau.Plateau) -> None:
        self.rule = rule
        self.state = rule.start()

    def memory(self) -> Any:
        return dataclasses.asdict(self.state)

    def remember(self, memory: Any) -> None:
        self.state = plateau.Memory(**memory)

    def published(self, loop: Loop, step: int, values: Values) -> None:
        if self.rule.monitor not in values:
            return
        before, self.state = self.state, self.rule.update(self.state, values[self.rule.monitor])
        if self.state.scale != before.scale:
            loop.set_hparam("lr_scale", self.state.scale)


class StopDiverged(Callback):
    """Ends the run when `most` steps in a row were skipped, as far as logged steps tell.

    A logged step decides one step later, as it is read then, also where a checkpoint or an interruption reads it at once:
    so the run ends with the same step whatever happens on the way. Run again, it has `most` steps more.
    """

    memory_name = "diverged"

    def __init__(self, most: int) -> None:
        self.most = most
        self.step = -1  # the newest logged step
        self.skipped, self.row = 0.0, 0

    def memory(self) -> Any:
        return {"step": self.step, "skipped": self.skipped, "row": self.row}

    def remember(self, memory: Any) -> None:
        self.step, self.skipped, self.row = memory["step"], memory["skipped"], memory["row"]

    def started(self, loop: Loop) -> None:
        if self.step < 0:
            self.step, self.skipped = loop.step, float(loop.state.skipped)

    def stepped(self, loop: Loop) -> None:
        self._decide(loop)

    def published(self, loop: Loop, step: int, values: Values) -> None:
        if "train_skipped" not in values:
            return
        taken, skipped = step - self.step, values["train_skipped"] - self.skipped
        self.step, self.skipped = step, values["train_skipped"]
        self.row = self.row + taken if skipped >= taken else 0
        self._decide(loop)

    def _decide(self, loop: Loop) -> None:
        if self.row >= self.most and (loop.step > self.step or loop.step >= loop.total_steps):
            loop.stop = diverged(
                f"diverged: all of the last {self.row} steps were skipped; lower --optimizer.learning-rate or "
                "--optimizer.clip-norm, or ask `lepjax debug nan` for the cause"
            )
            self.row = 0
