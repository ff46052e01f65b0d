"""The plan: which records make batch t. An index, not an iterator.

batch = plan[cursor]. A checkpoint stores the cursor and the plan's fingerprint; nothing else is needed to go on, on any
number of processes. A record id of -1 marks a padding row. `data/buckets.py` and `data/packing.py` hold plans for
records of unequal length.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Protocol

import grain
import numpy as np

from lepjax.core.errors import UserError
from lepjax.data.recent import Recent

SMALL = 2**22  # up to this many records an epoch's whole permutation is kept (32 MB)


class Indexed(Protocol):
    """What the loader asks of a plan."""

    @property
    def records(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """Hex digest of all that determines the batches."""
        ...

    @property
    def steps_per_epoch(self) -> float:
        """Batches in one pass over the records."""
        ...

    @property
    def note(self) -> str:
        """What a person should know of the shapes; empty: nothing."""
        ...

    def batch(self, cursor: int) -> tuple[np.ndarray, np.ndarray]:
        """(record ids, epochs) of batch `cursor`, int64[rows] each (packed: [rows, examples]); -1: no record."""
        ...

    def shapes(self) -> list[np.ndarray]:
        """For each shape that a batch may have, the ids of some batch of that shape."""
        ...


def digest_of(fields: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def permuted(records: int, seed: int, epoch: int, places: np.ndarray) -> np.ndarray:
    """The records at these places (int64[n], below `records`) of an epoch's order. int64[n].

    Small sets are sorted by Philox words, whose stream numpy guarantees; for large ones grain's index shuffle answers
    each place alone, in constant memory (but takes milliseconds for a few records).
    """
    if records <= SMALL:
        return _permutation(records, seed, epoch)[places]
    order = grain.MapDataset.range(records).seed(seed).shuffle().repeat()
    return np.array([order[epoch * records + int(place)] for place in places], np.int64)


@Recent
def _permutation(records: int, seed: int, epoch: int) -> np.ndarray:
    return np.argsort(np.random.Philox(key=[seed, epoch]).random_raw(records), kind="stable")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Shuffled epochs over `records` records in batches of `batch_size`. Batches run on from one epoch into the next, so
    every batch is full.
    """

    records: int
    batch_size: int
    seed: int
    digest: str
    """The source's digest: a plan over other data is another plan."""

    note = ""

    def __post_init__(self) -> None:
        if self.records < 1 or self.batch_size < 1:
            raise UserError(
                f"{self.records} records in batches of {self.batch_size}", where="data", fix="Use at least 1."
            )

    def batch(self, cursor: int) -> tuple[np.ndarray, np.ndarray]:
        """(record ids, epochs) of batch `cursor`, int64[batch_size] each."""
        places = np.arange(cursor * self.batch_size, (cursor + 1) * self.batch_size)
        epochs, within = np.divmod(places, self.records)
        ids = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            ids[here] = permuted(self.records, self.seed, int(epoch), within[here])
        return ids, epochs

    @property
    def fingerprint(self) -> str:
        return digest_of(dataclasses.asdict(self))

    @property
    def steps_per_epoch(self) -> float:
        return self.records / self.batch_size

    def shapes(self) -> list[np.ndarray]:
        return [np.arange(self.batch_size) % self.records]


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """Every record once, in order; the last batch is filled up with padding."""

    records: int
    batch_size: int

    def __post_init__(self) -> None:
        if self.records < 1 or self.batch_size < 1:
            raise UserError(f"{self.records} records in batches of {self.batch_size}", where="evaluation data")

    def __len__(self) -> int:
        return -(-self.records // self.batch_size)

    def batch(self, cursor: int) -> tuple[np.ndarray, np.ndarray]:
        places = np.arange(cursor * self.batch_size, (cursor + 1) * self.batch_size)
        return np.where(places < self.records, places, -1), np.zeros_like(places)

    def shapes(self) -> list[np.ndarray]:
        return [np.arange(self.batch_size) % self.records]
