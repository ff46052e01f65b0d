"""What a task says: its loss terms and its metrics, nothing about devices, precision or loops."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax

from lepjax.core.functional import Functional
from lepjax.core.metrics import Metric
from lepjax.core.step import Loss, Terms
from lepjax.data.source import Rows, Splits
from lepjax.ops.dropout import Dropout

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Task:
    """A kind of problem. To add one, write a file with a dataclass that derives from this one."""

    headline: ClassVar[tuple[str, ...]] = ("loss",)
    """The metrics that the terminal shows."""
    unit: ClassVar[str] = "examples"
    """What `tokens` counts."""

    def hparams(self) -> dict[str, float]:
        """Initial values of hyperparameters the loss reads."""
        return {}

    def on(self, splits: Splits) -> Task:
        """This task with what it has to know of the data. Raises `UserError` where the data do not fit it."""
        return self

    def outputs(
        self, model: Functional, params: Any, model_state: Any, batch: Batch, drop: Dropout, train: bool
    ) -> Any:
        """Calls the model on a batch: `(outputs, model_state)`."""
        raise TypeError(f"{type(self).__name__} must define outputs")

    def terms(self, outputs: Any, batch: Batch, hparams: dict[str, Any]) -> Terms:
        """The loss terms. Weights must depend on the batch alone and be 0 for rows of weight 0."""
        raise TypeError(f"{type(self).__name__} must define terms")

    def metrics(self) -> dict[str, Metric]:
        """Evaluation metrics by name."""
        return {}

    def measure(self, outputs: Any, batch: Batch, hparams: dict[str, Any]) -> dict[str, tuple[jax.Array, ...]]:
        """The arrays each metric's `of_batch` takes."""
        return {}

    def tokens(self, batch: Rows) -> int:
        """Useful tokens (examples, where there are none) in a host batch: what throughput counts."""
        return int(batch["weight"].sum())


def make_loss(task: Task, model: Functional) -> Loss:
    """The pure loss of a task on a model."""

    def loss(params, model_state, batch, hparams, keys, train):  # type: ignore[no-untyped-def]
        drop = Dropout(hparams.get("dropout"), keys if train else None)
        outputs, model_state = task.outputs(model, params, model_state, batch, drop, train)
        return task.terms(outputs, batch, hparams), model_state, {}

    return loss


def make_measure(task: Task, model: Functional) -> Any:
    """`measure(params, model_state, batch, hparams) -> {metric: part}`: one evaluation batch, on the device."""
    metrics = task.metrics()

    def measure(params, model_state, batch, hparams):  # type: ignore[no-untyped-def]
        outputs, _ = task.outputs(model, params, model_state, batch, Dropout(), False)
        arrays = task.measure(outputs, batch, hparams)
        return {name: metric.of_batch(*arrays[name]) for name, metric in metrics.items()}

    return measure
