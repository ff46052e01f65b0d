"""Rotary position embeddings (Su et al., RoFormer, 2021), and the ways in which models are taught longer contexts.

Frequencies are computed on the host in float64, once per program; only angles of positions are computed on the device.
To add a scaling, derive a dataclass from `Scaling` and define `scale`.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Leaves the frequencies as they are."""

    def scale(self, frequencies: np.ndarray, theta: float, length: int) -> tuple[np.ndarray, float]:
        """float64[size / 2] -> (the frequencies for sequences of `length`, a factor on cosine and sine)."""
        return frequencies, 1.0


@dataclasses.dataclass(frozen=True)
class Linear(Scaling):
    """Positions are divided (Chen et al., Extending Context Window by Position Interpolation, 2023)."""

    factor: float = 1.0

    def scale(self, frequencies: np.ndarray, theta: float, length: int) -> tuple[np.ndarray, float]:
        return frequencies / self.factor, 1.0


@dataclasses.dataclass(frozen=True)
class Dynamic(Scaling):
    """NTK-aware: beyond the first context the base grows with the length of the sequence (or cache) at hand."""

    factor: float = 1.0
    original: int = 2048
    """Tokens of the context that was learned first."""

    def scale(self, frequencies: np.ndarray, theta: float, length: int) -> tuple[np.ndarray, float]:
        if length <= self.original:
            return frequencies, 1.0
        size = 2 * len(frequencies)
        stretch = (self.factor * length / self.original - (self.factor - 1)) ** (size / (size - 2))
        return _frequencies(theta * stretch, size), 1.0


@dataclasses.dataclass(frozen=True)
class Llama3(Scaling):
    """Llama 3.1: long waves are stretched, short ones are not, those between a little."""

    factor: float = 8.0
    low: float = 1.0
    """Waves with fewer turns than this in the first context are stretched by the whole factor."""
    high: float = 4.0
    """Waves with more turns than this stay."""
    original: int = 8192
    """Tokens of the context that was learned first."""

    def scale(self, frequencies: np.ndarray, theta: float, length: int) -> tuple[np.ndarray, float]:
        turns = self.original * frequencies / (2 * math.pi)
        kept = np.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        return kept * frequencies + (1 - kept) * frequencies / self.factor, 1.0


@dataclasses.dataclass(frozen=True)
class Yarn(Scaling):
    """Peng et al., YaRN: Efficient Context Window Extension of Large Language Models (2023)."""

    factor: float = 1.0
    original: int = 4096
    """Tokens of the context that was learned first."""
    fast: float = 32.0
    """Turns in the first context from which on a wave stays."""
    slow: float = 1.0
    """Turns below which a wave is stretched by the whole factor."""
    magnitude: float | None = None
    """Factor on cosine and sine; None: 0.1 ln(factor) + 1."""
    whole: bool = True
    """Round the bounds of the ramp outwards to whole dimensions."""

    def scale(self, frequencies: np.ndarray, theta: float, length: int) -> tuple[np.ndarray, float]:
        size = 2 * len(frequencies)

        def dimension(turns: float) -> float:
            return size * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = dimension(self.fast), dimension(self.slow)
        if self.whole:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        ramp = np.clip((np.arange(size // 2) - low) / max(high - low, 1e-3), 0.0, 1.0)
        magnitude = yarn_magnitude(self.factor) if self.magnitude is None else self.magnitude
        return ramp * frequencies / self.factor + (1 - ramp) * frequencies, magnitude


def yarn_magnitude(factor: float, share: float = 1.0) -> float:
    """How much sharper attention is made for a context `factor` times as long."""
    return 1.0 if factor <= 1 else 0.1 * share * math.log(factor) + 1.0


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotations of pairs of dimensions, in the layout of Hugging Face's models: i is paired with i + size / 2."""

    theta: float = 10_000.0
    """Base of the frequencies."""
    scaling: Scaling = Scaling()
    """How they change for longer contexts."""

    def turns(self, positions: jax.Array, size: int, length: int) -> tuple[jax.Array, jax.Array]:
        """Cosine and sine, float32[..., size / 2], at int32 positions [...] of sequences of at most `length` tokens."""
        frequencies, magnitude = self.scaling.scale(_frequencies(self.theta, size), self.theta, length)
        angles = positions[..., None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)
        return magnitude * jnp.cos(angles), magnitude * jnp.sin(angles)


def _frequencies(theta: float, size: int) -> np.ndarray:
    return theta ** -(np.arange(0, size, 2) / size)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """x [rows, length, heads, size] in any float dtype, rotated in float32; cos and sin [rows or 1, length, size / 2]."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
