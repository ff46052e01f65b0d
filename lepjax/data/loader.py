"""From plan to device: rows are read ahead in threads, then placed on the mesh."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from lepjax.core.sharding import Part
from lepjax.data.plan import EvaluationPlan, Indexed
from lepjax.data.source import Rows, Source


@dataclasses.dataclass(frozen=True)
class Batches:
    """batches[t]: the global batch of step t. `weight` is 1 for every row, 0 for padding."""

    source: Source
    plan: Indexed | EvaluationPlan
    count: int
    part: Part | None = None
    """The rows of each batch that are wanted here; None: all."""

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, cursor: int) -> Rows:
        ids, epochs = self.plan.batch(int(cursor))
        if self.part is None:
            return load_rows(self.source, ids, epochs)
        if getattr(self.source, "rowwise", False):
            return load_rows(self.source, ids[self.part.places], epochs[self.part.places])
        # A batch may be as wide as its longest record, which another process may hold.
        return {name: array[self.part.places] for name, array in load_rows(self.source, ids, epochs).items()}


def load_rows(source: Source, ids: np.ndarray, epochs: np.ndarray) -> Rows:
    """The records `ids`, and their weight. A padding row (id -1) shows some record of the batch and weighs nothing."""
    weight = (ids >= 0).astype(np.float32)
    if ids.ndim == 2:  # packed: the source fills rows from several records
        return {**source.rows(ids, epochs), "weight": weight.max(axis=1)}
    return {**source.rows(np.where(ids >= 0, ids, max(ids.max(), 0)), epochs), "weight": weight}


def read_ahead(batches: Batches, start: int, threads: int = 1, ahead: int = 4) -> Iterator[Rows]:
    """batches[start], batches[start + 1], ... in order, read by `threads` threads up to `ahead` early."""
    if start >= len(batches):
        return iter(())
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    return iter(grain.MapDataset.source(batches)[start:].to_iter_dataset(options))


def place(rows: Rows, shardings: dict[str, NamedSharding], part: Part | None = None) -> dict[str, jax.Array]:
    """Host rows -> device arrays of the global batch. `rows` are its `part`, which this process's devices hold."""
    if part is None and all(sharding.is_fully_addressable for sharding in shardings.values()):
        return {name: jax.device_put(array, shardings[name]) for name, array in rows.items()}

    def one(name: str, array: np.ndarray) -> jax.Array:
        held = part or Part(np.arange(len(array)), len(array))

        def of_device(index: Any) -> np.ndarray:
            wanted = np.arange(held.count)[index[0]]
            return array[(np.searchsorted(held.places, wanted), *index[1:])]

        return jax.make_array_from_callback((held.count, *array.shape[1:]), shardings[name], of_device)

    return {name: one(name, array) for name, array in rows.items()}


def placed_ahead(
    host: Iterable[Rows], shardings: dict[str, NamedSharding], ahead: int = 2, part: Part | None = None
) -> Iterator[tuple[Rows, dict[str, jax.Array]]]:
    """(host batch, device batch) pairs; transfers of the next `ahead` batches run while the device computes."""
    queue: collections.deque[tuple[Rows, Any]] = collections.deque()
    for rows in host:
        queue.append((rows, place(rows, shardings, part)))
        if len(queue) >= ahead:
            yield queue.popleft()
    yield from queue
