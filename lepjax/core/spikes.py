"""Loss spikes: updates that lie far above the recent ones, and what is done about them.

A value is a spike when it exceeds mean + sigma * std of the values accepted of late, with the unbiased std: the rule of
OLMo-core's SkipStepOptimizer and of MaxText's skip_step_on_spikes, which watch the loss and the gradient norm too. They
take every value into their statistics, so that one NaN spoils them for a whole window; here only what was accepted counts.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

import jax
import jax.numpy as jnp

from lepjax.core.errors import UserError
from lepjax.core.fields import hparam, runtime

Verdict = tuple[jax.Array, Any, dict[str, jax.Array]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoGuard:
    """Accepts every finite step, and costs nothing."""

    def judge(self, finite: jax.Array, loss: jax.Array, grad_norm: jax.Array, hparams: dict[str, Any]) -> Verdict:
        del loss, grad_norm, hparams
        return finite, self, {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Recent:
    """What was accepted of late. All of it are leaves of the state, so a checkpoint has it too.

    losses, grad_norms  float32[window]   rings: the value accepted as the n-th stands at n % window
    accepted            int32[]           how many were
    spikes              int32[]           steps that were finite and not accepted
    """

    losses: Any
    grad_norms: Any
    accepted: Any
    spikes: Any

    def judge(self, finite: jax.Array, loss: jax.Array, grad_norm: jax.Array, hparams: dict[str, Any]) -> Verdict:
        """(whether the step is taken, the statistics after it, metrics). What is not finite is no spike."""
        sigma = hparams["spike_sigma"]
        high = (loss > self._band(self.losses, sigma)) | (grad_norm > self._band(self.grad_norms, sigma))
        spike = finite & high & (self.accepted >= hparams["spike_warmup"])
        taken = finite & ~spike
        place = self.accepted % self.losses.size
        after = Recent(
            losses=self.losses.at[place].set(jnp.where(taken, loss, self.losses[place])),
            grad_norms=self.grad_norms.at[place].set(jnp.where(taken, grad_norm, self.grad_norms[place])),
            accepted=self.accepted + jnp.where(taken, 1, 0),
            spikes=self.spikes + jnp.where(spike, 1, 0),
        )
        return taken, after, {"spikes": after.spikes}

    def _band(self, ring: jax.Array, sigma: jax.Array) -> jax.Array:
        count = jnp.minimum(self.accepted, ring.size)
        held = jnp.arange(ring.size) < count
        mean = jnp.where(held, ring, 0.0).sum() / jnp.maximum(count, 1)
        variance = jnp.where(held, (ring - mean) ** 2, 0.0).sum() / jnp.maximum(count - 1, 1)
        return mean + sigma * jnp.sqrt(variance)


Guard = NoGuard | Recent


@dataclasses.dataclass(frozen=True)
class Spikes:
    """What to do about loss spikes: nothing."""

    def hparams(self) -> dict[str, float]:
        """Initial values of the hyperparameters the guard reads."""
        return {}

    def guard(self) -> Guard:
        """What the step asks, before step 0."""
        return NoGuard()


@dataclasses.dataclass(frozen=True)
class SkipSpikes(Spikes):
    """Skip an update whose loss or gradient norm is a spike, as if it were not finite (but for the loss scale)."""

    sigma: float = hparam(6.0)
    """Standard deviations above the mean that are tolerated."""
    window: int = 128
    """Accepted steps that the mean and the deviation are of."""
    warmup: int = hparam(64)
    """Accepted steps before the first verdict."""

    def __post_init__(self) -> None:
        check_window(self.window, self.sigma, self.warmup)

    def hparams(self) -> dict[str, float]:
        return {"spike_sigma": self.sigma, "spike_warmup": self.warmup}

    def guard(self) -> Guard:
        ring = jnp.zeros(self.window, jnp.float32)
        return Recent(ring, jnp.zeros_like(ring), jnp.int32(0), jnp.int32(0))


@dataclasses.dataclass(frozen=True)
class Memory:
    """What `RewindSpikes` remembers between logged steps."""

    losses: tuple[float, ...] = ()
    """Accepted of late, the newest last."""
    good: int = 0
    """The newest logged step that was accepted: a spike began after it."""
    row: int = 0
    """Logged steps in a row since then that were spikes."""


@dataclasses.dataclass(frozen=True)
class RewindSpikes(Spikes):
    """When the logged loss stays high, go back to the checkpoint before the spike and pass over the data that led to it.

    PaLM (Chowdhery et al., 2022), section 5.1: begun again some 100 steps before a spike, and 200 to 500 batches passed
    over, the spike did not come again; the same batches did no harm from another checkpoint.
    """

    sigma: float = runtime(6.0)
    """Standard deviations above the mean that are tolerated."""
    window: int = runtime(128)
    """Accepted logged steps that the mean and the deviation are of."""
    warmup: int = runtime(64)
    """Accepted logged steps before the first verdict."""
    patience: int = runtime(3)
    """Logged steps in a row above the band that are a spike; one that is not finite counts as above."""
    skip: int = runtime(200)
    """Batches to pass over from the checkpoint on; at least all up to the last that was seen in the spike."""
    most: int = runtime(3)
    """Times to go back before the run is given up."""

    def __post_init__(self) -> None:
        check_window(self.window, self.sigma, self.warmup)
        for name in ("patience", "skip", "most"):
            if getattr(self, name) < (name == "patience"):
                raise UserError(f"{getattr(self, name)}", where=f"spikes.{name}", fix="Use at least 1 (skip, most: 0).")

    def update(self, memory: Memory, step: int, loss: float) -> Memory:
        """Pure: the memory after the loss of a logged step."""
        if len(memory.losses) < self.warmup and not math.isfinite(loss):
            return memory
        if len(memory.losses) >= self.warmup and not loss <= self.band(memory):
            return dataclasses.replace(memory, row=memory.row + 1)
        return Memory((*memory.losses, loss)[-self.window :], step, 0)

    def band(self, memory: Memory) -> float:
        """The highest loss that is no spike."""
        return statistics.fmean(memory.losses) + self.sigma * statistics.stdev(memory.losses)

    def due(self, memory: Memory) -> bool:
        return memory.row >= self.patience


def check_window(window: int, sigma: float, warmup: int) -> None:
    """Raises `UserError` for statistics that cannot be had."""
    if not 2 <= warmup <= window:
        raise UserError(
            f"warmup {warmup} of a window of {window}", where="spikes", fix="Use at least 2, and at most the window."
        )
    if not 0.0 <= sigma < math.inf:
        raise UserError(f"{sigma}", where="spikes.sigma", fix="Use a number from 0 on, such as 6.")
