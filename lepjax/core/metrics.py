"""Metrics as monoids: `zero`, `of_batch` on the device, `merge` and `result` on the host.

A batch gives sums and counts, small and on the device; totals are kept on the host in float64 and int64. So a metric is
exact on the last partial batch (its padding has weight 0), the same on every mesh, and its memory does not grow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Totals = Any  # a tuple of numpy scalars or arrays


class Metric(Protocol):
    """`of_batch` takes arrays as the task hands them and runs under jit; the rest is numpy on the host."""

    @property
    def of_batch(self) -> Callable[..., Any]: ...
    def zero(self) -> Totals: ...
    def merge(self, total: Totals, part: Any) -> Totals: ...
    def result(self, total: Totals) -> float: ...


def _add(total: Totals, part: Any) -> Totals:
    return tuple(t + np.asarray(p).astype(np.asarray(t).dtype) for t, p in zip(total, part, strict=True))


@dataclasses.dataclass(frozen=True)
class Mean:
    """Weighted mean of values. `of_batch(values, weights)`: equal shapes, any float dtype."""

    def zero(self) -> Totals:
        return (np.float64(0), np.float64(0))

    def of_batch(self, values: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        weights = weights.astype(jnp.float32)
        # A padded row may hold anything, and NaN * 0 is NaN.
        values = jnp.where(weights > 0, values.astype(jnp.float32), 0.0)
        return (values * weights).sum(), weights.sum()

    def merge(self, total: Totals, part: Any) -> Totals:
        return _add(total, part)

    def result(self, total: Totals) -> float:
        return float(total[0] / total[1]) if total[1] > 0 else math.nan


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Share of positions whose largest logit is the label. `of_batch(logits [..., classes], labels, weights)`."""

    def zero(self) -> Totals:
        return (np.float64(0), np.float64(0))

    def of_batch(self, logits: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        return Mean().of_batch(logits.argmax(-1) == labels, weights)

    def merge(self, total: Totals, part: Any) -> Totals:
        return _add(total, part)

    def result(self, total: Totals) -> float:
        return Mean().result(total)


@dataclasses.dataclass(frozen=True)
class Perplexity(Mean):
    """exp of the mean negative log-likelihood (nats)."""

    def result(self, total: Totals) -> float:
        mean = super().result(total)
        return math.inf if mean >= 700 else math.exp(mean)  # exp overflows float64 near 709; NaN stays NaN


@dataclasses.dataclass(frozen=True)
class BitsPerByte(Mean):
    """The mean negative log-likelihood of a byte model, in bits."""

    def result(self, total: Totals) -> float:
        return super().result(total) / math.log(2.0)
