"""Choosing the next token from logits: temperature, top-k, top-p."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def sample(
    key: jax.Array, logits: jax.Array, temperature: jax.Array | float, top_k: jax.Array | int, top_p: jax.Array | float
) -> jax.Array:
    """logits float[rows, vocabulary] -> int32[rows]. Every setting is data: changing one does not recompile.

    temperature 0 is greedy; top_k 0 and top_p 1 keep everything. top-p keeps the smallest set whose probability reaches
    p (Holtzman et al., 2020), at the given temperature, after top-k, as Hugging Face's generate does.
    """
    logits = logits.astype(jnp.float32)
    greedy = logits.argmax(-1)
    logits = logits / jnp.maximum(temperature, 1e-6)
    ordered = jnp.sort(logits, axis=-1)[:, ::-1]
    size = logits.shape[-1]
    count = jnp.where((top_k <= 0) | (top_k > size), size, top_k)
    inside = jnp.arange(size) < count
    probabilities = jax.nn.softmax(jnp.where(inside, ordered, -jnp.inf), axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    reached = (before < top_p) | (top_p >= 1.0) | (jnp.arange(size) == 0)  # the most likely token always stays
    kept = jnp.where(inside & reached, ordered, jnp.inf).min(-1, keepdims=True)
    drawn = jax.random.categorical(key, jnp.where(logits >= kept, logits, -jnp.inf), axis=-1)
    return jnp.where(temperature <= 0, greedy, drawn).astype(jnp.int32)
