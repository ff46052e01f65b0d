"""Data sets that a program holds in its hands, as a training recipe."""

from __future__ import annotations

import dataclasses
import weakref

from lepjax.core.errors import UserError
from lepjax.data.datasets import Dataset
from lepjax.data.labelled import TextData
from lepjax.data.quarantine import Sieve

# By digest: what a name here stands for can never change, so this is a cache of values and not a state.
_GIVEN: weakref.WeakValueDictionary[str, Dataset] = weakref.WeakValueDictionary()


def remember(data: Dataset) -> str:
    """The data set's digest, under which a `GivenText` finds it as long as the program holds it."""
    _GIVEN[data.digest] = data
    return data.digest


@dataclasses.dataclass(frozen=True)
class GivenText(TextData):
    """Data sets by the digest of their contents, so that the experiment stays a page of plain values."""

    train: str = ""
    """Digest of the training data."""
    dev: str = ""
    """Digest of the data to evaluate on; empty: none."""

    def parts(self, sieve: Sieve) -> tuple[Dataset, dict[str, Dataset], dict[str, Dataset]]:
        return _recall(self.train), {"dev": _recall(self.dev)} if self.dev else {}, {}


def _recall(digest: str) -> Dataset:
    if digest not in _GIVEN:
        raise UserError(
            "these data were given to a Trainer in Python and are gone",
            where=f"data {digest[:12]}",
            fix="Make the Trainer again with the same data sets.",
        )
    return _GIVEN[digest]
