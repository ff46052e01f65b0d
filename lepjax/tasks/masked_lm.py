"""Masked language modelling, alone or with next-sentence prediction (Devlin et al., 2018)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lepjax.core.metrics import Accuracy, Mean, Metric, Perplexity
from lepjax.core.step import Term, Terms
from lepjax.ops.losses import cross_entropy
from lepjax.tasks.encoder import EncoderTask, weights
from lepjax.tasks.task import Batch


@dataclasses.dataclass(frozen=True)
class MaskedLanguageModeling(EncoderTask):
    """Batch: `places` int32[rows, k] (where tokens were masked), `label` int32[rows, k] (what stood there),
    `label_weight` float32[rows, k] (0 where a row has fewer).
    """

    headline: ClassVar[tuple[str, ...]] = ("loss", "accuracy")

    def terms(self, outputs: jax.Array, batch: Batch, hparams: dict[str, Any]) -> Terms:
        weight = weights(batch, "label_weight")
        nll = cross_entropy(outputs, batch["label"])
        return {"mlm": Term(sum=jnp.where(weight > 0, nll * weight, 0.0).sum(), weight=weight.sum())}

    def metrics(self) -> dict[str, Metric]:
        return {"loss": Mean(), "accuracy": Accuracy(), "perplexity": Perplexity()}

    def measure(self, outputs: jax.Array, batch: Batch, hparams: dict[str, Any]) -> dict[str, tuple[jax.Array, ...]]:
        weight = weights(batch, "label_weight")
        nll = (cross_entropy(outputs, batch["label"]), weight)
        return {"loss": nll, "perplexity": nll, "accuracy": (outputs, batch["label"], weight)}


@dataclasses.dataclass(frozen=True)
class PreTraining(MaskedLanguageModeling):
    """Masked words and the relation of two sentences: two terms, each over its own number of targets.

    Batch: as above, and `relation` int32[rows], 0 where the second sentence follows the first.
    """

    def terms(self, outputs: Any, batch: Batch, hparams: dict[str, Any]) -> Terms:
        words, relation = outputs
        nll = cross_entropy(relation, batch["relation"])
        summed = jnp.where(batch["weight"] > 0, nll * batch["weight"], 0.0).sum()
        return {**super().terms(words, batch, hparams), "relation": Term(sum=summed, weight=batch["weight"].sum())}

    def metrics(self) -> dict[str, Metric]:
        return {**super().metrics(), "relation_loss": Mean(), "relation_accuracy": Accuracy()}

    def measure(self, outputs: Any, batch: Batch, hparams: dict[str, Any]) -> dict[str, tuple[jax.Array, ...]]:
        words, relation = outputs
        return {
            **super().measure(words, batch, hparams),
            "relation_loss": (cross_entropy(relation, batch["relation"]), batch["weight"]),
            "relation_accuracy": (relation, batch["relation"], batch["weight"]),
        }
