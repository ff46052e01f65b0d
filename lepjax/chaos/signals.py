"""Signals from outside, in every phase of a run: it saves and ends by itself, and the same command goes on."""

from __future__ import annotations

import itertools
import os
import pathlib
import random
import signal
import time
from collections.abc import Iterator

from lepjax.chaos.chain import Fault, Struck
from lepjax.chaos.oracle import Oracle
from lepjax.chaos.trial import Trial, committed, heartbeat, lines, members
from lepjax.core.errors import DONE, RESTART

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
GRACE = 10.0  # seconds until it must have ended
COMPILES = 5.0  # seconds into a compilation
MISSES = 2  # runs that may end without the phase being seen; then any instant will do


def signals(oracle: Oracle, folder: pathlib.Path, rng: random.Random) -> Iterator[Fault]:
    """Without end: evenly over the phases that the undisturbed run went through."""
    phases = sorted(oracle.phases) or [""]
    for number, name in enumerate(itertools.cycle(SIGNALS)):
        phase = phases[number % len(phases)]
        before: tuple[str, ...] = ()
        if phase == "compile":
            before = ("env", f"JAX_COMPILATION_CACHE_DIR={folder / f'cache{number}'}")
            wait, linger = 0.0, rng.uniform(0, COMPILES)
        else:
            wait, linger = rng.uniform(0, oracle.training / 6), rng.uniform(0, 0.02)
        yield Fault(_Signal(name, phase, wait, linger, rng.random()), before)


class _Signal:
    """Sends a signal when a phase is seen, after so many seconds of training, to one process of the command."""

    def __init__(self, name: signal.Signals, phase: str, wait: float, linger: float, to: float) -> None:
        self.name, self.phase, self.wait, self.linger, self.to = name, phase, wait, linger, to
        self.missed = 0

    def __call__(self, trial: Trial) -> Struck | None:
        struck = self._sent(trial)
        self.missed += struck is None
        return struck

    def _sent(self, trial: Trial) -> Struck | None:
        early = self.phase in ("compile", "data", "restore", "init")
        if not trial.until(trial.claimed if early else trial.stepped):
            return None
        end = time.monotonic() + self.wait
        if not trial.until(lambda: time.monotonic() >= end):
            return None
        anywhere = not self.phase or self.missed >= MISSES
        if not trial.until(lambda: anywhere or heartbeat(trial.run).get("phase") == self.phase):
            return None
        time.sleep(self.linger)
        told = heartbeat(trial.run)
        running = [pid for pid in members(trial.process.pid) if _is_python(pid)]
        if trial.code() is not None or not running:
            return None
        os.kill(running[int(self.to * len(running))], self.name)
        sent = time.monotonic()
        code = trial.ended(GRACE)
        what = f"{self.name.name} in {told.get('phase', 'a run without a heartbeat')}"
        if code is None:
            return Struck(what, f"still there {GRACE:.0f} s later: {trial.last_words()}")
        return Struck(what, self._wrong(trial, code, time.monotonic() - sent))

    def _wrong(self, trial: Trial, code: int, seconds: float) -> str:
        if code not in (RESTART, DONE):
            return f"ended with {code} after {seconds:.1f} s: {trial.last_words()}"
        beat = heartbeat(trial.run).get("step", 0)
        taken = max([line.step for line in lines(trial.run)] + [beat if isinstance(beat, int) else 0], default=0)
        saved = max(committed(trial.run), default=0)
        return "" if saved >= taken else f"step {taken} was taken, but step {saved} is the newest saved"


def _is_python(pid: int) -> bool:
    try:
        return b"lepjax" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
