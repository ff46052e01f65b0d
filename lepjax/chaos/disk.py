"""Disks that are full, too small or read-only: one clear line, nothing older lost, nothing left lying about."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import resource
import subprocess
from collections.abc import Callable, Iterator

from lepjax.chaos.damage import Interrupted
from lepjax.chaos.oracle import Oracle
from lepjax.chaos.report import Outcome, Skipped
from lepjax.chaos.trial import Subject, Trial, committed, lines
from lepjax.core.errors import CONFIGURATION, DONE, RESTART

LINE = 300  # characters of a clear line
ENDS = 120.0  # seconds until a command that cannot write must have ended
MOST_FILES = 0.5  # of the largest file of a checkpoint: the limit that the first save after it breaks


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where the run lives, and how its trouble comes and goes."""

    what: str
    run: pathlib.Path
    break_: Callable[[Trial | None], None]
    """Called with the training command, or with None before it starts."""
    mend: Callable[[], None]
    early: bool = False
    """The trouble is there before the command starts."""


def disks(subject: Subject, oracle: Oracle, base: Interrupted, folder: pathlib.Path) -> Iterator[Outcome | Skipped]:
    """A limit on the size of files; with root's rights also a disk that fills up, is too small, or is read-only."""
    yield _tried(subject, oracle, _limited(base, folder / "limited"), folder / "limited")
    if reason := _cannot_mount(folder / "probe"):
        yield Skipped("disk", f"full, too small and read-only disks need a tmpfs ({reason})")
        return
    size = sum(path.stat().st_size for path in (base.run / "checkpoints" / str(base.newer)).rglob("*"))
    for place in (_filled, _small, _read_only):
        with _tmpfs(folder / place.__name__.strip("_"), 8 * size + 2**24) as disk:
            yield _tried(subject, oracle, place(base, disk, size), disk)


def _tried(subject: Subject, oracle: Oracle, place: _Place, beside: pathlib.Path) -> Outcome:
    """Breaks the place, reads what the command says, mends the place and lets the same command go on to its end."""
    if place.early:
        place.break_(None)
    trial = subject.start(place.run, beside=beside)
    before = committed(place.run)
    if not place.early:
        trial.until(lambda: trial.stepped() and len(committed(place.run)) > len(before))
        before = committed(place.run)
        place.break_(trial)
    trial.ended(ENDS)
    trial.kill()
    problem = _unclear(trial) or _lost(trial, before)
    place.mend()
    again = subject.start(place.run, beside=beside)
    again.ended(10 * ENDS)
    again.kill()
    if not problem and again.code() != DONE:
        problem = f"does not go on when there is space: {again.last_words()}"
    noise = trial.told().count("Traceback")
    came = "one clear line" + (f" after {noise} tracebacks of libraries" if noise else "")
    return Outcome("disk", place.what, problem or oracle.incomplete(lines(place.run)), came)


def _unclear(trial: Trial) -> str:
    told = trial.told().strip().splitlines() or [""]
    if trial.process.returncode not in (RESTART, CONFIGURATION):
        return f"ended with {trial.process.returncode}: {trial.last_words()}"
    if not told[-1].startswith("lepjax: ") or len(told[-1]) > LINE or str(trial.run) not in told[-1]:
        return f"no line of at most {LINE} characters that names {trial.run}: {told[-1][:LINE]}"
    return ""


def _lost(trial: Trial, before: list[int]) -> str:
    if max(committed(trial.run), default=0) < max(before, default=0):
        return f"step {max(before)} was committed and is gone"
    debris = [path.name for path in (trial.run / "checkpoints").glob("*.orbax-checkpoint-tmp*")]
    return f"left {debris[0]} behind" if debris else ""


# ---- places ----


def _limited(base: Interrupted, run: pathlib.Path) -> _Place:
    files = (base.run / "checkpoints" / str(base.newer)).rglob("*")
    most = int(MOST_FILES * max(path.stat().st_size for path in files))

    def limit(trial: Trial | None) -> None:
        assert trial is not None
        resource.prlimit(trial.process.pid, resource.RLIMIT_FSIZE, (most, most))

    return _Place("a limit on the size of files (RLIMIT_FSIZE)", run, limit, lambda: None)


def _filled(base: Interrupted, disk: pathlib.Path, size: int) -> _Place:
    filler = disk / "filler"

    def fill(trial: Trial | None) -> None:
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 2**16)

    return _Place("a disk that fills up while it trains", disk / "run", fill, filler.unlink)


def _small(base: Interrupted, disk: pathlib.Path, size: int) -> _Place:
    whole = os.statvfs(disk).f_blocks * os.statvfs(disk).f_frsize
    return _Place(
        "a disk too small for the checkpoints",
        disk / "run",
        lambda trial: _remount(disk, f"size={3 * size // 2}"),
        lambda: _remount(disk, f"size={whole}"),
        early=True,
    )


def _read_only(base: Interrupted, disk: pathlib.Path, size: int) -> _Place:
    subprocess.run(["cp", "-r", str(base.run), str(disk / "run")], check=True)
    return _Place(
        "a read-only disk",
        disk / "run",
        lambda trial: _remount(disk, "ro"),
        lambda: _remount(disk, "rw"),
        early=True,
    )


def _remount(disk: pathlib.Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True)


@contextlib.contextmanager
def _tmpfs(disk: pathlib.Path, size: int) -> Iterator[pathlib.Path]:
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True, capture_output=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def _cannot_mount(probe: pathlib.Path) -> str:
    """Why no file system can be mounted here; empty: it can."""
    if os.geteuid() != 0:
        return "not root"
    try:
        with _tmpfs(probe, 2**20):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return str(error)
