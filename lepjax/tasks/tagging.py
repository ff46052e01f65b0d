"""A tag for every word: named entities and the like."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from lepjax.core.class_metrics import F1
from lepjax.core.errors import UserError
from lepjax.core.fields import hparam
from lepjax.core.metrics import Accuracy, Mean, Metric
from lepjax.core.step import Term, Terms
from lepjax.core.tag_metrics import EntityScore
from lepjax.data.source import Splits
from lepjax.ops.losses import cross_entropy
from lepjax.tasks.encoder import EncoderTask, weights
from lepjax.tasks.task import Batch


@dataclasses.dataclass(frozen=True)
class Tagging(EncoderTask):
    """Token classification on the first sub-token of each word.

    Batch: `label` int32[rows, length], `label_weight` float32[rows, length] (1 on first sub-tokens). Entity scores are
    those of the CoNLL evaluation: an entity counts where its type and both ends are right.
    """

    headline: ClassVar[tuple[str, ...]] = ("entity_f1",)

    tags: tuple[str, ...] = ()
    """Names of the tags, in the order of their ids."""
    label_smoothing: float = hparam(0.0)
    """Share of each target that is spread evenly over all tags."""

    def hparams(self) -> dict[str, float]:
        return {"label_smoothing": self.label_smoothing}

    def on(self, splits: Splits) -> Tagging:
        if splits.labels and splits.labels != self.tags:
            raise UserError(
                f"the data's tags are {', '.join(splits.labels)}, the task's {', '.join(self.tags)}",
                where="task.tags",
                fix="Name the data's tags, in their order.",
            )
        return self

    def terms(self, outputs: jax.Array, batch: Batch, hparams: dict[str, Any]) -> Terms:
        _refuse_packed(batch)
        weight = weights(batch, "label_weight")
        nll = cross_entropy(outputs, batch["label"], smoothing=hparams["label_smoothing"])
        return {"nll": Term(sum=jnp.where(weight > 0, nll * weight, 0.0).sum(), weight=weight.sum())}

    def metrics(self) -> dict[str, Metric]:
        return {
            "loss": Mean(),
            "accuracy": Accuracy(),
            "token_f1": F1(len(self.tags), "macro"),
            "entity_precision": EntityScore(self.tags, "precision"),
            "entity_recall": EntityScore(self.tags, "recall"),
            "entity_f1": EntityScore(self.tags, "f1"),
        }

    def measure(self, outputs: jax.Array, batch: Batch, hparams: dict[str, Any]) -> dict[str, tuple[jax.Array, ...]]:
        _refuse_packed(batch)
        weight = weights(batch, "label_weight")
        scored = (outputs, batch["label"], weight)
        return dict.fromkeys(self.metrics(), scored) | {"loss": (cross_entropy(outputs, batch["label"]), weight)}


def _refuse_packed(batch: Batch) -> None:
    """An entity at the end of one record would run on into the next: scores would be wrong without a word."""
    if "segments" in batch:
        raise UserError("packed rows of tagged words", where="data.batching", fix="Use Buckets or Fixed.")
