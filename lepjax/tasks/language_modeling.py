"""Next-token prediction."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lepjax.core.functional import Functional
from lepjax.core.metrics import Accuracy, BitsPerByte, Mean, Metric, Perplexity
from lepjax.core.step import Term, Terms
from lepjax.data.source import Rows
from lepjax.ops.dropout import Dropout
from lepjax.ops.losses import cross_entropy
from lepjax.tasks.task import Batch, Task


@dataclasses.dataclass(frozen=True)
class LanguageModeling(Task):
    """Batch: `tokens`, `targets` int32[rows, length]; `weight` float32[rows] (0 marks padding); optional `mask`
    float32[rows, length] (0 where a target does not count) and `segments` int32[rows, length] (packed examples).
    """

    headline: ClassVar[tuple[str, ...]] = ("loss", "accuracy", "bits_per_byte")

    unit: ClassVar[str] = "tokens"

    bytes: bool = False
    """Tokens are bytes: report bits per byte."""

    def outputs(
        self, model: Functional, params: Any, model_state: Any, batch: Batch, drop: Dropout, train: bool
    ) -> Any:
        return model.apply(params, model_state, batch["tokens"], segments=batch.get("segments"), drop=drop, train=train)

    def terms(self, outputs: jax.Array, batch: Batch, hparams: dict[str, Any]) -> Terms:
        weight = _weights(batch)
        nll = cross_entropy(outputs, batch["targets"])
        counted = jnp.where(weight > 0, nll * weight, 0.0)  # a masked target may be -100, and NaN * 0 is NaN
        return {"nll": Term(sum=counted.sum(), weight=weight.sum())}

    def metrics(self) -> dict[str, Metric]:
        metrics: dict[str, Metric] = {"loss": Mean(), "perplexity": Perplexity(), "accuracy": Accuracy()}
        return {**metrics, "bits_per_byte": BitsPerByte()} if self.bytes else metrics

    def measure(self, outputs: jax.Array, batch: Batch, hparams: dict[str, Any]) -> dict[str, tuple[jax.Array, ...]]:
        weight = _weights(batch)
        nll = (cross_entropy(outputs, batch["targets"]), weight)
        return {
            "loss": nll,
            "perplexity": nll,
            "bits_per_byte": nll,
            "accuracy": (outputs, batch["targets"], weight),
        }

    def tokens(self, batch: Rows) -> int:
        if "mask" in batch:
            return int((batch["mask"] * batch["weight"][:, None]).sum())
        return int(batch["weight"].sum()) * batch["tokens"].shape[1]


def _weights(batch: Batch) -> jax.Array:
    """float32[rows, length]: the weight of each target."""
    weight = batch["weight"][:, None]
    return weight * batch["mask"] if "mask" in batch else jnp.broadcast_to(weight, batch["targets"].shape)
