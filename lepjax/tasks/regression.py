"""A number for each text or pair of texts."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lepjax.core.metrics import Mean, Metric
from lepjax.core.rank_metrics import Pearson, Spearman
from lepjax.core.step import Term, Terms
from lepjax.tasks.encoder import EncoderTask, weights
from lepjax.tasks.task import Batch


@dataclasses.dataclass(frozen=True)
class Regression(EncoderTask):
    """Mean squared error. Batch: `label` float32[rows], or [rows, slots] with `slot_weight` where rows are packed."""

    headline: ClassVar[tuple[str, ...]] = ("spearman",)

    def terms(self, outputs: jax.Array, batch: Batch, hparams: dict[str, Any]) -> Terms:
        weight, squared = weights(batch, "slot_weight"), (outputs[..., 0] - batch["label"]) ** 2
        return {"mse": Term(sum=jnp.where(weight > 0, squared * weight, 0.0).sum(), weight=weight.sum())}

    def metrics(self) -> dict[str, Metric]:
        return {"loss": Mean(), "mae": Mean(), "pearson": Pearson(), "spearman": Spearman()}

    def measure(self, outputs: jax.Array, batch: Batch, hparams: dict[str, Any]) -> dict[str, tuple[jax.Array, ...]]:
        weight, error = weights(batch, "slot_weight"), outputs[..., 0] - batch["label"]
        pair = (outputs[..., 0], batch["label"], weight)
        return {"loss": (error**2, weight), "mae": (jnp.abs(error), weight), "pearson": pair, "spearman": pair}
