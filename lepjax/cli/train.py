"""Train an experiment, or go on where it stopped.

usage: lepjax train EXPERIMENT [--field value ...]

EXPERIMENT is a file such as experiments/quickstart.py, or experiments/quickstart.py:variant.
lepjax train EXPERIMENT --help lists every field with its default.
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable

from lepjax.cli import _load, _overrides
from lepjax.cli.main import STARTED
from lepjax.core.errors import DONE, RESTART, guarded
from lepjax.experiment import Experiment
from lepjax.report.html import Report
from lepjax.run import processes
from lepjax.run.hush import hush
from lepjax.run.train import facts, train


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    loaded = _load.from_file(arguments[0], arguments[1:])
    return _train(loaded.name, _overrides.apply(loaded.experiment, loaded.rest, arguments[0], own=loaded.own))


def _train(name: str, experiment: Experiment) -> int:
    hush()
    processes.join(facts(experiment))
    callbacks = [Report()] if processes.main_process() else []

    def command() -> int:
        seconds = time.perf_counter() - STARTED
        return train(experiment, name, callbacks, import_seconds=seconds, leave=restart_me).code

    return processes.ended(command)


def restart_me(why: str) -> None:
    processes.leave(RESTART, why)


def main(make: Callable[..., Experiment]) -> None:
    """What an experiment module calls: `python -m experiments.NAME ...` is `lepjax train experiments/NAME.py ...`."""
    file = inspect.getsourcefile(make) or make.__module__
    sys.exit(guarded(lambda: run([file, *sys.argv[1:]])))
