"""Crash points: kill -9 at each system call that moves a save from one state on disk to the next.

strace stops the whole command at every such call (an injected SIGSTOP), so the n-th is exact: what comes after it never
happens. Its own `when=n` would count the calls of each thread apart, and a save has many threads.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
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

from lepjax.chaos.chain import PATIENCE, Fault, Struck
from lepjax.chaos.trial import POLL, Subject, Trial, children, committed
from lepjax.core.errors import UserError

GROUPS = (
    "?fsync,?fdatasync",
    "?rename,?renameat,?renameat2",
    "?mkdir,?mkdirat",
    "?unlink,?unlinkat,?rmdir",
)  # ?: if there is one
STRACE = ("strace", "-f", "--seccomp-bpf")
CALLS = ",".join(GROUPS)
ERRORS = ("ENOSPC", "EIO")
KEPT = 2  # steps that a run keeps: a save with as many before it also removes one
STUCK = 0.02  # seconds after which a stopped command is let go again
MISSES = 2  # runs in which a call may not come again
_CALL = re.compile(r"\d+ +(\w+)\((.*)")
_BEGINS = re.compile(r"mkdir /STEP\.orbax-checkpoint-tmp$")


@dataclasses.dataclass(frozen=True)
class Call:
    """The n-th call of a save with these arguments, steps and digests in paths left out."""

    what: str
    number: int


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


def calls_of_a_save(subject: Subject, folder: pathlib.Path) -> list[Call]:
    """The calls on checkpoints between the beginnings of two saves, in order, by a run that is only watched.

    Raises `UserError` where the run has too few saves.
    """
    trace = folder / "counted.strace"
    trial = subject.start(folder / "counted", before=(*STRACE, "-y", "-o", str(trace), "-e", f"trace={CALLS}"))

    def calls() -> list[str]:
        return [call for line in trace.read_text(errors="replace").splitlines() if (call := _call(line))]

    def begins() -> list[int]:
        return [i for i, call in enumerate(calls()) if _BEGINS.match(call)]

    trial.until(lambda: trial.stepped() and len(begins()) > KEPT + 1, PATIENCE)  # one that also removes a step is whole
    trial.kill()
    if len(begins()) <= KEPT + 1:
        raise UserError("the run saves too seldom", where=subject.target, fix="Pass --checkpoint-every.")
    seen: collections.Counter[str] = collections.Counter()
    found = []
    for call in calls()[slice(*begins()[KEPT : KEPT + 2])]:
        seen[call] += 1
        found.append(Call(call, seen[call]))
    return found


def _call(line: str) -> str:
    """A line of strace as `rename /STEP/.manifest.json.tmp -> /STEP/manifest.json`; empty: not about checkpoints."""
    match = _CALL.match(line)
    if match is None or "/checkpoints" not in line:
        return ""
    paths = [path for path in re.findall(r"[<\"]([^<>\"]+)[>\"]", match[2]) if path != "unfinished ..."]
    paths = [(path.partition("/checkpoints")[2] or "/") if "/checkpoints" in path else path for path in paths]
    paths = [re.sub(r"[0-9a-f]{16,}", "*", re.sub(r"^/[0-9]+", "/STEP", path)) for path in paths]
    return f"{match[1]} {' -> '.join(paths)}"


def points(calls: Iterable[Call], folder: pathlib.Path) -> Iterator[Fault]:
    """One fault for each of the calls."""
    for call in calls:
        trace = folder / f"{time.monotonic_ns()}.strace"
        inject = f"inject={CALLS}:signal=STOP"
        before = (*STRACE, "-y", "-o", str(trace), "-e", f"trace={CALLS}", "-e", inject, "-e", "signal=STOP")
        yield Fault(_Point(call, trace), before)


class _Point:
    """Lets the command go from call to call, up to one of a save that has enough steps before it."""

    def __init__(self, call: Call, trace: pathlib.Path) -> None:
        self.call, self.trace = call, trace
        self.missed = 0

    def __call__(self, trial: Trial) -> Struck | None:
        if self.missed == MISSES:
            trial.kill()
            return Struck(f"not met again: {self.call.what}")
        if trial.until(self.trace.exists) and self._met(trial):
            trial.kill()
            return Struck(self.call.what)
        self.missed += 1
        return None

    def _met(self, trial: Trial) -> bool:
        met, in_save, quiet = 0, False, time.monotonic()
        with open(self.trace, encoding="utf-8", errors="replace") as lines:
            while trial.code() is None:
                line = lines.readline()
                if not line:
                    if time.monotonic() - quiet > STUCK:
                        _let_go(trial)
                        quiet = time.monotonic()
                    time.sleep(POLL)
                    continue
                quiet = time.monotonic()
                if "--- SIGSTOP" in line:
                    _let_go(trial)
                elif call := _call(line):
                    if _BEGINS.match(call):
                        met, in_save = 0, len(committed(trial.run)) >= KEPT
                    met += in_save and call == self.call.what
                    if met == self.call.number:
                        return True
        return False


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
    return Struck(f"{error} of {group.split(',')[0][1:]}" + ("" if injected else ", which was not called"))
