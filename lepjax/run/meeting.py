"""Several processes stop after the same step, whichever of them is asked to."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.errors import JaxRuntimeError

from lepjax.run.processes import AGREE_SECONDS, client, get

BEFORE, AFTER = "before", "after"  # the steps
LEAVE_SECONDS = 3.0
_turns = itertools.count()  # every process holds the same meetings in the same order


class Meeting:
    """Finds one step after which all processes stop, when any of them asks for it.

    A thread of each process waits for the question. Then it holds its process between two steps and tells how far that
    has come; all go on to the step after the farthest. (Were it the main thread that waits, one could wait for another
    whose device waits for the first. And nothing is added to the compiled step, nor read from the device.)

    Where some process has not come to its first step, none of them has finished one: `others_leave` is called.
    """

    def __init__(self, others_leave: Callable[[], None]) -> None:
        self.reason = ""
        self._others_leave = others_leave
        self._at: int | str = BEFORE
        self._stop_at = -1
        self._asked = self._told = False
        self._turn = threading.RLock()  # the handler of a signal may meet the main thread inside
        self._closed = threading.Event()
        self._store: Any = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """From here on the others can ask."""
        if jax.process_count() > 1:
            self._store, self._key = client(), f"lepjax/stop/{next(_turns)}"
            self._thread = threading.Thread(target=self._watch, name="meeting", daemon=True)
            self._thread.start()

    def ask(self, reason: str) -> None:
        """Asks all processes to stop soon."""
        if self._asked:
            return
        self._asked = True
        if self._store is not None:
            self._store.key_value_set(f"{self._key}/why", reason, allow_overwrite=True)
        else:
            self.reason, self._stop_at = reason, 0

    def leave(self, reason: str) -> None:
        """Asks all to stop and tells that this process is about to be gone; rank 0, whom all talk through, goes last."""
        self.ask(reason)
        if self._store is None:
            return
        self._tell()
        if jax.process_index() == 0:
            end = time.monotonic() + LEAVE_SECONDS
            with contextlib.suppress(JaxRuntimeError):
                for i in range(jax.process_count()):
                    get(self._store, f"{self._key}/{i}", max(end - time.monotonic(), 0.001))

    def started(self, step: int) -> None:
        """The next step is the first of this process."""
        with self._turn:
            self._at = step

    def passed(self, step: int) -> bool:
        """Tells that `step` was taken; whether it is the last."""
        with self._turn:
            self._at = step
            return 0 <= self._stop_at <= step

    def ended(self) -> None:
        """This process takes no more steps, and what it took is saved."""
        with self._turn:
            self._at = AFTER

    def close(self) -> None:
        if self._thread is not None:
            self._closed.set()
            self._thread.join(timeout=10.0)
            if not self._told:
                with contextlib.suppress(JaxRuntimeError):
                    self._tell()  # for those that are only now asked

    def _tell(self) -> None:
        self._told = True
        self._store.key_value_set(f"{self._key}/{jax.process_index()}", str(self._at), allow_overwrite=True)

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                reason = get(self._store, f"{self._key}/why", 0.5)
            except JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" in str(error):
                    continue  # nobody asked so far
                return
            with self._turn:
                if not self._told:
                    self._tell()
                told = [get(self._store, f"{self._key}/{i}", AGREE_SECONDS) for i in range(jax.process_count())]
                steps = [int(at) for at in told if at not in (BEFORE, AFTER)]
                self.reason, self._stop_at = reason, max(steps, default=-1) + 1
            if BEFORE in told:
                self._others_leave()
            return
