"""Show which records a step reads: their origin, label and text.

usage: lepjax data show EXPERIMENT --step T [--field value ...]

EXPERIMENT is a file or a run directory. Steps count from 0: the batch of step T leads to the line of metrics.jsonl with
step T + 1. Nothing is compiled, and no weights are read.
"""

from __future__ import annotations

import pathlib

from lepjax.checks import check_rows
from lepjax.cli import _load, _open, _overrides
from lepjax.core.errors import DONE, UserError
from lepjax.experiment import Experiment, planned
from lepjax.run.cursor import cursor_after, read_jumps
from lepjax.run.directory import RunDirectory, default_path
from lepjax.run.provenance import rows_of


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    if arguments[0] != "show":
        raise UserError(f"no command {arguments[0]!r}", where="data", fix="Use: lepjax data show EXPERIMENT --step T.")
    text, rest = _open.option(arguments[1:], "--step", "")
    if not rest or rest[0].startswith("--"):
        raise UserError("no experiment", where="data show", fix="Name a file or a run directory.")
    if not text.isascii() or not text.isdigit():
        found = f"{text!r} is no step" if text else "no step"
        raise UserError(found, where="--step", fix="Use a whole number from 0.")
    directory, experiment = _found(rest[0], rest[1:])
    check_rows(experiment)
    splits = experiment.data.load()
    order = planned(experiment, splits, directory.passes())
    step = int(text)
    if step >= order.total_steps:
        fix = f"The run has steps 0 to {order.total_steps - 1}."
        raise UserError(f"there is no step {step}", where="--step", fix=fix)
    cursor = cursor_after(read_jumps(directory.path), step)
    print(f"step {step} reads batch {cursor} of plan {order.plan.fingerprint}")
    for line in rows_of(order, splits, cursor):
        print(line)
    return DONE


def _found(target: str, overrides: list[str]) -> tuple[RunDirectory, Experiment]:
    """The run directory need not exist: a plan is known before anything is trained."""
    if pathlib.Path(target).is_dir():
        return _load.run_of(target, overrides)
    loaded = _load.from_file(target, overrides)
    experiment = _overrides.apply(loaded.experiment, loaded.rest, target, "data show", loaded.own)
    return RunDirectory(default_path(loaded.name, experiment)), experiment
