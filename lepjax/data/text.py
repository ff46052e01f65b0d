"""One's own text: a plain-text file, or an array of tokens on disk."""

from __future__ import annotations

import dataclasses
import gzip
import os
import pathlib
import zlib

import numpy as np

from lepjax.core.errors import UserError
from lepjax.data.source import Data, Splits
from lepjax.data.tokens import TokenWindows
from lepjax.data.vocabulary import Bytes, Characters, Vocabulary


@dataclasses.dataclass(frozen=True)
class TextFile(Data):
    """A UTF-8 text file (.gz is unpacked), split once: the first part trains, the rest is `dev`."""

    path: str = ""
    """The file; environment variables in it are expanded."""
    length: int = 128
    """Tokens per window."""
    dev: float = 0.1
    """Share of the text, at its end, that is kept for evaluation."""
    characters: bool = False
    """One token per distinct character instead of per byte."""

    def load(self) -> Splits:
        if not 0.0 < self.dev < 1.0:
            raise UserError(
                f"{self.dev} is no share of the text", where="data.dev", fix="Use a number between 0 and 1."
            )
        text = read_text(self.path)
        vocabulary: Vocabulary = Characters("".join(sorted(set(text)))) if self.characters else Bytes()
        tokens = vocabulary.encode(text)
        cut = round(len(tokens) * (1.0 - self.dev))
        return Splits(
            train=TokenWindows(tokens[:cut], self.length, shift=True, where=self.path),
            evaluation={"dev": TokenWindows(tokens[cut:], self.length, shift=False, where=f"{self.path} (dev)")},
            vocabulary=vocabulary,
        )


@dataclasses.dataclass(frozen=True)
class TokenFiles(Data):
    """Token ids in .npy files (any integer dtype, one dimension), read through the page cache, never all at once."""

    train: str = ""
    """The training tokens; environment variables are expanded."""
    dev: str = ""
    """The tokens to evaluate on."""
    length: int = 1024
    """Tokens per window."""

    def load(self) -> Splits:
        train, dev = read_tokens(self.train, "data.train"), read_tokens(self.dev, "data.dev")
        return Splits(
            train=TokenWindows(train, self.length, shift=True, where=self.train),
            evaluation={"dev": TokenWindows(dev, self.length, shift=False, where=self.dev)},
            largest_token=int(max(train.max(), dev.max())),
        )


def _existing(path: str, flag: str) -> pathlib.Path:
    expanded = pathlib.Path(os.path.expandvars(path)).expanduser()
    if not path or not expanded.is_file():
        raise UserError("no such file", where=str(expanded) if path else flag, fix=f"Pass --{flag} with a file.")
    return expanded


def read_text(path: str) -> str:
    file = _existing(path, "data.path")
    data = read_bytes(file)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"byte {data[error.start]:#04x} at offset {error.start} is not UTF-8", where=f"{file} line {line}"
        ) from error


def read_bytes(file: pathlib.Path) -> bytes:
    """What a file holds, unpacked where it is a .gz. Raises `UserError` for one that is cut short."""
    try:
        return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        packed = "not a complete gzip file" if file.suffix == ".gz" else "cannot be read"
        raise UserError(f"{packed} ({error})", where=str(file)) from error


def read_tokens(path: str, flag: str) -> np.ndarray:
    """int[n], memory-mapped. Raises `UserError` for what is no one-dimensional array of token ids."""
    file = _existing(path, flag)
    try:
        tokens = np.lib.format.open_memmap(file, mode="r")  # never unpickles
    except (ValueError, EOFError) as error:
        raise UserError(f"not a .npy file ({error})", where=str(file)) from error
    if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise UserError(
            f"{tokens.dtype} of shape {tokens.shape}", where=str(file), fix="Save one integer array of one dimension."
        )
    if tokens.size and tokens.min() < 0:
        raise UserError(f"token {tokens.min()} is negative", where=str(file))
    return tokens
