"""Dropout whose rate is data, and whose noise depends on (seed, step, row, place) alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lepjax.core import rng


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dropout:
    """Srivastava et al. (2014), inverted: kept values are divided by 1 - rate.

    rate  float32[], traced; None removes dropout from the program
    keys  Key[rows], one per row of x; None in evaluation
    """

    rate: Any = None
    keys: Any = None

    def at(self, place: jax.Array | int) -> Dropout:
        """The dropout of one place (a layer, a sublayer): other noise, same rate."""
        if self.rate is None or self.keys is None:
            return self
        return dataclasses.replace(self, keys=rng.fold_rows(self.keys, place))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [rows, ...], any float dtype; same shape and dtype out."""
        if self.rate is None or self.keys is None:
            return x
        keep = 1.0 - self.rate
        mask = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]) < keep)(self.keys)
        # In float32: 1 / 1e-6 is infinite in float16. A rate of 1 keeps nothing, and its gradient is zero, not 0 * inf.
        factor = jnp.where(keep > 0, 1.0 / jnp.maximum(keep, 1e-6), 0.0)
        return jnp.where(mask, x * factor.astype(x.dtype), jnp.zeros((), x.dtype))


OFF = Dropout()
