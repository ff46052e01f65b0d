"""Records that are arrays in memory: numbers, images."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np

from lepjax.data.source import Rows, Shown


@dataclasses.dataclass(frozen=True)
class Arrays:
    """`columns` {name: array[records, ...]}: a row of each is a record."""

    columns: dict[str, np.ndarray]
    texts: tuple[str, ...] = ()
    """What a person calls each record; empty: nothing."""

    rowwise = True

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @functools.cached_property
    def digest(self) -> str:
        hashed = hashlib.sha256()
        for name, array in sorted(self.columns.items()):
            hashed.update(f"{name} {array.dtype} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
        return hashed.hexdigest()

    def rows(self, ids: np.ndarray, epochs: np.ndarray) -> Rows:
        return {name: array[ids] for name, array in self.columns.items()}

    def shown(self, record: int, epoch: int) -> Shown:
        label = self.columns["label"][record] if "label" in self.columns else None
        return Shown(text=self.texts[record] if self.texts else "", label=label)
