"""metrics.jsonl and TensorBoard events."""

from __future__ import annotations

import json
import math
import time
from typing import Any

from lepjax.run.callbacks import Callback, Values
from lepjax.run.directory import RunDirectory
from lepjax.run.fit import Loop


class LogMetrics(Callback):
    """One JSON line per logged step or evaluation (`step`, `time`, `<split>_<metric>`...), and the same to TensorBoard."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self._file: Any = None
        self._writer: Any = None

    def started(self, loop: Loop) -> None:
        from tensorboardX import SummaryWriter

        self._file = open(self.directory.metrics, "a", encoding="utf-8", buffering=1)  # whole lines
        self._writer = SummaryWriter(str(self.directory.path / "tensorboard"), purge_step=loop.step + 1)

    def published(self, loop: Loop, step: int, values: Values) -> None:
        if self._file is None:
            return
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), **known}) + "\n")
        for name, value in values.items():
            split, _, metric = name.partition("_")
            self._writer.add_scalar(f"{split}/{metric}", value, step)

    def went_back(self, loop: Loop) -> None:
        self.finished(loop)  # the file on the disk is another one now
        self.started(loop)

    def finished(self, loop: Loop) -> None:
        if self._file is not None:
            self._file.close()
            self._writer.close()
            self._file = None
