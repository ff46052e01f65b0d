"""Text of any size as stretches of documents: from plain files, tables, and through `data.fetch`."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import itertools
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lepjax.core.errors import UserError, nearest
from lepjax.data import conll, fetch, tables
from lepjax.data.known import Known, of_strings
from lepjax.data.quarantine import REFUSE, Sieve
from lepjax.data.text import read_text

BOUNDARY = "<|endoftext|>"  # such a line ends a document of a plain-text file, as in TinyStories
STRETCH = 2**20  # characters encoded at a time, and of a stretch of one document
TEXTS = (".txt", ".text")

Stretch = tuple[str, bool]  # a part of a document, and whether it is the last


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """The text of one split: `read` yields it from the beginning at each call, in stretches of documents.

    Table rows that cannot be used go to the sieve.
    """

    where: str
    digest: str
    read: Callable[[Sieve], Iterator[Stretch]]


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
    return Corpus(where, seen.hexdigest(), functools.partial(_all_stretches, files))


def _all_stretches(files: Sequence[pathlib.Path], sieve: Sieve) -> Iterator[Stretch]:
    return itertools.chain.from_iterable(_stretches(file, sieve) for file in files)


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
    texts = _column(part.read(REFUSE), REFUSE)
    seen = hashlib.sha256()
    for text in texts:
        data = text.encode()
        seen.update(f"{len(data)} ".encode() + data)
    return Corpus(part.said, seen.hexdigest(), lambda sieve: itertools.chain.from_iterable(map(_cut, texts)))


def _column(table: tables.Table, sieve: Sieve) -> list[str]:
    if "text" not in table.columns:
        raise UserError("no column 'text'", where=table.origin.file, fix=nearest("text", table.columns))
    return of_strings(table, ("text",), sieve).columns["text"]


def _stretches(file: pathlib.Path, sieve: Sieve) -> Iterator[Stretch]:
    suffix = tables.suffix_of(file)
    if suffix == ".parquet":
        return itertools.chain.from_iterable(map(_cut, _parquet(file, sieve)))
    if suffix in tables.READERS:
        return itertools.chain.from_iterable(map(_cut, _column(tables.read(file, sieve), sieve)))
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


def _parquet(file: pathlib.Path, sieve: Sieve) -> Iterator[str]:
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
            if isinstance(text, str):
                yield text
            else:
                where = f"{file} row {row}"
                sieve.drop(UserError(f"text is {text!r}, no text", where=where), where, repr(text))
    except (pa.ArrowException, OSError, ValueError) as error:
        fix = "Download or copy it again."
        raise UserError(f"is no Parquet file, or damaged ({error})", where=str(file), fix=fix) from error
