"""Local jobs of several processes: start them, pass their output on, end them together."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from lepjax.core.errors import DONE, RESTART, UserError
from lepjax.run.handlers import handling, pass_on
from lepjax.run.ranks import COORDINATOR, PROCESS, PROCESSES

GRACE = 30.0  # seconds that processes have to save and go when another one failed


@dataclasses.dataclass(frozen=True)
class Job:
    """How many processes, with how many devices each (0: what there is), of a machine with these GPUs."""

    processes: int
    devices: int
    gpus: tuple[str, ...]
    port: int

    def __post_init__(self) -> None:
        if self.gpus and (self.share < 1 or self.share * self.processes > len(self.gpus)):
            found = f"{self.processes} processes x {max(self.share, 1)} devices on {len(self.gpus)} GPUs"
            raise UserError(found, where="launch", fix="Ask for less, or set JAX_PLATFORMS=cpu.")

    @property
    def share(self) -> int:
        """GPUs per process."""
        return self.devices or len(self.gpus) // self.processes

    def environment(self, index: int) -> dict[str, str]:
        """What process `index` finds in its environment beside ours."""
        rank = {COORDINATOR: f"localhost:{self.port}", PROCESSES: str(self.processes), PROCESS: str(index)}
        if self.gpus:
            mine = self.gpus[index * self.share : (index + 1) * self.share]
            return {**rank, "CUDA_VISIBLE_DEVICES": ",".join(mine)}
        return {**rank, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(self.devices or 1)}


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def run(command: Sequence[str], job: Job) -> int:
    """Runs `command` as the job's processes and returns the first exit code that is not 0. Signals are passed on."""
    started: list[subprocess.Popen[str]] = []
    tellers: list[threading.Thread] = []
    code, failed_at = DONE, math.inf
    with handling(lambda number, frame: pass_on(number, started)):
        for index in range(job.processes):
            started.append(_start(command, job, index, tellers))
        while any(process.poll() is None for process in started):
            failed = [c for process in started if (c := process.poll()) not in (None, DONE)]
            if failed and not code:
                code, failed_at = _as_shell(failed[0]), time.monotonic()
            # Where all fail alike, each gets its say first; one that stopped to be restarted lets the others save.
            if time.monotonic() - failed_at > (GRACE if code == RESTART else 1.0):
                _end(started)
            time.sleep(0.05)
    for teller in tellers:
        teller.join(timeout=2.0)
    return code or next((_as_shell(process.returncode) for process in started if process.returncode), DONE)


def _as_shell(code: int) -> int:
    """An exit code; 128 and the number of a signal that ended a process."""
    return code if code >= 0 else 128 - code


def _start(command: Sequence[str], job: Job, index: int, tellers: list[threading.Thread]) -> subprocess.Popen[str]:
    """Each process is a group of its own, so that Ctrl-C reaches it once, from here."""
    environment = {**os.environ, **job.environment(index)}
    if index == 0:
        return subprocess.Popen(command, env=environment, text=True, process_group=0)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "errors": "replace"}
    process = subprocess.Popen(command, env=environment, text=True, process_group=0, **pipes)  # type: ignore[call-overload]
    tellers.append(threading.Thread(target=_mark, args=(process.stdout, index), daemon=True))
    tellers[-1].start()
    return process


def _mark(lines: IO[str], index: int) -> None:
    for line in lines:
        if "[Gloo]" not in line:  # it tells every connection
            with contextlib.suppress(OSError):  # nobody reads any more: the pipe must be emptied all the same
                print(f"[{index}] {line}", end="", file=sys.stderr, flush=True)


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.send_signal(signal.SIGCONT)  # a stopped one hears nothing
    end = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(end - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
