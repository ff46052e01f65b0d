"""Sentences whose words are tagged, in the two layouts that named-entity data come in."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from lepjax.core.errors import UserError
from lepjax.data.contents import Contents, contents
from lepjax.data.quarantine import REFUSE, Sieve
from lepjax.data.tables import Origin, Table, existing, suffix_of

SUFFIXES = (".txt", ".conll", ".bio", ".iob", ".iob2")
DOCUMENT = "-DOCSTART-"
Sentence = tuple[int, list[str], list[str]]  # line on which it begins, words, tags
TAG = re.compile(r"O|[BIESMLU]-\S+")


def read_tagged(path: str | os.PathLike[str]) -> dict[str, list[Any]]:
    """{"tokens": list of words per sentence, "tags": list of as many tags}.

    A .tsv file (also .gz) has a sentence per line, without header: words and tags, joined by spaces, with a tab in between.
    Any other file is in CoNLL's layout: a word per line with its tag in the last of at least two columns, an empty line
    between sentences; -DOCSTART- lines are skipped. Raises `UserError` naming file and line for what does not fit.
    """
    return read(path).columns


def read(path: str | os.PathLike[str], sieve: Sieve = REFUSE) -> Table:
    """`read_tagged`, with the line on which each sentence begins. Sentences that do not fit go to the sieve."""
    file = contents(existing(path))
    found = _sentences_per_line(file, sieve) if suffix_of(file.path) == ".tsv" else _words_per_line(file, sieve)
    if not found:
        raise UserError("there is no sentence", where=str(file.path))
    begins, tokens, tags = map(list, zip(*found, strict=True))
    return Table({"tokens": tokens, "tags": tags}, Origin.single(f"{file.path} line", begins))


def looks_tagged(line: str) -> bool:
    """Whether a first line is a tagged sentence and no header."""
    words, _, tags = line.rstrip("\r\n").partition("\t")
    return len(words.split(" ")) == len(tags.split(" ")) and all(map(TAG.fullmatch, tags.split(" ")))


def _sentences_per_line(file: Contents, sieve: Sieve) -> list[Sentence]:
    found: list[Sentence] = []
    for number, line in enumerate(file.lines, 1):
        error = file.damage(number, line)
        try:
            if error is not None:
                raise error
            found.append((number, *_words_and_tags(line, file.line(number))))
        except UserError as bad:
            file.drop(sieve, bad, number, line)
    return found


def _words_and_tags(line: str, where: str) -> tuple[list[str], list[str]]:
    columns = line.split("\t")
    if len(columns) != 2:
        raise UserError(f"{_columns(len(columns))} instead of words<TAB>tags", where=where)
    words, tags = (column.strip(" ").split(" ") for column in columns)
    if len(words) != len(tags):
        raise UserError(f"{len(words)} words and {len(tags)} tags", where=where, fix="Give each word one tag.")
    if "" in words or "" in tags:
        raise UserError("two spaces in a row", where=where, fix="Separate words, and tags, by one space.")
    return words, tags


def _words_per_line(file: Contents, sieve: Sieve) -> list[Sentence]:
    """A sentence with a line that does not fit is bad as a whole."""
    found: list[Sentence] = []
    for lines in _blocks(file.lines):
        tokens: list[str] = []
        tags: list[str] = []
        for number, line in lines:
            error = file.damage(number, line)
            columns = _split(line)
            if error is None and (len(columns) < 2 or not columns[0] or not columns[-1]):
                fix = "Write a word and its tag, separated by a space or a tab."
                error = UserError(f"{_columns(len(columns))}: a word without a tag", where=file.line(number), fix=fix)
            if error is not None:
                file.drop(sieve, error, number, line)
                break
            tokens.append(columns[0])
            tags.append(columns[-1])
        else:
            found.append((lines[0][0], tokens, tags))
    return found


def _blocks(lines: list[str]) -> Iterator[list[tuple[int, str]]]:
    """Lines with their numbers, sentence by sentence."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        if line.strip() == "" or _split(line)[0] == DOCUMENT:
            if block:
                yield block
            block = []
        else:
            block.append((number, line))
    if block:
        yield block


def _split(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))


def _columns(count: int) -> str:
    return f"{count} column{'s' * (count != 1)}"
