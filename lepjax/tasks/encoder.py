"""What tasks on text encoders share: the inputs of a batch."""

from __future__ import annotations

from typing import Any, ClassVar

import jax

from lepjax.core.functional import Functional
from lepjax.data.source import Rows
from lepjax.ops.dropout import Dropout
from lepjax.tasks.task import Batch, Task

INPUTS = ("mask", "token_types", "segments", "positions", "firsts", "places")


class EncoderTask(Task):
    """Batch: `tokens` int32[rows, length] and what else of `INPUTS` there is; see `models.bert.BertModule`."""

    unit: ClassVar[str] = "tokens"

    def outputs(
        self, model: Functional, params: Any, model_state: Any, batch: Batch, drop: Dropout, train: bool
    ) -> Any:
        inputs: dict[str, Any] = {name: batch[name] for name in INPUTS if name in batch}
        return model.apply(params, model_state, batch["tokens"], drop=drop, train=train, **inputs)

    def tokens(self, batch: Rows) -> int:
        """Tokens that are not padding."""
        seen = batch["segments"] > 0 if "segments" in batch else batch["mask"]
        return int((seen * batch["weight"].reshape((-1,) + (1,) * (seen.ndim - 1))).sum())


def weights(batch: Batch, per_item: str = "") -> jax.Array:
    """float32: the rows' weights, times those of their items (packed examples, tokens) where the batch has them."""
    weight = batch["weight"]
    if per_item not in batch:
        return weight
    items = batch[per_item]
    return items * weight.reshape((-1,) + (1,) * (items.ndim - 1))
