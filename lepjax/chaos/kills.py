"""kill -9 at random instants and inside saves as they are observed."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator

from lepjax.chaos import watch
from lepjax.chaos.chain import Fault, Struck
from lepjax.chaos.oracle import Oracle
from lepjax.chaos.trial import Trial, committed

LINGER = 0.05  # seconds into the writing of arrays, the one part of a save that is long
SAVES = 3  # that may go by before any part of a save will do


def kills(oracle: Oracle, rng: random.Random) -> Iterator[Fault]:
    """Without end: at a random instant, then in the next part of a save. Every fourth instant is before the first step."""
    for number, part in enumerate(itertools.cycle(watch.PHASES)):
        # A run has so many steps that several kills find it training.
        delay = rng.uniform(0, oracle.claimed if number % 4 == 0 else oracle.training / 6)
        yield Fault(lambda trial, a=(number % 4 > 0, delay): _at(trial, *a))  # type: ignore[misc]
        skipped, linger = rng.choice((0, 1, 2)), rng.uniform(0, LINGER)
        yield Fault(lambda trial, a=(part, skipped, linger): _inside(trial, *a))  # type: ignore[misc]


def _at(trial: Trial, training: bool, delay: float) -> Struck | None:
    """Kills so many seconds after the first step, or after it began to use its run directory."""
    checkpoints = trial.run / "checkpoints"
    before = watch.present(checkpoints)
    begun = trial.stepped if training else trial.claimed
    if not trial.until(begun):
        return None
    end = time.monotonic() + delay
    if not trial.until(lambda: time.monotonic() >= end):
        return None
    trial.kill()
    return Struck(_hit(trial, before))


def _inside(trial: Trial, part: str, skipped: int, linger: float) -> Struck | None:
    """Kills when a part of a save is seen, after so many whole saves."""
    checkpoints = trial.run / "checkpoints"
    before, old = watch.present(checkpoints), set(committed(trial.run))
    newest = max(old, default=0)

    def seen() -> bool:
        phase = watch.phase(checkpoints, before)
        if phase == watch.IDLE:
            return False
        saves = sum(step > newest for step in committed(trial.run))
        return saves >= skipped and (phase == part or saves >= skipped + SAVES)

    if not trial.until(seen):
        return None
    if part == "arrays":
        time.sleep(linger)
    trial.kill()
    return Struck(_hit(trial, before))


def _hit(trial: Trial, before: watch.Seen) -> str:
    """What the kill interrupted, by what it left behind."""
    phase = watch.phase(trial.run / "checkpoints", before)
    if phase != watch.IDLE:
        return f"in a save: {phase}"
    return "between saves" if trial.stepped() else "before the first step"
