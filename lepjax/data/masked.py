"""Masked language modelling: windows over tokens, some of which are hidden, others in every epoch (Devlin et al., 2018)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Sequence

import numpy as np

from lepjax.core.errors import UserError
from lepjax.core.fields import runtime
from lepjax.data.quarantine import BadRecords, Refuse, Sieve, told
from lepjax.data.source import Data, Rows, Shown, Splits
from lepjax.data.tokenizer import Tokenizer
from lepjax.data.wordpiece import given_or_trained

SHARE = 0.15  # of the tokens the model is asked about
MASKED, RANDOM = 0.8, 0.1  # of those: shown as [MASK], as some other token; the rest is shown as it is
HIDING = 0  # what `draws` are for; see also `data.pairs`


def draws(seed: int, ids: np.ndarray, epochs: np.ndarray, count: int, purpose: int) -> np.ndarray:
    """uint64[rows, count], uniform: a function of seed and purpose and of the row's own id and epoch.

    Philox (Salmon et al., 2011), whose stream numpy guarantees: seed and purpose are the key, epoch and record the high
    words of the counter, whose low word counts the numbers.
    """
    rows = [
        np.random.Philox(key=[seed, purpose], counter=[0, int(epoch), int(record), 0]).random_raw(count)
        for record, epoch in zip(ids, epochs, strict=True)
    ]
    return np.stack(rows)


def check_enclosed(tokenizer: Tokenizer, where: str) -> None:
    """Raises `UserError` unless the tokenizer encloses a text as [CLS] text [SEP] (or <s> text </s>)."""
    if None in (tokenizer.cls, tokenizer.sep) or [*tokenizer.encode([""]).ids] != [tokenizer.cls, tokenizer.sep]:
        raise UserError(
            "texts are not enclosed as [CLS] text [SEP]", where=where, fix="Use the tokenizer of an encoder."
        )


def check_seed(seed: int) -> None:
    if not 0 <= seed < 2**31:
        raise UserError(f"{seed}", where="data.mask_seed", fix="Use a whole number from 0 to 2147483647.")


@dataclasses.dataclass(frozen=True)
class Masking:
    """What is hidden in which way: a function of `seed`, record id and epoch.

    mask      the id that hides a token
    special   ids that are never hidden and never stand in for another token
    size      tokens of the vocabulary
    """

    mask: int
    special: tuple[int, ...]
    size: int
    seed: int

    @staticmethod
    def of(tokenizer: Tokenizer, seed: int, where: str) -> Masking:
        """Raises `UserError` for a tokenizer without the special tokens of an encoder."""
        check_enclosed(tokenizer, where)
        if tokenizer.mask is None:
            raise UserError(
                "there is no [MASK] token", where=where, fix="Use the tokenizer of a masked language model."
            )
        check_seed(seed)
        own = {tokenizer.cls, tokenizer.sep, tokenizer.mask, tokenizer.pad}
        special = sorted({index for index in (*own, *tokenizer.special_ids) if index is not None})
        return Masking(tokenizer.mask, tuple(special), tokenizer.size, seed)

    @functools.cached_property
    def words(self) -> np.ndarray:
        """The ids that may stand in for another token."""
        return np.setdiff1d(np.arange(self.size, dtype=np.int32), self.special)

    @staticmethod
    def most(length: int) -> int:
        """How many tokens of a full row are asked for."""
        return max(1, round(SHARE * (length - 2)))

    def hide(self, tokens: np.ndarray, mask: np.ndarray, ids: np.ndarray, epochs: np.ndarray) -> Rows:
        """tokens int32[rows, length], mask bool (what is no padding) -> `tokens` as they are shown, and what is asked:
        `places`, `label` int32[rows, k], `label_weight` float32[rows, k], where k is the same for every batch.

        A row that is not full is asked for fewer than k; the rest of its places is 0 and has no weight.
        """
        length, most = tokens.shape[1], self.most(tokens.shape[1])
        raw = draws(self.seed, ids, epochs, length + 2 * most, HIDING)
        kind, other = raw[:, length : length + most] / 2.0**64, raw[:, length + most :]
        eligible = mask & ~np.isin(tokens, self.special)
        available = eligible.sum(axis=1)
        count = np.minimum(np.clip(np.round(SHARE * available), 1, most), available)
        asked = np.arange(most) < count[:, None]
        ranked = np.where(eligible, raw[:, :length] >> 1, 2**63)  # whatever is not eligible comes last
        places = np.argsort(ranked, axis=1, kind="stable")[:, :most]
        places = np.sort(np.where(asked, places, length), axis=1)
        places = np.where(asked, places, 0).astype(np.int32)
        label = np.where(asked, np.take_along_axis(tokens, places, axis=1), 0).astype(np.int32)
        word = self.words[other % len(self.words)]
        shown = np.where(kind < MASKED, self.mask, np.where(kind < MASKED + RANDOM, word, label))
        hidden = tokens.copy()
        row = np.nonzero(asked)[0]
        hidden[row, places[asked]] = shown[asked]
        return {"tokens": hidden, "places": places, "label": label, "label_weight": asked.astype(np.float32)}


class MaskedWindows:
    """[CLS] tokens [SEP]: windows that tile one long array, masked afresh in every epoch.

    Rows: `tokens` int32[n, length], `mask` bool[n, length] (False beyond the end of the last window), and what
    `Masking.hide` asks. Evaluation reads epoch 0, so its masks are always the same.
    """

    def __init__(self, tokens: np.ndarray, length: int, masking: Masking, tokenizer: Tokenizer, where: str) -> None:
        if length < 3:
            raise UserError(f"windows of {length} tokens", where="data.length", fix="Use at least 3.")
        if not len(tokens):
            raise UserError("there is no text", where=where)
        self.tokens, self.length, self.masking = tokens, length, masking
        self.tokenizer, self.where = tokenizer, where
        self.cls, self.sep, self.pad = tokenizer.cls, tokenizer.sep, tokenizer.pad
        seen = hashlib.sha256(np.ascontiguousarray(tokens).data)
        seen.update(f"{tokens.dtype} {length} {masking} {self.cls} {self.sep} {self.pad}".encode())
        self.digest = seen.hexdigest()

    def __len__(self) -> int:
        return -(-len(self.tokens) // (self.length - 2))

    def shown(self, record: int, epoch: int) -> Shown:
        start = record * (self.length - 2)
        text = self.tokenizer.decode(self.tokens[start : start + self.length - 2])
        return Shown(text, where=f"{self.where} token {start}")

    def rows(self, ids: np.ndarray, epochs: np.ndarray) -> Rows:
        body = self.length - 2
        inside = np.minimum(body, len(self.tokens) - ids * body)[:, None]  # tokens of each window
        place = np.arange(self.length)
        at = np.minimum(ids[:, None] * body + np.maximum(place - 1, 0), len(self.tokens) - 1)
        conditions = [place == 0, place <= inside, place == inside + 1]
        tokens = np.select(conditions, [self.cls, self.tokens[at], self.sep], self.pad).astype(np.int32)
        mask = place <= inside + 1
        return {"mask": mask, **self.masking.hide(tokens, mask, ids, epochs)}


def stream(tokenizer: Tokenizer, documents: Sequence[str]) -> np.ndarray:
    """int32[tokens]: the documents end to end, each closed by the separator."""
    encoded = tokenizer.encode(documents, max_length=sys.maxsize)
    kept = np.ones(len(encoded.ids), bool)
    kept[encoded.starts[:-1]] = False  # the [CLS] before each
    return encoded.ids[kept]


@dataclasses.dataclass(frozen=True)
class MaskedDocuments(Data):
    """What all recipes of masked language modelling share: documents become windows of tokens."""

    length: int = 128
    """Tokens per window, special tokens included."""
    tokenizer: str = ""
    """A folder in the Hugging Face layout, or owner/repository[@revision] of the hub; empty: train one on the text."""
    vocabulary: int = 4096
    """Word pieces of a tokenizer that is trained."""
    mask_seed: int = 0
    """Seeds what is hidden."""
    bad_records: BadRecords = runtime(Refuse())
    """What becomes of table rows that cannot be used: refuse (an error), or skip."""

    def documents(self, sieve: Sieve) -> tuple[Sequence[str], dict[str, Sequence[str]], str]:
        """The documents to train on, those to evaluate on by split, and where they come from.

        Records that cannot be used go to the sieve.
        """
        raise TypeError(f"{type(self).__name__} must define documents")

    def load(self) -> Splits:
        sieve = self.bad_records.sieve()
        train, evaluation, where = self.documents(sieve)
        tokenizer, folder = given_or_trained(self.tokenizer, train, self.vocabulary)
        masking = Masking.of(tokenizer, self.mask_seed, str(folder))
        parts = {"train": train, **evaluation}
        tokens = {name: stream(tokenizer, documents) for name, documents in parts.items()}
        counted = [f"{name}: {len(tokens[name]):,} tokens of {len(parts[name]):,} documents, {where}" for name in parts]
        windows = {
            name: MaskedWindows(tokens[name], self.length, masking, tokenizer, f"{where} ({name})") for name in parts
        }
        return Splits(
            train=windows.pop("train"),
            evaluation={**windows},
            notes=(*counted, f"tokenizer: {tokenizer.size:,} tokens, {folder}", *told(sieve.dropped)),
            quarantined=sieve.dropped,
            largest_token=tokenizer.size - 1,
        )
