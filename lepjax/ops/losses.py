"""Losses per position, in float32 whatever the logits' dtype."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: Any = None) -> jax.Array:
    """Negative log-likelihood in nats. logits [..., classes], labels int32[...] -> float32[...].

    smoothing  float32[], traced: the share of each target that is spread evenly over all classes (Szegedy et al., 2016);
               None leaves it out of the program
    """
    logits = logits.astype(jnp.float32)
    total = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    if smoothing is None:
        return total - chosen
    return total - (1.0 - smoothing) * chosen - smoothing * logits.mean(axis=-1)
