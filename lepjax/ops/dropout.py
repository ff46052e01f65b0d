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
    """Srivastava et al. (2014), inverted: kept values are divided by the share that is kept.

    rate  float32[], traced; None removes dropout from the program
    keys  Key[rows], one per row of x; None in evaluation

    place what tells the noise of one use from that of another
    tokens, length  where x holds some tokens of a sequence only; see `picked`

    An element's noise is one byte: drawing words costs more than what they are drawn for. So the rate is rounded to a
    256th (0.1 is 0.1016), and values are scaled for the rate as rounded: the expectation is exact.
    """

    rate: Any = None
    keys: Any = None
    place: Any = 0
    tokens: Any = None
    length: int = dataclasses.field(default=0, metadata={"static": True})

    @property
    def off(self) -> bool:
        """Nothing is dropped, and the program knows it."""
        return self.rate is None or self.keys is None

    def at(self, place: jax.Array | int) -> Dropout:
        """The dropout of one place (a layer, a sublayer): other noise, same rate."""
        if self.off:
            return self
        return dataclasses.replace(self, place=rng.place(self.place, place))

    def picked(self, tokens: jax.Array, length: int) -> Dropout:
        """For x whose axis before the last holds only these tokens, int32[rows or 1, k], of a sequence of `length`: each
        gets the noise it would have among all of them.
        """
        return dataclasses.replace(self, tokens=tokens, length=length)

    def split(self, count: int) -> Dropout:
        """For x whose rows were each cut into `count`: [rows * count, ...]."""
        if self.keys is None:
            return self
        keys = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count)))(self.keys)
        return dataclasses.replace(self, keys=keys.reshape(-1))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [rows, ...], any float dtype; same shape and dtype out."""
        if self.off:
            return x
        mask, factor = self._kept(rng.row_bytes(self.keys, self.place, x.shape[1:], self.tokens, self.length))
        return jnp.where(mask, x * factor.astype(x.dtype), jnp.zeros((), x.dtype))

    def block(self, shape: tuple[int, int, int], i: jax.Array, j: jax.Array, whole: tuple[int, int]) -> jax.Array:
        """float32[rows, *shape]: what block (i, j) of [rows, heads, *whole] is multiplied by, in blocks of `shape`."""
        places = (i * shape[1] + jnp.arange(shape[1]))[None]
        drawn = rng.row_bytes(self.keys, self.place, shape, places, whole[0], (j * shape[2], whole[1]))
        mask, factor = self._kept(drawn)
        return jnp.where(mask, factor, 0.0)

    def _kept(self, drawn: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(which of these bytes' elements stay, float32[]: by what they are multiplied)"""
        kept = jnp.round(256 * (1.0 - self.rate))  # of 256 bytes
        # In float32: 256 is close to float16's infinity. A rate of 1 keeps nothing, and its gradient is zero, not 0 * inf.
        return drawn < kept.astype(jnp.uint16), jnp.where(kept > 0, 256 / jnp.maximum(kept, 1.0), 0.0)


OFF = Dropout()
