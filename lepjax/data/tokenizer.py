"""Text, pairs, words and questions to token ids, and back."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import tokenizers
from tokenizers import pre_tokenizers

from lepjax.core.errors import UserError
from lepjax.data import tokenizer_files

CHUNK = 8192  # texts handed to the library at a time: its results are large Python objects


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Token ids of texts, special tokens included, end to end.

    ids, type_ids   int32[tokens]; type 1 marks the second text of a pair, where the tokenizer says so
    starts          int64[texts + 1]: where each text begins
    cut             how many texts lost tokens to `max_length` (`encode_words`: how many words)
    """

    ids: np.ndarray
    type_ids: np.ndarray
    starts: np.ndarray
    cut: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        """int32[length]: the ids of one text."""
        return self.ids[self.starts[row] : self.starts[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedWords(Encoded):
    """`first` bool[tokens]: the first token of each word, in the words' order; `kept` int64[texts]: words not cut off."""

    first: np.ndarray
    kept: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedWindows(Encoded):
    """`example` int64[windows]: the question each window belongs to; `offsets` int32[tokens, 2]: the characters of the
    context that a token stands for, (-1, -1) for tokens that are not of the context.
    """

    example: np.ndarray
    offsets: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer of Hugging Face's library that neither pads nor truncates by itself.

    `cls`, `sep`, `mask`, `unk` are ids, None where it has none. `pad` is 0 where it has none: padding is masked.
    """

    inner: tokenizers.Tokenizer
    files: tuple[pathlib.Path, ...]
    """What it was read from: copy them to save it."""
    cls: int | None
    sep: int | None
    mask: int | None
    unk: int | None
    pad: int

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Tokenizer:
        """From tokenizer.json, or vocab.txt (BERT), or vocab.json and merges.txt (RoBERTa), the first that is there.

        tokenizer_config.json tells of case and accents. Raises `UserError` naming the file that is missing or damaged.
        """
        read = tokenizer_files.read(pathlib.Path(folder))
        read.tokenizer.no_padding()
        read.tokenizer.no_truncation()
        ids = {role: read.roles.get(role) for role in ("cls", "sep", "mask", "unk")}
        return Tokenizer(read.tokenizer, read.files, pad=read.roles.get("pad", 0), **ids)

    @functools.cached_property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.inner.get_vocab(with_added_tokens=True).values()) + 1

    @functools.cached_property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that stand for no text, ascending."""
        added = self.inner.get_added_tokens_decoder()
        return tuple(sorted(index for index, token in added.items() if token.special))

    @functools.cached_property
    def digest(self) -> str:
        """Hex digest of the files."""
        hashed = hashlib.sha256()
        for file in self.files:
            hashed.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
        return hashed.hexdigest()

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, without special tokens."""
        return self.inner.decode([int(index) for index in ids], skip_special_tokens=True)

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None, max_length: int = 128) -> Encoded:
        """Texts, or pairs of texts. What exceeds `max_length` tokens is cut at the end, of a pair from the longer text."""
        ids, lengths = self._tokens(texts)
        if pairs is None:
            kept = np.minimum(lengths, self._room(max_length, pair=False))
            return self._laid([_Ragged(ids, _begins(lengths), kept)], cut=int((kept < lengths).sum()))[0]
        second, others = self._tokens(pairs)
        if len(others) != len(lengths):
            raise UserError(f"{len(lengths)} texts and {len(others)} second texts", where="pairs")
        kept, left = _longest_first(lengths, others, self._room(max_length, pair=True))
        cut = int(((kept < lengths) | (left < others)).sum())
        return self._laid([_Ragged(ids, _begins(lengths), kept), _Ragged(second, _begins(others), left)], cut)[0]

    def encode_words(self, sentences: Sequence[Sequence[str]], max_length: int = 128) -> EncodedWords:
        """Sentences given as words, each tokenised by itself. A word without any token becomes the unknown token, so that
        every word that was not cut off has exactly one `first`.
        """
        index: dict[str, int] = {}
        word_of = np.array([index.setdefault(word, len(index)) for words in sentences for word in words], np.int64)
        ids, lengths = self._tokens([self._before_word + word for word in index])
        begins = _begins(lengths)
        if not lengths.all():
            if self.unk is None:
                word = list(index)[int(lengths.argmin())]
                raise UserError(f"no token stands for the word {word!r}, and there is no unknown token", where="words")
            ids = np.append(ids, np.int32(self.unk))
            begins, lengths = np.where(lengths, begins, len(ids) - 1), np.maximum(lengths, 1)
        word_lengths = lengths[word_of]
        flat = ids[_ranges(begins[word_of], word_lengths)]
        first = np.zeros(len(flat), bool)
        first[_begins(word_lengths)] = True
        words = np.array([len(words) for words in sentences], np.int64)
        ends = np.concatenate([[0], np.cumsum(word_lengths)])[np.concatenate([[0], np.cumsum(words)])]
        text = _Ragged(flat, ends[:-1], np.minimum(np.diff(ends), self._room(max_length, pair=False)))
        encoded, (placed,) = self._laid([text])
        flags = np.zeros(len(encoded.ids), bool)
        flags[placed] = first[text.index]
        kept = np.diff(np.concatenate([[0], np.cumsum(flags)])[encoded.starts])
        fields = {**vars(encoded), "cut": int(words.sum() - kept.sum())}
        return EncodedWords(**fields, first=flags, kept=kept)

    def encode_qa(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        max_length: int = 384,
        stride: int = 128,
        max_question: int = 64,
    ) -> EncodedWindows:
        """Each question with its context, in as many windows as the context needs.

        stride         tokens of the context that neighbouring windows share
        max_question   tokens after which a question is cut off, as in BERT's run_squad.py (`cut` counts them)
        """
        if len(questions) != len(contexts):
            raise UserError(f"{len(questions)} questions and {len(contexts)} contexts", where="contexts")
        question_ids, lengths = self._tokens(questions)
        asked = np.minimum(lengths, max_question)
        index: dict[str, int] = {}
        context_of = np.array([index.setdefault(context, len(index)) for context in contexts], np.int64)
        ids, offsets, sizes = self._tokens_with_offsets(list(index))
        room = self._room(max_length, pair=True) - asked
        if (room <= stride).any():
            found = f"windows of {max_length} tokens leave {room.min()} for the context, which is not above {stride}"
            raise UserError(found, where="stride", fix="Use longer windows, or a smaller stride.")
        size, step = sizes[context_of], room - stride
        windows = 1 + np.maximum(-((room - size) // step), 0)
        example = np.repeat(np.arange(len(questions)), windows)
        begin = _ranges(np.zeros_like(windows), windows) * step[example]
        length = np.minimum(room[example], size[example] - begin)
        context = _Ragged(ids, _begins(sizes)[context_of][example] + begin, length)
        question = _Ragged(question_ids, _begins(lengths)[example], asked[example])
        encoded, (_, placed) = self._laid([question, context], cut=int((asked < lengths).sum()))
        where = np.full((len(encoded.ids), 2), -1, np.int32)
        where[placed] = offsets[context.index]
        return EncodedWindows(**vars(encoded), example=example, offsets=where)

    # ---- tokens without special tokens ----

    def _tokens(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(int32[tokens], int64[texts] lengths)."""
        ids, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for at in range(0, len(texts), CHUNK):
            found = [e.ids for e in self.inner.encode_batch_fast(texts[at : at + CHUNK], add_special_tokens=False)]
            lengths.append(np.array([len(one) for one in found], np.int64))
            ids.append(np.array([index for one in found for index in one], np.int32))
        return np.concatenate(ids), np.concatenate(lengths)

    def _tokens_with_offsets(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(int32[tokens], their characters int32[tokens, 2], int64[texts] lengths)."""
        ids, lengths, offsets = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int32)]
        for at in range(0, len(texts), CHUNK):
            found = self.inner.encode_batch(texts[at : at + CHUNK], add_special_tokens=False)
            lengths.append(np.array([len(one) for one in found], np.int64))
            ids += [np.array(one.ids, np.int32) for one in found]
            offsets += [np.array(one.offsets, np.int32).reshape(-1, 2) for one in found]
        return np.concatenate(ids), np.concatenate(offsets), np.concatenate(lengths)

    @functools.cached_property
    def _before_word(self) -> str:
        """Byte-level tokens tell a word's beginning by the space before it."""
        return " " if isinstance(self.inner.pre_tokenizer, pre_tokenizers.ByteLevel) else ""

    # ---- special tokens around them ----

    @functools.cached_property
    def _templates(self) -> dict[bool, _Template]:
        return {False: _Template.of(self.inner.encode("a")), True: _Template.of(self.inner.encode("a", "a"))}

    def _room(self, max_length: int, pair: bool) -> int:
        special = self.inner.num_special_tokens_to_add(pair)
        if max_length <= special:
            found = f"{max_length} tokens hold nothing but {special} special tokens"
            raise UserError(found, where="max_length", fix=f"Use at least {special + 1}.")
        return max_length - special

    def _laid(self, texts: list[_Ragged], cut: int = 0) -> tuple[Encoded, list[np.ndarray]]:
        """One text per row, or two, with special tokens around them; and where the tokens of each went."""
        template, rows = self._templates[len(texts) == 2], len(texts[0].lengths)
        laid = [_Ragged.constant(p.id, rows) if p.text is None else texts[p.text] for p in template.pieces]
        starts = np.concatenate([[0], np.cumsum(np.sum([ragged.lengths for ragged in laid], axis=0))])
        ids, type_ids = np.zeros((2, starts[-1]), np.int32)
        placed = [np.zeros(0, np.int64)] * len(texts)
        at = starts[:-1]
        for ragged, piece in zip(laid, template.pieces, strict=True):
            here = _ranges(at, ragged.lengths)
            ids[here], type_ids[here] = ragged.ids[ragged.index], piece.type
            if piece.text is not None:
                placed[piece.text] = here
            at = at + ragged.lengths
        return Encoded(ids, type_ids, starts, cut), placed


@dataclasses.dataclass(frozen=True)
class _Piece:
    """A special token, or a whole text (0 or 1) of a template."""

    id: int
    type: int
    text: int | None


@dataclasses.dataclass(frozen=True)
class _Template:
    """Which special tokens stand around a text, or around the two of a pair."""

    pieces: tuple[_Piece, ...]

    @staticmethod
    def of(example: Any) -> _Template:
        pieces: list[_Piece] = []
        for index, kind, text in zip(example.ids, example.type_ids, example.sequence_ids, strict=True):
            if text is None or text not in (piece.text for piece in pieces):
                pieces.append(_Piece(index, kind, text))
        return _Template(tuple(pieces))


@dataclasses.dataclass(frozen=True)
class _Ragged:
    """Rows of unequal length within one array: row r is ids[begins[r] : begins[r] + lengths[r]]."""

    ids: np.ndarray
    begins: np.ndarray
    lengths: np.ndarray

    @classmethod
    def constant(cls, index: int, rows: int) -> Self:
        return cls(np.array([index], np.int32), np.zeros(rows, np.int64), np.ones(rows, np.int64))

    @functools.cached_property
    def index(self) -> np.ndarray:
        """int64[tokens]: where each token of all rows lies."""
        return _ranges(self.begins, self.lengths)


def _begins(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths) - lengths


def _ranges(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """begins[0], begins[0] + 1, ... (lengths[0] of them), begins[1], ..."""
    return np.repeat(begins - _begins(lengths), lengths) + np.arange(lengths.sum())


def _longest_first(first: np.ndarray, second: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """The lengths of pairs cut to `room` tokens: only the longer text, as long as it stays the longer; else half and half.

    Of an odd room the longer text (of equal ones the second) has one more, as in Hugging Face's fast tokenizers.
    """
    short = np.minimum(first, second)
    fits = first + second <= room
    short = np.where(short <= room - short, short, room // 2)
    long = room - short
    swapped = first > second
    return np.where(fits, first, np.where(swapped, long, short)), np.where(fits, second, np.where(swapped, short, long))
