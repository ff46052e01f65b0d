"""Attention whose memory grows linearly with the length: blocks of keys pass by with a running softmax.

Rabe and Staats, Self-attention Does Not Need O(n^2) Memory (2021); the backward pass recomputes the probabilities of each
block from the saved log-sum, as FlashAttention does (Dao et al., 2022). Sums are float32. Blocks that the causal mask or
the window hides are not computed.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from lepjax.ops.dropout import Dropout
from lepjax.ops.sight import Sight

LOW = -1e30  # of a hidden key: exp(LOW - LOW) is 1 where everything is hidden, as softmax of equal logits is


def blockwise(
    query: jax.Array, key: jax.Array, value: jax.Array, sight: Sight, drop: Dropout, block: int = 256
) -> jax.Array:
    """As `ops.attention.attention`: query [rows, q, heads, size], key and value [rows, k, kv heads, size]."""
    rows, queries, heads, size = query.shape
    keys, shared = key.shape[1:3]
    q_block, k_block = min(block, -(-queries // 8) * 8), min(block, -(-keys // 8) * 8)
    sizes = Sizes(queries, keys, q_block, k_block, heads // shared)
    # [rows, kv heads, sharing heads, length, size], the length filled up to whole blocks
    query = _filled(query, q_block).reshape(rows, -1, shared, sizes.group, size).transpose(0, 2, 3, 1, 4)
    key, value = (_filled(x, k_block).transpose(0, 2, 1, 3) for x in (key, value))
    out = _attend(sizes, query * jnp.asarray(size**-0.5, query.dtype), key, value, sight, drop)
    return out.transpose(0, 3, 1, 2, 4).reshape(rows, -1, heads, size)[:, :queries]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Lengths as given and blocks; `group`: query heads per key head."""

    queries: int
    keys: int
    q_block: int
    k_block: int
    group: int

    @property
    def q_blocks(self) -> int:
        return -(-self.queries // self.q_block)

    @property
    def k_blocks(self) -> int:
        return -(-self.keys // self.k_block)


def _filled(x: jax.Array, block: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % block), (0, 0), (0, 0)))


def _cut(x: jax.Array, start: jax.Array, size: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis=x.ndim - 2)


def _logits(
    sizes: Sizes, i: jax.Array, j: jax.Array, query: jax.Array, key: jax.Array, sight: Sight
) -> tuple[jax.Array, jax.Array]:
    """(float32[rows, kv heads, group, q block, k block], LOW where a key is hidden; which are visible)."""
    logits = jnp.einsum("bkgqd,bksd->bkgqs", query, key, preferred_element_type=jnp.float32)
    q_at, k_at = i * sizes.q_block + jnp.arange(sizes.q_block), j * sizes.k_block + jnp.arange(sizes.k_block)
    seen = sight.block(q_at, k_at)[:, :, None] & (k_at < sizes.keys)
    return jnp.where(seen, logits, LOW), seen


def _noise(sizes: Sizes, i: jax.Array, j: jax.Array, drop: Dropout, heads: int) -> Any:
    """What the probabilities of one block are multiplied by: 0 or 1 / kept; the same noise as for the whole matrix."""
    factors = drop.block((heads * sizes.group, sizes.q_block, sizes.k_block), i, j, (sizes.queries, sizes.keys))
    return factors.reshape(factors.shape[0], heads, sizes.group, sizes.q_block, sizes.k_block)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(sizes: Sizes, query: Any, key: Any, value: Any, sight: Sight, drop: Dropout) -> jax.Array:
    return _forward(sizes, query, key, value, sight, drop)[0]


def _forward(sizes: Sizes, query: Any, key: Any, value: Any, sight: Sight, drop: Dropout) -> tuple[jax.Array, Any]:
    def of_queries(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        q = _cut(query, i * sizes.q_block, sizes.q_block)

        def of_keys(j: jax.Array, carry: Any) -> Any:
            top, total, out = carry
            k, v = (_cut(x, j * sizes.k_block, sizes.k_block) for x in (key, value))
            logits, _ = _logits(sizes, i, j, q, k, sight)
            higher = jnp.maximum(top, logits.max(-1))
            weights, shrunk = jnp.exp(logits - higher[..., None]), jnp.exp(top - higher)
            kept = weights if drop.off else weights * _noise(sizes, i, j, drop, key.shape[1])
            new = jnp.einsum("bkgqs,bksd->bkgqd", kept.astype(v.dtype), v, preferred_element_type=jnp.float32)
            return higher, total * shrunk + weights.sum(-1), out * shrunk[..., None] + new

        begin = (jnp.full(q.shape[:-1], LOW), jnp.zeros(q.shape[:-1]), jnp.zeros(q.shape))
        start, stop = sight.k_blocks(i, sizes)
        top, total, out = jax.lax.fori_loop(start, stop, of_keys, begin)
        total = jnp.maximum(total, 1e-30)
        return (out / total[..., None]).astype(query.dtype), top + jnp.log(total)

    out, logsum = jax.lax.map(of_queries, jnp.arange(sizes.q_blocks))
    return _joined(out), (query, key, value, sight, drop, _joined(out), _joined(logsum[..., None])[..., 0])


def _joined(blocks: jax.Array) -> jax.Array:
    """[blocks, rows, kv heads, group, block, ...] -> [rows, kv heads, group, length, ...]."""
    return jnp.moveaxis(blocks, 0, 3).reshape(*blocks.shape[1:4], -1, blocks.shape[-1])


def _backward(sizes: Sizes, saved: Any, grad: jax.Array) -> Any:
    query, key, value, sight, drop, out, logsum = saved
    aligned = (grad.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1)

    def of_keys(d_query: jax.Array, j: jax.Array) -> tuple[jax.Array, Any]:
        k, v = (_cut(x, j * sizes.k_block, sizes.k_block) for x in (key, value))

        def of_queries(i: jax.Array, carry: Any) -> Any:
            d_query, d_k, d_v = carry
            at = i * sizes.q_block
            q, g = (_cut(x, at, sizes.q_block) for x in (query, grad))
            lse, delta = (_cut(x[..., None], at, sizes.q_block) for x in (logsum, aligned))
            logits, seen = _logits(sizes, i, j, q, k, sight)
            weights = jnp.exp(logits - lse)
            d_kept = jnp.einsum("bkgqd,bksd->bkgqs", g, v, preferred_element_type=jnp.float32)
            kept = weights
            if not drop.off:
                noise = _noise(sizes, i, j, drop, key.shape[1])
                kept, d_kept = weights * noise, d_kept * noise
            d_logits = jnp.where(seen, weights * (d_kept - delta), 0.0).astype(q.dtype)
            d_v = d_v + jnp.einsum("bkgqs,bkgqd->bksd", kept.astype(g.dtype), g, preferred_element_type=jnp.float32)
            d_k = d_k + jnp.einsum("bkgqs,bkgqd->bksd", d_logits, q, preferred_element_type=jnp.float32)
            d_q = jnp.einsum("bkgqs,bksd->bkgqd", d_logits, k, preferred_element_type=jnp.float32)
            d_query = jax.lax.dynamic_update_slice_in_dim(d_query, _cut(d_query, at, sizes.q_block) + d_q, at, axis=3)
            return d_query, d_k, d_v

        zero = jnp.zeros(k.shape)
        start, stop = sight.q_blocks(j, sizes)
        d_query, d_k, d_v = jax.lax.fori_loop(start, stop, of_queries, (d_query, zero, zero))
        return d_query, (d_k, d_v)

    d_query, (d_key, d_value) = jax.lax.scan(of_keys, jnp.zeros(query.shape), jnp.arange(sizes.k_blocks))
    d_key, d_value = (jnp.moveaxis(x, 0, 2).reshape(key.shape) for x in (d_key, d_value))
    gradients = (d_query.astype(query.dtype), d_key.astype(key.dtype), d_value.astype(value.dtype))
    return (*gradients, *jax.tree.map(_no_gradient, (sight, drop)))


def _no_gradient(x: Any) -> Any:
    """The cotangent of what is not differentiated: zero of a float, nothing of an integer or a key."""
    x = jnp.asarray(x) if isinstance(x, int | float) else x
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.zeros_like(x)
    return jnp.zeros(x.shape, jax.dtypes.float0)


_attend.defvjp(_forward, _backward)
