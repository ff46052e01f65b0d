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

from lepjax.data.plan import EvaluationPlan, Plan
from lepjax.data.source import Rows, Source


@dataclasses.dataclass(frozen=True)
class TrainBatches:
    """batches[t]: the global batch of step t. `weight` is 1 for every row."""

    source: Source
    plan: Plan
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, cursor: int) -> Rows:
        ids, epochs = self.plan.batch(int(cursor))
        return {**self.source.rows(ids, epochs), "weight": np.ones(len(ids), np.float32)}


@dataclasses.dataclass(frozen=True)
class EvaluationBatches:
    """batches[i]: rows of an evaluation source; padding has weight 0."""

    source: Source
    plan: EvaluationPlan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, cursor: int) -> Rows:
        ids, epochs, weight = self.plan.batch(int(cursor))
        return {**self.source.rows(ids, epochs), "weight": weight}


def read_ahead(
    batches: TrainBatches | EvaluationBatches, start: int, threads: int = 1, ahead: int = 4
) -> Iterator[Rows]:
    """batches[start], batches[start + 1], ... in order, read by `threads` threads up to `ahead` early."""
    if start >= len(batches):
        return iter(())
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    return iter(grain.MapDataset.source(batches)[start:].to_iter_dataset(options))


def place(rows: Rows, shardings: dict[str, NamedSharding]) -> dict[str, jax.Array]:
    """Host rows of the global batch -> device arrays; every process hands over the parts its devices hold."""

    def one(name: str, array: np.ndarray) -> jax.Array:
        if jax.process_count() == 1:
            return jax.device_put(array, shardings[name])
        return jax.make_array_from_callback(array.shape, shardings[name], lambda index: array[index])

    return {name: one(name, array) for name, array in rows.items()}


def placed_ahead(
    host: Iterable[Rows], shardings: dict[str, NamedSharding], ahead: int = 2
) -> Iterator[tuple[Rows, dict[str, jax.Array]]]:
    """(host batch, device batch) pairs; transfers of the next `ahead` batches run while the device computes."""
    queue: collections.deque[tuple[Rows, Any]] = collections.deque()
    for rows in host:
        queue.append((rows, place(rows, shardings)))
        if len(queue) >= ahead:
            yield queue.popleft()
    yield from queue
