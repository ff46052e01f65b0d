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
from lepjax.data.known import KNOWN, Known, of_strings
from lepjax.data.labelled import TextData
from lepjax.data.quarantine import REFUSE, Sieve, told
from lepjax.data.source import Rows, Shown, Splits
from lepjax.data.tables import Origin, Table
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
        sieve = self.bad_records.sieve()
        tables = [parts[name].read(sieve) for name in names]
        sources = [encode(Choices.of(table, sieve), tokenizer, self.max_length) for table in tables]
        if len({source.choices for source in sources}) > 1:
            counts = ", ".join(f"{name} {source.choices}" for name, source in zip(names, sources, strict=True))
            raise UserError(f"choices per record differ: {counts}", where=self.dataset)
        counted = zip(names, sources, strict=True)
        return Splits(
            train=sources[0],
            evaluation={"dev": sources[1]},
            final={"test": sources[2]} if self.test else {},
            notes=(
                *(f"{n}: {len(s):,} records of {s.choices} choices, {parts[n].said}" for n, s in counted),
                *told(sieve.dropped),
            ),
            quarantined=sieve.dropped,
            largest_token=tokenizer.size - 1,
        )


@dataclasses.dataclass(frozen=True)
class Choices:
    """Contexts, as many candidates for each, and the number of the right one."""

    contexts: list[str]
    candidates: list[list[str]]
    labels: list[int]
    origin: Origin | None = dataclasses.field(default=None, repr=False, compare=False)
    """The file and line of each record."""

    @staticmethod
    def of(table: Table, sieve: Sieve = REFUSE) -> Choices:
        """Raises `UserError` naming the columns. A record that does not fit goes to the sieve."""
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
        beginning = next((name for name in BEGINNINGS if name in columns and name != context), "")
        table = of_strings(table, (context, *([beginning] if beginning else [])), sieve)
        columns, where = table.columns, table.origin
        rows = columns[listed] if listed else list(zip(*(columns[name] for name in names), strict=True))
        count = next((len(own) for own in rows if isinstance(own, list | tuple)), 0)

        def check(row: int) -> None:
            own = rows[row]
            if not isinstance(own, list | tuple) or not all(isinstance(text, str) for text in own):
                raise UserError(f"{listed or ', '.join(names)} holds {own!r}, no list of texts", where=where(row))
            if len(own) != count or len(own) < 2:
                fix = "Give every record as many, at least two."
                raise UserError(f"{len(own)} choices, the first record has {count}", where=where(row), fix=fix)
            _check_number(columns["label"][row], count, where(row))

        table = table.screened(check, sieve)
        kept = table.columns
        rows = kept[listed] if listed else list(zip(*(kept[name] for name in names), strict=True))
        begins = kept[beginning] if beginning else [""] * len(rows)
        candidates = [[f"{begin} {text}".strip() for text in own] for begin, own in zip(begins, rows, strict=True)]
        return Choices(kept[context], candidates, [int(label) for label in kept["label"]], table.origin)


def _check_number(label: Any, choices: int, where: str) -> None:
    text = "" if isinstance(label, bool) else str(label)
    if not text.isdecimal() or int(text) >= choices:
        fix = "Number the choices from 0."
        raise UserError(f"label {label!r} is none of 0 to {choices - 1}", where=where, fix=fix)


def encode(data: Choices, tokenizer: Tokenizer, max_length: int) -> ChoiceRecords:
    """Each context with each of its candidates as a pair of texts."""
    count = len(data.candidates[0])
    contexts = [context for context in data.contexts for _ in range(count)]
    candidates = [text for own in data.candidates for text in own]
    encoded = tokenizer.encode(contexts, candidates, max_length)
    flat = {"tokens": encoded.ids, "token_types": encoded.type_ids}
    texts = EncodedRecords(flat, encoded.starts, {}, {"tokens": tokenizer.pad}, texts=tuple(candidates))
    return ChoiceRecords(texts, count, np.array(data.labels, np.int32), tuple(data.contexts), data.origin)


@dataclasses.dataclass(frozen=True)
class ChoiceRecords:
    """Records of `choices` texts each. Rows: `tokens`, `token_types` int32 and `mask` bool[rows, choices, length], `label`
    int32[rows].
    """

    texts: EncodedRecords
    choices: int
    labels: np.ndarray
    contexts: tuple[str, ...] = ()
    origin: Origin | None = dataclasses.field(default=None, repr=False, compare=False)

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

    def shown(self, record: int, epoch: int) -> Shown:
        first = record * self.choices
        text = " | ".join([self.contexts[record], *self.texts.texts[first : first + self.choices]])
        return Shown(text, None, self.origin(record) if self.origin is not None else "", self.labels[record])

    def rows(self, ids: np.ndarray, epochs: np.ndarray) -> Rows:
        texts = (ids[:, None] * self.choices + np.arange(self.choices)).ravel()
        laid = self.texts.rows(texts, np.repeat(epochs, self.choices))
        rows = {name: array.reshape(len(ids), self.choices, -1) for name, array in laid.items()}
        return {**rows, "label": self.labels[ids]}
