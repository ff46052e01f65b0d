"""Learning-rate schedules without branches: every length and rate is a traced number.

optax's warmup and decay schedules branch on their lengths in Python, so a sweep over warmup recompiles for every value.
These compute both sides and select. Each equals optax's schedule of the same name (tested over the whole range).
"""

from __future__ import annotations

import dataclasses
import numbers
from typing import Any

import jax
import jax.numpy as jnp

from lepjax.core.errors import UserError
from lepjax.core.fields import hparam

Number = Any  # float32[] or int32[], traced or not


def warmup(step: Number, peak: Number, warmup_steps: Number) -> jax.Array:
    """0 to `peak` in `warmup_steps` steps, then `peak`. Without warmup `peak` from step 0."""
    return peak * jnp.clip((step + (warmup_steps <= 0)) / jnp.maximum(warmup_steps, 1.0), 0.0, 1.0)


def progress(step: Number, warmup_steps: Number, decay_steps: Number) -> jax.Array:
    """0 until the warmup ends, 1 from `decay_steps` (counted from step 0, like optax's) on."""
    return jnp.clip((step - warmup_steps) / jnp.maximum(decay_steps - warmup_steps, 1.0), 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The learning rate at each step; `hparams["learning_rate"]` is its peak."""

    warmup: int | float = hparam(0, leaf="warmup_steps")
    """Linear warmup from 0: a whole number counts steps, a fraction is a share of the run."""
    _: dataclasses.KW_ONLY
    end: int | float = hparam(1.0, leaf="decay_steps")
    """Where the decay ends: a whole number counts steps from 0, a fraction is a share of the run."""

    def hparams(self, total_steps: int) -> dict[str, float]:
        """Initial values of the leaves that `__call__` reads."""
        return {
            "warmup_steps": in_steps(self.warmup, total_steps, "warmup"),
            "decay_steps": in_steps(self.end, total_steps, "end"),
        }

    def __call__(self, step: Number, hparams: dict[str, Any]) -> jax.Array:
        """float32[] learning rate at int32[] `step`."""
        peak = hparams["learning_rate"] * hparams.get("lr_scale", 1.0)
        return warmup(step, peak, hparams["warmup_steps"]) * self.decay(step, hparams)

    def decay(self, step: Number, hparams: dict[str, Any]) -> Any:
        """The factor on the peak after the warmup."""
        raise TypeError(f"{type(self).__name__} must define decay")


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """The peak, after the warmup."""

    def decay(self, step: Number, hparams: dict[str, Any]) -> float:
        return 1.0


@dataclasses.dataclass(frozen=True)
class _Decay(Schedule):
    final: float = hparam(0.0, leaf="final_lr_fraction")
    """The share of the peak that remains at the end."""

    def hparams(self, total_steps: int) -> dict[str, float]:
        return {**super().hparams(total_steps), "final_lr_fraction": self.final}


@dataclasses.dataclass(frozen=True)
class Linear(_Decay):
    """A straight line from the peak to `final` of it at the last step."""

    def decay(self, step: Number, hparams: dict[str, Any]) -> jax.Array:
        done = progress(step, hparams["warmup_steps"], hparams["decay_steps"])
        return 1.0 + (hparams["final_lr_fraction"] - 1.0) * done


@dataclasses.dataclass(frozen=True)
class Cosine(_Decay):
    """Half a cosine from the peak to `final` of it (Loshchilov and Hutter, SGDR, 2017; no restarts)."""

    def decay(self, step: Number, hparams: dict[str, Any]) -> jax.Array:
        done = progress(step, hparams["warmup_steps"], hparams["decay_steps"])
        final = hparams["final_lr_fraction"]
        return final + (1.0 - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))


@dataclasses.dataclass(frozen=True)
class WarmupStableDecay(_Decay):
    """The peak, then a straight line to `final` of it over the last steps (Hu et al., MiniCPM, 2024)."""

    cooldown: int | float = hparam(0.2, leaf="cooldown_steps")
    """The length of the final decay: a whole number counts steps, a fraction is a share of the run."""

    def hparams(self, total_steps: int) -> dict[str, float]:
        cooldown = in_steps(self.cooldown, total_steps, "cooldown")
        return {**super().hparams(total_steps), "cooldown_steps": cooldown}

    def decay(self, step: Number, hparams: dict[str, Any]) -> jax.Array:
        end, length = hparams["decay_steps"], hparams["cooldown_steps"]
        done = jnp.clip((step - (end - length)) / jnp.maximum(length, 1.0), 0.0, 1.0)
        return 1.0 + (hparams["final_lr_fraction"] - 1.0) * done


@dataclasses.dataclass(frozen=True)
class Exponential(_Decay):
    """The peak times `rate` for every `every` steps after the warmup, never below `final` of it."""

    rate: float = hparam(0.5, leaf="decay_rate")
    """The factor of one interval."""
    every: int | float = hparam(0.1, leaf="decay_every")
    """The interval: a whole number counts steps, a fraction is a share of the run."""

    def hparams(self, total_steps: int) -> dict[str, float]:
        every = in_steps(self.every, total_steps, "every")
        return {**super().hparams(total_steps), "decay_rate": self.rate, "decay_every": every}

    def decay(self, step: Number, hparams: dict[str, Any]) -> jax.Array:
        intervals = jnp.maximum(step - hparams["warmup_steps"], 0.0) / jnp.maximum(hparams["decay_every"], 1.0)
        return jnp.maximum(hparams["decay_rate"] ** intervals, hparams["final_lr_fraction"])


@dataclasses.dataclass(frozen=True)
class InverseSqrt(Schedule):
    """sqrt(warmup / step) after the warmup (Vaswani et al., 2017, section 5.3)."""

    def decay(self, step: Number, hparams: dict[str, Any]) -> jax.Array:
        length = jnp.maximum(hparams["warmup_steps"], 1.0)
        return jnp.sqrt(length / jnp.maximum(step, length))


def in_steps(length: int | float, total_steps: int, name: str) -> float:
    """A whole number counts steps, a fraction is a share of `total_steps`. Raises `UserError` outside that."""
    if isinstance(length, numbers.Integral):
        if length < 0:
            raise UserError(f"{length} steps is less than none", where=name)
        return float(length)
    if not 0.0 <= length <= 1.0:  # also NaN
        fix = "Use a whole number of steps or 0.0 to 1.0."
        raise UserError(f"{length} is no fraction of a run", where=name, fix=fix)
    return float(round(length * total_steps))
