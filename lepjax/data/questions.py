"""Extractive question answering: questions with passages as windows, and where in them the answers stand."""

from __future__ import annotations

import dataclasses

import numpy as np

from lepjax.core import hub
from lepjax.core.errors import UserError
from lepjax.data.datasets import Dataset
from lepjax.data.encoded import EncodedRecords, PackedRecords
from lepjax.data.labelled import LabelledText
from lepjax.data.quarantine import told
from lepjax.data.source import Shown, Splits
from lepjax.data.tokenizer import EncodedWindows, Tokenizer


@dataclasses.dataclass(frozen=True)
class QuestionText(LabelledText):
    """A data set of questions in SQuAD's layout, nested or flat; see `datasets.load`. Each passage is read in as many
    windows as it needs, and every window is a record.
    """

    max_length: int = 384
    """Tokens per window."""
    dataset: str = "squad"
    """The name of a known data set, or a folder or file of JSON, JSONL or Parquet files."""
    stride: int = 128
    """Tokens of the passage that neighbouring windows share."""
    max_question: int = 64
    """Tokens after which a question is cut off."""

    def load(self) -> Splits:
        tokenizer = Tokenizer.load(hub.folder(self.tokenizer))
        sieve = self.bad_records.sieve()
        train, evaluation, final = self.parts(sieve)
        parts = {"train": train, **evaluation, **final}
        sources = {name: self.windows(data, tokenizer) for name, data in parts.items()}
        notes = (f"{name}: {len(parts[name]):,} questions in {len(sources[name]):,} windows" for name in parts)
        return Splits(
            train=sources["train"],
            evaluation={name: sources[name] for name in evaluation},
            final={name: sources[name] for name in final},
            notes=(
                *(f"{note}, {data.source}" for note, data in zip(notes, parts.values(), strict=True)),
                *told(sieve.dropped),
            ),
            quarantined=sieve.dropped,
            largest_token=tokenizer.size - 1,
        )

    def windows(self, data: Dataset, tokenizer: Tokenizer) -> EncodedQuestions:
        """Raises `UserError` for data without answers."""
        if "answer_start" not in data.columns:
            fix = "Its questions need a context and answers with answer_start."
            raise UserError(f"{data.kind} data without answers", where=f"{data.name} {data.split}", fix=fix)
        questions, contexts = data.columns["question"], data.columns["context"]
        encoded = tokenizer.encode_qa(questions, contexts, self.max_length, self.stride, self.max_question)
        start, end = answer_places(encoded, data)
        return EncodedQuestions(
            flat={"tokens": encoded.ids, "token_types": encoded.type_ids},
            starts=encoded.starts,
            columns={"start": start, "end": end},
            pads={"tokens": tokenizer.pad},
            example=encoded.example,
            offsets=encoded.offsets,
            data=data,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodedQuestions(EncodedRecords):
    """Windows with `start`, `end` int32: the first and last token of the answer, 0 ([CLS]) where the window lacks it.

    example   int64[windows]: the question of each window, a row of `data`
    offsets   int32[tokens, 2]: the characters of the passage that a token of `flat` stands for; (-1, -1): no such token
    """

    example: np.ndarray
    offsets: np.ndarray
    data: Dataset

    def shown(self, record: int, epoch: int) -> Shown:
        row = int(self.example[record])
        answers = self.data.columns["answer_text"][row]
        held = "no answer in this window" if not self.columns["end"][record] else answers[0]
        return Shown(self.data.columns["question"][row], None, self.data.where(row), held)

    def packed(self, length: int) -> PackedRecords:
        raise UserError("windows of passages cannot be packed", where="data.batching", fix="Use Buckets or Fixed.")


def answer_places(windows: EncodedWindows, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(start, end) int32[windows]: the tokens of each question's first answer, counted from the window's first token.

    A window has the answer where all tokens that share a character with it are in the window.
    """
    answers = zip(data.columns["answer_text"], data.columns["answer_start"], strict=True)
    spans = np.array([_characters(texts, starts) for texts, starts in answers], np.int64)
    begin, stop = spans[windows.example].T
    lengths, first = windows.lengths, windows.starts[:-1]
    begins, ends = windows.offsets.T
    of_context = begins >= 0

    def count(flags: np.ndarray) -> np.ndarray:
        return np.add.reduceat((of_context & flags).astype(np.int64), first)

    before = count(ends <= np.repeat(begin, lengths))  # tokens of the passage before the answer
    until = count(begins < np.repeat(stop, lengths))  # and up to its end
    within = np.arange(len(begins)) - np.repeat(first, lengths)
    place = np.minimum.reduceat(np.where(of_context, within, np.repeat(lengths, lengths)), first)
    # An answer that reaches over an end of its window has more tokens in the neighbour, where there is one.
    leftmost = np.minimum.reduceat(np.where(of_context, begins, np.iinfo(np.int32).max), first)
    has_left, has_right = (np.diff(windows.example, **edge) == 0 for edge in ({"prepend": -1}, {"append": -1}))
    cut = has_left & (begin < leftmost) | has_right & (stop > np.maximum.reduceat(ends, first))
    held = (begin >= 0) & (before < until) & ~cut
    start, end = np.where(held, place + before, 0), np.where(held, place + until - 1, 0)
    return start.astype(np.int32), end.astype(np.int32)


def _characters(texts: list[str], starts: list[int]) -> tuple[int, int]:
    """Where the first answer begins and ends, without the spaces around it, which no token stands for."""
    text = texts[0].rstrip() if texts else ""
    bare = text.lstrip()
    begin = starts[0] + len(text) - len(bare) if bare else -1
    return begin, begin + len(bare)
