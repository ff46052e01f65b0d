"""Notices a run that no longer moves: a dead peer, a stuck device, data that never come."""

from __future__ import annotations

import faulthandler
import pathlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from lepjax.run.clock import Clock

PATIENT = ("start", "data", "compile", "checkpoint", "final")  # phases without signs of life in between
TIMES = 10  # as long as a step may take, they may take


class Watchdog:
    """While inside, a thread looks for signs of life. Where there was none for `seconds` (0: never looks), it writes the
    stacks of all threads of this process to a file of `folder` and calls `leave(why)`.

    Every process has its own, and all wait for the one that is stuck; so all dump, but one that is stopped.
    """

    def __init__(
        self, clock: Clock, seconds: float, folder: pathlib.Path, rank: int, leave: Callable[[str], Any]
    ) -> None:
        self.clock, self.seconds, self.leave = clock, seconds, leave
        self.file, self.rank = folder / f"stacks-{rank}.txt", rank
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self.seconds > 0:
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def patience(self) -> float:
        return self.seconds * (TIMES if self.clock.phase_name in PATIENT else 1)

    def _watch(self) -> None:
        while not self._closed.wait(min(self.seconds / 4, 1.0)):
            silent = time.monotonic() - self.clock.beaten
            if silent > self.patience():
                self._bark(silent)
                return

    def _bark(self, silent: float) -> None:
        where = f"in phase {self.clock.phase_name!r} after step {self.clock.step}"
        why = f"rank {self.rank}: no sign of life for {silent:.0f} s {where}; stacks of all threads are in {self.file}"
        try:
            with open(self.file, "w", encoding="utf-8") as file:
                file.write(why + "\n\n")
                file.flush()
                faulthandler.dump_traceback(file)
        except OSError:  # the disk may be what it waits for
            faulthandler.dump_traceback(sys.stderr)
        self.leave(why)
