"""The run that nothing disturbs, and what differs from it."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Sequence

from lepjax.chaos.trial import Line, Subject, heartbeat, lines
from lepjax.core.errors import DONE, UserError


@dataclasses.dataclass(frozen=True)
class Oracle:
    """What an undisturbed run logged, and the seconds until it had claimed its directory."""

    losses: dict[int, str]
    claimed: float
    training: float
    """Seconds from the first step to the end."""
    phases: dict[str, float]
    """Seconds in each phase that its heartbeat told."""

    def differs(self, found: Sequence[Line]) -> str:
        """The first line that the oracle does not have, in words; empty: all agree."""
        for line in found:
            expected = self.losses.get(line.step, "no such step")
            if line.loss != expected:
                return f"wrong loss: step {line.step} is {line.loss}, undisturbed {expected}"
        return ""

    def incomplete(self, found: Sequence[Line], after: int = 0) -> str:
        """What is wrong with the lines after a step of a run that says it is done: differing, missing or doubled ones."""
        steps = [line.step for line in found if line.step > after]
        if problem := self.differs([line for line in found if line.step > after]):
            return problem
        if missing := [step for step in self.losses if step > after and step not in steps]:
            return f"step {missing[0]} was never logged (and {len(missing) - 1} more)"
        doubled = sorted({step for step in steps if steps.count(step) > 1})
        return f"step {doubled[0]} was logged twice" if doubled else ""


def undisturbed(subject: Subject, run: pathlib.Path) -> Oracle:
    """Trains from start to end. Raises `UserError` where the command fails by itself or has too few steps."""
    trial = subject.start(run)
    claimed, before = 0.0, time.time()
    phases: dict[str, float] = {}
    try:
        while trial.code() is None:
            time.sleep(0.002)
            now, phase = time.time(), str(heartbeat(run).get("phase", ""))
            if not claimed and trial.claimed():
                claimed = now - trial.started
            if phase:
                phases[phase] = phases.get(phase, 0.0) + now - before
            before = now
    finally:
        trial.kill()
    if trial.code() != DONE:
        raise UserError(f"ends with {trial.code()} undisturbed: {trial.last_words()}", where=subject.target)
    found = lines(run)
    losses = {line.step: line.loss for line in found}
    if len(losses) < 20:
        raise UserError(f"{len(losses)} steps are too few", where=subject.target, fix="Pass --steps 100.")
    return Oracle(losses, claimed, found[-1].time - found[0].time, phases)
