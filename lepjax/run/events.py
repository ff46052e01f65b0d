"""metrics.jsonl and TensorBoard events."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from lepjax.run import disk
from lepjax.run.callbacks import Callback, Values
from lepjax.run.directory import RunDirectory
from lepjax.run.fit import Loop


class LogMetrics(Callback):
    """One JSON line per logged step or evaluation (`step`, `time`, `<split>_<metric>`...), and the same to TensorBoard.

    Both are written at once: a line is on its way to the disk when this returns, and a disk that takes no more is noticed
    here. (tensorboardX's own writer has a thread, and blocks for ever when that has died of a full disk.) `must` says
    whether that is an error or is told once.
    """

    def __init__(self, directory: RunDirectory, must: bool = True, say: Callable[[str], None] = print) -> None:
        self.directory, self.must, self.say = directory, must, say
        self._file: Any = None
        self._events: Any = None
        self._told = False

    def started(self, loop: Loop) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder = self.directory.path / "tensorboard"
        with self._writing():
            folder.mkdir(exist_ok=True)
            self._file = open(self.directory.metrics, "ab", buffering=0)
            self._events = EventsWriter(str(folder / "events"), f".{os.getpid()}")
            # TensorBoard hides what an earlier process wrote of the steps that come again.
            self._events.write_event(Event(step=loop.step + 1, session_log=SessionLog(status=SessionLog.START)))

    def published(self, loop: Loop, step: int, values: Values) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        if self._events is None:
            return
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        line = json.dumps({"step": step, "time": round(time.time(), 3), **known}) + "\n"
        scalars = [Summary.Value(tag=name.replace("_", "/", 1), simple_value=value) for name, value in values.items()]
        with self._writing():
            if self._file.write(line.encode()) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._events.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
            self._events.flush()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            told = disk.unwritable(self.directory.path, 0, error)
            if self.must:
                raise told from error
            if not self._told:
                self.say(f"{told} Going on with gaps in the metrics.")
            self._told = True

    def went_back(self, loop: Loop) -> None:
        self.finished(loop)  # the file on the disk is another one now
        self.started(loop)

    def finished(self, loop: Loop) -> None:
        for file in (self._file, self._events):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        self._file = self._events = None
