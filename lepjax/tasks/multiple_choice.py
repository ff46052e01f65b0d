"""The best of several candidates."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lepjax.core.metrics import Accuracy, Mean, Metric
from lepjax.core.step import Term, Terms
from lepjax.ops.losses import cross_entropy
from lepjax.tasks.encoder import EncoderTask
from lepjax.tasks.task import Batch


@dataclasses.dataclass(frozen=True)
class MultipleChoice(EncoderTask):
    """Batch: `tokens` int32[rows, choices, length] (mask and types alike), `label` int32[rows]: the right choice."""

    headline: ClassVar[tuple[str, ...]] = ("accuracy",)

    def terms(self, outputs: jax.Array, batch: Batch, hparams: dict[str, Any]) -> Terms:
        weight, nll = batch["weight"], cross_entropy(outputs, batch["label"])
        return {"nll": Term(sum=jnp.where(weight > 0, nll * weight, 0.0).sum(), weight=weight.sum())}

    def metrics(self) -> dict[str, Metric]:
        return {"loss": Mean(), "accuracy": Accuracy()}

    def measure(self, outputs: jax.Array, batch: Batch, hparams: dict[str, Any]) -> dict[str, tuple[jax.Array, ...]]:
        nll = cross_entropy(outputs, batch["label"])
        return {"loss": (nll, batch["weight"]), "accuracy": (outputs, batch["label"], batch["weight"])}
