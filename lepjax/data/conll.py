"""Sentences whose words are tagged, in the two layouts that named-entity data come in."""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

from lepjax.core.errors import UserError
from lepjax.data.tables import Origin, Table, contents, existing, lines_of, suffix_of

SUFFIXES = (".txt", ".conll", ".bio", ".iob", ".iob2")
DOCUMENT = "-DOCSTART-"
TAG = re.compile(r"O|[BIESMLU]-\S+")


def read_tagged(path: str | os.PathLike[str]) -> dict[str, list[Any]]:
    """{"tokens": list of words per sentence, "tags": list of as many tags}.

    A .tsv file (also .gz) has a sentence per line, without header: words and tags, joined by spaces, with a tab in between.
    Any other file is in CoNLL's layout: a word per line with its tag in the last of at least two columns, an empty line
    between sentences; -DOCSTART- lines are skipped. Raises `UserError` naming file and line for what does not fit.
    """
    return read(path).columns


def read(path: str | os.PathLike[str]) -> Table:
    """`read_tagged`, with the line on which each sentence begins."""
    file = existing(path)
    lines = lines_of(contents(file))
    found = _sentences_per_line(file, lines) if suffix_of(file) == ".tsv" else _words_per_line(file, lines)
    if not found:
        raise UserError("there is no sentence", where=str(file))
    begins, tokens, tags = map(list, zip(*found, strict=True))
    return Table({"tokens": tokens, "tags": tags}, Origin.single(f"{file} line", begins))


def looks_tagged(line: str) -> bool:
    """Whether a first line is a tagged sentence and no header."""
    words, _, tags = line.rstrip("\r\n").partition("\t")
    return len(words.split(" ")) == len(tags.split(" ")) and all(map(TAG.fullmatch, tags.split(" ")))


def _sentences_per_line(file: pathlib.Path, lines: list[str]) -> list[tuple[int, list[str], list[str]]]:
    found = []
    for number, line in enumerate(lines, 1):
        where = f"{file} line {number}"
        columns = line.split("\t")
        if len(columns) != 2:
            raise UserError(f"{_columns(len(columns))} instead of words<TAB>tags", where=where)
        words, tags = (column.strip(" ").split(" ") for column in columns)
        if len(words) != len(tags):
            raise UserError(f"{len(words)} words and {len(tags)} tags", where=where, fix="Give each word one tag.")
        if "" in words or "" in tags:
            raise UserError("two spaces in a row", where=where, fix="Separate words, and tags, by one space.")
        found.append((number, words, tags))
    return found


def _words_per_line(file: pathlib.Path, lines: list[str]) -> list[tuple[int, list[str], list[str]]]:
    found: list[tuple[int, list[str], list[str]]] = []
    open_sentence = False
    for number, line in enumerate(lines, 1):
        columns = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
        if line.strip() == "" or columns[0] == DOCUMENT:
            open_sentence = False
            continue
        if len(columns) < 2 or not columns[0] or not columns[-1]:
            fix = "Write a word and its tag, separated by a space or a tab."
            raise UserError(f"{_columns(len(columns))}: a word without a tag", where=f"{file} line {number}", fix=fix)
        if not open_sentence:
            found.append((number, [], []))
        open_sentence = True
        found[-1][1].append(columns[0])
        found[-1][2].append(columns[-1])
    return found


def _columns(count: int) -> str:
    return f"{count} column{'s' * (count != 1)}"
