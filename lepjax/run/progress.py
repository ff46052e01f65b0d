"""What the terminal shows: a bar where there is a terminal, plain lines elsewhere, and few of them in a notebook."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lepjax.core.cost import Utilisation
from lepjax.run.callbacks import Callback, Values
from lepjax.run.fit import Loop

LINE_SECONDS = 10.0  # plain lines come no faster than this
SHORT = {"accuracy": "acc"}
NOTEBOOK_LINES = 10  # a whole run in a notebook prints about this many


def duration(seconds: float) -> str:
    """`4 s`, `2 min 05 s`, `3 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def in_notebook() -> bool:
    return "ipykernel" in sys.modules


class ShowProgress(Callback):
    """Step, loss, gradient norm, learning rate, useful tokens/s (or whatever `unit` is), MFU and HFU, time left."""

    def __init__(self, console: Console, utilisation: Utilisation | None = None, unit: str = "tokens") -> None:
        self.console, self.utilisation, self.unit = console, utilisation, unit
        self._bar: Progress | None = None
        self._task: Any = None
        self._started = self._shown = 0.0
        self._first = 0
        self._estimated = False

    def started(self, loop: Loop) -> None:
        self._started = time.perf_counter()
        self._first = loop.step
        if self.console.is_terminal and not in_notebook():
            text = TextColumn("{task.fields[text]}")
            self._bar = Progress(
                TextColumn("step {task.completed}/{task.total}"), BarColumn(20), text, console=self.console
            )
            self._task = self._bar.add_task("train", total=loop.total_steps, completed=loop.step, text="")
            self._bar.start()

    def stepped(self, loop: Loop) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=loop.step)

    def published(self, loop: Loop, step: int, values: Values) -> None:
        if "train_loss" not in values:
            return  # `ShowEvaluation` tells
        left = self._left(loop, step)
        if not self._estimated and step - self._first >= 2:
            self._estimated = True
            self._say(f"estimated time left: {duration(left)} for {loop.total_steps - step} steps")
        speed = values["train_tokens_per_second"]
        parts = [
            f"loss {values['train_loss']:.4f}",
            f"grad norm {values['train_grad_norm']:.3f}",
            f"lr {values['train_learning_rate']:.2e}",
            f"{speed:,.0f} {self.unit}/s",
        ]
        if self.utilisation is not None:
            parts.append(self.utilisation.told(speed))
        if values.get("train_skipped"):
            parts.append(f"skipped {values['train_skipped']:.0f}")
        text = ", ".join([*parts, f"{duration(left)} left"])
        if self._bar is not None:
            self._bar.update(self._task, text=text)
        elif self._due(loop, step):
            self._say(f"step {step}/{loop.total_steps} | {text}")

    def _left(self, loop: Loop, step: int) -> float:
        per_step = (time.perf_counter() - self._started) / max(step - self._first, 1)
        return per_step * (loop.total_steps - step)

    def _due(self, loop: Loop, step: int) -> bool:
        now = time.perf_counter()
        if in_notebook():
            due = step % max(loop.total_steps // NOTEBOOK_LINES, 1) < loop.log_every
        else:
            due = now - self._shown >= LINE_SECONDS or step == loop.total_steps
        if due:
            self._shown = now
        return due

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)

    def finished(self, loop: Loop) -> None:
        if self._bar is not None:
            self._bar.stop()


class ShowEvaluation(Callback):
    """One line per evaluation: `Epoch 1 | train loss: 0.2344, dev acc: 0.8424`.

    `headline` names the metrics it shows; the others are in metrics.jsonl. The training loss is the mean over the steps
    since the line before.
    """

    def __init__(self, console: Console, steps_per_epoch: float, headline: tuple[str, ...]) -> None:
        self.console, self.steps_per_epoch, self.headline = console, steps_per_epoch, headline

    def published(self, loop: Loop, step: int, values: Values) -> None:
        if "train_loss" in values:
            return
        shown = {"train loss": loop.mean_loss()} if loop.losses else {}
        for name, value in values.items():
            split, _, metric = name.partition("_")
            if metric in self.headline:
                shown[f"{split} {SHORT.get(metric, metric.replace('_', ' '))}"] = value
        epoch = step / self.steps_per_epoch
        when = f"Epoch {round(epoch)}" if abs(epoch - round(epoch)) < 0.5 / self.steps_per_epoch else f"Step {step}"
        line = ", ".join(f"{name}: {value:.4f}" for name, value in shown.items())
        self.console.print(f"{when} | {line}", highlight=False, soft_wrap=True)
