"""Metrics of ranked or real-valued scores: ROC-AUC, average precision, Pearson's and Spearman's correlation.

What depends on the order of all rows keeps (score, label, weight) of each row on the host: the totals are a tuple of
blocks, one per batch, and `merge` appends what counts of one. Pearson's correlation needs moments only.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lepjax.core.errors import UserError
from lepjax.core.metrics import Totals

Block = tuple[Any, Any, Any]  # scores [rows, ...], labels [rows], weights [rows]


class _Rows:
    """Totals that are blocks of rows; those of weight 0 are dropped."""

    def zero(self) -> Totals:
        return ()

    def merge(self, total: Totals, part: Any) -> Totals:
        counted = [np.asarray(block[2]) > 0 for block in part]
        return total + tuple(
            tuple(np.asarray(array)[keep] for array in block) for block, keep in zip(part, counted, strict=True)
        )


def _joined(total: Totals) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, labels, weights = (np.concatenate(arrays) for arrays in zip(*total, strict=True))
    return scores, labels, weights.astype(np.float64)


def _log_odds(logits: jax.Array) -> jax.Array:
    """float32[..., classes]: log(p / (1 - p)) of each class; it orders rows as p does, which rounds to 1 in many."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    # 1 - p cancels for a class near 1, and only the most probable one can be there: for it the others are summed.
    best = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(best, -jnp.inf, log_p), -1, keepdims=True)
    return log_p - jnp.where(best, others, jnp.log1p(-jnp.exp(log_p)))


def _by_threshold(scores: np.ndarray, found: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the positive and of the negative rows at each distinct score, from the highest score down."""
    distinct, index = np.unique(-scores, return_inverse=True)
    positive = np.bincount(index, weights * found, len(distinct))
    return positive, np.bincount(index, weights * ~found, len(distinct))


@dataclasses.dataclass(frozen=True)
class _Ranking(_Rows):
    """`of_batch(logits [..., classes], labels int[...], weights[...])`.

    The number of logits decides: of two, `positive` is the class looked for; of more, the result is the mean over the
    classes, each against the rest by its probability (macro one-vs-rest, and n x classes scores on the host). NaN
    where it is undefined for a class, and where a row that counts has a NaN logit or a label out of range.
    """

    positive: int = 1

    def __post_init__(self) -> None:
        if self.positive not in (0, 1):
            raise UserError(f"positive {self.positive}", where=type(self).__name__, fix="Use 0 or 1.")

    def of_batch(self, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[Block]:
        classes = logits.shape[-1]
        if classes < 2:
            raise UserError(f"{classes} logit per row", where=type(self).__name__, fix="Give one for each class.")
        logits, labels = logits.reshape(-1, classes).astype(jnp.float32), labels.reshape(-1).astype(jnp.int32)
        sound = (labels >= 0) & (labels < classes)
        if classes == 2:
            scores = jnp.where(sound, logits[:, self.positive] - logits[:, 1 - self.positive], jnp.nan)
        else:
            scores = jnp.where(sound[:, None], _log_odds(logits), jnp.nan)
        return ((scores, labels, weights.reshape(-1).astype(jnp.float32)),)

    def _of_class(self, positive: np.ndarray, negative: np.ndarray) -> float:
        raise NotImplementedError

    def result(self, total: Totals) -> float:
        if not total:
            return math.nan
        scores, labels, weights = _joined(total)
        if np.isnan(scores).any():
            return math.nan
        if scores.ndim == 1:
            return self._of_class(*_by_threshold(scores, labels == self.positive, weights))
        classes = range(scores.shape[1])
        return float(np.mean([self._of_class(*_by_threshold(scores[:, c], labels == c, weights)) for c in classes]))


@dataclasses.dataclass(frozen=True)
class RocAuc(_Ranking):
    """Area under the ROC curve: how often a positive row scores above a negative one, ties counting half."""

    def _of_class(self, positive: np.ndarray, negative: np.ndarray) -> float:
        below = negative.sum() - np.cumsum(negative)
        pairs = positive.sum() * negative.sum()
        return float((positive * (below + negative / 2)).sum() / pairs) if pairs > 0 else math.nan


@dataclasses.dataclass(frozen=True)
class PrAuc(_Ranking):
    """Average precision: precision at each threshold, weighted by the recall it adds (no interpolation)."""

    def _of_class(self, positive: np.ndarray, negative: np.ndarray) -> float:
        precision = np.cumsum(positive) / np.cumsum(positive + negative)
        return float((positive * precision).sum() / positive.sum()) if positive.sum() > 0 else math.nan


def _correlation(second: np.ndarray) -> float:
    """Of centred second moments [2, 2]; NaN where either has no spread."""
    spread = np.sqrt(np.maximum(np.diagonal(second), 0)).prod()
    return float(np.clip(second[0, 1] / spread, -1, 1)) if spread != 0 else math.nan


@dataclasses.dataclass(frozen=True)
class Pearson:
    """Correlation. `of_batch(scores, labels, weights)`: equal shapes; a weight says how often its row counts.

    A batch gives weight, centre, and first and second moments about the centre; merging makes the centre the mean
    (Chan et al., 1979). Sums of squares about 0 would lose what varies on top of a large mean.
    """

    def zero(self) -> Totals:
        return (np.float64(0), np.zeros(2), np.zeros(2), np.zeros((2, 2)))

    def of_batch(self, scores: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, ...]:
        weights = jnp.maximum(weights.reshape(-1, 1).astype(jnp.float32), 0.0)
        pairs = jnp.stack([scores.reshape(-1), labels.reshape(-1)], -1).astype(jnp.float32)
        pairs = jnp.where(weights > 0, pairs, 0.0)
        total = weights.sum()
        # Seen from one of the rows: the centre of equal values is that value, so that their spread is exactly 0.
        start = pairs[(weights[:, 0] > 0).argmax()]
        offsets = jnp.where(weights > 0, pairs - start, 0.0)
        centre = start + (weights * offsets).sum(0) / jnp.where(total > 0, total, 1.0)
        offsets = jnp.where(weights > 0, pairs - centre, 0.0)
        second = (weights[..., None] * offsets[:, :, None] * offsets[:, None, :]).sum(0)
        return total, centre, (weights * offsets).sum(0), second

    def merge(self, total: Totals, part: Any) -> Totals:
        weight, mean, _, second = total
        weight_2, centre, first_2, second_2 = (np.asarray(array, np.float64) for array in part)
        if weight_2 == 0:
            return total
        second_2 = second_2 - np.outer(first_2, first_2) / weight_2
        distance = centre + first_2 / weight_2 - mean
        share = weight_2 / (weight + weight_2)
        second = second + second_2 + np.outer(distance, distance) * weight * share
        return weight + weight_2, mean + distance * share, np.zeros(2), second

    def result(self, total: Totals) -> float:
        return _correlation(total[3])


def _ranks(values: np.ndarray) -> np.ndarray:
    """float64: ranks from 1, equal values sharing the mean of theirs."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]


@dataclasses.dataclass(frozen=True)
class Spearman(_Rows):
    """Correlation of ranks, ties sharing the mean of theirs. `of_batch(scores, labels, weights)`: equal shapes.

    A weight only says whether its row counts: a rank has no meaning for part of a row.
    """

    def of_batch(self, scores: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[Block]:
        scores, labels, weights = (array.reshape(-1).astype(jnp.float32) for array in (scores, labels, weights))
        return ((scores, labels, weights),)

    def result(self, total: Totals) -> float:
        if not total:
            return math.nan
        pairs = np.stack(_joined(total)[:2])
        if not pairs.size or np.isnan(pairs).any():
            return math.nan
        ranks = np.stack([_ranks(values) for values in pairs])
        centred = ranks - ranks.mean(1, keepdims=True)
        return _correlation(centred @ centred.T)
