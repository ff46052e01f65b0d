"""Scaled dot-product attention (Vaswani et al., 2017) with float32 logits and softmax."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from lepjax.core.sharding import is_sharded
from lepjax.ops.blockwise import blockwise
from lepjax.ops.dropout import OFF, Dropout
from lepjax.ops.sight import ALL, Sight

BLOCKWISE_FROM = 1024  # keys; below, the whole matrix is small and faster


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, *, sight: Sight = ALL, drop: Dropout = OFF
) -> jax.Array:
    """query [rows, q, heads, size], key and value [rows, k, kv heads, size] -> [rows, q, heads, size] in query's dtype.

    Query heads h * g to h * g + g - 1 share key head h, where there are g times as many (Ainslie et al., GQA, 2023).
    `drop` acts on the probabilities. Long sequences go block by block, in memory linear in their length; on an NVIDIA GPU
    cuDNN's kernel takes what it can.
    """
    if jax.default_backend() == "gpu" and not is_sharded("length") and fits_cudnn(query, key, sight, drop):
        return fused(query, key, value, sight, "cudnn")
    if key.shape[1] >= BLOCKWISE_FROM and query.shape[1] > 1:
        return blockwise(query, key, value, sight, drop)
    return plain(query, key, value, sight, drop)


def fits_cudnn(query: jax.Array, key: jax.Array, sight: Sight, drop: Dropout) -> bool:
    """Whether cuDNN's fused attention computes this: half precision, whole sequences, no dropout (its noise is not ours)."""
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    size, lengths = query.shape[-1], (query.shape[1], key.shape[1])
    whole = isinstance(sight.offset, int) and sight.offset == 0 and sight.segments is None and sight.keys is None
    return half and whole and drop.off and size % 8 == 0 and size <= 128 and lengths[0] == lengths[1] > 1


def fused(query: jax.Array, key: jax.Array, value: jax.Array, sight: Sight, implementation: Any) -> jax.Array:
    """`jax.nn.dot_product_attention` with the same meaning: `sight` without offset, segments and keys."""
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        is_causal=sight.causal,
        local_window_size=(sight.window - 1, 0) if sight.window else None,
        implementation=implementation,
    )


def plain(query: jax.Array, key: jax.Array, value: jax.Array, sight: Sight = ALL, drop: Dropout = OFF) -> jax.Array:
    """The same with the whole matrix of probabilities."""
    # Heads become a leading batch axis first: XLA's CPU backend multiplies those 10 % faster than interleaved ones.
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    rows, heads, queries, size = query.shape
    grouped = (rows, key.shape[1], -1)  # queries that share a key head stand below each other
    logits = jnp.einsum(
        "bhqd,bhkd->bhqk", query.reshape(*grouped, size), key, preferred_element_type=jnp.float32
    ).reshape(rows, heads, queries, -1)
    logits = logits * size**-0.5
    mask = sight.whole(queries, key.shape[2])
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    probabilities = drop(jax.nn.softmax(logits, axis=-1)).astype(query.dtype)
    out = jnp.einsum("bhqk,bhkd->bhqd", probabilities.reshape(*grouped, key.shape[2]), value)
    return out.reshape(rows, heads, queries, size).swapaxes(1, 2)
