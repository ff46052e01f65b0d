"""Timing programs against each other on a machine that others use too.

Short blocks of both are interleaved (A B, B A, A B, ...) and each is compared with its neighbour: what slows the machine for
a while slows both, and what slows one block is an outlier that the median over pairs ignores. Pairs during which other
processes computed are repeated: what others do does not depend on which program runs, so choosing by it favours neither.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np

RESAMPLES = 10_000
QUIET = 0.03  # share of the processors that other processes may take during a measurement
PATIENCE = 600.0  # seconds that one benchmark waits for a quiet machine; then the least disturbed measurements count


@dataclasses.dataclass(frozen=True)
class Kept:
    """The least disturbed of the results, and the largest share of the processors that others took during one of them."""

    results: list[Any]
    share: float
    tried: int

    @property
    def disturbance(self) -> str:
        return f"others took at most {self.share:.0%} of the processors ({self.tried} tried)"


@dataclasses.dataclass(frozen=True)
class Paired:
    """Seconds per step of the blocks of two programs, float64[blocks] each; blocks of one index ran next to each other."""

    ours: np.ndarray
    theirs: np.ndarray
    disturbance: str

    @property
    def ratio(self) -> float:
        """Speed of ours relative to theirs, the median over pairs of blocks. 1 is equal speed, 0.98 is 2 % slower."""
        return float(np.median(self.theirs / self.ours))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Percentile bootstrap of the ratio over pairs of blocks."""
        ratios, count = self.theirs / self.ours, len(self.ours)
        drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
        low, high = np.quantile(np.median(ratios[drawn], axis=1), [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def line(self, what: str, ours: str, theirs: str, steps: int) -> str:
        """The one line that a benchmark prints."""
        low, high = self.interval()
        our_ms, their_ms = (1e3 * float(np.median(seconds)) for seconds in (self.ours, self.theirs))
        return (
            f"{what}   {ours} {our_ms:.1f} ms/step   {theirs} {their_ms:.1f} ms/step   "
            f"ratio {self.ratio:.3f} [{low:.3f}, {high:.3f}]   n={len(self.ours)} interleaved blocks of {steps}, {machine()}"
        )

    def verdict(self, target: float) -> str:
        low, _ = self.interval()
        return f"  lower bound {low:.3f}, target {target}: {'met' if low >= target else 'MISSED'}; {self.disturbance}"


class Peer(contextlib.AbstractContextManager["Peer"]):
    """A program in a process of its own that answers a line on its input with a line of JSON; the first one unasked."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self.said = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
            bufsize=1,
        )
        self.versions: str = self._answer()["versions"]

    def ask(self, line: object) -> dict[str, Any]:
        """Its answer. Raises RuntimeError with what it said last where it has ended."""
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.said.seek(0)
            raise RuntimeError(f"the other program ended with code {code}: {self.said.read()[-2000:]}")
        return json.loads(line)

    def __exit__(self, *exc: object) -> None:
        self.process.communicate()  # closes its input, which ends it


def interleave(ours: Callable[[], float], theirs: Callable[[], float], blocks: int, pids: Sequence[int] = ()) -> Paired:
    """Runs `blocks` pairs of blocks. A call runs one block and returns its seconds per step; `pids`: see `collect`."""
    for run in (ours, theirs):
        run()  # the first block pays for what is done once

    def pair(index: int) -> tuple[float, float]:
        if index % 2:
            second = theirs()
            return ours(), second
        return ours(), theirs()

    kept = collect(pair, blocks, pids)
    our_seconds, their_seconds = np.array(kept.results).T
    return Paired(our_seconds, their_seconds, kept.disturbance)


def collect(run: Callable[[int], Any], count: int, pids: Sequence[int] = ()) -> Kept:
    """Calls `run(0)`, `run(1)`, ... until `count` results were taken on a quiet machine, for `PATIENCE` seconds at most.

    What this process, its finished children and the running processes `pids` compute is not a disturbance.
    """
    taken: list[tuple[float, int, Any]] = []
    deadline = time.monotonic() + PATIENCE
    while sum(share <= QUIET for share, *_ in taken) < count and (len(taken) < count or time.monotonic() < deadline):
        while _disturbed(lambda: time.sleep(1.0), pids)[0] > QUIET and time.monotonic() < deadline:
            pass  # the others finish sooner when nothing is measured beside them
        share, result = _disturbed(lambda: run(len(taken)), pids)
        taken.append((share, len(taken), result))
    kept = sorted(taken)[:count]
    return Kept([result for *_, result in kept], kept[-1][0], len(taken))


def _disturbed(run: Callable[[], Any], pids: Sequence[int]) -> tuple[float, Any]:
    """The share of the processors that others took during `run()`, and its result."""
    before, start = _others(pids), time.perf_counter()
    result = run()
    capacity = (time.perf_counter() - start) * (os.cpu_count() or 1)
    return max(_others(pids) - before, 0.0) / capacity, result


def _others(pids: Sequence[int]) -> float:
    """Processor seconds, since some fixed time, of all processes but ours."""
    tick = os.sysconf("SC_CLK_TCK")
    with open("/proc/stat") as file:
        user, nice, system = map(int, file.readline().split()[1:4])
    everybody = (user + nice + system) / tick
    mine = sum(os.times()[:4])  # this process and its finished children
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        mine += (int(fields[11]) + int(fields[12])) / tick
    return everybody - mine


def timed(run: Callable[[], None], steps: int) -> float:
    """Seconds per step of `run`, which takes `steps` steps and waits for the last."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) / steps


def machine() -> str:
    return f"{len(os.sched_getaffinity(0))} cores, jax {metadata.version('jax')}"


def spread(seconds: Sequence[float]) -> str:
    """`1.23 s [1.20, 1.31], n=5`: median, smallest, largest."""
    return f"{np.median(seconds):.2f} s [{min(seconds):.2f}, {max(seconds):.2f}], n={len(seconds)}"
