"""A step of a run again, from what the run has saved: state, plan and key make it. Reads the run and changes nothing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import numpy as np

from lepjax import experiment as experiments
from lepjax.core.errors import UserError
from lepjax.core.loss_scale import DynamicLossScale
from lepjax.core.spikes import NoGuard
from lepjax.core.state import State
from lepjax.data.loader import placed_ahead, read_ahead
from lepjax.data.source import Rows
from lepjax.experiment import Built
from lepjax.run.checkpoint import Checkpoints
from lepjax.run.compiled import compile_step, planned_shapes
from lepjax.run.cursor import Jumps, cursor_after, read_jumps
from lepjax.run.debug import Say
from lepjax.run.directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A step that was skipped because something was not finite, and all that went into it.

    step    counted as metrics.jsonl does: the step that made `state.step` so many
    state   after it; parameters, optimizer and averages are those before it, as it was skipped
    scale   the loss scale that it used
    """

    step: int
    state: State
    scale: float
    learning_rate: float
    cursor: int
    rows: Rows


def skipped_after(lines: list[dict[str, Any]]) -> tuple[int, int] | None:
    """(a, b): by metrics.jsonl, the first step that was skipped as not finite is after step `a`, and `b` at the latest."""
    before = 0
    for line in lines:
        if "train_skipped" not in line:
            continue
        if not_finite(line):
            return before, line["step"]
        before = line["step"]
    return None


def not_finite(line: dict[str, Any]) -> float:
    """How many steps were skipped so far because something was not finite."""
    return line["train_skipped"] - line.get("train_spikes", 0)


def replay(directory: RunDirectory, built: Built, after: int, until: int, say: Say) -> Skipped | None:
    """The first step after `after`, and `until` at the latest, that is skipped as not finite. None: there is none.

    Raises `UserError` where the run's data have changed.
    """
    jumps = read_jumps(directory.path)
    checkpoints = Checkpoints(directory.checkpoints)
    try:
        state = _state_at(directory, checkpoints, built, after, say)
    finally:
        checkpoints.close()
    step = int(state.step)
    shapes = planned_shapes(built.source, built.plan.shapes(), built.placement)
    program = compile_step(built.step, built.abstract, shapes, built.placement)
    shardings = {name: shape.sharding for name, shape in shapes[0].items()}
    batches: Any = _Trajectory(built, jumps, until)
    for rows, batch in placed_ahead(read_ahead(batches, step), shardings):
        count, scale = _not_finite(state), float(state.loss_scale.scale)
        state, metrics = program(state, batch)
        step += 1
        if step > after and _not_finite(state) > count:
            return Skipped(step, state, scale, float(metrics["learning_rate"]), cursor_after(jumps, step - 1), rows)
    if after + 1 == until:
        say(
            f"step {until} was finite: loss {float(metrics['loss']):.6g}, gradient norm {float(metrics['grad_norm']):.6g}"
        )
    return None


@dataclasses.dataclass(frozen=True)
class _Trajectory:
    """[t]: the host's batch after t steps, whatever was passed over before."""

    built: Built
    jumps: Jumps
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, step: int) -> Rows:
        return self.built.batches()[cursor_after(self.jumps, int(step))]


def _not_finite(state: State) -> int:
    spikes = 0 if isinstance(state.guard, NoGuard) else int(state.guard.spikes)
    return int(state.skipped) - spikes


def _state_at(directory: RunDirectory, checkpoints: Checkpoints, built: Built, step: int, say: Say) -> State:
    """The newest known state after `step` steps or fewer."""
    steps = [s for s in checkpoints.steps() if checkpoints.damage(s) is None]
    earlier, later = [s for s in steps if s <= step], [s for s in steps if s > step]
    if earlier:
        say(f"replaying from checkpoint {earlier[-1]}")
        return _with_hparams_of(directory, built, _restore(checkpoints, built, earlier[-1]), step, say)
    if later:
        state = _taken_back(_restore(checkpoints, built, later[0]), step, directory.read_metrics())
        if state is not None:
            say(f"replaying from checkpoint {later[0]}: from step {step + 1} on all were skipped")
            return state
    say("replaying from initialisation: there is no checkpoint from before that step")
    return built.init()


def _restore(checkpoints: Checkpoints, built: Built, step: int) -> State:
    state, meta = checkpoints.restore(step, built.abstract)
    if meta["plan"] != built.plan.fingerprint:
        raise UserError(
            f"the data or its order changed (plan {meta['plan']} then, {built.plan.fingerprint} now)",
            where=f"checkpoint {step} of {checkpoints.path}",
            fix="Restore the data.",
        )
    return state


def _taken_back(state: State, step: int, lines: list[dict[str, Any]]) -> State | None:
    """The state after `step` steps, where all steps since were skipped: they left everything but the counts as it was.

    None where that is not known, or a dynamic loss scale has moved.
    """
    known = {line["step"]: line["train_skipped"] for line in lines if "train_skipped" in line}
    taken, skipped = int(state.step) - step, int(state.skipped) - {0: 0, **known}.get(step, np.inf)
    if skipped != taken or isinstance(state.loss_scale, DynamicLossScale):
        return None
    return dataclasses.replace(
        state,
        step=_less(state.step, taken),
        cursor=_less(state.cursor, taken),
        skipped=_less(state.skipped, taken),
    )


def _less(x: jax.Array, by: int) -> jax.Array:
    return jax.device_put(np.asarray(int(x) - by, x.dtype), x.sharding)


def _with_hparams_of(directory: RunDirectory, built: Built, state: State, step: int, say: Say) -> State:
    """With the hyperparameters as they are now, where they were changed between this state and `step`."""
    file = directory.path / "changes.jsonl"
    changes = (
        [json.loads(line)["step"] for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    )
    if not any(int(state.step) <= changed <= step for changed in changes):
        return state
    say("hyperparameters were changed on the way: replaying with the newest")
    fresh = built.experiment.hparams(built.total_steps)
    return experiments.with_hparams(state, {**fresh, "lr_scale": state.hparams["lr_scale"]})
