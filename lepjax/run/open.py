"""Opening what a run has learned."""

from __future__ import annotations

from lepjax import experiment as experiments
from lepjax.core.errors import UserError
from lepjax.experiment import Experiment
from lepjax.run import files
from lepjax.run.backend import use_compile_cache
from lepjax.run.checkpoint import Checkpoints
from lepjax.run.directory import RunDirectory
from lepjax.run.final import Trained


def open_run(directory: RunDirectory, experiment: Experiment, which: str) -> tuple[Trained, int]:
    """Parameters of the `last`, the `best` or a given step, and that step. Reads; changes nothing.

    Raises `UserError` when there is no such checkpoint, or when it is damaged.
    """
    use_compile_cache()
    checkpoints = Checkpoints(directory.checkpoints)
    step = _step(directory, checkpoints, which)
    built = experiments.build(experiment)
    try:
        state = checkpoints.restore_params(step, built.abstract)
    finally:
        checkpoints.close()
    hparams = experiment.hparams(built.total_steps)
    return Trained(built, experiments.with_hparams(state, hparams), {}), step


def _step(directory: RunDirectory, checkpoints: Checkpoints, which: str) -> int:
    steps = checkpoints.steps()
    where = str(directory.path)
    if not steps:
        raise UserError("has no checkpoint", where=where, fix="Train it first.")
    if which == "last":
        return steps[-1]
    if which == "best":
        best = files.read_json(checkpoints.path / str(steps[-1]) / "meta.json")["memory"].get("best")
        if best is None or best["step"] not in steps:
            raise UserError("keeps no best checkpoint", where=where, fix="Train with --best <metric>, or use last.")
        return best["step"]
    if not which.isdigit() or int(which) not in steps:
        raise UserError(f"has no checkpoint {which}", where=where, fix=f"There are {', '.join(map(str, steps))}.")
    return int(which)
