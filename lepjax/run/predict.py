"""What a model says to every record of a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from lepjax.core.functional import Functional
from lepjax.core.sharding import Placement, gathered
from lepjax.data.loader import Batches, place, read_ahead
from lepjax.data.source import Rows, Source
from lepjax.ops.dropout import Dropout
from lepjax.run.compiled import batch_shapes
from lepjax.tasks.task import Task

Apply = Callable[[Any, Any, dict[str, jax.Array]], Any]


def applied(task: Task, model: Functional) -> Apply:
    """`apply(params, model_state, batch) -> outputs`, compiled, without dropout."""

    def outputs(params: Any, model_state: Any, batch: dict[str, jax.Array]) -> Any:
        return task.outputs(model, params, model_state, batch, Dropout(), False)[0]

    return jax.jit(outputs)


def place_all(source: Source, plan: Any, placement: Placement) -> Iterator[tuple[Rows, dict[str, jax.Array]]]:
    """(host batch, device batch) for all batches of an evaluation plan, of whatever shapes."""
    for rows in read_ahead(Batches(source, plan, len(plan)), 0):
        yield rows, place(rows, {name: shape.sharding for name, shape in batch_shapes(rows, placement).items()})


def predict(
    apply: Apply, params: Any, model_state: Any, source: Source, plan: Any, placement: Placement
) -> Iterator[tuple[np.ndarray, Rows, Any]]:
    """(record ids, host batch, outputs on the host) per batch; ids are -1 for padding. Packed rows have [rows, slots]."""
    for cursor, (rows, batch) in enumerate(place_all(source, plan, placement)):
        with placement.scope():
            out = apply(params, model_state, batch)
        yield plan.batch(cursor)[0], rows, jax.device_get(gathered(out, placement))


def in_order(parts: Iterator[tuple[np.ndarray, Rows, Any]], records: int) -> np.ndarray:
    """The outputs of one array per record [batch..., ...] as [records, ...], each at its record's place."""
    collected: np.ndarray | None = None
    for ids, _, outputs in parts:
        flat = np.asarray(outputs).reshape(ids.size, *outputs.shape[ids.ndim :])
        if collected is None:
            collected = np.zeros((records, *flat.shape[1:]), flat.dtype)
        known = ids.ravel() >= 0
        collected[ids.ravel()[known]] = flat[known]
    return np.zeros((0,)) if collected is None else collected
