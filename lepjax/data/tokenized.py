"""One's own text as the tokens of a real tokenizer, kept on disk: language modelling on more text than memory holds."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import itertools
import json
import os
import pathlib
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from lepjax.core import hub
from lepjax.core.errors import UserError, nearest
from lepjax.core.fields import runtime
from lepjax.data import conll, fetch, tables
from lepjax.data.datasets import to_stderr
from lepjax.data.known import Known, strings
from lepjax.data.source import Data, Splits
from lepjax.data.text import read_text
from lepjax.data.tokenizer import Tokenizer
from lepjax.data.tokenizer_files import FAST
from lepjax.data.tokens import TokenWindows

BOUNDARY = "<|endoftext|>"  # such a line ends a document of a plain-text file, as in TinyStories
ENDS = (BOUNDARY, "<|end_of_text|>", "</s>", "[SEP]")  # what tokenizers call it: GPT-2, Llama 3, Llama 2, BERT
STRETCH = 2**20  # characters encoded at a time, and of a stretch of one document
TRAINED_ON = 2**26  # characters at most that a tokenizer is trained on
FORMAT = 1  # of what is kept: another number, and all text is tokenised anew
TEXTS = (".txt", ".text")

Stretch = tuple[str, bool]  # a part of a document, and whether it is the last


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

    def load(self) -> Splits:
        if not 0.0 < self.dev < 1.0:
            raise UserError(f"{self.dev} is no share", where="data.dev", fix="Use a number between 0 and 1.")
        place = pathlib.Path(os.path.expandvars(self.cache)).expanduser() if self.cache else _user_cache()
        texts = corpora(self.path)
        if self.tokenizer:
            folder = hub.folder(self.tokenizer, patterns=("*.json", "*.txt"))
        else:
            folder = trained(texts["train"], self.vocabulary, place / "vocabularies")
        subwords = Subwords.load(folder, self.end)
        tokens = {name: kept(place / "tokens", corpus, subwords) for name, corpus in texts.items()}
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
            ),
            vocabulary=subwords,
        )


# ---- text ----


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """The text of one split: `read` yields it from the beginning at each call, in stretches of documents."""

    where: str
    digest: str
    read: Callable[[], Iterator[Stretch]]


def corpora(path: str) -> dict[str, Corpus]:
    """`train`, and `dev` where there is a split `validation`. Raises `UserError` for what cannot be read."""
    kind, _, name = path.partition(":")
    if kind in ("hub", "tfds"):
        return _fetched(kind, name)
    place = pathlib.Path(os.path.expandvars(path)).expanduser()
    if not path or not place.exists():
        fix = "Pass --data.path with a file or folder."
        raise UserError("no such file or folder", where=str(place) if path else "data.path", fix=fix)
    found = _files(place) if place.is_dir() else {"train": [place]}
    return {name: _of_files(files) for name, files in found.items()}


def _files(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """{train, dev: files}: by their names (train.jsonl, Tiny-valid.txt) where these tell, else all to train on."""
    found: dict[str, list[pathlib.Path]] = {}
    for split, files in fetch.files_in(folder).items():
        found[split] = [file for file in files if tables.suffix_of(file) not in conll.SUFFIXES]
    for file in sorted(folder.iterdir()):
        if file.is_file() and tables.suffix_of(file) in TEXTS:
            split = fetch.canonical(file.name.partition(".")[0].rpartition("-")[2])
            found.setdefault(split, []).append(file)
    found = {split: files for split, files in found.items() if files}
    if "train" in found:
        for split in ("train", "validation"):
            fetch.check_complete(split, found.get(split, []))
        return {"train": found["train"], **({"dev": found["validation"]} if "validation" in found else {})}
    everything = sorted(file for files in found.values() for file in files)
    if not everything:
        known = ", ".join([*TEXTS, *tables.READERS, ".parquet"])
        raise UserError(f"no text ({known}, or .gz)", where=str(folder), fix="Pass --data.path with another folder.")
    return {"train": everything}


def _of_files(files: Sequence[pathlib.Path]) -> Corpus:
    seen = hashlib.sha256()
    for file in files:
        with open(file, "rb") as opened:
            seen.update(f"{tables.suffix_of(file)} {hashlib.file_digest(opened, 'sha256').hexdigest()} ".encode())
    where = str(files[0]) if len(files) == 1 else f"{files[0].parent} ({len(files)} files)"
    return Corpus(where, seen.hexdigest(), lambda: itertools.chain.from_iterable(map(_stretches, files)))


def _fetched(kind: str, name: str) -> dict[str, Corpus]:
    """Through `data.fetch`, in memory."""
    owner, _, rest = name.partition("/")
    repository, _, folder = rest.partition("/")
    if kind == "hub" and not folder:
        fix = "Such as hub:roneneldan/TinyStories/data."
        raise UserError("is no owner/repository/folder", where=f"hub:{name}", fix=fix)
    known = Known(name, (), hub=f"{owner}/{repository}", config=folder, tfds=name)
    parts = fetch.SOURCES[kind](fetch.Wanted(known))
    if "train" not in parts:
        raise UserError("no split 'train'", where=f"{kind}:{name}", fix=f"It has {', '.join(parts)}.")
    named = {"train": "train", "validation": "dev"}
    return {ours: _of_table(parts[split]) for split, ours in named.items() if split in parts}


def _of_table(part: fetch.Part) -> Corpus:
    table = part.read()
    texts = _column(table)
    seen = hashlib.sha256()
    for text in texts:
        data = text.encode()
        seen.update(f"{len(data)} ".encode() + data)
    return Corpus(part.said, seen.hexdigest(), lambda: itertools.chain.from_iterable(map(_cut, texts)))


def _column(table: tables.Table) -> list[str]:
    if "text" not in table.columns:
        raise UserError("no column 'text'", where=table.origin.file, fix=nearest("text", table.columns))
    return strings(table, "text")


def _stretches(file: pathlib.Path) -> Iterator[Stretch]:
    suffix = tables.suffix_of(file)
    if suffix == ".parquet":
        return itertools.chain.from_iterable(map(_cut, _parquet(file)))
    if suffix in tables.READERS:
        return itertools.chain.from_iterable(map(_cut, _column(tables.read(file))))
    return _plain(file)


def _cut(text: str) -> Iterator[Stretch]:
    """One document; a very long one in stretches that end with a line, as the tokenizer's results are large objects."""
    at = 0
    while len(text) - at > STRETCH and (line := _line_end(text, at + STRETCH)) < len(text):
        yield text[at:line], False
        at = line
    yield text[at:], True


def _line_end(text: str, start: int) -> int:
    """Where a line begins, after `start`, with no space on either side of the break: tokens do not reach across it."""
    while (at := text.find("\n", start) + 1) and at < len(text):
        if not text[at].isspace() and not text[at - 2].isspace():
            return at
        start = at
    return len(text)


def _plain(file: pathlib.Path) -> Iterator[Stretch]:
    opened: Any = gzip.open if file.suffix == ".gz" else open
    lines: list[str] = []
    size = 0
    try:
        with opened(file, "rt", encoding="utf-8", newline="") as source:
            for line in source:
                if line.strip() == BOUNDARY:
                    if lines:
                        yield "".join(lines).removesuffix("\n").removesuffix("\r"), True
                    lines, size = [], 0
                    continue
                if size > STRETCH and not line[0].isspace() and not lines[-1][-2:-1].isspace():
                    yield "".join(lines), False
                    lines, size = [], 0
                lines.append(line)
                size += len(line)
    except (UnicodeDecodeError, OSError, EOFError, zlib.error):
        read_text(str(file))  # tells where
        raise
    if lines:
        yield "".join(lines), True


def _parquet(file: pathlib.Path) -> Iterator[str]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        opened = parquet.ParquetFile(file, page_checksum_verification=True)
        names = opened.schema_arrow.names
        if "text" not in names:
            raise UserError("no column 'text'", where=str(file), fix=nearest("text", names))
        batches = opened.iter_batches(batch_size=1024, columns=["text"])
        texts = itertools.chain.from_iterable(batch.column(0).to_pylist() for batch in batches)
        for row, text in enumerate(texts, 1):
            if not isinstance(text, str):
                raise UserError(f"text is {text!r}, no text", where=f"{file} row {row}")
            yield text
    except (pa.ArrowException, OSError, ValueError) as error:
        fix = "Download or copy it again."
        raise UserError(f"is no Parquet file, or damaged ({error})", where=str(file), fix=fix) from error


# ---- tokens ----


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


def trained(corpus: Corpus, size: int, place: pathlib.Path) -> pathlib.Path:
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
        tokenizer.train_from_iterator(_beginning(corpus), trainer)
        with _aside(folder / FAST) as aside:
            tokenizer.save(str(aside))
    return folder


def _beginning(corpus: Corpus) -> Iterator[str]:
    size = 0
    for text, _ in corpus.read():
        yield text
        size += len(text)
        if size > TRAINED_ON:
            return


# ---- on disk ----


def kept(folder: pathlib.Path, corpus: Corpus, subwords: Subwords) -> np.ndarray:
    """uint16 or uint32[tokens], memory-mapped: what is there, or tokenised now. Files are named by what they come from.

    `<digest>.json` is written last and tells the digest of `<digest>.bin`: what does not verify is made again, and text
    that cannot be read leaves no file. Other text has another name, so that nothing good is overwritten.
    """
    key = _digest(corpus.digest, subwords.tokenizer.digest, subwords.end, FORMAT)
    binary, record = folder / f"{key}.bin", folder / f"{key}.json"
    found = _verified(binary, record)
    if found is not None:
        return found
    if record.exists():
        to_stderr(f"{binary}: is damaged; tokenising {corpus.where} anew")
    seen, size = hashlib.sha256(), 0
    with _aside(binary) as aside, open(aside, "wb") as file:
        for ids in subwords.stream(corpus.read()):
            data = ids.tobytes()
            seen.update(data)
            file.write(data)
            size += len(ids)
        file.flush()
        os.fsync(file.fileno())
        if not size:
            raise UserError("there is no text", where=corpus.where)
    told = {"tokens": size, "dtype": subwords.dtype.name, "sha256": seen.hexdigest(), "text": corpus.where}
    with _aside(record) as aside:
        aside.write_text(json.dumps(told) + "\n", encoding="utf-8")
    return np.memmap(binary, subwords.dtype, mode="r")


def _verified(binary: pathlib.Path, record: pathlib.Path) -> np.ndarray | None:
    try:
        told = json.loads(record.read_text(encoding="utf-8"))
        tokens = np.memmap(binary, np.dtype(told["dtype"]), mode="r")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    same = len(tokens) == told["tokens"] and hashlib.sha256(tokens.data).hexdigest() == told["sha256"]
    return tokens if same else None


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
