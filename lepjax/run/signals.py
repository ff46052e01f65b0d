"""SIGINT, SIGTERM and SIGUSR1 in every phase of a run: saved and gone soon, with the exit code that says "restart me".

Python handles a signal between two bytecodes of the main thread, so not while that compiles or waits for a device. A thread
that reads what `signal.set_wakeup_fd` writes hears it at once, whatever the main thread does.
"""

from __future__ import annotations

import contextlib
import pathlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax

from lepjax.run.callbacks import Callback
from lepjax.run.clock import Clock
from lepjax.run.fit import Interrupted, Loop, interrupted
from lepjax.run.handlers import NAMES, handling
from lepjax.run.meeting import Meeting
from lepjax.run.watchdog import Watchdog

BREAKABLE = ("data wait", "evaluation")  # in the loop, these can be broken off and lose nothing


class StopOnSignal(Callback):
    """The first signal ends the run, saved; the second ends the process at once.

    While steps are taken the run ends after the current one; waiting for data and evaluating are broken off (by one
    process; several finish them together). Before and after, nothing is unsaved, and the process ends at once.

    `leave(why)` ends the process. Without it, as in a notebook, `Interrupted` is raised where nothing is unsaved.
    """

    def __init__(self, clock: Clock, leave: Callable[[str], Any] | None = None) -> None:
        self.clock, self.leave = clock, leave
        self.received: signal.Signals | None = None
        self.meeting = Meeting(self._others_leave)
        self.loop: Loop | None = None
        """The loop while it has steps that may not be saved."""
        self.taken = 0
        """Steps of this process: unlike `loop.step`, which may go back, it only grows."""
        self._open = contextlib.ExitStack()

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python forbids handlers
            self._open.enter_context(handling(self._noted))
            if self.leave is not None:
                self._open.enter_context(_hearing(self._heard))
        self.meeting.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.meeting.close()
        self._open.close()

    def _heard(self, name: signal.Signals, count: int) -> None:
        """In a thread of its own, at once."""
        assert self.leave is not None
        if count > 1:
            self.leave(f"{name.name} again: left at once")
        elif self.loop is None:
            self.meeting.leave(name.name)
            self.leave(f"{name.name} in phase {self.clock.phase_name!r}: nothing to save")
        else:
            self.meeting.ask(name.name)

    def _noted(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, as soon as Python gets a turn there."""
        again, self.received = self.received is not None, signal.Signals(number)
        if self.loop is not None and not again:
            self.meeting.ask(self.received.name)
            self._decide(self.loop)
            if self.loop.stop is not None and self.clock.phase_name in BREAKABLE:
                raise Interrupted
        elif self.leave is None:
            raise Interrupted

    def _others_leave(self) -> None:
        """In the thread of the meeting: some process has left before the first step, so that there will be none."""
        if self.leave is not None:
            self.leave("another process was told to stop before the first step: nothing to save")

    def _decide(self, loop: Loop) -> None:
        if self.meeting.passed(self.taken) and loop.stop is None:
            loop.stop = interrupted(f"{self.meeting.reason} at step {loop.step}")

    def started(self, loop: Loop) -> None:
        self.loop = loop
        self.meeting.started(self.taken)
        self._decide(loop)

    def stepped(self, loop: Loop) -> None:
        self.taken += 1
        self._decide(loop)

    def watchdog(self, seconds: float, folder: pathlib.Path) -> contextlib.AbstractContextManager[Any]:
        """Watches over this run, if its process may be ended."""
        if self.leave is None:
            return contextlib.nullcontext()
        return Watchdog(self.clock, seconds, folder, jax.process_index(), self.leave)

    def saved(self) -> None:
        """From here on nothing is unsaved."""
        self.loop = None
        self.meeting.ended()


@contextlib.contextmanager
def _hearing(heard: Callable[[signal.Signals, int], None]) -> Iterator[None]:
    """While inside, a thread calls `heard(signal, how many so far)`."""
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)

    def listen() -> None:
        count = 0
        while byte := ours.recv(1):
            if byte[0] in NAMES:
                count += 1
                heard(signal.Signals(byte[0]), count)

    before = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        pythons.close()  # the thread reads the end
        thread.join(timeout=1.0)
        ours.close()
