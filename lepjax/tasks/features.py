"""Classification of records that are numbers instead of text."""

from __future__ import annotations

from typing import Any

from lepjax.core.functional import Functional
from lepjax.data.source import Rows
from lepjax.ops.dropout import Dropout
from lepjax.tasks.classification import Classification
from lepjax.tasks.task import Batch, Task


class FeatureClassification(Classification):
    """Batch: `features` float32[rows, ...] and `label` int32[rows]. Loss and metrics are those of `Classification`."""

    unit = Task.unit

    def outputs(
        self, model: Functional, params: Any, model_state: Any, batch: Batch, drop: Dropout, train: bool
    ) -> Any:
        return model.apply(params, model_state, batch["features"], drop=drop, train=train)

    def tokens(self, batch: Rows) -> int:
        return Task.tokens(self, batch)
