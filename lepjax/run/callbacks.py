"""What watches a run. The loop knows only this protocol; what a run writes, prints or decides is a callback."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lepjax import experiment as experiments
from lepjax.core import fields
from lepjax.data.source import Splits
from lepjax.experiment import Experiment

if TYPE_CHECKING:
    from lepjax.run.fit import Loop
    from lepjax.run.train import Outcome

Values = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run is about to begin with.

    experiment  as it was given, or as the callbacks before have made it
    splits      its data, read
    before      what its run directory holds; None: the run is new
    say         tells the person who started it a line
    """

    experiment: Experiment
    splits: Splits
    before: Experiment | None
    say: Callable[[str], None]


class Callback:
    """Every hook is optional. Hooks run in the order of the callbacks, in every process."""

    def planned(self, start: Start) -> Experiment:
        """The experiment as it shall run: asked in every process, once its data are read and before anything is written."""
        return start.experiment

    memory_name = ""
    """Under this name `memory` goes into the checkpoint; empty: nothing to remember."""

    def memory(self) -> Any:
        """JSON that, given to `remember`, makes this callback go on as if the run had not been interrupted."""

    def remember(self, memory: Any) -> None:
        """Takes back what `memory` gave."""

    def keeps(self) -> set[int]:
        """Steps whose checkpoints are still needed."""
        return set()

    def started(self, loop: Loop) -> None:
        """Before the first step of this process."""

    def stepped(self, loop: Loop) -> None:
        """After each step was dispatched. Must not read device values: they are still being computed."""

    def published(self, loop: Loop, step: int, values: Values) -> None:
        """Host values became known: of a training step (one step late) or of an evaluation."""

    def went_back(self, loop: Loop) -> None:
        """The run stands at `loop.step` again: what was logged and saved since is gone."""

    def finished(self, loop: Loop) -> None:
        """After the last step of this process, also when an error ended it."""

    def concluded(self, outcome: Outcome) -> None:
        """After result.json was written."""


def planning(callbacks: Sequence[Callback]) -> list[Callback]:
    """Those that may change how a run begins."""
    return [callback for callback in callbacks if type(callback).planned is not Callback.planned]


def planned(callbacks: Sequence[Callback], start: Start) -> Experiment:
    """The experiment as one callback after the other wants it; what they changed is said."""
    experiment = start.experiment
    for callback in callbacks:
        experiment = callback.planned(dataclasses.replace(start, experiment=experiment))
    for kind in (fields.IDENTITY, fields.HPARAM, fields.RUNTIME):
        for path, old, new in experiments.differences(start.experiment, experiment, kind):
            start.say(f"{path} {old} -> {new}")
    return experiment


def collect_memory(callbacks: tuple[Callback, ...]) -> dict[str, Any]:
    return {c.memory_name: c.memory() for c in callbacks if c.memory_name}


def give_memory(callbacks: tuple[Callback, ...], memory: dict[str, Any]) -> None:
    for callback in callbacks:
        if callback.memory_name in memory:
            callback.remember(memory[callback.memory_name])
