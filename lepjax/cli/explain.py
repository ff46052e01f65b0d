"""Show how every parameter of an experiment would be placed on a mesh, without running anything.

usage: lepjax explain EXPERIMENT [--mesh data=2,fsdp=2,tensor=2] [--field value ...]

The mesh needs not exist: sizes are arithmetic. Without -1 it is taken as it is, `auto` means one device.
"""

from __future__ import annotations

import math
import pathlib

from rich.console import Console

from lepjax.cli import _load, _overrides
from lepjax.core import sharding
from lepjax.core.errors import DONE, UserError
from lepjax.core.precision import policy
from lepjax.experiment import check_batch_sizes
from lepjax.run import show


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return DONE
    target = arguments[0]
    if pathlib.Path(target).is_dir():
        _, experiment = _load.run_of(target, arguments[1:])
    else:
        _, experiment = _load.from_file(target)
        experiment = _overrides.apply(experiment, arguments[1:], target, "explain")
    if "-1" in experiment.mesh:
        raise UserError("an open axis", where=f"mesh {experiment.mesh}", fix="Give explain all sizes.")
    sizes = sharding.parse_mesh(experiment.mesh, 1) if experiment.mesh == "auto" else absent_mesh(experiment.mesh)
    check_batch_sizes(experiment, sizes)
    model = experiment.model.build(policy(experiment.precision))
    rows = sharding.explain(model.leaves, sizes, allow_replication=experiment.allow_replication)
    used = ", ".join(f"{name}={size}" for name, size in sizes.items() if size > 1) or "one device"
    console = Console()
    show.say(console, f"mesh     {used} ({math.prod(sizes.values())} devices)")
    show.parameter_table(console, rows)
    rules = sharding.Rules()
    named = sorted({axis for row in rows for axis in row.axes if axis})
    show.say(
        console, "rules    " + ", ".join(f"{axis} -> {'+'.join(rules.of(axis)) or 'replicated'}" for axis in named)
    )
    return DONE


def absent_mesh(text: str) -> dict[str, int]:
    """Sizes of a mesh over as many devices as it asks for."""
    count = math.prod(int(size) for part in text.split(",") if (size := part.partition("=")[2].strip()).isdigit())
    return sharding.parse_mesh(text, max(count, 1))
