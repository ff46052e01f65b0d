"""Three interchangeable loss scales: none, static, dynamic.

Every field is a leaf, so that all of them survive flatten, jit and checkpoint. float32 throughout: in float16 the scale
itself would overflow. Micikevicius et al., Mixed Precision Training (2018), section 3.2.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoLossScale:
    """A scale of one that costs nothing."""

    @property
    def scale(self) -> float:
        return 1.0

    def adjust(self, finite: jax.Array) -> NoLossScale:
        del finite
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StaticLossScale:
    """A constant scale, float32[]."""

    scale: Any

    def adjust(self, finite: jax.Array) -> StaticLossScale:
        del finite
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DynamicLossScale:
    """Halves (by `factor`) on overflow, doubles after `period` finite steps in a row. All leaves are scalars."""

    scale: Any
    good_steps: Any
    period: Any
    factor: Any
    smallest: Any
    largest: Any

    def adjust(self, finite: jax.Array) -> DynamicLossScale:
        full = self.good_steps + 1 >= self.period
        grown = jnp.where(full, jnp.minimum(self.scale * self.factor, self.largest), self.scale)
        shrunk = jnp.maximum(self.scale / self.factor, self.smallest)
        return dataclasses.replace(
            self,
            scale=jnp.where(finite, grown, shrunk),
            good_steps=jnp.where(finite & ~full, self.good_steps + 1, 0),
        )


LossScale = NoLossScale | StaticLossScale | DynamicLossScale


def none() -> NoLossScale:
    return NoLossScale()


def static(scale: float) -> StaticLossScale:
    return StaticLossScale(jnp.float32(scale))


def dynamic(
    scale: float = 2.0**15,
    period: int = 2000,
    factor: float = 2.0,
    smallest: float = 1.0,
    largest: float = 2.0**24,
) -> DynamicLossScale:
    return DynamicLossScale(
        scale=jnp.float32(scale),
        good_steps=jnp.int32(0),
        period=jnp.int32(period),
        factor=jnp.float32(factor),
        smallest=jnp.float32(smallest),
        largest=jnp.float32(largest),
    )
