"""Where a run is and how long it has been there: seconds by phase, and a sign of life that others can read."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator

LIFE = "LEPJAX_LIFE"  # names a file for a supervisor that does not know the run directory
WIDTH = 160  # bytes of a sign of life: always the same, so that it is rewritten in place


class Clock:
    """Seconds by phase. Phases do not nest; what is in no phase is the step.

    The last sign of life (`phase`, `step`, `beat`) is what a watchdog looks at. From `show_life` on it is also kept in a
    file of one line of JSON, which other processes may read at any time.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.phase_name, self.step, self.beaten = "start", 0, time.monotonic()
        self._shown: list[int] = []

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        outer = self.phase_name
        self.beat(phase=name)
        try:
            yield
        finally:
            self.beat(phase=outer)
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @property
    def outside(self) -> float:
        """Seconds spent so far on anything but steps and their data."""
        return sum(seconds for name, seconds in self.seconds.items() if name != "data wait")

    def beat(self, phase: str | None = None, step: int | None = None) -> None:
        """A sign of life."""
        self.phase_name = self.phase_name if phase is None else phase
        self.step = self.step if step is None else step
        self.beaten = time.monotonic()
        for file in self._shown:
            os.pwrite(file, self._line(), 0)  # in place: microseconds, and no reader sees half of it

    def _line(self) -> bytes:
        told = {"phase": self.phase_name, "step": self.step, "pid": os.getpid(), "time": round(time.time(), 3)}
        return json.dumps(told).encode().ljust(WIDTH - 1) + b"\n"

    def show_life(self, path: pathlib.Path) -> None:
        """Keeps the sign of life in this file too."""
        self._shown.append(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))
        self.beat()

    def close(self) -> None:
        for file in self._shown:
            os.close(file)
        self._shown = []


def read_life(path: pathlib.Path) -> dict[str, str | int | float] | None:
    """{phase, step, pid, time} as some process told it last; None where it told nothing."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
