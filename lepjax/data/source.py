"""What data is: sources that answer by record id, grouped into splits by a recipe."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from lepjax.data.vocabulary import Vocabulary

Rows = dict[str, np.ndarray]  # arrays with a leading row axis


class Source(Protocol):
    """Random access to records. The order of records and their epochs are the plan's business, not the source's."""

    @property
    def digest(self) -> str:
        """Hex digest of everything that determines the records."""
        ...

    def __len__(self) -> int: ...

    def rows(self, ids: np.ndarray, epochs: np.ndarray) -> Rows:
        """The records `ids` (int64[n]) as they look in `epochs` (int64[n]): a pure function of both."""
        ...


@dataclasses.dataclass(frozen=True)
class Splits:
    """The training source, and the sources to evaluate on by name (`dev`, `heldout`): metrics are `<split>_<metric>`."""

    train: Source
    evaluation: dict[str, Source]
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
