"""The text of a file of records, and where in it a byte stands that no text holds."""

from __future__ import annotations

import dataclasses
import functools
import io
import pathlib
import re

import numpy as np

from lepjax.core.errors import UserError
from lepjax.data.quarantine import Sieve
from lepjax.data.text import read_bytes

MARK = b"\xef\xbb\xbf"  # Excel marks its files as UTF-8
DAMAGE = re.compile("[\0\udc80-\udcff]")  # a hole that a crash left, or a byte that is not UTF-8
UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@dataclasses.dataclass(frozen=True)
class Contents:
    """A file's text without the mark. Bytes that are not UTF-8 stand in it as lone surrogates (PEP 383)."""

    path: pathlib.Path
    text: str
    begin: int
    """Bytes before the text."""
    damaged: bool
    """Whether some character of it is `DAMAGE`."""

    @functools.cached_property
    def lines(self) -> list[str]:
        """Without their ends. Only \\n and \\r\\n end a line: a text may hold U+2028 and its like."""
        lines = self.text.split("\n")
        if lines[-1] == "":
            lines.pop()
        return [line.removesuffix("\r") for line in lines] if lines[0].endswith("\r") else lines

    @functools.cached_property
    def physical(self) -> list[str]:
        """With their ends: \\n, \\r\\n or \\r, as CSV has it."""
        return list(io.StringIO(self.text, newline=""))

    def line(self, number: int) -> str:
        return f"{self.path} line {number}"

    def offset(self, number: int) -> int | None:
        """Bytes of the unpacked file before a line; None where a lone \\r makes lines ambiguous."""
        return int(self._offsets[number - 1]) if number <= len(self._offsets) else None

    @functools.cached_property
    def _offsets(self) -> np.ndarray:
        lines = self.text.split("\n")
        if "\r" in self.text and len(lines) - (lines[-1] == "") != len(self.physical):
            return np.empty(0, np.int64)
        sizes = [len(line.encode("utf-8", "surrogateescape")) + 1 for line in lines]
        return self.begin + np.cumsum([0, *sizes[:-1]])

    def damage(self, number: int, raw: str) -> UserError | None:
        """What is wrong with the bytes of a record that begins on this line."""
        found = DAMAGE.search(raw) if self.damaged else None
        if found is None:
            return None
        line = number + raw.count("\n", 0, found.start())
        if found[0] == "\0":
            return UserError("a NUL byte, such as a crash leaves in a file", where=self.line(line))
        begin = self.offset(number)
        before = len(raw[: found.start()].encode("utf-8", "surrogateescape"))
        at = f" at offset {begin + before}" if begin is not None else ""
        return UserError(f"byte {ord(found[0]) - 0xDC00:#04x}{at} is not UTF-8", where=self.line(line))

    def first_damage(self) -> UserError | None:
        """The same for the whole file."""
        return next((error for n, line in enumerate(self.lines, 1) if (error := self.damage(n, line))), None)

    def drop(self, sieve: Sieve, error: UserError, number: int, raw: str) -> None:
        """Hands the sieve a record that begins on this line."""
        sieve.drop(error, self.line(number), raw.rstrip("\r\n"), self.offset(number))


def contents(path: pathlib.Path) -> Contents:
    """Raises `UserError` for a file that is empty, cut short as a .gz, or in UTF-16."""
    data = read_bytes(path)
    if data.startswith(UTF_16):
        raise UserError("is in UTF-16", where=str(path), fix="Save it as UTF-8.")
    text = data.removeprefix(MARK)
    if not text.strip():
        raise UserError("the file is empty", where=str(path))
    decoded, damaged = _decoded(text)
    return Contents(path, decoded, len(data) - len(text), damaged or "\0" in decoded)


def _decoded(data: bytes) -> tuple[str, bool]:
    try:
        return data.decode(), False
    except UnicodeDecodeError:
        return data.decode(errors="surrogateescape"), True
