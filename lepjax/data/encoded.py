"""Tokenised records of unequal length, laid out as padded or packed rows."""

from __future__ import annotations

import dataclasses
import functools
import hashlib

import numpy as np

from lepjax.data.source import Rows, Shown
from lepjax.data.tables import Origin


@dataclasses.dataclass(frozen=True)
class EncodedRecords:
    """Records of tokens, their columns per record (a class) and per token (tags).

    flat     {name: array[tokens]}: `tokens` int32, optionally `token_types` int32 and columns aligned with the tokens
    starts   int64[records + 1]: where each record begins in `flat`
    columns  {name: array[records, ...]}
    pads     what a column of `flat` holds beyond the end of a record; 0 unless named
    edges    lengths that rows may be padded to, ascending; empty: to the longest of the batch

    Rows: `tokens`, `mask` bool [rows, length] and the other columns.
    """

    flat: dict[str, np.ndarray]
    starts: np.ndarray
    columns: dict[str, np.ndarray]
    pads: dict[str, int] = dataclasses.field(default_factory=dict)
    edges: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    """The records as a person reads them, where they are at hand."""
    origin: Origin | None = dataclasses.field(default=None, repr=False, compare=False)
    """The file and line of each record."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @functools.cached_property
    def digest(self) -> str:
        hashed = hashlib.sha256(self.starts.tobytes())
        hashed.update(str(sorted(self.pads.items())).encode())
        for kind, columns in (("flat", self.flat), ("columns", self.columns)):
            for name, array in sorted(columns.items()):
                hashed.update(f"{kind} {name} {array.dtype} {array.shape} ".encode())
                hashed.update(np.ascontiguousarray(array).tobytes())
        return hashed.hexdigest()

    @property
    def rowwise(self) -> bool:
        """All rows have one width, whatever else is in the batch."""
        return len(self.edges) == 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    def padded(self, edges: tuple[int, ...]) -> EncodedRecords:
        return dataclasses.replace(self, edges=edges)

    def packed(self, length: int) -> PackedRecords:
        return PackedRecords(self, length)

    def rows(self, ids: np.ndarray, epochs: np.ndarray) -> Rows:
        lengths = self.lengths[ids]
        longest = int(lengths.max())
        width = next((edge for edge in self.edges if edge >= longest), longest)
        places = np.arange(width)
        mask = places < lengths[:, None]
        index = np.where(mask, self.starts[ids][:, None] + places, 0)
        laid = {name: np.where(mask, array[index], self.pad(name, array)) for name, array in self.flat.items()}
        return {**laid, "mask": mask, **{name: array[ids] for name, array in self.columns.items()}}

    def shown(self, record: int, epoch: int) -> Shown:
        own = slice(*self.starts[record : record + 2])
        label = self.columns["label"][record] if "label" in self.columns else None
        if "first" in self.flat and "label" in self.flat:  # tags, of the first token of each word
            label = self.flat["label"][own][self.flat["first"][own]]
        where = self.origin(record) if self.origin is not None else ""
        text = self.texts[record] if self.texts else ""
        return Shown(text, None if text else self.flat["tokens"][own], where, label)

    def pad(self, name: str, array: np.ndarray) -> np.generic:
        return array.dtype.type(self.pads.get(name, 0))


@dataclasses.dataclass(frozen=True)
class PackedRecords:
    """Several records per row: ids [rows, slots] -> `segments` (1, 2, ... in each row, 0 is padding), `positions` within
    the record, `firsts` int32[rows, slots], and columns [rows, slots, ...] with `slot_weight` float32[rows, slots].
    """

    records: EncodedRecords
    length: int

    rowwise = True

    @property
    def digest(self) -> str:
        return self.records.digest

    def shown(self, record: int, epoch: int) -> Shown:
        return self.records.shown(record, epoch)

    def __len__(self) -> int:
        return len(self.records)

    def rows(self, ids: np.ndarray, epochs: np.ndarray) -> Rows:
        source, (rows, slots) = self.records, ids.shape
        laid = {
            name: np.full((rows, self.length), source.pad(name, array), array.dtype)
            for name, array in source.flat.items()
        }
        segments, positions = np.zeros((2, rows, self.length), np.int32)
        firsts = np.zeros((rows, slots), np.int32)
        for row in range(rows):
            at = 0
            for slot, record in enumerate(ids[row]):
                if record < 0:
                    continue
                begin, end = source.starts[record : record + 2]
                here = slice(at, at + end - begin)
                for name, array in source.flat.items():
                    laid[name][row, here] = array[begin:end]
                segments[row, here], positions[row, here], firsts[row, slot] = slot + 1, np.arange(end - begin), at
                at = here.stop
        known = np.maximum(ids, 0)
        columns = {name: array[known] for name, array in source.columns.items()}
        extra = {"segments": segments, "positions": positions, "firsts": firsts}
        return {**laid, **extra, **columns, "slot_weight": (ids >= 0).astype(np.float32)}
