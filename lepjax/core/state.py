"""The whole of a training run as one pytree. What is not in here cannot influence the next step."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lepjax.core.loss_scale import LossScale
from lepjax.core.spikes import Guard, NoGuard


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """Plain nested dicts of arrays inside.

    step        int32[]   steps taken, also skipped ones; schedules read it
    cursor      int32[]   the next batch of the plan
    skipped     int32[]   steps whose loss, gradient or hyperparameters were not finite, or which were loss spikes;
                          optimizer count + skipped == step
    params      the trained arrays (float32)
    model_state what the model itself remembers (batch statistics); {} for most
    opt_state   the optimizer's
    ema         averaged parameters, or None
    loss_scale  one of `core.loss_scale`
    hparams     {name: float32[]}: the live hyperparameters
    key         typed threefry key[]; never changes, every use folds in the step
    guard       one of `core.spikes`: what the verdict on loss spikes reads; no leaves without one
    """

    step: Any
    cursor: Any
    skipped: Any
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any
    loss_scale: LossScale
    hparams: dict[str, Any]
    key: Any
    guard: Guard = NoGuard()


def create(
    params: Any,
    model_state: Any,
    opt_state: Any,
    hparams: dict[str, Any],
    key: jax.Array,
    loss_scale: LossScale,
    ema: bool = False,
    guard: Guard = NoGuard(),
) -> State:
    """The state before step 0."""
    return State(
        step=jnp.int32(0),
        cursor=jnp.int32(0),
        skipped=jnp.int32(0),
        params=params,
        model_state=model_state,
        opt_state=opt_state,
        ema=jax.tree.map(jnp.copy, params) if ema else None,  # its own buffers: donation must not meet one twice
        loss_scale=loss_scale,
        hparams=as_leaves(hparams),
        key=key,
        guard=guard,
    )


def as_leaves(hparams: dict[str, Any]) -> dict[str, jax.Array]:
    """Strong float32 scalars: a Python float would be weakly typed, and changing it would retrace the step."""
    return {name: jnp.asarray(value, jnp.float32) for name, value in hparams.items()}
