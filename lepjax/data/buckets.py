"""Length buckets: a few padded shapes instead of one, so that short records do not pay for long ones.

Every batch comes from one bucket and has that bucket's shape, so a program is compiled per bucket. More shapes waste less
padding and cost more compiling: `choose` minimises the sum for the number of steps at hand.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from lepjax.core.errors import UserError
from lepjax.data.plan import digest_of, permuted
from lepjax.data.recent import Recent


def choose(
    lengths: np.ndarray, seconds: Callable[[int], float], compile_seconds: float, multiple: int = 8, most: int = 8
) -> tuple[int, ...]:
    """The padded lengths, ascending, that minimise predicted seconds of computing and compiling.

    lengths           int[records]: tokens of each record
    seconds(length)   predicted seconds of all passes over one record padded to `length`
    compile_seconds   predicted seconds of compiling one more shape

    Exact, by dynamic programming over multiples of `multiple`.
    """
    edges = np.unique(-(-lengths // multiple) * multiple)
    below = np.searchsorted(np.sort(lengths), edges, side="right")  # records that fit
    cost = np.array([seconds(int(edge)) for edge in edges])
    best = below * cost + compile_seconds  # best[j]: all records up to edges[j], the last bucket ending there
    back = [np.full(len(edges), -1)]
    totals = [best]
    for _ in range(1, min(most, len(edges))):
        candidates = totals[-1][:, None] + (below[None, :] - below[:, None]) * cost[None, :] + compile_seconds
        candidates[np.tril_indices(len(edges))] = np.inf
        back.append(candidates.argmin(axis=0))
        totals.append(candidates.min(axis=0))
    count = int(np.argmin([total[-1] for total in totals]))
    chosen, at = [], len(edges) - 1
    for level in range(count, -1, -1):
        chosen.append(int(edges[at]))
        at = int(back[level][at])
    return tuple(reversed(chosen))


def bucket_of(lengths: np.ndarray, edges: tuple[int, ...]) -> np.ndarray:
    """int64[records]: the index of the smallest edge that holds each record. Raises `UserError` where none does."""
    if len(lengths) and lengths.max() > edges[-1]:
        raise UserError(
            f"a record of {lengths.max()} tokens is longer than every padded length {edges}",
            where="data.batching",
            fix=f"Add {lengths.max()} or more, or use a smaller --data.max-length.",
        )
    return np.searchsorted(np.asarray(edges), lengths)


@dataclasses.dataclass(frozen=True)
class BucketPlan:
    """Shuffled epochs; each batch holds records of one bucket.

    What does not fill a bucket's last batch moves up into the next longer bucket, so that an epoch has as many batches as
    without buckets, and at most one that is not full. The order of an epoch's batches is shuffled too.
    """

    lengths: np.ndarray = dataclasses.field(repr=False, compare=False)
    edges: tuple[int, ...]
    batch_size: int
    seed: int
    digest: str

    def __post_init__(self) -> None:
        bucket_of(self.lengths, self.edges)  # what is too long is an error now, not when its batch is asked for

    @property
    def records(self) -> int:
        return len(self.lengths)

    @property
    def fingerprint(self) -> str:
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "lengths"}
        return digest_of({**kept, "kind": "buckets"})

    @property
    def steps_per_epoch(self) -> float:
        return -(-self.records // self.batch_size)

    @property
    def note(self) -> str:
        padded = np.asarray(self.edges)[bucket_of(self.lengths, self.edges)].sum()
        edges = ", ".join(map(str, self.edges))
        return f"rows padded to {edges} tokens, compiled before step 0; {self.lengths.sum() / padded:.0%} useful"

    def batch(self, cursor: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, index = divmod(cursor, int(self.steps_per_epoch))
        ids = self._epoch(epoch)[index]
        return ids, np.full_like(ids, epoch)

    def shapes(self) -> list[np.ndarray]:
        buckets = bucket_of(self.lengths, self.edges)
        longest = [np.flatnonzero(buckets == b)[0] for b in np.unique(buckets)]
        return [np.full(self.batch_size, record) for record in longest]

    def _epoch(self, epoch: int) -> np.ndarray:
        return _arranged(self, epoch)

    def __hash__(self) -> int:
        return hash(self.fingerprint)


@Recent
def _arranged(plan: BucketPlan, epoch: int) -> np.ndarray:
    """int64[steps per epoch, batch size]: the record ids of an epoch's batches."""
    order = permuted(plan.records, plan.seed, epoch, np.arange(plan.records))
    buckets = bucket_of(plan.lengths, plan.edges)[order]
    batches, left = [], np.empty(0, np.int64)
    for bucket in range(len(plan.edges)):
        pool = np.concatenate([left, order[buckets == bucket]])
        full = len(pool) // plan.batch_size * plan.batch_size
        batches.append(pool[:full].reshape(-1, plan.batch_size))
        left = pool[full:]
    if len(left):
        batches.append(np.concatenate([left, np.full(plan.batch_size - len(left), -1)])[None])
    stacked = np.concatenate(batches)
    return stacked[permuted(len(stacked), plan.seed + 1, epoch, np.arange(len(stacked)))]


@dataclasses.dataclass(frozen=True)
class BucketEvaluationPlan:
    """Every record once, shortest first; a batch that is not full is filled up with padding."""

    lengths: np.ndarray
    edges: tuple[int, ...]
    batch_size: int

    def __post_init__(self) -> None:
        bucket_of(self.lengths, self.edges)

    @property
    def records(self) -> int:
        return len(self.lengths)

    @functools.cached_property
    def _batches(self) -> np.ndarray:
        order = np.argsort(self.lengths, kind="stable")
        fill = -len(order) % self.batch_size
        return np.concatenate([order, np.full(fill, -1)]).reshape(-1, self.batch_size)

    def __len__(self) -> int:
        return len(self._batches)

    def batch(self, cursor: int) -> tuple[np.ndarray, np.ndarray]:
        ids = self._batches[cursor]
        return ids, np.zeros_like(ids)

    def shapes(self) -> list[np.ndarray]:
        """One batch per bucket that is met: a batch has the shape of its longest record."""
        longest = self._batches.max(axis=1)
        buckets = bucket_of(np.array([self.lengths[batch[batch >= 0]].max() for batch in self._batches]), self.edges)
        return [self._batches[np.flatnonzero(buckets == b)[0]] for b in np.unique(buckets)] if len(longest) else []
