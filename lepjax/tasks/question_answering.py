"""Extractive question answering: where in a passage the answer starts and ends."""

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
class QuestionAnswering(EncoderTask):
    """Batch: `start`, `end` int32[rows]: the answer's first and last token. The loss is the mean of both ends'."""

    headline: ClassVar[tuple[str, ...]] = ("span_accuracy",)

    def terms(self, outputs: jax.Array, batch: Batch, hparams: dict[str, Any]) -> Terms:
        weight, nll = batch["weight"], self._nll(outputs, batch)
        return {"nll": Term(sum=jnp.where(weight > 0, nll * weight, 0.0).sum(), weight=weight.sum())}

    def metrics(self) -> dict[str, Metric]:
        return {"loss": Mean(), "start_accuracy": Accuracy(), "end_accuracy": Accuracy(), "span_accuracy": Mean()}

    def measure(self, outputs: jax.Array, batch: Batch, hparams: dict[str, Any]) -> dict[str, tuple[jax.Array, ...]]:
        starts, ends = outputs[..., 0], outputs[..., 1]
        both = (starts.argmax(-1) == batch["start"]) & (ends.argmax(-1) == batch["end"])
        return {
            "loss": (self._nll(outputs, batch), batch["weight"]),
            "start_accuracy": (starts, batch["start"], batch["weight"]),
            "end_accuracy": (ends, batch["end"], batch["weight"]),
            "span_accuracy": (both, batch["weight"]),
        }

    def _nll(self, outputs: jax.Array, batch: Batch) -> jax.Array:
        starts, ends = outputs[..., 0], outputs[..., 1]
        return (cross_entropy(starts, batch["start"]) + cross_entropy(ends, batch["end"])) / 2
