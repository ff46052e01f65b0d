"""One's own text as documents of lines, for masked language modelling and for pairs of sentences."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

from lepjax.core.errors import UserError
from lepjax.data import datasets, tables
from lepjax.data.masked import MaskedDocuments
from lepjax.data.quarantine import REFUSE, Sieve
from lepjax.data.text import read_text

EMPTY_LINES = re.compile(r"\n\s*\n")
Documents = list[list[str]]  # lines, none of them empty


@dataclasses.dataclass(frozen=True)
class MaskedTextFile(MaskedDocuments):
    """A plain-text file, or a table with a column `text`; the first part trains, the rest is `dev`. See `read_documents`."""

    path: str = ""
    """The file, or a folder of tables; environment variables are expanded."""
    dev: float = 0.1
    """Share of the lines, at the end, that is kept for evaluation."""

    def documents(self, sieve: Sieve) -> tuple[Sequence[str], dict[str, Sequence[str]], str]:
        train, dev = split_off(read_documents(self.path, sieve), self.dev)
        return ["\n".join(lines) for lines in train], {"dev": ["\n".join(lines) for lines in dev]}, self.path


def read_documents(path: str, sieve: Sieve = REFUSE) -> Documents:
    """Lines by document: in a plain-text file (also .gz) empty lines separate documents, in a table each row is one.

    Tables (.parquet, .jsonl, .tsv, .csv) need a column `text`; of a folder train.*, or its shards, is read. Rows that
    cannot be used go to the sieve. Raises `UserError` naming file and line.
    """
    place = pathlib.Path(os.path.expandvars(path)).expanduser()
    if path and (place.is_dir() or tables.suffix_of(place) in (*tables.READERS, ".parquet")):
        texts = datasets.load(path, split="train", text=("text",), sieve=sieve).columns["text"]
    else:
        texts = EMPTY_LINES.split(read_text(path))
    documents = [[line.strip() for line in text.split("\n") if line.strip()] for text in texts]
    return [lines for lines in documents if lines]


def split_off(documents: Documents, share: float) -> tuple[Documents, Documents]:
    """(first, rest): the rest has this share of the lines. The document in which the cut falls is on both sides."""
    if not 0.0 < share < 1.0:
        raise UserError(f"{share} is no share of the text", where="data.dev", fix="Use a number between 0 and 1.")
    first, rest = [], []
    left = round(sum(map(len, documents)) * (1.0 - share))
    for lines in documents:
        first.append(lines[:left])
        rest.append(lines[left:])
        left = max(left - len(lines), 0)
    return [lines for lines in first if lines], [lines for lines in rest if lines]
