"""Text to token ids and back."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from lepjax.core.errors import UserError


class Vocabulary(Protocol):
    @property
    def size(self) -> int: ...
    def encode(self, text: str) -> np.ndarray: ...
    def decode(self, tokens: np.ndarray) -> str: ...


@dataclasses.dataclass(frozen=True)
class Bytes:
    """UTF-8 bytes, 256 tokens."""

    size: int = 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8)

    def decode(self, tokens: np.ndarray) -> str:
        return bytes(np.asarray(tokens).astype(np.uint8)).decode(errors="replace")


@dataclasses.dataclass(frozen=True)
class Characters:
    """The sorted set of characters of a text, as nanoGPT's shakespeare_char has it."""

    characters: str

    @property
    def size(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        index = {character: i for i, character in enumerate(self.characters)}
        unknown = sorted(set(text) - set(index))
        if unknown:
            raise UserError(f"characters {unknown[:5]} do not occur in the training text", where="vocabulary")
        return np.array([index[character] for character in text], np.uint16)

    def decode(self, tokens: np.ndarray) -> str:
        return "".join(self.characters[int(token)] for token in np.asarray(tokens))
