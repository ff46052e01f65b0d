"""The signals that ask a run to stop, and who hears them meanwhile."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

NAMES = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While inside, `handler` gets them. In the main thread only: elsewhere Python forbids handlers."""
    old = {name: signal.signal(name, handler) for name in NAMES}
    try:
        yield
    finally:
        for name, before in old.items():
            signal.signal(name, before)


def pass_on(number: int, processes: Iterable[subprocess.Popen[Any]]) -> None:
    """Sends a signal to those that still run."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)
