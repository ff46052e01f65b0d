"""How records of unequal length become batches: padded to one length, to a few, or packed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Protocol

import numpy as np

from lepjax.core.errors import UserError
from lepjax.data.buckets import BucketEvaluationPlan, BucketPlan, choose
from lepjax.data.packing import PackedPlan
from lepjax.data.plan import Indexed
from lepjax.data.source import Source, Work


class Lengthy(Source, Protocol):
    """A source whose records have lengths, and that can be told how to lay them out."""

    @property
    def lengths(self) -> np.ndarray:
        """int[records]: tokens of each record."""
        ...

    def padded(self, edges: tuple[int, ...]) -> Source:
        """The source whose rows are padded to the smallest of these lengths that holds them all."""
        ...

    def packed(self, length: int) -> Source:
        """The source that takes ids [rows, slots] and lays each row's records side by side."""
        ...


@dataclasses.dataclass(frozen=True)
class Batching:
    """A recipe. To add one, derive a dataclass and define `training` and `evaluation`."""

    def training(self, source: Any, batch_size: int, seed: int, work: Work) -> tuple[Source, Indexed]:
        raise TypeError(f"{type(self).__name__} must define training")

    def evaluation(self, source: Any, batch_size: int, work: Work) -> tuple[Source, Any]:
        raise TypeError(f"{type(self).__name__} must define evaluation")


@dataclasses.dataclass(frozen=True)
class Padded(Batching):
    """Batches padded to a length of a small set."""

    def edges(self, lengths: np.ndarray, work: Work, share: float) -> tuple[int, ...]:
        """The padded lengths, ascending. `share`: the work on one batch, relative to a training step."""
        raise TypeError(f"{type(self).__name__} must define edges")

    def training(self, source: Lengthy, batch_size: int, seed: int, work: Work) -> tuple[Source, Indexed]:
        edges = self.edges(source.lengths, work, share=1.0)
        return source.padded(edges), BucketPlan(source.lengths, edges, batch_size, seed, source.digest)

    def evaluation(self, source: Lengthy, batch_size: int, work: Work) -> tuple[Source, Any]:
        edges = self.edges(source.lengths, work, share=1 / 3)  # forward only
        return source.padded(edges), BucketEvaluationPlan(source.lengths, edges, batch_size)


@dataclasses.dataclass(frozen=True)
class Buckets(Padded):
    """A few padded lengths, chosen to minimise the predicted time of compiling and of computing on padding.

    The plan is part of what a run is, so the prediction rests on these two numbers and not on a measurement: the same
    experiment has the same batches on every machine. Give a GPU 1e14 operations per second, and it takes fewer shapes.
    """

    lengths: tuple[int, ...] = ()
    """The padded lengths; empty: choose them."""
    compile_seconds: float = 4.0
    """Predicted seconds of compiling the step for one more shape."""
    flops_per_second: float = 1.5e11
    """Predicted floating-point operations per second of a step."""
    multiple: int = 8
    """Chosen lengths are multiples of this."""

    def __post_init__(self) -> None:
        for name, fits in {
            "lengths": all(length >= 1 for length in self.lengths),
            "compile_seconds": 0.0 <= self.compile_seconds < math.inf,
            "flops_per_second": 0.0 < self.flops_per_second < math.inf,
            "multiple": self.multiple >= 1,
        }.items():
            if not fits:
                raise UserError(f"{getattr(self, name)}", where=f"data.batching.{name}", fix="Use positive numbers.")

    def edges(self, lengths: np.ndarray, work: Work, share: float) -> tuple[int, ...]:
        if self.lengths:
            return tuple(sorted(self.lengths))

        def seconds(length: int) -> float:
            return share * work.epochs * length * max(work.flops_per_token(length), 1.0) / self.flops_per_second

        return choose(lengths, seconds, share * self.compile_seconds, self.multiple)


@dataclasses.dataclass(frozen=True)
class Fixed(Padded):
    """One shape."""

    length: int = 64
    """Tokens per row."""

    def edges(self, lengths: np.ndarray, work: Work, share: float) -> tuple[int, ...]:
        return (self.length,)


@dataclasses.dataclass(frozen=True)
class Packed(Batching):
    """Several records per row. A batch has `batch_size` rows, and so more records than rows."""

    length: int = 128
    """Tokens per row."""
    slots: int = 16
    """Most records in a row."""

    def training(self, source: Lengthy, batch_size: int, seed: int, work: Work) -> tuple[Source, Indexed]:
        plan = PackedPlan(source.lengths, self.length, batch_size, self.slots, seed, source.digest)
        return source.packed(self.length), plan

    def evaluation(self, source: Lengthy, batch_size: int, work: Work) -> tuple[Source, Any]:
        plan = PackedPlan(source.lengths, self.length, batch_size, self.slots, 0, source.digest, shuffled=False)
        return source.packed(self.length), plan
