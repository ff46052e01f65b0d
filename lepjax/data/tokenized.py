"""One's own text as the tokens of a real tokenizer, kept on disk: language modelling on more text than memory holds."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from lepjax.core import hub
from lepjax.core.errors import UserError
from lepjax.core.fields import runtime
from lepjax.data import quarantine
from lepjax.data.corpus import BOUNDARY, STRETCH, Corpus, Stretch, corpora
from lepjax.data.datasets import to_stderr
from lepjax.data.quarantine import REFUSE, BadRecords, Quarantined, Refuse, Sieve
from lepjax.data.source import Data, Splits
from lepjax.data.tokenizer import Tokenizer
from lepjax.data.tokenizer_files import FAST
from lepjax.data.tokens import TokenWindows

ENDS = (BOUNDARY, "<|end_of_text|>", "</s>", "[SEP]")  # what tokenizers call it: GPT-2, Llama 3, Llama 2, BERT
TRAINED_ON = 2**26  # characters at most that a tokenizer is trained on
FORMAT = 1  # of what is kept: another number, and all text is tokenised anew


@dataclasses.dataclass(frozen=True)
class TokenizedText(Data):
    """Documents end to end, each closed by an end-of-text token, in windows.

    A split `validation` is `dev` where there is one. Tokens are kept on disk under a digest of text and tokenizer, and
    read through the page cache. Text is read file by file, plain text and Parquet in pieces.
    """

    path: str = ""
    """A text file, a table with a column `text`, a folder of either, hub:owner/repository/folder, or tfds:name."""
    tokenizer: str = ""
    """A folder in the Hugging Face layout, or owner/repository[@revision] of the hub; empty: train one on the text."""
    vocabulary: int = 4096
    """Tokens of a tokenizer that is trained (byte-level BPE)."""
    length: int = 1024
    """Tokens per window."""
    dev: float = 0.01
    """Share of the tokens, at the end, that is kept for evaluation where there is no split for it."""
    end: str = ""
    """The token between documents; empty: the usual one of the tokenizer."""
    cache: str = runtime("")
    """The folder that keeps the tokens; empty: the user's cache."""
    bad_records: BadRecords = runtime(Refuse())
    """What becomes of table rows that cannot be used: refuse (an error), or skip."""

    def load(self) -> Splits:
        if not 0.0 < self.dev < 1.0:
            raise UserError(f"{self.dev} is no share", where="data.dev", fix="Use a number between 0 and 1.")
        place = pathlib.Path(os.path.expandvars(self.cache)).expanduser() if self.cache else _user_cache()
        texts = corpora(self.path)
        sieve = self.bad_records.sieve()
        if self.tokenizer:
            folder = hub.folder(self.tokenizer, patterns=("*.json", "*.txt"))
        else:
            folder = trained(texts["train"], self.vocabulary, place / "vocabularies", self.bad_records.sieve())
        subwords = Subwords.load(folder, self.end)
        tokens = {name: kept(place / "tokens", corpus, subwords, sieve) for name, corpus in texts.items()}
        if "dev" not in tokens:
            cut = round(len(tokens["train"]) * (1.0 - self.dev))
            tokens = {"train": tokens["train"][:cut], "dev": tokens["train"][cut:]}
        where = {name: texts[name].where if name in texts else f"{self.path} ({name})" for name in tokens}
        return Splits(
            train=TokenWindows(tokens["train"], self.length, shift=True, where=where["train"]),
            evaluation={"dev": TokenWindows(tokens["dev"], self.length, shift=False, where=where["dev"])},
            notes=(
                *(f"{name}: {len(tokens[name]):,} tokens, {where[name]}" for name in tokens),
                f"tokenizer: {subwords.size:,} tokens, {folder}",
                *quarantine.told(sieve.dropped),
            ),
            quarantined=sieve.dropped,
            vocabulary=subwords,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Subwords:
    """A tokenizer as a vocabulary. Special tokens are not read from text; `end` stands between documents."""

    tokenizer: Tokenizer
    end: int

    @staticmethod
    def load(folder: pathlib.Path, end: str = "") -> Subwords:
        """Raises `UserError` where there is no tokenizer, or none of the tokens that end a document."""
        tokenizer = Tokenizer.load(folder)
        tokenizer.inner.encode_special_tokens = True  # a text that holds "<|endoftext|>" does not end there
        wanted = (end,) if end else ENDS
        ids = [index for index in map(tokenizer.inner.token_to_id, wanted) if index is not None]
        if not ids:
            fix = "Name one of its tokens: --data.end."
            raise UserError(f"the tokenizer has no {' or '.join(wanted)}", where=str(folder), fix=fix)
        return Subwords(tokenizer, ids[0])

    @property
    def size(self) -> int:
        return self.tokenizer.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest that holds every id."""
        return np.dtype(np.uint16 if self.size <= 2**16 else np.uint32)

    def encode(self, text: str) -> np.ndarray:
        return self._ids([(text, False)])

    def decode(self, tokens: np.ndarray) -> str:
        ids = [int(index) for index in np.asarray(tokens)]
        return self.tokenizer.inner.decode(ids, skip_special_tokens=False)

    def stream(self, stretches: Iterator[Stretch]) -> Iterator[np.ndarray]:
        """Ids in arrays, end of text included."""
        some: list[Stretch] = []
        size = 0
        for stretch in stretches:
            some.append(stretch)
            size += len(stretch[0]) + 64  # an empty text is an object, too
            if size > STRETCH:
                yield self._ids(some)
                some, size = [], 0
        if some:
            yield self._ids(some)

    def _ids(self, stretches: Sequence[Stretch]) -> np.ndarray:
        texts = [text for text, _ in stretches]
        found = self.tokenizer.inner.encode_batch_fast(texts, add_special_tokens=False)
        parts = (
            [*encoded.ids, self.end] if last else encoded.ids
            for encoded, (_, last) in zip(found, stretches, strict=True)
        )
        return np.fromiter(itertools.chain.from_iterable(parts), self.dtype)


def trained(corpus: Corpus, size: int, place: pathlib.Path, sieve: Sieve = REFUSE) -> pathlib.Path:
    """The folder of a byte-level BPE tokenizer of (up to) `size` tokens, trained once on the beginning of the text."""
    if size < 257:
        raise UserError(f"{size} tokens", where="data.vocabulary", fix="Use 257 or more: each byte is one.")
    folder = place / _digest(corpus.digest, size, TRAINED_ON, tokenizers.__version__)
    if not (folder / FAST).is_file():
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=[BOUNDARY], initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(_beginning(corpus, sieve), trainer)
        with _aside(folder / FAST) as aside:
            tokenizer.save(str(aside))
    return folder


def _beginning(corpus: Corpus, sieve: Sieve) -> Iterator[str]:
    size = 0
    for text, _ in corpus.read(sieve):
        yield text
        size += len(text)
        if size > TRAINED_ON:
            return


def kept(folder: pathlib.Path, corpus: Corpus, subwords: Subwords, sieve: Sieve = REFUSE) -> np.ndarray:
    """uint16 or uint32[tokens], memory-mapped: what is there, or tokenised now. Files are named by what they come from.

    `<digest>.json` is written last and tells the digest of `<digest>.bin`: what does not verify is made again, and text
    that cannot be read leaves no file. Other text has another name, so that nothing good is overwritten. It also lists the
    records that were left out, which the sieve is told of at every reading.
    """
    key = _digest(corpus.digest, subwords.tokenizer.digest, subwords.end, FORMAT)
    binary, record = folder / f"{key}.bin", folder / f"{key}.json"
    found = _verified(binary, record)
    if found is not None:
        tokens, left_out = found
        for bad in left_out:
            sieve.drop(UserError(bad.reason, where=bad.place), bad.place, bad.raw, bad.offset)
        return tokens
    if record.exists():
        to_stderr(f"{binary}: is damaged; tokenising {corpus.where} anew")
    seen, size, before = hashlib.sha256(), 0, len(sieve.dropped)
    with _aside(binary) as aside, open(aside, "wb") as file:
        for ids in subwords.stream(corpus.read(sieve)):
            data = ids.tobytes()
            seen.update(data)
            file.write(data)
            size += len(ids)
        file.flush()
        os.fsync(file.fileno())
        if not size:
            raise UserError("there is no text", where=corpus.where)
    told = {"tokens": size, "dtype": subwords.dtype.name, "sha256": seen.hexdigest(), "text": corpus.where}
    told["left_out"] = [dataclasses.asdict(bad) for bad in sieve.dropped[before:]]
    with _aside(record) as aside:
        aside.write_text(json.dumps(told) + "\n", encoding="utf-8")
    return np.memmap(binary, subwords.dtype, mode="r")


def _verified(binary: pathlib.Path, record: pathlib.Path) -> tuple[np.ndarray, list[Quarantined]] | None:
    try:
        told = json.loads(record.read_text(encoding="utf-8"))
        tokens = np.memmap(binary, np.dtype(told["dtype"]), mode="r")
        left_out = [Quarantined(**bad) for bad in told.get("left_out", [])]  # files of before have no such list
    except (OSError, ValueError, KeyError, TypeError):
        return None
    same = len(tokens) == told["tokens"] and hashlib.sha256(tokens.data).hexdigest() == told["sha256"]
    return (tokens, left_out) if same else None


@contextlib.contextmanager
def _aside(file: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write to, which takes the place of `file` where nothing is raised."""
    where = str(file.parent)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=where)  # another process may be writing the same
        os.close(descriptor)
        aside = pathlib.Path(name)
        try:
            yield aside
            aside.replace(file)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        fix = "Pass --data.cache with a folder that can."
        raise UserError(f"cannot be written ({error.strerror})", where=where, fix=fix) from error


def _user_cache() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(base) if base else pathlib.Path.home() / ".cache") / "lepjax"


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
