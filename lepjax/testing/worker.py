"""A process of `in_fresh_processes`: trains the experiments of a file, each until a given step.

python -m lepjax.testing.worker JOBS.json    [{"experiment": as in experiment.json, "stop": step or null}, ...]
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

from rich.console import Console

from lepjax.core.errors import DONE, guarded
from lepjax.core.serialise import from_json
from lepjax.run import processes
from lepjax.run.callbacks import Callback
from lepjax.run.fit import Loop, interrupted
from lepjax.run.train import facts, train


class StopAt(Callback):
    """Ends a run after a step, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def started(self, loop: Loop) -> None:
        self.stepped(loop)

    def stepped(self, loop: Loop) -> None:
        if loop.step == self.step:
            loop.stop = interrupted(f"stopped at {self.step} by the test")


def main(jobs: list[dict[str, Any]]) -> int:
    loaded = [from_json(job["experiment"]) for job in jobs]
    processes.join(facts(loaded[0]))

    def train_all() -> int:
        for experiment, job in zip(loaded, jobs, strict=True):
            stop = [] if job["stop"] is None else [StopAt(job["stop"])]
            train(experiment, callbacks=stop, console=Console(quiet=True))
        return DONE

    return processes.ended(train_all)


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")))))
