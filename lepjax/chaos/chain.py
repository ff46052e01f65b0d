"""Faults one after another on one run: every start goes on from what the fault before left, and so judges it."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence

from lepjax.chaos.oracle import Oracle
from lepjax.chaos.report import Outcome
from lepjax.chaos.trial import Subject, Trial, committed, lines
from lepjax.core.errors import DONE, UserError

PATIENCE = 600.0  # seconds that a command may take to its end


@dataclasses.dataclass(frozen=True)
class Struck:
    """What a fault hit; `bad` where the command already answered it wrongly."""

    what: str
    bad: str = ""


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something that ends a started command. `strike` returns None where the command reached its end first."""

    strike: Callable[[Trial], Struck | None]
    before: Sequence[str] = ()
    """What runs the command, such as strace and its options."""


def chain(
    kind: str, subject: Subject, oracle: Oracle, folder: pathlib.Path, faults: Iterable[Fault]
) -> Iterator[Outcome]:
    """Start, fault, start again, until all faults are done and judged; a run that reaches its end gives way to a new one.

    After every start: all logged losses are the oracle's, it began at the newest committed step or later, and no
    committed step is gone. Runs that were bad are left in `folder`.
    """
    waiting = collections.deque(faults)
    pending: list[Outcome] = []  # faults that no later start has judged
    number, saved = 0, 0
    while waiting or pending:
        trial = subject.start(folder / f"run{number}", waiting[0].before if waiting else ())
        struck, problem = _suffer(trial, waiting[0] if waiting else None)
        problem = problem or _judged(trial, oracle, saved, at_end=struck is None)
        if problem:
            if not pending:
                waiting.popleft()
                pending = [Outcome(kind, "none")]
            yield from (dataclasses.replace(outcome, bad=outcome.bad or problem) for outcome in pending)
            pending, number, saved = [], number + 1, 0
            continue
        saved = max(committed(trial.run), default=0)
        if struck is None or trial.stepped():
            yield from pending
            pending = []
        if struck is None:
            shutil.rmtree(trial.run)
            number, saved = number + 1, 0
        else:
            waiting.popleft()
            pending.append(Outcome(kind, struck.what, struck.bad))


def _suffer(trial: Trial, fault: Fault | None) -> tuple[Struck | None, str]:
    """What a fault hit, or None where the command came to its end; and what is wrong where it did not come to one."""
    try:
        struck = None if fault is None else fault.strike(trial)
        hangs = struck is None and trial.ended(PATIENCE) is None
        return struck, f"no end within {PATIENCE:.0f} s: {trial.last_words()}" if hangs else ""
    except UserError as error:
        return None, str(error)
    finally:
        trial.kill()


def _judged(trial: Trial, oracle: Oracle, saved: int, at_end: bool) -> str:
    """What is wrong after a start, in words. `saved`: the newest committed step before it."""
    found = lines(trial.run)
    if at_end and trial.code() != DONE:
        return f"the same command ends with {trial.code()}: {trial.last_words()}"
    if problem := oracle.incomplete(found) if at_end else oracle.differs(found):
        return problem
    began = min((line.step for line in found if line.time >= trial.started), default=saved + 1) - 1
    if began < saved:
        return f"step {saved} was committed, but the restart began at {began}"
    if max(committed(trial.run), default=0) < saved:
        return f"step {saved} was committed and is gone"
    return ""
