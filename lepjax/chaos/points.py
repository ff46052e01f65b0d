"""Crash points: kill -9 at each system call that moves a save from one state on disk to the next.

strace stops the whole command at every such call (an injected SIGSTOP), so the n-th is exact: what comes after it never
happens. Its own `when=n` would count the calls of each thread apart, and a save has many threads.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator

from lepjax.chaos import watch
from lepjax.chaos.chain import PATIENCE, Fault, Struck
from lepjax.chaos.trial import POLL, Subject, Trial, children, committed
from lepjax.core.errors import UserError

GROUPS = ("fsync,fdatasync", "rename,renameat,renameat2", "mkdir,mkdirat", "unlink,unlinkat,rmdir")
STRACE = ("strace", "-f", "--seccomp-bpf")
CALLS = ",".join(GROUPS)
ERRORS = ("ENOSPC", "EIO")
KEPT = 2  # steps that a run keeps: a save with as many before it also removes one
STUCK = 0.02  # seconds after which a stopped command is let go again
_CALL = re.compile(r"\d+ +(\w+)\(")
_BEGINS = re.compile(r"mkdir.*/checkpoints/\d+\.orbax-checkpoint-tmp\"")


def unavailable() -> str:
    """Why strace cannot be used here; empty: it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        probe = ["timeout", "-s", "INT", "0.5", "strace", "-f", "-p", str(sleeper.pid)]
        told = subprocess.run(probe, capture_output=True, text=True).stderr
    finally:
        sleeper.kill()
        sleeper.communicate()
    return "" if "attached" in told else f"strace may not attach ({' '.join(told.split())[:200]})"


def calls_of_a_save(subject: Subject, folder: pathlib.Path) -> int:
    """How many of the calls a save makes between its beginning and that of the next, by a run that is only watched."""
    trace = folder / "counted.strace"
    trial = subject.start(folder / "counted", before=(*STRACE, "-o", str(trace), "-e", f"trace={CALLS}"))

    def full() -> bool:
        """A save has begun that has enough steps before it, and the one after it too."""
        return len(committed(trial.run)) >= KEPT and len(_BEGINS.findall(trace.read_text())) >= KEPT + 2

    trial.until(full, PATIENCE)
    trial.kill()
    lines = [line for line in trace.read_text().splitlines() if "/checkpoints" in line and _CALL.match(line)]
    begins = [i for i, line in enumerate(lines) if _BEGINS.search(line)]
    if len(begins) < KEPT + 2:
        raise UserError("the run saves too seldom", where=subject.target, fix="Pass --checkpoint-every.")
    return begins[KEPT + 1] - begins[KEPT]


def points(numbers: Iterable[int], folder: pathlib.Path) -> Iterator[Fault]:
    """One fault for each number of a call in a save."""
    for number in numbers:
        trace = folder / f"{number}.{time.monotonic_ns()}.strace"
        inject = f"inject={CALLS}:signal=STOP"
        before = (*STRACE, "-y", "-o", str(trace), "-e", f"trace={CALLS}", "-e", inject, "-e", "signal=STOP")
        yield Fault(lambda trial, a=(trace, number): _strike(trial, *a), before)  # type: ignore[misc]


def _strike(trial: Trial, trace: pathlib.Path, number: int) -> Struck | None:
    """Lets the command go from call to call, up to the n-th of a save that has enough steps before it."""
    checkpoints = trial.run / "checkpoints"
    before = watch.present(checkpoints)
    count, quiet = -1, time.monotonic()
    if not trial.until(trace.exists):
        return None
    with open(trace, encoding="utf-8", errors="replace") as lines:
        while trial.code() is None:
            line = lines.readline()
            if not line:
                if time.monotonic() - quiet > STUCK:
                    _let_go(trial)
                    quiet = time.monotonic()
                time.sleep(POLL)
                continue
            quiet = time.monotonic()
            call = _CALL.match(line)
            if call and "/checkpoints" in line:
                if count < 0 and _BEGINS.search(line) and len(committed(trial.run)) >= KEPT:
                    count = 0
                count += count >= 0
                if count >= number:
                    trial.kill()
                    return Struck(f"{call[1]} ({watch.phase(checkpoints, before)})")
            elif "--- SIGSTOP" in line:
                _let_go(trial)
    return None


def _let_go(trial: Trial) -> None:
    for child in children(trial.process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGCONT)


def errors(count: int, rng: random.Random) -> Iterator[Fault]:
    """So many failing calls: no space, or a bad device, at the first, second, ... such call of a thread in a save."""
    kinds = list(itertools.product(GROUPS, ERRORS, (1, 2, 3)))
    for group, error, when in rng.sample(kinds, min(count, len(kinds))):
        yield Fault(lambda trial, a=(group, error, when): _fail(trial, *a))  # type: ignore[misc]


def _fail(trial: Trial, group: str, error: str, when: int) -> Struck | None:
    """Fails calls of a training command until it ends, or makes do without; then it is killed."""
    if not trial.until(trial.stepped):
        return None
    newest = max(committed(trial.run), default=0)
    inject = f"inject={group}:error={error}:when={when}"
    output = trial.output.with_suffix(".strace")
    command = ["strace", "-f", "-o", str(output), "-e", f"trace={group}", "-e", inject, "-p", str(trial.process.pid)]
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        trial.until(lambda: sum(step > newest for step in committed(trial.run)) > KEPT)
    finally:
        trial.kill()
        tracer.wait()
    injected = "(INJECTED)" in output.read_text(errors="replace")
    return Struck(f"{error} of {group.split(',')[0]}" + ("" if injected else ", which was not called"))
