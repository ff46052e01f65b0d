"""Who works on a study, and who has died."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

BEAT = 5.0  # seconds between signs of life
GRACE = 60.0  # seconds without one after which a worker on another machine is dead


def machine() -> str:
    """This machine, since it was started; containers are machines of their own."""
    boot, space = pathlib.Path("/proc/sys/kernel/random/boot_id"), pathlib.Path("/proc/self/ns/pid")
    parts = [socket.gethostname(), boot.read_text(encoding="ascii")[:8] if boot.is_file() else ""]
    return "/".join([*parts, str(space.stat().st_ino) if space.exists() else ""])


def began(pid: int) -> str:
    """When a process of this machine began, in the kernel's ticks; empty: there is none."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *rest = text.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]


def own_id() -> str:
    """`machine pid start`: another process with the same number has another start."""
    return f"{machine()} {os.getpid()} {began(os.getpid())}"


class Watched:
    """Tells the dead from the living: on this machine by the process table, elsewhere by counters that stand still.

    Only this machine's clock is read, so that clocks need not agree.
    """

    def __init__(self, grace: float = GRACE) -> None:
        self.grace = grace
        self._seen: dict[str, tuple[Any, float]] = {}

    def dead(self, worker: str, beats: Mapping[str, Any]) -> bool:
        where, pid, start = (worker.split(" ") + ["", "", ""])[:3]
        if where == machine():
            return not pid.isdecimal() or began(int(pid)) != start
        return self.still(worker, beats.get(worker))

    def still(self, what: str, value: Any) -> bool:
        """Whether `value` has been the same for `grace` seconds of looking at it."""
        now = time.monotonic()
        if what not in self._seen or self._seen[what][0] != value:
            self._seen[what] = (value, now)
        return now - self._seen[what][1] >= self.grace


class Beating:
    """Calls `beat(n)` with a growing number every few seconds, from a thread of its own, until it is closed."""

    def __init__(self, beat: Callable[[int], None]) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(beat,), daemon=True, name="tune-beat")
        beat(0)
        self._thread.start()

    def _run(self, beat: Callable[[int], None]) -> None:
        count = 0
        while not self._over.wait(BEAT):
            count += 1
            # A storage may be gone for a while. Who does not beat again is taken for dead.
            with contextlib.suppress(Exception):
                beat(count)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
