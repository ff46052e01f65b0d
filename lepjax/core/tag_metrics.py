"""Entity-level scores of taggers: an entity counts where its type and both ends are right.

Chunks are those of the CoNLL evaluation script (Tjong Kim Sang and Buchholz, 2000; conlleval.pl), for the schemes BIO,
BIOES and BMES (M is read as I), legal or not: I- after O or after another type begins an entity.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lepjax.core.class_metrics import AVERAGES, averaged, scores, table
from lepjax.core.errors import UserError
from lepjax.core.metrics import Totals

OUTSIDE, BEGIN, INSIDE, END, SINGLE = range(5)
KINDS = {"O": OUTSIDE, "B": BEGIN, "I": INSIDE, "M": INSIDE, "E": END, "S": SINGLE}
WHICH = ("f1", "precision", "recall")
UNNAMED = "_"  # the type of a bare B or I


def _parse(tag: str) -> tuple[int, str]:
    prefix, _, name = tag.partition("-")
    if prefix not in KINDS:
        raise UserError(f"tag {tag!r}", where="tags", fix="Use O, or a type after B-, I-, E-, S- or M-.")
    return KINDS[prefix], "" if prefix == "O" else name or UNNAMED


def _chunks(kinds: np.ndarray, types: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last index of each entity of one sequence: kinds int[length], type ids int[length]."""
    kinds, types = np.pad(kinds, 1), np.pad(types, 1)  # O on both sides
    before, after = kinds[:-1], kinds[1:]
    cut = (types[:-1] != types[1:]) | np.isin(before, (OUTSIDE, END, SINGLE)) | np.isin(after, (OUTSIDE, BEGIN, SINGLE))
    return np.flatnonzero(cut & (after != OUTSIDE)), np.flatnonzero(cut & (before != OUTSIDE))


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Entities of one sequence: (type, start, end), the end exclusive. Raises `UserError` for a tag of no scheme."""
    kinds, types = zip(*map(_parse, tags), strict=True) if len(tags) else ((), ())
    _, ids = np.unique(np.array(types, str), return_inverse=True)
    starts, ends = _chunks(np.array(kinds, int), ids)
    return [(types[start], start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


@dataclasses.dataclass(frozen=True)
class EntityScore:
    """Micro-averaged F1, precision or recall of entities; 0 where there are none.

    `of_batch(logits [rows, length, tags], labels int[rows, length], weights [rows, length])` gives predicted ids, labels
    (small ints) and whether a position counts. Positions of weight 0 (later sub-words, padding) are left out before
    entities are read. Totals: float64[3, types], the numbers of right, predicted and true entities of each of `types`.
    A NaN logit or a label out of range at a position that counts turns them NaN.
    """

    tags: tuple[str, ...]
    which: str = "f1"

    def __post_init__(self) -> None:
        for tag in self.tags:
            _parse(tag)
        if self.which not in WHICH:
            raise UserError(f"which {self.which!r}", where="EntityScore", fix=f"Use one of {', '.join(WHICH)}.")

    @functools.cached_property
    def types(self) -> tuple[str, ...]:
        """Types of entities, sorted."""
        return tuple(sorted({name for _, name in map(_parse, self.tags)} - {""}))

    @functools.cached_property
    def _codes(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each tag: its kind and its type's index in `types`."""
        parsed = [_parse(tag) for tag in self.tags]
        kinds = np.array([kind for kind, _ in parsed], np.int64)
        return kinds, np.array([self.types.index(name) if name else 0 for _, name in parsed], np.int64)

    def zero(self) -> Totals:
        return (np.zeros((3, len(self.types))),)

    def of_batch(self, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, ...]:
        if logits.shape[-1] != len(self.tags):
            found = f"{logits.shape[-1]} logits for {len(self.tags)} tags"
            raise UserError(found, where="EntityScore", fix="Give both the same number.")
        small = jnp.int8 if len(self.tags) < 128 else jnp.int16
        predicted = jnp.where(jnp.isnan(logits).any(-1), -1, logits.argmax(-1))
        labels = jnp.where((labels >= 0) & (labels < len(self.tags)), labels, -1)
        return predicted.astype(small), labels.astype(small), weights > 0

    def merge(self, total: Totals, part: Any) -> Totals:
        predicted, labels, counted = map(np.asarray, part)
        if (np.minimum(predicted, labels)[counted] < 0).any():
            return (np.full_like(total[0], np.nan),)
        found, true = self._entities(predicted, counted), self._entities(labels, counted)
        both = np.intersect1d(found, true, assume_unique=True)
        types = len(self.types)
        return (total[0] + np.stack([np.bincount(e % types, minlength=types) for e in (both, found, true)]),)

    def _entities(self, ids: np.ndarray, counted: np.ndarray) -> np.ndarray:
        """One number for each entity of ids int[rows, length]: start, end and type; the remainder is the type."""
        kinds, types = (np.pad(codes[ids], ((0, 0), (0, 1))) for codes in self._codes)  # O ends every row
        keep = np.pad(counted, ((0, 0), (0, 1)), constant_values=True)
        kinds, types = kinds[keep], types[keep]
        starts, ends = _chunks(kinds, types)
        return (starts * (len(kinds) + 1) + ends) * len(self.types) + types[starts]

    def result(self, total: Totals) -> float:
        return float(getattr(averaged(total[0], "micro"), self.which))


def entity_report(counts: np.ndarray, types: Sequence[str]) -> str:
    """What seqeval's `classification_report(..., digits=4)` prints, from the totals float64[3, types] of `EntityScore`.

    Types with neither a true nor a predicted entity are left out, of the macro average, too.
    """
    seen = np.flatnonzero(counts.any(0))
    names, counts = [types[i] for i in seen.tolist()], counts[:, seen]
    averages = [(f"{average} avg", averaged(counts, average)) for average in AVERAGES]
    return table(names, scores(counts), averages)
