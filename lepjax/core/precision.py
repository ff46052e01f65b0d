"""Precision policies: which dtype holds, computes and sums. The idea is jmp's (google-deepmind/jmp)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lepjax.core import loss_scale
from lepjax.core.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Policy:
    """`param` stores parameters, `compute` runs the layers, `accumulate` sums gradients, losses and logits."""

    name: str
    compute: Any
    param: Any = jnp.float32
    accumulate: Any = jnp.float32

    def loss_scale(self) -> loss_scale.LossScale:
        """The scale this precision needs: float16 gradients underflow without one, bfloat16's range needs none."""
        return loss_scale.dynamic() if self.compute == jnp.float16 else loss_scale.none()


FLOAT32 = Policy("float32", jnp.float32)
BFLOAT16 = Policy("bfloat16", jnp.bfloat16)
FLOAT16 = Policy("float16", jnp.float16)
BFLOAT16_STORED = Policy("bfloat16_stored", jnp.bfloat16, param=jnp.bfloat16)  # half the memory; small updates are lost
_BY_NAME = {policy.name: policy for policy in (FLOAT32, BFLOAT16, FLOAT16, BFLOAT16_STORED)}


def widened(tree: Any) -> Any:
    """The same in float32 at least, as an optimizer keeps its statistics whatever stores the parameters."""

    def one(x: Any) -> Any:
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(one, tree)


def policy(name: str | Policy) -> Policy:
    """The policy of that name. Raises `UserError` for an unknown one."""
    if isinstance(name, Policy):
        return name
    if name not in _BY_NAME:
        raise UserError(f"{name!r} is not a precision", where="precision", fix=nearest(name, _BY_NAME))
    return _BY_NAME[name]
