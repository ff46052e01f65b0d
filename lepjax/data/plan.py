"""The plan: which records make batch t. An index, not an iterator.

batch = plan[cursor]. A checkpoint stores the cursor and the plan's fingerprint; nothing else is needed to go on, on any
number of processes. Batches run on from one epoch into the next, so every batch is full.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json

import grain
import numpy as np


@dataclasses.dataclass(frozen=True)
class Plan:
    """Shuffled epochs over `records` records in batches of `batch_size`."""

    records: int
    batch_size: int
    seed: int
    digest: str
    """The source's digest: a plan over other data is another plan."""

    @functools.cached_property
    def _order(self) -> grain.MapDataset:
        return grain.MapDataset.range(self.records).seed(self.seed).shuffle().repeat()

    def batch(self, cursor: int) -> tuple[np.ndarray, np.ndarray]:
        """(record ids, epochs) of batch `cursor`, int64[batch_size] each."""
        first = cursor * self.batch_size
        places = np.arange(first, first + self.batch_size)
        order = self._order
        return np.array([order[int(place)] for place in places], np.int64), places // self.records

    @property
    def fingerprint(self) -> str:
        fields = dataclasses.asdict(self)
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    def epochs(self, steps: int) -> float:
        return steps * self.batch_size / self.records


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """Every record once, in order; the last batch is filled up with rows of weight 0."""

    records: int
    batch_size: int

    def __len__(self) -> int:
        return -(-self.records // self.batch_size)

    def batch(self, cursor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(record ids, epochs, weights) of batch `cursor`; padding repeats the last record."""
        places = np.arange(cursor * self.batch_size, (cursor + 1) * self.batch_size)
        weight = (places < self.records).astype(np.float32)
        return np.minimum(places, self.records - 1), np.zeros_like(places), weight
