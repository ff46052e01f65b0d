"""Two commands on one run directory at the same time: one trains, the other says who does and goes."""

from __future__ import annotations

import pathlib
import random
import time
from collections.abc import Iterator

from lepjax.chaos.chain import PATIENCE, Fault, Struck
from lepjax.chaos.oracle import Oracle
from lepjax.chaos.trial import Subject, Trial
from lepjax.core.errors import CONFIGURATION, DONE, UserError

LATE = 2.0  # seconds that the second may take once it is loaded


def loading(subject: Subject, run: pathlib.Path) -> float:
    """Seconds that the command takes to load and to print its help, beside another one that does the same."""
    both = [Trial([*subject.command(run), "--help"], run, subject.environment, run) for _ in range(2)]
    for one in both:
        one.ended(PATIENCE)
    return time.time() - both[0].started


def races(subject: Subject, oracle: Oracle, loaded: float, rng: random.Random) -> Iterator[Fault]:
    """Without end: two start together on what the race before left; the winner is killed while it trains."""
    while True:
        delay = rng.uniform(0, oracle.training / 6)
        yield Fault(lambda trial, delay=delay: _race(subject, trial, loaded, delay))  # type: ignore[misc]


def _race(subject: Subject, trial: Trial, loaded: float, delay: float) -> Struck | None:
    other = subject.start(trial.run)
    both = (trial, other)
    try:
        end = time.monotonic() + PATIENCE
        while not (over := [one for one in both if one.code() is not None]):
            if time.monotonic() > end:
                raise UserError("both train", where=str(trial.run))
            time.sleep(0.01)
        seconds = time.time() - over[0].started
        loser = over[0]
        winner = other if loser is trial else trial
        if not winner.until(winner.stepped):
            if (loser.code(), winner.code()) == (DONE, DONE):
                return None  # the run before was finished: there was nothing to train
            return Struck("nobody trained", f"both ended: {loser.last_words()} and {winner.last_words()}")
        time.sleep(delay)
    finally:
        trial.kill()
        other.kill()
    what = f"the {'second' if loser is other else 'first'} started gave way"
    last = (loser.told().strip().splitlines() or [""])[-1]
    if (
        loser.process.returncode != CONFIGURATION
        or not last.startswith("lepjax: ")
        or str(winner.process.pid) not in last
    ):
        return Struck(
            what, f"ended with {loser.process.returncode}, and does not name {winner.process.pid}: {last[-300:]}"
        )
    if seconds - loaded > LATE:
        return Struck(what, f"took {seconds - loaded:.1f} s more than to load ({loaded:.1f} s)")
    return Struck(what)
