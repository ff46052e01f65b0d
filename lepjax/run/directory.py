"""The run directory: one experiment, one writer, everything that the run leaves behind.

experiment.json  class names and fields; rebuilds the experiment without the script
plan.json        what the plan's shapes were chosen for when the run began
manifest.json    versions, devices, flags, plan fingerprint and sources of the latest start
quarantine.jsonl the records of the data that could not be used and were skipped, where there are any
metrics.jsonl    one line per logged step or evaluation, and TensorBoard events beside it
heartbeat-<rank>.json  what each process is doing, rewritten at every step; see run.clock
checkpoints/     see run.checkpoint
result.json, report.html  at the end
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from typing import IO, Any

import jax

from lepjax import experiment as experiments
from lepjax.core import fields
from lepjax.core.errors import UserError
from lepjax.core.serialise import from_json, to_json
from lepjax.data.quarantine import Quarantined
from lepjax.experiment import Experiment
from lepjax.run import files

CLAIM_SECONDS = 0.5
BEGUN = {".lock", ".experiment.json.tmp"}
"""What a start has written that died, or is, before experiment.json."""
PACKAGES = ("lepjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class RunDirectory:
    """Opened by the one process that writes it; read by anybody."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._lock: Any = None

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> pathlib.Path:
        return self.path / "metrics.jsonl"

    @property
    def result(self) -> pathlib.Path:
        return self.path / "result.json"

    @property
    def report(self) -> pathlib.Path:
        return self.path / "report.html"

    def life(self, rank: int) -> pathlib.Path:
        """Where a process tells what it does; see `run.clock`."""
        return self.path / f"heartbeat-{rank}.json"

    def experiment(self) -> Experiment | None:
        """The experiment this directory belongs to, or None for a new one."""
        file = self.path / "experiment.json"
        return from_json(files.read_json(file), str(file)) if file.exists() else None

    def passes(self) -> float | None:
        """The passes over the data that the plan's shapes were chosen for; None for a new run."""
        file = self.path / "plan.json"
        return float(files.read_json(file)["passes"]) if file.exists() else None

    def keep_passes(self, passes: float) -> None:
        if self.passes() is None:
            files.write_json(self.path / "plan.json", {"passes": passes})

    def keep_quarantine(self, records: Sequence[Quarantined]) -> None:
        if records:
            lines = "".join(json.dumps(record.to_json(), ensure_ascii=False) + "\n" for record in records)
            files.write_text(self.path / "quarantine.jsonl", lines)

    def claim(self, experiment: Experiment) -> None:
        """Makes the directory this process's and this experiment's, or raises `UserError` and changes nothing."""
        self._check_owner(experiment)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / ".lock", "a+", encoding="utf-8")  # held open: the lock lives as long as the process
        except OSError as error:
            raise UserError(
                f"cannot be written ({error.strerror})", where=str(self.path), fix="Pass --run-dir."
            ) from error
        self._take(lock, fcntl.LOCK_EX, CLAIM_SECONDS)
        try:
            self._check_owner(experiment)  # another start may have made it its own meanwhile, and have ended
        except UserError:
            lock.close()
            raise
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        lock.flush()
        self._lock = lock
        files.write_json(self.path / "experiment.json", to_json(experiment))

    def check_free(self) -> None:
        """Raises `UserError` where this cannot be a run directory, or another process trains here. Changes nothing."""
        self._owner()
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            open(self.path / ".lock", encoding="utf-8") as lock,
        ):
            self._take(lock, fcntl.LOCK_SH)  # two that look do not meet

    def _take(self, lock: IO[str], how: int, seconds: float = 0.0) -> None:
        """The kernel lets go of a lock when its process ends, however it ends: none is ever stale.

        Tries for some seconds: another start may just be looking.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                return fcntl.flock(lock, how | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                holder = lock.read().strip()
                if time.monotonic() < end or (not holder and time.monotonic() < end + CLAIM_SECONDS):
                    time.sleep(0.05)  # whoever holds it is about to say its name, or to let go again
                    continue
                raise UserError(
                    f"another process trains here ({holder or 'unknown'})",
                    where=str(self.path),
                    fix="Wait for it, stop it, or pass another --run-dir.",
                ) from error

    def _owner(self) -> Experiment | None:
        """Whose directory this is, if anybody's."""
        if not self.path.exists():
            return None
        if not self.path.is_dir():
            raise UserError("is a file", where=str(self.path), fix="Pass another --run-dir.")
        # Looked at first: all else that a run leaves here comes after experiment.json, which may appear in this moment.
        there = {entry.name for entry in self.path.iterdir()}
        owner = self.experiment()
        if owner is None and there - BEGUN:
            raise UserError("is not empty and no run directory", where=str(self.path), fix="Pass another --run-dir.")
        return owner

    def _check_owner(self, experiment: Experiment) -> None:
        owner = self._owner()
        if owner is not None and experiments.identity(owner) != experiments.identity(experiment):
            changed = experiments.differences(owner, experiment, fields.IDENTITY)
            name, old, new = changed[0] if changed else ("an optional field", "unset", "set")
            raise UserError(
                f"belongs to another experiment ({name} is {old!r} there, {new!r} here)",
                where=str(self.path),
                fix="Pass another --run-dir.",
            )

    def release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write_manifest(self, fingerprint: str, mesh: dict[str, int], sources: dict[str, Any]) -> None:
        files.write_json(
            self.path / "manifest.json",
            {
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "command": sys.argv,
                "python": platform.python_version(),
                "platform": platform.platform(),
                "versions": {name: metadata.version(name) for name in PACKAGES},
                "git": _git_revision(),
                "devices": [str(device) for device in jax.devices()],
                "device_kind": jax.devices()[0].device_kind,
                "processes": jax.process_count(),
                "mesh": mesh,
                "flags": {k: v for k, v in os.environ.items() if k.startswith(("JAX_", "XLA_", "LIBTPU_"))},
                "plan": fingerprint,
                "sources": sources,
            },
        )

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a line that a crash cut short is left out."""
        if not self.metrics.exists():
            return []
        lines = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
        return lines

    def forget_after(self, step: int) -> None:
        """Drops logged lines of steps that were not saved (they will happen again) and lines a crash cut short."""
        if not self.metrics.exists():
            return
        kept = "".join(json.dumps(line) + "\n" for line in self.read_metrics() if line["step"] <= step)
        if kept != self.metrics.read_text(encoding="utf-8"):
            files.write_text(self.metrics, kept)


def default_path(name: str, experiment: Experiment) -> pathlib.Path:
    if experiment.run_dir:
        return pathlib.Path(experiment.run_dir).expanduser()
    return pathlib.Path("runs") / name / experiments.identity(experiment)


def _git_revision() -> str | None:
    try:
        out = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return out.stdout.strip() or None
