"""One start of the command, seen from outside: its processes, its lines, its run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from lepjax.core.errors import UserError

POLL = 0.001  # seconds between two looks
_running: set[Trial] = set()
_stopped = threading.Event()


@dataclasses.dataclass(frozen=True)
class Subject:
    """The command under test: `lepjax train TARGET OVERRIDES`, as one process or several."""

    target: str
    overrides: tuple[str, ...] = ()
    processes: int = 1
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def command(self, run: pathlib.Path) -> list[str]:
        launch = () if self.processes == 1 else ("launch", "--processes", str(self.processes))
        train = ("train", self.target, *self.overrides, "--run-dir", str(run), "--log-every", "1")
        return [sys.executable, "-m", "lepjax", *launch, *train]

    def start(self, run: pathlib.Path, before: Sequence[str] = (), beside: pathlib.Path | None = None) -> Trial:
        """Starts the command on a run directory, in a session of its own.

        `before` is what runs it, such as strace. Its output goes to a file beside the run directory, or `beside` another.
        """
        return Trial([*before, *self.command(run)], run, self.environment, beside or run)


class Trial:
    """A started command. Its output goes to a file beside `beside`."""

    def __init__(
        self, command: Sequence[str], run: pathlib.Path, environment: Mapping[str, str], beside: pathlib.Path
    ) -> None:
        if _stopped.is_set():
            raise KeyboardInterrupt
        self.run = run
        self.output = beside.with_name(f"{beside.name}.{time.monotonic_ns()}.txt")
        self.started = time.time()
        # What is importable here is importable there.
        found = os.pathsep.join(filter(None, [str(pathlib.Path.cwd()), *sys.path]))
        with open(self.output, "wb") as file:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": found, **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        _running.add(self)

    def code(self) -> int | None:
        return self.process.poll()

    def until(self, seen: Callable[[], bool], timeout: float = 600.0) -> bool:
        """Looks again and again. True when it was seen, False when the command ended first.

        Raises `UserError` after `timeout` seconds.
        """
        end = time.monotonic() + timeout
        while not seen():
            if self.code() is not None:
                return False
            if time.monotonic() > end:
                self.kill()
                raise UserError(f"nothing came of it within {timeout:.0f} s", where=str(self.output))
            time.sleep(POLL)
        return True

    def ended(self, timeout: float) -> int | None:
        """The exit code, or None when it still runs after `timeout` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(timeout)
        return None

    def claimed(self) -> bool:
        """Whether it has begun to write into its run directory."""
        try:
            return (self.run / "manifest.json").stat().st_mtime >= self.started
        except OSError:
            return False

    def stepped(self) -> bool:
        """Whether it has logged a step of its own."""
        return any(line.time >= self.started for line in lines(self.run))

    def kill(self) -> None:
        """kill -9 to everything that the command started, and the wait for its death."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # at once: finding the others takes some milliseconds
        while members(self.process.pid):
            kill_session(self.process.pid)
            self.process.poll()
            time.sleep(POLL)
        self.process.wait()
        _running.discard(self)

    def told(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def last_words(self) -> str:
        """The end of its output, in one line."""
        return " | ".join(self.told().strip().splitlines()[-4:])[-600:]


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """While inside, Ctrl-C and SIGTERM end all that was started too: in sessions of their own they hear neither."""

    def stop(number: int, frame: FrameType | None) -> None:
        _stopped.set()  # chains in threads start nothing more
        for trial in list(_running):
            kill_session(trial.process.pid)
        raise KeyboardInterrupt

    before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def kill_session(session: int) -> None:
    for pid in members(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def members(session: int) -> list[int]:
    """The processes of a session that are not dead yet."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue  # it ended while we looked
        if int(of) == session and state not in "ZX":
            found.append(int(stat.parent.name))
    return sorted(found)


def children(pid: int) -> list[int]:
    """The processes that one started."""
    try:
        return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


# ---- what a run directory says ----


@dataclasses.dataclass(frozen=True)
class Line:
    """A logged training step: its loss as hex, and when it was written (seconds since 1970)."""

    step: int
    loss: str
    time: float


def lines(run: pathlib.Path) -> list[Line]:
    """The training steps of metrics.jsonl in order. What a kill cut short is left out: a step that is missing shows."""
    try:
        text = (run / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            values = json.loads(line)
            if "train_loss" in values:
                loss = values["train_loss"]
                told = "not finite" if loss is None else float(loss).hex()
                found.append(Line(values["step"], told, values.get("time", 0.0)))
    return found


def committed(run: pathlib.Path) -> list[int]:
    """The steps that have a manifest, ascending."""
    return sorted(int(p.parent.name) for p in run.glob("checkpoints/*/manifest.json") if p.parent.name.isdigit())


def heartbeat(run: pathlib.Path, rank: int = 0) -> dict[str, object]:
    """{"phase": ..., "step": ..., "pid": ...} of a rank that has claimed its run; empty before."""
    try:
        told = json.loads((run / f"heartbeat-{rank}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
