"""Sequence packing: several records in one row, so that a batch of one shape holds little padding."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from lepjax.core.errors import UserError
from lepjax.data.plan import digest_of, permuted
from lepjax.data.recent import Recent


@dataclasses.dataclass(frozen=True)
class PackedPlan:
    """Shuffled epochs; batch ids are int64[rows, slots], -1 where a slot is empty.

    Records go, in the epoch's order, into the first row of the batch with room for them; the first that fits nowhere
    starts the next batch. So the number of records per step varies a little, and the last batch of an epoch may be short.
    """

    lengths: np.ndarray = dataclasses.field(repr=False, compare=False)
    length: int
    """Tokens per row."""
    rows: int
    slots: int
    """Most records in a row."""
    seed: int
    digest: str
    shuffled: bool = True

    def __post_init__(self) -> None:
        if self.lengths.max() > self.length:
            raise UserError(
                f"a record of {self.lengths.max()} tokens does not fit rows of {self.length}",
                where="data.batching.length",
                fix=f"Use {self.lengths.max()} or more.",
            )
        if self.slots < 1:
            raise UserError(f"{self.slots}", where="data.batching.slots", fix="Use at least 1.")

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def records(self) -> int:
        return len(self.lengths)

    @functools.cached_property
    def fingerprint(self) -> str:
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "lengths"}
        return digest_of({**kept, "kind": "packed"})

    @property
    def steps_per_epoch(self) -> float:
        """Of the first epoch; another order packs into a few batches more or less."""
        return len(self)

    @property
    def note(self) -> str:
        places = len(self) * self.rows * self.length
        share = self.lengths.sum() / places
        return f"{self.records / len(self):.0f} records packed into {self.rows} x {self.length}; {share:.0%} useful"

    def __len__(self) -> int:
        return _count(self, 0)

    def batch(self, cursor: int) -> tuple[np.ndarray, np.ndarray]:
        epoch = 0
        while cursor >= (count := _count(self, epoch)):
            cursor, epoch = cursor - count, epoch + 1 if self.shuffled else epoch
        ids = _packed(self, epoch)[cursor]
        return ids, np.full(ids.shape, epoch)

    def shapes(self) -> list[np.ndarray]:
        return [_packed(self, 0)[0]]


@functools.cache  # a late cursor asks for all epochs before it: numbers are kept, arrays are not
def _count(plan: PackedPlan, epoch: int) -> int:
    return len(_packed(plan, epoch))


@Recent
def _packed(plan: PackedPlan, epoch: int) -> np.ndarray:
    """int64[batches, rows, slots]."""
    order = np.arange(plan.records)
    if plan.shuffled:
        order = permuted(plan.records, plan.seed, epoch, order)
    batches: list[np.ndarray] = []
    room = np.zeros(plan.rows, np.int64)
    for record in order:
        fits = np.flatnonzero(room >= plan.lengths[record])
        if not len(fits):
            batches.append(np.full((plan.rows, plan.slots), -1, np.int64))
            room[:], used, fits = plan.length, np.zeros(plan.rows, np.int64), np.array([0])
        row = fits[0]
        batches[-1][row, used[row]] = record
        used[row] += 1
        room[row] = room[row] - plan.lengths[record] if used[row] < plan.slots else 0
    return np.stack(batches)
