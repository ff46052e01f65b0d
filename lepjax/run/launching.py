"""Local jobs of several processes: start them, pass their output on, end them together."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import IO

from lepjax.core.errors import DONE, RESTART, UserError
from lepjax.run.ranks import COORDINATOR, PROCESS, PROCESSES

GRACE = 30.0  # seconds that processes have to save and go when another one failed


@dataclasses.dataclass(frozen=True)
class Job:
    """How many processes, with how many devices each (0: what there is), of a machine with `gpus` GPUs."""

    processes: int
    devices: int
    gpus: int
    port: int

    def __post_init__(self) -> None:
        if self.gpus and (self.share < 1 or self.share * self.processes > self.gpus):
            found = f"{self.processes} processes x {max(self.share, 1)} devices on {self.gpus} GPUs"
            raise UserError(found, where="launch", fix="Ask for less, or set JAX_PLATFORMS=cpu.")

    @property
    def share(self) -> int:
        """GPUs per process."""
        return self.devices or self.gpus // self.processes

    def environment(self, index: int) -> dict[str, str]:
        """What process `index` finds in its environment beside ours."""
        rank = {COORDINATOR: f"localhost:{self.port}", PROCESSES: str(self.processes), PROCESS: str(index)}
        if self.gpus:
            first = index * self.share
            return {**rank, "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(first, first + self.share)))}
        return {**rank, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(self.devices or 1)}


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def run(command: Sequence[str], job: Job) -> int:
    """Runs `command` as the job's processes and returns the first exit code that is not 0. Signals are passed on."""
    started = [_start(command, job, index) for index in range(job.processes)]
    with _passing_on_signals(started):
        code = DONE
        while any(process.poll() is None for process in started):
            failed = [c for process in started if (c := process.poll()) not in (None, DONE)]
            if failed and not code:
                code = failed[0] if failed[0] > 0 else 128 - failed[0]  # as a shell tells a signal
                if code != RESTART:
                    _end(started)
            time.sleep(0.05)
    codes = [process.returncode for process in started]
    return code or next((c if c > 0 else 128 - c for c in codes if c), DONE)


def _start(command: Sequence[str], job: Job, index: int) -> subprocess.Popen[str]:
    environment = {**os.environ, **job.environment(index)}
    if index == 0:
        return subprocess.Popen(command, env=environment, text=True)
    process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    threading.Thread(target=_mark, args=(process.stdout, index), daemon=True).start()
    return process


def _mark(lines: IO[str], index: int) -> None:
    for line in lines:
        if "[Gloo]" not in line:  # it tells every connection
            print(f"[{index}] {line}", end="", file=sys.stderr, flush=True)


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    end = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(end - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            process.kill()


@contextlib.contextmanager
def _passing_on_signals(processes: Sequence[subprocess.Popen[str]]) -> Iterator[None]:
    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    # Ctrl-C reaches the processes by itself: they belong to the same terminal. Here it must only not end this one.
    names = {signal.SIGTERM: pass_on, signal.SIGINT: lambda number, frame: None}
    old = {name: signal.signal(name, handler) for name, handler in names.items()}
    try:
        yield
    finally:
        for name, handler in old.items():
            signal.signal(name, handler)
