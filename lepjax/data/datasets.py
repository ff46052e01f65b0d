"""Labelled text by name or path: `load("sst2", split=["train", "validation"])`."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lepjax.core.errors import UserError, nearest
from lepjax.data.fetch import SPLITS, Parts, Wanted, canonical, fetch
from lepjax.data.known import KNOWN, Known, labels_of, normalised
from lepjax.data.plan import permuted
from lepjax.data.quarantine import REFUSE, Sieve
from lepjax.data.tables import NUMBER, Origin, Table

SLICE = re.compile(r"(?P<split>[^\[\]]+)(?P<slice>\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One split. Columns: `text` and perhaps `text_pair`, `label`; or `tokens`, `tags` (lists of words and of as many tags);
    or `id`, `question`, `context`, `answer_text`, `answer_start` (lists: all the answers that count as right).
    """

    name: str
    split: str
    source: str
    """Where it came from, for people."""
    columns: dict[str, list[Any]] = dataclasses.field(repr=False)
    labels: tuple[str, ...] = ()
    """Names of the classes or tags in the order of their ids; empty where labels are numbers or there are none."""
    spelling: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    """How `label` writes the classes, in the order of `labels`; empty: by their names."""
    origin: Origin | None = dataclasses.field(default=None, repr=False, compare=False)
    """The file and line of each row."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {name: column[row] for name, column in self.columns.items()}

    @property
    def kind(self) -> str:
        """What the columns are for."""
        if "tokens" in self.columns:
            return "tagging"
        if "context" in self.columns:
            return "question answering"
        if "label" in self.columns:
            return "classification" if self.labels else "regression"
        return "text"

    @functools.cached_property
    def digest(self) -> str:
        """Hex digest of columns and labels."""
        hashed = hashlib.sha256(json.dumps([self.labels, self.spelling]).encode())
        for name, column in sorted(self.columns.items()):
            hashed.update(json.dumps([name, column]).encode())
        return hashed.hexdigest()

    def select(self, rows: Sequence[int] | np.ndarray) -> Dataset:
        """These rows, in this order."""
        rows = [int(row) for row in rows]
        columns = {name: [column[row] for row in rows] for name, column in self.columns.items()}
        origin = self.origin.select(rows) if self.origin is not None else None
        return dataclasses.replace(self, columns=columns, origin=origin)

    def head(self, count: int) -> Dataset:
        """The first `count` rows, or all where there are fewer."""
        return self.select(range(min(count, len(self))))

    def usable(self, sieve: Sieve) -> Dataset:
        """The rows whose labels mean something; the others go to the sieve."""
        if not {"label", "tags"} & self.columns.keys():
            return self
        try:
            self._check_labels()
        except UserError:
            origin = self.origin or Origin.single(f"{self.name} {self.split} row".strip(), range(1, len(self) + 1))
            placed = dataclasses.replace(self, origin=origin)
            kept = Table(self.columns, origin).screened(lambda row: placed.select([row])._check_labels(), sieve)
            return dataclasses.replace(placed, columns=kept.columns, origin=kept.origin)
        return self

    def _check_labels(self) -> None:
        self.label_ids() if self.labels or "tags" in self.columns else self.scores()

    def where(self, row: int) -> str:
        """`data/sst2/train.tsv line 812`."""
        return self.origin(row) if self.origin is not None else f"{self.name} {self.split} row {row + 1}".strip()

    def label_ids(self) -> np.ndarray:
        """int32[rows]: the class of each row; where words are tagged, int32[words]: their tags, sentence after sentence.

        Raises `UserError` naming file and line for a label that is none of `labels`.
        """
        column = "tags" if "tags" in self.columns else "label"
        values = self._labelled(column)
        spelling = self.spelling or self.labels
        if not self.labels:
            raise UserError("the labels are numbers, not classes", where=f"{self.name} {self.split}".strip())
        ids: dict[Any, int] = {label: index for index, label in enumerate(spelling)}
        if column == "label":
            ids |= {index: index for index in range(len(spelling))}  # a data set made in Python may hold ids
            values = [[value if isinstance(value, int) else str(value)] for value in values]
        try:
            return np.array([ids[value] for row in values for value in row], np.int32)
        except KeyError:
            row, value = next((row, value) for row, own in enumerate(values) for value in own if value not in ids)
            what = "tag" if column == "tags" else "label"
            raise UserError(
                f"{what} {value!r} is not one of {_listed(spelling)}", where=self.where(row), fix="Mend the file."
            ) from None

    def scores(self) -> np.ndarray:
        """float32[rows]: the number to predict. Raises `UserError` naming file and line for what is no finite number."""
        values = self._labelled("label")
        for row, value in enumerate(values):
            if isinstance(value, str) and not NUMBER.fullmatch(value.strip()) or not _finite(value):
                raise UserError(f"label {value!r} is no number", where=self.where(row), fix="Mend the file.")
        return np.array([float(value) for value in values], np.float32)

    def _labelled(self, column: str) -> list[Any]:
        if column not in self.columns:
            raise UserError(f"no labels, only {', '.join(self.columns)}", where=f"{self.name} {self.split}".strip())
        return self.columns[column]


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:20]))
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 20 else shown


def to_stderr(line: str) -> None:
    print(f"lepjax: {line}", file=sys.stderr)


def load(
    name: str,
    split: str | Sequence[str] | None = None,
    data_dir: str = "",
    source: str = "auto",
    revision: str = "",
    text: tuple[str, ...] = (),
    label: str = "",
    say: Callable[[str], None] = to_stderr,
    sieve: Sieve = REFUSE,
) -> Any:
    """The split, or a list of splits, or all splits as {split: Dataset}.

    name       a known data set (`KNOWN`), or the path of a folder or file of TSV, CSV, JSONL, JSON, Parquet or CoNLL files
    split      "train", "validation" (also "valid", "dev"), "test"; "train[:1000]", "train[90%:]"; a list of them; None: all
    data_dir   the folder that holds its files, or a folder of that name; with source "hub" or "tfds": where to download to
    source     "local", "hub", "tfds"; "auto": data_dir if given, else $LEPJAX_DATA, the hub, what TFDS has prepared
    revision   of the hub's repository, instead of the one that is known to fit
    text, label  the columns of one's own table, where they do not have the usual names
    say        told in one line what was used
    sieve      takes the records that cannot be used

    Raises `UserError` naming the file and line, the column, or the folder form where nothing can be reached.
    """
    known = KNOWN.get(name, Known(name))
    parts = fetch(Wanted(known, data_dir, revision), source)
    reader = _Reader(known, parts, (text,) if isinstance(text, str) else tuple(text), label, sieve)
    asked = [s for s in SPLITS if s in parts] if split is None else [split] if isinstance(split, str) else list(split)
    found = [reader.dataset(one) for one in asked]
    rows = ", ".join(f"{data.split} {len(data):,} rows" for data in found)
    say(f"{name}: {rows}, from {', '.join(dict.fromkeys(data.source for data in found))}")
    if split is None:
        return {data.split: data for data in found}
    return found[0] if isinstance(split, str) else found


class _Reader:
    """Reads the splits of one data set, each once."""

    def __init__(self, known: Known, parts: Parts, text: tuple[str, ...], label: str, sieve: Sieve) -> None:
        self.known, self.parts, self.text, self.label, self.sieve = known, parts, text, label, sieve
        self.tables: dict[str, Table] = {}

    def dataset(self, asked: str) -> Dataset:
        match = SLICE.fullmatch(asked)
        if match is None:
            raise UserError("is no split", where=f"{asked!r}", fix='Write "train", "train[:1000]" or "train[90%:]".')
        split = canonical(match["split"])
        if split not in self.parts:
            raise UserError(f"no split {split!r}", where=self.known.name, fix=nearest(split, self.parts))
        table = self.table(split)
        data = Dataset(
            self.known.name,
            split,
            self.parts[split].said,
            table.columns,
            self.labels,
            _spelling(self.known.labels or (), table.columns.get("label", [])),
            table.origin,
        )
        if match["slice"] is None:
            return data
        start, stop = (_bound(match[end], len(data), asked) for end in ("start", "stop"))
        rows = range(len(data))[start:stop]
        if not rows:
            raise UserError(f"no row of {len(data)}", where=asked)
        return dataclasses.replace(data.select(rows), split=f"{split}{match['slice']}")

    def table(self, split: str) -> Table:
        if split not in self.tables:
            table = self.parts[split].read(self.sieve)
            given = self.label if self.label in table.columns or not split.startswith("test") else ""
            table = normalised(table, self.text, given, self.known.labels, self.sieve)
            if self.known.labels is not None and set(table.columns.get("label", ())) in ({"-1"}, {-1.0}):
                del table.columns["label"]  # so the hub and TFDS write the labels that GLUE's tests keep secret
            self.tables[split] = table
        return self.tables[split]

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """Those that are known, or those that occur in the training split (in all splits where there is none)."""
        if self.known.labels is not None:
            return self.known.labels
        splits = ["train"] if "train" in self.parts else [split for split in SPLITS if split in self.parts]
        return labels_of([self.table(split) for split in splits])


def _spelling(labels: tuple[str, ...], values: list[Any]) -> tuple[str, ...]:
    """How these values write the classes: by name, or by number from 0."""
    written = set(values)
    numbers = any(isinstance(value, str) and value.isdecimal() for value in written)
    return tuple(map(str, range(len(labels)))) if numbers and not written & set(labels) else labels


def _bound(text: str | None, rows: int, asked: str) -> int | None:
    """A slice's end as a row number; percentages are rounded, as Hugging Face's and TFDS's are."""
    if text is None:
        return None
    share = text.endswith("%")
    bound = round(int(text[:-1]) * rows / 100) if share else int(text)
    if abs(bound) > rows:
        raise UserError(f"there are {rows} rows", where=asked, fix="Ask for no more.")
    return bound


def slice_off(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """(rest, slice): a random `share` of the rows, and the others, in their order. A function of share, seed and size."""
    count = round(share * len(dataset))
    if not 0.0 < share < 1.0 or not 0 < count < len(dataset):
        where = f"{dataset.name} {dataset.split}"
        raise UserError(f"a share of {share} of {len(dataset)} rows", where=where, fix="Leave rows on both sides.")
    order = permuted(len(dataset), seed, 0, np.arange(len(dataset)))
    return dataset.select(np.sort(order[count:])), dataset.select(np.sort(order[:count]))
