"""A process of the resume tests: trains tiny experiments, each until a given step.

python -m tests.processes.worker FOLDER 'JSON'    JSON: [{"run": name, "stop": step or null, "mesh": ...}, ...]
"""

import dataclasses
import json
import os
import pathlib
import sys

import jax
from rich.console import Console

from lepjax.experiment import Steps
from lepjax.run.callbacks import Callback
from lepjax.run.fit import interrupted
from lepjax.run.train import train
from tests.tiny import TinyText, tiny

RECORDS = 48  # in batches of 8: an epoch is 6 steps
STEPS = 14
BAD_RECORD = 20  # not finite: a step of every epoch is skipped


def experiment(run: pathlib.Path, mesh: str = "auto", steps: int = STEPS):
    size = 32 * (RECORDS + 1) + 1
    data = TinyText(size=-(-size * 10 // 9), bad_record=BAD_RECORD)
    base = tiny(data=data, run_dir=str(run), mesh=mesh, ema=0.9, evaluate_every=Steps(5), best="dev_loss")
    length = dataclasses.replace(base.length, steps=steps)
    return dataclasses.replace(base, length=length)


class StopAt(Callback):
    """Ends the process's work after a step, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def started(self, loop):
        self.stepped(loop)

    def stepped(self, loop):
        if loop.step == self.step:
            loop.stop = interrupted(f"stopped at {self.step} by the test")


def main() -> None:
    jax.config.update("jax_num_cpu_devices", int(os.environ.get("DEVICES", "1")))
    folder = pathlib.Path(sys.argv[1])
    for job in json.loads(sys.argv[2]):
        stop = [] if job.get("stop") is None else [StopAt(job["stop"])]
        train(experiment(folder / job["run"], job.get("mesh", "auto")), callbacks=stop, console=Console(quiet=True))


if __name__ == "__main__":
    main()
