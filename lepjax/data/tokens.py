"""Language-modelling windows over one long array of tokens."""

from __future__ import annotations

import hashlib

import numpy as np

from lepjax.core.errors import UserError
from lepjax.data.source import Rows, Shown


class TokenWindows:
    """Windows of `length` tokens and their successors: `tokens` and `targets`, int32[n, length].

    Training windows tile the array anew in every epoch, shifted by a pseudo-random offset of (digest, epoch), so that a
    token meets every context position over the epochs. Evaluation windows (`shift=False`) tile it once from the start
    and include the short remainder, so that every token but the first is scored exactly once.
    """

    def __init__(self, tokens: np.ndarray, length: int, shift: bool, where: str) -> None:
        if length < 1:
            raise UserError(f"windows of {length} tokens", where="data.length", fix="Use at least 1.")
        if len(tokens) < length + 1 + (length if shift else 0):
            raise UserError(
                f"{len(tokens)} tokens are too few for windows of {length}",
                where=where,
                fix="Use more text or shorter windows.",
            )
        self.tokens, self.length, self.shift, self.where = tokens, length, shift, where
        # The leading shift of up to `length` tokens costs the tiling one window.
        self.count = (len(tokens) - 1) // length - 1 if shift else -(-(len(tokens) - 1) // length)
        seen = hashlib.sha256(np.ascontiguousarray(tokens).data)  # through the buffer: a memory map is not copied
        seen.update(f"{tokens.dtype} {length} {shift}".encode())
        self.digest = seen.hexdigest()

    rowwise = True

    def __len__(self) -> int:
        return self.count

    def rows(self, ids: np.ndarray, epochs: np.ndarray) -> Rows:
        positions = self._starts(ids, epochs)[:, None] + np.arange(self.length + 1)
        inside = positions < len(self.tokens)
        window = self.tokens[np.minimum(positions, len(self.tokens) - 1)].astype(np.int32)
        rows = {"tokens": window[:, :-1], "targets": window[:, 1:]}
        if not self.shift:
            rows["mask"] = inside[:, 1:].astype(np.float32)
        return rows

    def shown(self, record: int, epoch: int) -> Shown:
        (start,) = self._starts(np.array([record]), np.array([epoch]))
        return Shown(tokens=self.tokens[start : start + self.length], where=f"{self.where} token {start}")

    def _starts(self, ids: np.ndarray, epochs: np.ndarray) -> np.ndarray:
        starts = ids * self.length
        return starts + np.array([self._offset(int(e)) for e in epochs], np.int64) if self.shift else starts

    def _offset(self, epoch: int) -> int:
        if epoch == 0:
            return 0
        return int.from_bytes(hashlib.sha256(f"{self.digest} {epoch}".encode()).digest()[:8], "big") % self.length
