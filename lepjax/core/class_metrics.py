"""Metrics of single-label classification that are functions of a confusion matrix, and the expected calibration error.

Rows of a confusion matrix are true labels, columns predictions. Where a denominator is 0 a score is 0, as in
scikit-learn with `zero_division=0`; over no rows at all it is NaN.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lepjax.core.errors import UserError
from lepjax.core.metrics import Totals

AVERAGES = ("micro", "macro", "weighted")


def _predicted(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The predicted class int32[...], weights float32[...] (0 where not above 0), and a fault float32[], NaN or 0.

    A row that counts is a fault where its label is out of range or a logit is NaN: counting it nowhere would hide it.
    """
    sound = (labels >= 0) & (labels < logits.shape[-1]) & ~jnp.isnan(logits).any(-1)
    counted = weights > 0
    fault = jnp.where((counted & ~sound).any(), jnp.nan, 0.0)  # added to sums, as XLA lets 0 * NaN of a mask be 0
    return logits.argmax(-1), jnp.where(counted, weights.astype(jnp.float32), 0.0), fault


def _summed(columns: jax.Array, index: jax.Array, size: int) -> jax.Array:
    """float32[columns, size]: the sums of float32[..., columns] at equal index. No scatter: its order may vary."""
    slots = jax.nn.one_hot(index.reshape(-1), size, dtype=jnp.float32)
    # The default precision of a product would round weights to bfloat16 on a TPU.
    return jnp.matmul(columns.reshape(-1, columns.shape[-1]).T, slots, precision=jax.lax.Precision.HIGHEST)


class PerClass(NamedTuple):
    """float64[classes] each; `support` is the weight of the rows that bear the label."""

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


def scores(counts: np.ndarray) -> PerClass:
    """Scores from the numbers [3, ...] of right, predicted and true items."""
    right, predicted, true = counts

    def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return part / np.where(whole == 0, 1, whole)  # the part is 0, too

    return PerClass(share(right, predicted), share(right, true), share(2 * right, predicted + true), true)


def averaged(counts: np.ndarray, average: str) -> PerClass:
    """One of `AVERAGES` of the scores of [3, classes]: of summed counts, plain mean, or mean weighted by support."""
    if average == "micro":
        return scores(counts.sum(1))
    support = counts[2].sum()
    if support == 0 and (average == "weighted" or not counts.size):
        return PerClass(*np.zeros(4))
    precision, recall, f1, _ = np.average(scores(counts), axis=1, weights=counts[2] if average == "weighted" else None)
    return PerClass(precision, recall, f1, support)


def _counted(matrix: np.ndarray) -> np.ndarray:
    return np.stack([np.diagonal(matrix), matrix.sum(0), matrix.sum(1)])


def per_class(counts: np.ndarray) -> PerClass:
    """Precision, recall, F1 and support of every class of a confusion matrix [classes, classes]."""
    return scores(_counted(np.asarray(counts, np.float64)))


def table(names: Sequence[str], by_class: PerClass, averages: Iterable[tuple[str, PerClass]]) -> str:
    """scikit-learn's report with four digits. Supports are printed as integers where all are whole."""
    width = max(map(len, ("weighted avg", *names)))
    whole = all(float(support).is_integer() for support in by_class.support)
    lines = [f"{'':>{width}}  {'precision':>9} {'recall':>9} {'f1-score':>9} {'support':>9}", ""]
    for block in (zip(names, np.transpose(by_class), strict=True), averages):
        for name, (precision, recall, f1, support) in block:
            shown = f"{'':>9} {'':>9}" if name == "accuracy" else f"{precision:>9.4f} {recall:>9.4f}"
            lines.append(f"{name:>{width}}  {shown} {f1:>9.4f} {int(support) if whole else float(support):>9}")
        lines.append("")
    return "\n".join(lines)


def report(counts: np.ndarray, names: Sequence[str]) -> str:
    """What `sklearn.metrics.classification_report(..., digits=4)` prints, from a confusion matrix [classes, classes].

    The third last line is the accuracy: the matrix holds every row, so that it equals the micro average. Raises
    `UserError` where `names` are not as many as the classes.
    """
    counts = np.asarray(counts, np.float64)
    if len(names) != len(counts):
        raise UserError(f"{len(names)} names for {len(counts)} classes", where="report", fix="Name every class once.")
    counted = _counted(counts)
    lines = zip(("accuracy", "macro avg", "weighted avg"), AVERAGES, strict=True)
    return table(names, scores(counted), [(line, averaged(counted, average)) for line, average in lines])


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Confusion matrix of `classes` classes, the totals of the metrics below.

    `of_batch(logits [..., classes], labels int[...], weights[...])` gives float32[classes, classes], exact for whole
    weights up to 2**24 per batch. Rows of weight 0 may hold anything. A row that counts and whose label is out of range
    or whose logits are NaN turns all counts NaN.
    """

    classes: int

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise UserError(f"{self.classes} classes", where=type(self).__name__, fix="Use at least 1.")

    def zero(self) -> Totals:
        return (np.zeros((self.classes, self.classes)),)

    def of_batch(self, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array]:
        if logits.shape[-1] != self.classes:
            raise UserError(f"logits of {logits.shape[-1]} classes", where=str(self), fix="Give both the same number.")
        predicted, weights, fault = _predicted(logits, labels, weights)
        true = jax.nn.one_hot(labels, self.classes, dtype=jnp.float32) * weights[..., None]
        return (_summed(true, predicted, self.classes) + fault,)

    def merge(self, total: Totals, part: Any) -> Totals:
        return (total[0] + np.asarray(part[0], np.float64),)


@dataclasses.dataclass(frozen=True)
class _Averaged(Confusion):
    average: str | int = "macro"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = range(self.classes) if isinstance(self.average, int) else AVERAGES
        if self.average not in known:
            fix = f'Use "micro", "macro", "weighted" or a class from 0 to {self.classes - 1}.'
            raise UserError(f"average {self.average!r}", where=type(self).__name__, fix=fix)

    def _scores(self, total: Totals) -> PerClass:
        (counts,) = total
        if not counts.any():
            return PerClass(*np.full(4, np.nan))
        if isinstance(self.average, int):
            return PerClass(*np.transpose(per_class(counts))[self.average])
        return averaged(_counted(counts), self.average)


@dataclasses.dataclass(frozen=True)
class Precision(_Averaged):
    """Share of predictions of a class that are right; `average` over the classes, or the id of one class."""

    def result(self, total: Totals) -> float:
        return float(self._scores(total).precision)


@dataclasses.dataclass(frozen=True)
class Recall(_Averaged):
    """Share of a class's rows that are found; `average` over the classes, or the id of one class."""

    def result(self, total: Totals) -> float:
        return float(self._scores(total).recall)


@dataclasses.dataclass(frozen=True)
class F1(_Averaged):
    """Harmonic mean of precision and recall; `average` over the classes' F1, or the id of one class."""

    def result(self, total: Totals) -> float:
        return float(self._scores(total).f1)


@dataclasses.dataclass(frozen=True)
class Matthews(Confusion):
    """Correlation of labels and predictions, R_k (Gorodkin, 2004); 0 where either are all one class."""

    def result(self, total: Totals) -> float:
        right, predicted, true = _counted(total[0])
        rows = true.sum()
        if rows == 0:
            return math.nan
        spread = (rows**2 - predicted @ predicted) * (rows**2 - true @ true)
        return float((right.sum() * rows - true @ predicted) / np.sqrt(spread)) if spread != 0 else 0.0


@dataclasses.dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error (Guo et al., 2017): the mean gap between confidence and accuracy over equal bins.

    `of_batch(logits [..., classes], labels int[...], weights[...])` gives float32[3, bins]: sums of weight, confidence
    and right predictions. Bin m of M holds the confidences in ((m - 1)/M, m/M]. What turns `Confusion` NaN does so here.
    """

    bins: int = 15

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise UserError(f"{self.bins} bins", where="CalibrationError", fix="Use at least 1.")

    def zero(self) -> Totals:
        return (np.zeros((3, self.bins)),)

    def of_batch(self, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array]:
        predicted, weights, fault = _predicted(logits, labels, weights)
        confidence = jax.nn.softmax(logits.astype(jnp.float32)).max(-1)
        confidence = jnp.where(weights > 0, confidence, 0.0)  # NaN * 0 is NaN
        index = jnp.clip(jnp.ceil(confidence * self.bins) - 1, 0, self.bins - 1).astype(jnp.int32)
        columns = jnp.stack([weights, weights * confidence, weights * (predicted == labels)], -1)
        return (_summed(columns, index, self.bins) + fault,)

    def merge(self, total: Totals, part: Any) -> Totals:
        return (total[0] + np.asarray(part[0], np.float64),)

    def result(self, total: Totals) -> float:
        weight, confidence, right = total[0]
        return float(np.abs(right - confidence).sum() / weight.sum()) if weight.sum() != 0 else math.nan
