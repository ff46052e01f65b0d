"""Sharding is a placement, never part of the maths: the same losses on every mesh."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lepjax import experiment as experiments
from lepjax.core.precision import policy
from lepjax.core.sharding import parse_mesh
from lepjax.data.loader import place
from lepjax.data.source import Rows
from lepjax.experiment import Built, Experiment
from lepjax.run.compiled import batch_shapes, compile_step
from lepjax.testing.collectives import Collective, collectives

STEPS = 20
TOLERANCES = {"float32": 1e-5, "bfloat16": 5e-3, "float16": 5e-3}  # relative, on losses of the first 20 steps
SHARDED = 0.9  # of the bytes of parameters, over each of these axes that a mesh has
CUTTING = ("fsdp", "tensor")


def assert_mesh_equivalent(
    experiment: Experiment,
    meshes: Sequence[str],
    steps: int = STEPS,
    tolerance: float | None = None,
    devices: Sequence[jax.Device] | None = None,
    sharded: float = SHARDED,
) -> None:
    """Every mesh gives one device's losses, and really is in use.

    The losses of `steps` steps lie within `tolerance` (relative; by default that of the experiment's precision); along
    each axis of the mesh the program communicates; over fsdp and tensor at least `sharded` of the parameters' bytes are
    cut. Dropout stays on. Parameters are not compared: Adam amplifies the rounding of gradients that are nearly zero.
    """
    devices = jax.devices() if devices is None else devices
    bound = TOLERANCES[jnp.dtype(policy(experiment.precision).compute).name] if tolerance is None else tolerance
    expected = stepper(dataclasses.replace(experiment, mesh="data=1"), devices[:1]).run(steps)
    for mesh in meshes:
        run = stepper(dataclasses.replace(experiment, mesh=mesh), devices)
        losses = run.run(steps)
        assert all(np.isfinite(losses)), f"mesh {mesh}: losses {losses}"
        off = np.abs(np.array(losses) - expected) / np.abs(expected)
        at = int(off.argmax())
        wrong = f"step {at + 1}: loss {losses[at]:.8g}, one device {expected[at]:.8g}, off by {off[at]:.1e}"
        assert off[at] <= bound, f"mesh {mesh}: {wrong} > {bound:.0e}"
        check_in_use(run, mesh, len(devices), sharded)


def check_in_use(run: Stepper, mesh: str, devices: int, sharded: float = SHARDED) -> None:
    """Every axis of a mesh has its collectives, and its part of the parameters."""
    axes = [name for name, size in parse_mesh(mesh, devices).items() if size > 1]
    touched = {axis for found in run.collectives() for axis in found.axes}
    assert set(axes) <= touched, f"mesh {mesh}: nothing is told along {sorted(set(axes) - touched)}"
    for axis in set(axes) & set(CUTTING):
        share = sharded_share(run.state.params, axis)
        assert share >= sharded, f"mesh {mesh}: only {share:.0%} of the parameters' bytes are cut over {axis}"


@dataclasses.dataclass
class Stepper:
    """A built experiment, its compiled step, and its state; `change_batch` may tamper with the host's rows."""

    built: Built
    compiled: Any
    state: Any
    change_batch: Callable[[Rows], Rows] = lambda rows: rows

    def run(self, steps: int) -> list[float]:
        """The losses of the next steps."""
        batches, placement = self.built.batches(10**9), self.built.placement
        losses = []
        for _ in range(steps):
            rows = self.change_batch(batches[int(self.state.cursor)])
            shardings = {name: placement.batch(array, name) for name, array in rows.items()}
            self.state, metrics = self.compiled(self.state, place(rows, shardings))
            losses.append(float(metrics["loss"]))
        return losses

    def collectives(self) -> tuple[Collective, ...]:
        """Those of one training step."""
        return collectives(self.compiled, self.built.placement.mesh)


def stepper(experiment: Experiment, devices: Sequence[jax.Device] | None = None) -> Stepper:
    """The experiment, built and compiled for these devices (all, by default), at its first step."""
    built = experiments.build(experiment, list(jax.devices() if devices is None else devices))
    shapes = batch_shapes(built.batches(1)[0], built.placement)
    return Stepper(built, compile_step(built.step, built.abstract, [shapes], built.placement), built.init())


def sharded_share(params: Any, axis: str) -> float:
    """The share of bytes that is cut over a mesh axis, by the shards that really exist."""
    total = cut = 0
    for x in jax.tree.leaves(params):
        total += x.nbytes
        names = [name for entry in x.sharding.spec if entry for name in ((entry,) if isinstance(entry, str) else entry)]
        if axis in names and x.addressable_shards[0].data.nbytes <= x.nbytes // x.sharding.mesh.shape[axis]:
            cut += x.nbytes
    return cut / total


def relative(a: Sequence[float], b: Sequence[float]) -> float:
    """The largest relative difference of two lists of losses."""
    return float(np.max(np.abs(np.array(a) - np.array(b)) / np.abs(np.array(b))))
