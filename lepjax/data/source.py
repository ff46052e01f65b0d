"""What data is: sources that answer by record id, grouped into splits by a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from lepjax.data.plan import EvaluationPlan, Indexed, Plan
from lepjax.data.quarantine import Quarantined
from lepjax.data.vocabulary import Vocabulary

Rows = dict[str, np.ndarray]  # arrays with a leading row axis


@dataclasses.dataclass(frozen=True)
class Shown:
    """A record as a person wants to see it."""

    text: str = ""
    tokens: np.ndarray | None = None
    """int[n], where there is no text; the vocabulary of the splits decodes them."""
    where: str = ""
    """`data/train.tsv line 812`; empty: not known."""
    label: Any = None
    """Class ids (of tags: an array), numbers or words; None: there is none."""


class Source(Protocol):
    """Random access to records. The order of records and their epochs are the plan's business, not the source's.

    A source whose rows do not depend on what else is in the batch may say `rowwise = True`: then each of several processes
    reads its own rows only. One that knows more of its records than their rows may define `shown(record, epoch) -> Shown`.
    """

    @property
    def digest(self) -> str:
        """Hex digest of everything that determines the records."""
        ...

    def __len__(self) -> int: ...

    def rows(self, ids: np.ndarray, epochs: np.ndarray) -> Rows:
        """The records `ids` (int64[n]) as they look in `epochs` (int64[n]): a pure function of both."""
        ...


@dataclasses.dataclass(frozen=True)
class Work:
    """What a plan may know of the job: passes over the training records, and floating-point operations per token."""

    epochs: float
    flops_per_token: Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class Splits:
    """The training source, and the sources to evaluate on by name (`dev`, `heldout`): metrics are `<split>_<metric>`."""

    train: Source
    evaluation: dict[str, Source]
    """Scored while training, and to choose the best checkpoint by."""
    final: dict[str, Source] = dataclasses.field(default_factory=dict)
    """Scored once, after training: with the last and with the best parameters."""
    labels: tuple[str, ...] = ()
    """Names of the classes or tags, in the order of their ids."""
    notes: tuple[str, ...] = ()
    """What a person should know of the data: where it came from, what was cut."""
    quarantined: tuple[Quarantined, ...] = ()
    """Records that could not be used and were set aside."""
    vocabulary: Vocabulary | None = None
    largest_token: int = -1
    """The largest token id, where there is no vocabulary to tell; -1: not known."""


@dataclasses.dataclass(frozen=True)
class Data:
    """A recipe of a data set. To add one, write a file with a dataclass that derives from this one."""

    batch_size: int = 32
    """Rows of the global batch of one optimizer step."""

    def load(self) -> Splits:
        """Reads the data. Raises `UserError` naming file and line for what it cannot use."""
        raise TypeError(f"{type(self).__name__} must define load")

    def training(self, source: Source, seed: int, work: Work) -> tuple[Source, Indexed]:
        """The training source as it will be read, and the plan of its batches."""
        return source, Plan(len(source), self.batch_size, seed, source.digest)

    def scoring(self, source: Source, rows: int, work: Work) -> tuple[Source, Any]:
        """An evaluation source as it will be read, and the plan of its batches (with a length)."""
        return source, EvaluationPlan(len(source), rows)
