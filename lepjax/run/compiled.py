"""The step, compiled for one placement before the first batch arrives. A batch of another shape is then an error."""

from __future__ import annotations

from typing import Any

import jax

from lepjax.core.sharding import Placement
from lepjax.core.state import State
from lepjax.core.step import Step
from lepjax.data.source import Rows


def batch_shapes(rows: Rows, placement: Placement) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of a placed batch like this host batch."""
    return {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=placement.batch(array, name))
        for name, array in rows.items()
    }


def compile_step(step: Step, state: State, batch: dict[str, jax.ShapeDtypeStruct], placement: Placement) -> Any:
    """Compiles `step(state, batch)` for abstract arguments that carry their shardings. The state is donated."""
    shardings = jax.tree.map(lambda x: x.sharding, state)
    with placement.scope():
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, placement.replicated))
        return jitted.lower(state, batch).compile()
