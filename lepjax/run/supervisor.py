"""Restarts a command that ended with "restart me" or was killed, but not one that fails at the same step again and again."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from types import FrameType

from lepjax.core.errors import BUG, CONFIGURATION, DONE, RESTART
from lepjax.run.clock import LIFE, read_life
from lepjax.run.handlers import handling, pass_on

SAME = 3  # starts that may end at one step
LONGEST = 60.0  # seconds between two starts


@dataclasses.dataclass(frozen=True)
class End:
    """How one start came to an end."""

    code: int
    step: int
    phase: str

    def __str__(self) -> str:
        how = f"killed by {signal.Signals(-self.code).name}" if self.code < 0 else f"exit code {self.code}"
        return f"{how} in phase {self.phase!r} at step {self.step}"


def supervise(command: Sequence[str], restarts: int, say: Callable[[str], None], back_off: float = 1.0) -> int:
    """Runs `command` until it is done, at most 1 + `restarts` times. Returns its last exit code, as a shell would.

    Code 75 and death by a signal ask for another start, and so does a bug (70), which may be of the moment; 0 and 78
    (nothing would change) do not. Between two starts it waits `back_off` seconds, twice as long each time that no step was
    won. After `SAME` starts that ended at one step it gives up and names that step. A signal to this process is passed on
    and ends it.
    """
    ends: list[End] = []
    stopping = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        life = pathlib.Path(folder) / "life.json"
        while True:
            ends.append(_once(command, life, stopping))
            last, stuck = ends[-1], _stuck(ends)
            if last.code in (DONE, CONFIGURATION) or stopping.is_set():
                break
            if stuck >= SAME:
                say(f"{last}, {stuck} times in a row: not started again. To look into it: lepjax debug nan RUN_DIR")
                return BUG if last.code == RESTART else _as_shell(last.code)
            if len(ends) > restarts:
                say(f"{last}: not started again after {restarts} restarts")
                break
            wait = min(back_off * 2 ** (stuck - 1), LONGEST)
            say(f"{last}; restart {len(ends)} of {restarts} in {wait:.0f} s")
            if stopping.wait(wait):
                break
    return _as_shell(ends[-1].code)


def _stuck(ends: Sequence[End]) -> int:
    """How many of the newest starts ended at the same step."""
    count = 0
    for end in reversed(ends):
        if end.step != ends[-1].step:
            break
        count += 1
    return count


def _once(command: Sequence[str], life: pathlib.Path, stopping: threading.Event) -> End:
    life.unlink(missing_ok=True)
    process = subprocess.Popen(command, env={**os.environ, LIFE: str(life)}, process_group=0)

    def heard(number: int, frame: FrameType | None) -> None:
        stopping.set()
        pass_on(number, [process])

    with handling(heard):
        code = process.wait()
    told = read_life(life) or {"step": 0, "phase": "start"}
    return End(code if code <= 128 else 128 - code, int(told["step"]), str(told["phase"]))


def _as_shell(code: int) -> int:
    return code if code >= 0 else 128 - code
