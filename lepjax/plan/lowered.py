"""A training step without its data, its weights or its devices: shapes, shardings, and the lowered program.

The mesh may be abstract (`absent`): then everything is arithmetic and tracing, and a step for a thousand chips is
lowered on a laptop. With a mesh of devices, simulated ones too, the lowered step also compiles.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh

from lepjax.checks import check_batch_sizes
from lepjax.core.functional import Functional
from lepjax.core.offload import HOST
from lepjax.core.precision import policy
from lepjax.core.sharding import Placement
from lepjax.core.state import State
from lepjax.core.step import Step
from lepjax.experiment import Experiment, compose

Shapes = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class AbstractStep:
    """`step(state, batch)`, and its arguments as shapes that carry their shardings."""

    model: Functional
    placement: Placement
    step: Step
    state: State
    batch: Shapes

    def lower(self, platforms: tuple[str, ...] | None = None) -> Any:
        """The program (`jax.stages.Lowered`), as `run.compiled` lowers it on this machine's backend: kernels that other
        backends have (cuDNN's attention) are not in it. An abstract mesh needs its `platforms`, such as ("tpu",).
        """
        shardings = jax.tree.map(lambda x: x.sharding, self.state)
        with self.placement.scope():
            jitted = jax.jit(self.step, donate_argnums=0, out_shardings=(shardings, self.placement.replicated))
            return jitted.trace(self.state, self.batch).lower(lowering_platforms=platforms)


def absent(sizes: dict[str, int]) -> AbstractMesh:
    """A mesh of these sizes (`sharding.parse_mesh`) over devices that need not exist."""
    return AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def abstract_step(experiment: Experiment, mesh: Mesh | AbstractMesh, batch: Shapes) -> AbstractStep:
    """What `experiment.build` composes, for batches like `batch`, without reading data.

    A task that learns something from its data (names of classes) is taken as it is. Raises `UserError` for what does
    not fit the mesh.
    """
    check_batch_sizes(experiment, dict(mesh.shape))
    placement = Placement(mesh, allow_replication=experiment.allow_replication)
    precision = policy(experiment.precision)
    model = experiment.model.build(precision)
    # Numbers that depend on the length are leaves of the state: their values are not part of the program.
    parts = compose(experiment, placement, precision, model, experiment.task, total_steps=1)
    return AbstractStep(
        model=model,
        placement=placement,
        step=parts.step,
        state=parts.abstract,
        batch={
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement.batch(x, name)) for name, x in batch.items()
        },
    )


def token_batch(rows: int, length: int) -> Shapes:
    """A batch of `data.tokens.TokenWindows`."""
    tokens = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    return {"tokens": tokens, "targets": tokens, "weight": jax.ShapeDtypeStruct((rows,), jnp.float32)}


def total_bytes(tree: Any) -> int:
    """Of all arrays of a tree of shapes."""
    return sum(math.prod(x.shape) * _itemsize(x) for x in jax.tree.leaves(tree))


def bytes_per_device(tree: Any, host: bool = False) -> int:
    """Of the arrays of a tree of shapes with shardings: what one device holds of them, or the host for it."""
    here = [x for x in jax.tree.leaves(tree) if (x.sharding.memory_kind == HOST) == host]
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * _itemsize(x) for x in here)


def sharded_share(tree: Any) -> float:
    """The share of a tree's bytes in arrays that are cut at all."""
    cut = [x for x in jax.tree.leaves(tree) if x.sharding.shard_shape(x.shape) != x.shape]
    return total_bytes(cut) / total_bytes(tree)


def _itemsize(x: Any) -> int:
    return x.dtype.itemsize
