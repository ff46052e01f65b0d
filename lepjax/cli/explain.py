"""Show how every leaf of an experiment would be placed on a mesh, without running anything.

usage: lepjax explain EXPERIMENT [--mesh data=2,fsdp=2,tensor=2] [--field value ...]

The mesh needs not exist: sizes are arithmetic. Without -1 it is taken as it is, `auto` means one device.
"""

from __future__ import annotations

import math
import pathlib
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType
from rich.console import Console

from lepjax.checks import check_batch_sizes
from lepjax.cli import _load, _overrides
from lepjax.core import parameters, sharding
from lepjax.core.errors import DONE, UserError
from lepjax.core.precision import policy
from lepjax.experiment import Experiment
from lepjax.run import show


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    target = arguments[0]
    if pathlib.Path(target).is_dir():
        _, experiment = _load.run_of(target, arguments[1:])
    else:
        loaded = _load.from_file(target, arguments[1:])
        experiment = _overrides.apply(loaded.experiment, loaded.rest, target, "explain", loaded.own)
    if "-1" in experiment.mesh:
        raise UserError("an open axis", where=f"mesh {experiment.mesh}", fix="Give explain all sizes.")
    sizes = sharding.parse_mesh(experiment.mesh, 1) if experiment.mesh == "auto" else absent_mesh(experiment.mesh)
    check_batch_sizes(experiment, sizes)
    model = experiment.model.build(policy(experiment.precision))
    rows = sharding.explain(model.leaves, sizes, allow_replication=experiment.allow_replication)
    used = ", ".join(f"{name}={size}" for name, size in sizes.items() if size > 1) or "one device"
    console = Console()
    show.say(console, f"mesh       {used} ({math.prod(sizes.values())} devices)")
    show.parameter_table(console, rows)
    rules = sharding.Rules()
    named = sorted({axis for row in rows for axis in row.axes if axis})
    show.say(
        console, "rules      " + ", ".join(f"{axis} -> {'+'.join(rules.of(axis)) or 'replicated'}" for axis in named)
    )
    total, local = optimizer_bytes(experiment, model.leaves, sizes)
    show.say(console, f"optimizer  {total:,} bytes of state, {local:,} per device")
    return DONE


def optimizer_bytes(experiment: Experiment, leaves: Any, sizes: dict[str, int]) -> tuple[int, int]:
    """Bytes of the optimizer's state, in all and on each device."""
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
    placement = sharding.Placement(mesh, allow_replication=experiment.allow_replication)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), leaves, is_leaf=parameters.is_leaf)
    state = jax.eval_shape(experiment.optimizer.build(leaves)(experiment.hparams(1)).init, params)
    shardings = sharding.like_parameters(state, leaves, placement)
    pairs = list(zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True))
    total = sum(x.size * x.dtype.itemsize for x, _ in pairs)
    return total, sum(math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize for x, s in pairs)


def absent_mesh(text: str) -> dict[str, int]:
    """Sizes of a mesh over as many devices as it asks for."""
    count = math.prod(int(size) for part in text.split(",") if (size := part.partition("=")[2].strip()).isdigit())
    return sharding.parse_mesh(text, max(count, 1))
