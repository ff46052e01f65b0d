"""Multiple choice: a context with several candidates to go on with, of which one is right."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from typing import Any

import numpy as np

from lepjax.core import hub
from lepjax.core.errors import UserError, nearest
from lepjax.core.fields import runtime
from lepjax.data.encoded import EncodedRecords
from lepjax.data.fetch import Wanted, canonical, fetch
from lepjax.data.known import KNOWN, Known, strings
from lepjax.data.labelled import TextData
from lepjax.data.source import Rows, Splits
from lepjax.data.tables import Table
from lepjax.data.tokenizer import Tokenizer

CONTEXTS = ("context", "ctx", "sent1", "article", "premise", "question")  # the first that there is
BEGINNINGS = ("sent2", "question")  # what every candidate begins with, where there is one beside the context
LISTS = ("choices", "endings", "options")
NUMBERED = re.compile(r"(ending|choice|option)(\d+)")


@dataclasses.dataclass(frozen=True)
class ChoiceText(TextData):
    """Tables in files: `context` (and perhaps `question`), `choices` (a list) or `ending0`, `ending1`, ..., and `label`,
    the number of the right one, from 0. The names of SWAG, HellaSwag and RACE are known too.
    """

    dataset: str = ""
    """A folder or file of JSONL, JSON, Parquet, TSV or CSV files."""
    data_dir: str = runtime("")
    """The folder that holds it."""
    dev: str = "validation"
    """The split to evaluate on."""
    test: str = ""
    """A split that is scored once, after training; empty: none."""

    def load(self) -> Splits:
        tokenizer = Tokenizer.load(hub.folder(self.tokenizer))
        parts = fetch(Wanted(KNOWN.get(self.dataset, Known(self.dataset)), self.data_dir), "auto")
        names = ["train", canonical(self.dev), *([canonical(self.test)] if self.test else [])]
        for name in names:
            if name not in parts:
                raise UserError(f"no split {name!r}", where=self.dataset, fix=nearest(name, parts))
        sources = [encode(Choices.of(parts[name].read()), tokenizer, self.max_length) for name in names]
        if len({source.choices for source in sources}) > 1:
            counts = ", ".join(f"{name} {source.choices}" for name, source in zip(names, sources, strict=True))
            raise UserError(f"choices per record differ: {counts}", where=self.dataset)
        told = zip(names, sources, strict=True)
        return Splits(
            train=sources[0],
            evaluation={"dev": sources[1]},
            final={"test": sources[2]} if self.test else {},
            notes=tuple(f"{n}: {len(s):,} records of {s.choices} choices, {parts[n].said}" for n, s in told),
            largest_token=tokenizer.size - 1,
        )


@dataclasses.dataclass(frozen=True)
class Choices:
    """Contexts, as many candidates for each, and the number of the right one."""

    contexts: list[str]
    candidates: list[list[str]]
    labels: list[int]

    @staticmethod
    def of(table: Table) -> Choices:
        """Raises `UserError` naming the columns, or file and line of a record that does not fit."""
        columns, where = table.columns, table.origin
        context = next((name for name in CONTEXTS if name in columns), "")
        listed = next((name for name in LISTS if name in columns), "")
        numbered = sorted((int(m[2]), name) for name in columns if (m := NUMBERED.fullmatch(name)))
        if not context or "label" not in columns or not (listed or numbered):
            found = f"its columns are {', '.join(columns)}"
            raise UserError(
                found, where=where.file, fix="Name them context, choices (a list) or ending0, ..., and label."
            )
        names = [] if listed else [name for _, name in numbered]
        rows = columns[listed] if listed else list(zip(*(columns[name] for name in names), strict=True))
        beginning = next((name for name in BEGINNINGS if name in columns and name != context), "")
        begins = strings(table, beginning) if beginning else [""] * len(table)
        candidates, labels = [], []
        for row, (own, label) in enumerate(zip(rows, columns["label"], strict=True)):
            if not isinstance(own, list | tuple) or not all(isinstance(text, str) for text in own):
                raise UserError(f"{listed or ', '.join(names)} holds {own!r}, no list of texts", where=where(row))
            if len(own) != len(rows[0]) or len(own) < 2:
                fix = "Give every record as many, at least two."
                raise UserError(f"{len(own)} choices, the first record has {len(rows[0])}", where=where(row), fix=fix)
            candidates.append([f"{begins[row]} {text}".strip() for text in own])
            labels.append(_number(label, len(own), where(row)))
        return Choices(strings(table, context), candidates, labels)


def _number(label: Any, choices: int, where: str) -> int:
    text = "" if isinstance(label, bool) else str(label)
    if not text.isdecimal() or int(text) >= choices:
        fix = "Number the choices from 0."
        raise UserError(f"label {label!r} is none of 0 to {choices - 1}", where=where, fix=fix)
    return int(text)


def encode(data: Choices, tokenizer: Tokenizer, max_length: int) -> ChoiceRecords:
    """Each context with each of its candidates as a pair of texts."""
    count = len(data.candidates[0])
    contexts = [context for context in data.contexts for _ in range(count)]
    candidates = [text for own in data.candidates for text in own]
    encoded = tokenizer.encode(contexts, candidates, max_length)
    flat = {"tokens": encoded.ids, "token_types": encoded.type_ids}
    texts = EncodedRecords(flat, encoded.starts, {}, {"tokens": tokenizer.pad})
    return ChoiceRecords(texts, count, np.array(data.labels, np.int32))


@dataclasses.dataclass(frozen=True)
class ChoiceRecords:
    """Records of `choices` texts each. Rows: `tokens`, `token_types` int32 and `mask` bool[rows, choices, length], `label`
    int32[rows].
    """

    texts: EncodedRecords
    choices: int
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @functools.cached_property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.texts.digest} {self.choices}".encode() + self.labels.tobytes()).hexdigest()

    @property
    def lengths(self) -> np.ndarray:
        """int64[records]: tokens of the longest choice."""
        return self.texts.lengths.reshape(-1, self.choices).max(axis=1)

    def padded(self, edges: tuple[int, ...]) -> ChoiceRecords:
        return dataclasses.replace(self, texts=self.texts.padded(edges))

    def packed(self, length: int) -> ChoiceRecords:
        raise UserError("multiple choice cannot be packed", where="data.batching", fix="Use Buckets or Fixed.")

    def rows(self, ids: np.ndarray, epochs: np.ndarray) -> Rows:
        texts = (ids[:, None] * self.choices + np.arange(self.choices)).ravel()
        laid = self.texts.rows(texts, np.repeat(epochs, self.choices))
        rows = {name: array.reshape(len(ids), self.choices, -1) for name, array in laid.items()}
        return {**rows, "label": self.labels[ids]}
