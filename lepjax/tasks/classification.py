"""One of several classes for each text or pair of texts."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lepjax.core.class_metrics import F1, CalibrationError, Matthews, Precision, Recall
from lepjax.core.errors import UserError, nearest
from lepjax.core.fields import hparam
from lepjax.core.metrics import Accuracy, Mean, Metric
from lepjax.core.rank_metrics import PrAuc, RocAuc
from lepjax.core.step import Term, Terms
from lepjax.data.source import Splits
from lepjax.ops.losses import cross_entropy
from lepjax.tasks.encoder import EncoderTask, weights
from lepjax.tasks.task import Batch

AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Classification(EncoderTask):
    """Single-label classification. Batch: `label` int32[rows], or [rows, slots] with `slot_weight` where rows are packed.

    The loss is a mean weighted by class, as torch.nn.CrossEntropyLoss(weight=...) has it; evaluation ignores the classes'
    weights.
    """

    headline: ClassVar[tuple[str, ...]] = ("accuracy",)

    labels: tuple[str, ...] = ("0", "1")
    """Names of the classes, in the order of their ids."""
    label_smoothing: float = hparam(0.0)
    """Share of each target that is spread evenly over all classes (Szegedy et al., 2016)."""
    class_weights: tuple[tuple[str, float], ...] | str | None = None
    """None, "auto" (records / (classes * records of the class)), or (label, weight) pairs; those not named weigh 1."""
    class_loss_weights: tuple[float, ...] = ()
    """What `class_weights` come to, by class id; filled in from the training data."""

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise UserError(f"labels {self.labels}", where="task.labels", fix="Name at least two, each once.")
        if isinstance(self.class_weights, str) and self.class_weights != AUTO:
            raise UserError(f"{self.class_weights!r}", where="task.class_weights", fix=f'Use None, "{AUTO}" or pairs.')
        for label, weight in () if isinstance(self.class_weights, str) else self.class_weights or ():
            if label not in self.labels:
                raise UserError(f"no label {label!r}", where="task.class_weights", fix=nearest(label, self.labels))
            if not weight >= 0:
                raise UserError(f"{label!r} weighs {weight}", where="task.class_weights", fix="Use 0 or more.")

    def hparams(self) -> dict[str, float]:
        return {"label_smoothing": self.label_smoothing}

    def on(self, splits: Splits) -> Classification:
        if splits.labels and splits.labels != self.labels:
            raise UserError(
                f"the data's labels are {', '.join(splits.labels)}, the task's {', '.join(self.labels)}",
                where="task.labels",
                fix="Name the data's labels, in their order.",
            )
        if self.class_weights is None:
            return self
        if self.class_weights == AUTO:
            counts = np.bincount(splits.train.columns["label"], minlength=len(self.labels))  # type: ignore[attr-defined]
            by_class = len(splits.train) / (len(counts) * np.maximum(counts, 1))
        else:
            named = dict(self.class_weights)  # type: ignore[arg-type]
            by_class = np.array([named.get(label, 1.0) for label in self.labels])
        return dataclasses.replace(self, class_loss_weights=tuple(map(float, by_class)))

    def terms(self, outputs: jax.Array, batch: Batch, hparams: dict[str, Any]) -> Terms:
        weight = weights(batch, "slot_weight")
        if self.class_loss_weights:
            weight = weight * jnp.asarray(self.class_loss_weights, jnp.float32)[batch["label"]]
        nll = cross_entropy(outputs, batch["label"], smoothing=hparams["label_smoothing"])
        return {"nll": Term(sum=jnp.where(weight > 0, nll * weight, 0.0).sum(), weight=weight.sum())}

    def metrics(self) -> dict[str, Metric]:
        classes = len(self.labels)
        average: str | int = 1 if classes == 2 else "macro"  # of two classes the second is the one looked for
        return {
            "loss": Mean(),
            "accuracy": Accuracy(),
            "precision": Precision(classes, average),
            "recall": Recall(classes, average),
            "f1": F1(classes, average),
            "matthews": Matthews(classes),
            "roc_auc": RocAuc(),
            "pr_auc": PrAuc(),
            "calibration_error": CalibrationError(),
        }

    def measure(self, outputs: jax.Array, batch: Batch, hparams: dict[str, Any]) -> dict[str, tuple[jax.Array, ...]]:
        weight = weights(batch, "slot_weight")
        scored = (outputs, batch["label"], weight)
        return dict.fromkeys(self.metrics(), scored) | {"loss": (cross_entropy(outputs, batch["label"]), weight)}
