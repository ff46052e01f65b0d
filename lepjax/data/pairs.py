"""Pairs of sentences, half of which do not belong together: next-sentence prediction (Devlin et al., 2018)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from lepjax.core.errors import UserError
from lepjax.core.fields import runtime
from lepjax.data.documents import Documents, read_documents, split_off
from lepjax.data.masked import Masking, check_enclosed, check_seed, draws
from lepjax.data.quarantine import BadRecords, Refuse, told
from lepjax.data.source import Data, Rows, Shown, Splits
from lepjax.data.tokenizer import Encoded, Tokenizer
from lepjax.data.wordpiece import given_or_trained

PAIRING = 1  # what `draws` are for; see also `data.masked`
RELATIONS = ("next", "random")


@dataclasses.dataclass(frozen=True)
class SentencePairs(Data):
    """Consecutive lines of a text, the second replaced by a random line in half of the pairs, others in every epoch.

    With `masked` for the task PreTraining, else for Classification(labels=("next", "random")).
    """

    path: str = ""
    """A text with a sentence per line and empty lines between documents, or a table with a column `text`."""
    masked: bool = False
    """Hide words too."""
    length: int = 128
    """Tokens per pair, special tokens included; of longer pairs the longer sentence is cut."""
    dev: float = 0.1
    """Share of the lines, at the end, that is kept for evaluation."""
    tokenizer: str = ""
    """A folder in the Hugging Face layout, or owner/repository[@revision] of the hub; empty: train one on the text."""
    vocabulary: int = 4096
    """Word pieces of a tokenizer that is trained."""
    mask_seed: int = 0
    """Seeds which sentences are replaced and what is hidden."""
    bad_records: BadRecords = runtime(Refuse())
    """What becomes of table rows that cannot be used: refuse (an error), or skip."""

    def load(self) -> Splits:
        sieve = self.bad_records.sieve()
        train, dev = split_off(read_documents(self.path, sieve), self.dev)
        lines = [line for document in train for line in document]
        tokenizer, folder = given_or_trained(self.tokenizer, lines, self.vocabulary)
        masking = Masking.of(tokenizer, self.mask_seed, str(folder)) if self.masked else None
        check_seed(self.mask_seed)
        check_enclosed(tokenizer, str(folder))

        def pairs(documents: Documents, name: str) -> Pairs:
            return Pairs(documents, self.length, tokenizer, self.mask_seed, masking, f"{self.path} ({name})")

        sources = {"train": pairs(train, "train"), "dev": pairs(dev, "dev")}
        counted = (f"{name}: {len(source):,} pairs of lines, {self.path}" for name, source in sources.items())
        return Splits(
            train=sources["train"],
            evaluation={"dev": sources["dev"]},
            labels=() if self.masked else RELATIONS,
            notes=(*counted, f"tokenizer: {tokenizer.size:,} tokens, {folder}", *told(sieve.dropped)),
            quarantined=sieve.dropped,
            largest_token=tokenizer.size - 1,
        )


class Pairs:
    """[CLS] first [SEP] second [SEP]: record i is the i-th line that has a next one in its document, with that one
    (relation 0) or with a random line (relation 1): of another document, or where there is none, any other line.

    Rows: `tokens`, `token_types` int32[n, length], `mask` bool[n, length], and `label` int32[n], the relation; with
    `masking` `relation` int32[n], and `label` is what `Masking.hide` asks.
    """

    def __init__(
        self, documents: Documents, length: int, tokenizer: Tokenizer, seed: int, masking: Masking | None, where: str
    ) -> None:
        if length < 5:
            raise UserError(f"pairs of {length} tokens", where="data.length", fix="Use at least 5.")
        self.written = [line for lines in documents for line in lines]
        self.lines: Encoded = tokenizer.encode(self.written, max_length=length)
        self.length, self.seed, self.masking, self.where = length, seed, masking, where
        self.cls, self.sep, self.pad = tokenizer.cls, tokenizer.sep, tokenizer.pad
        self.firsts, self.low, self.high = _neighbours([len(lines) for lines in documents])
        if not len(self.firsts) or ((self.high - self.low) >= len(self.lines)).any():
            found = f"{len(self.lines)} lines are too few for pairs"
            raise UserError(found, where=where, fix="Put every sentence on its own line, and use more text.")
        seen = hashlib.sha256(self.lines.ids.tobytes() + self.lines.starts.tobytes())
        seen.update(self.low.tobytes() + self.high.tobytes())
        seen.update(f"{length} {seed} {masking} {self.cls} {self.sep} {self.pad}".encode())
        self.digest = seen.hexdigest()

    def __len__(self) -> int:
        return len(self.firsts)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The labels as evaluation has them."""
        return {"label": self._evaluated[0]}

    @functools.cached_property
    def texts(self) -> tuple[str, ...]:
        """The pairs as a person reads them in evaluation."""
        pairs = zip(self.firsts, self._evaluated[1], strict=True)
        return tuple(f"{self.written[first]} | {self.written[second]}" for first, second in pairs)

    @functools.cached_property
    def _evaluated(self) -> tuple[np.ndarray, np.ndarray]:
        ids = np.arange(len(self))
        return self.drawn(ids, np.zeros_like(ids))

    def drawn(self, ids: np.ndarray, epochs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(relation int32[n], the second line's number int64[n])."""
        coin, number = draws(self.seed, ids, epochs, 2, PAIRING).T
        low, high = self.low[ids], self.high[ids]
        other = (number % (len(self.lines) - (high - low)).astype(np.uint64)).astype(np.int64)
        other += np.where(other >= low, high - low, 0)  # steps over the lines that are no random choice
        relation = (coin >> 63).astype(np.int32)
        return relation, np.where(relation, other, self.firsts[ids] + 1)

    def shown(self, record: int, epoch: int) -> Shown:
        (relation,), (second,) = self.drawn(np.array([record]), np.array([epoch]))
        text = f"{self.written[self.firsts[record]]} | {self.written[second]}"
        return Shown(text, where=f"{self.where} line {self.firsts[record] + 1}", label=RELATIONS[relation])

    def rows(self, ids: np.ndarray, epochs: np.ndarray) -> Rows:
        relation, second = self.drawn(ids, epochs)
        begin_a, size_a = self._line(self.firsts[ids])
        begin_b, size_b = self._line(second)
        room = self.length - 3
        size_b = np.minimum(size_b, np.maximum(room - size_a, room // 2))
        size_a = np.minimum(size_a, room - size_b)
        place = np.arange(self.length)
        middle, end = size_a + 1, size_a + size_b + 2  # the two separators
        last = len(self.lines.ids) - 1
        of_a = self.lines.ids[np.minimum(begin_a + np.maximum(place - 1, 0), last)]
        of_b = self.lines.ids[np.minimum(begin_b + np.maximum(place - middle - 1, 0), last)]
        conditions = [place == 0, place < middle, place == middle, place < end, place == end]
        tokens = np.select(conditions, [self.cls, of_a, self.sep, of_b, self.sep], self.pad).astype(np.int32)
        mask = place <= end
        types = (mask & (place > middle)).astype(np.int32)
        laid = {"tokens": tokens, "mask": mask, "token_types": types}
        if self.masking is None:
            return {**laid, "label": relation}
        return {**laid, **self.masking.hide(tokens, mask, ids, epochs), "relation": relation}

    def _line(self, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(where the tokens of these lines begin, how many there are), int64[n, 1], without special tokens."""
        return self.lines.starts[lines][:, None] + 1, self.lines.lengths[lines][:, None] - 2


def _neighbours(sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lines that have a next one, and for each the lines low..high - 1 that no random second is taken from."""
    ends = np.cumsum(np.array(sizes, np.int64))
    number = np.arange(ends[-1] if len(ends) else 0)
    document = np.repeat(np.arange(len(sizes)), sizes)
    firsts = number[:-1][document[:-1] == document[1:]]
    if len(sizes) == 1:
        return firsts, firsts, firsts + 2
    ends_of = ends[document[firsts]]
    return firsts, ends_of - np.array(sizes, np.int64)[document[firsts]], ends_of
