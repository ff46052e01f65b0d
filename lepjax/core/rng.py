"""Randomness without state: one key per run, folded with what makes each use different.

The run's key never changes. Step t uses `fold_in(key, t)`; row r of the global batch folds in r. So a step's noise
depends on (seed, step, row) alone: not on the mesh, not on how the batch is cut into microbatches, not on whether the
run was stopped in between. Threefry only: its partitionable form gives the same bits on every sharding.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

INIT, TRAIN = 0, 1
PLACES = 0x9E3779B1  # odd, so that multiplying by it loses nothing


def seed_key(seed: int | jax.Array, purpose: int) -> jax.Array:
    """The key of a run for one purpose (`INIT` or `TRAIN`). Typed threefry key, shape []."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), purpose)


def row_keys(key: jax.Array, rows: int) -> jax.Array:
    """One key per row of the global batch. Shape [rows]."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(rows))


def place(outer: Any, inner: Any) -> Any:
    """A number (uint32) for place `inner` (a layer, a sublayer) within `outer`; traced and Python numbers agree."""
    if isinstance(outer, int) and isinstance(inner, int):
        return (outer * PLACES + inner + 1) % 2**32
    return _word(outer) * np.uint32(PLACES) + _word(inner) + np.uint32(1)


def _word(x: jax.Array | int) -> jax.Array | np.uint32:
    return np.uint32(x) if isinstance(x, int) else x.astype(jnp.uint32)


def row_bytes(
    keys: jax.Array,
    place: jax.Array | int,
    shape: tuple[int, ...],
    tokens: jax.Array | None = None,
    length: int = 0,
    columns: tuple[Any, int] | None = None,
) -> jax.Array:
    """uint8[rows, *shape], uniform: every row its own, and every place in the model.

    A part of an array has the bytes that it has within the whole. With `tokens` int32[rows or 1, k], of `length`, the axis
    before the last holds these places alone (`shape` has k there); with `columns` (first, all) the last axis begins at
    `first`, a multiple of eight, of so many.

    One threefry evaluation of (row key, counter (place, index)) gives eight bytes. `jax.random.bits` takes one for each
    number, and folding a place into the keys takes another: most of what a step with dropout compiled and computed.
    """
    *lead, last = shape
    words = (*lead, -(-last // 8))
    first, everything = (0, last) if columns is None else columns
    index: Any = np.uint32(0)
    stride = 1
    for axis in reversed(range(len(words))):
        along: Any = jax.lax.broadcasted_iota(jnp.uint32, words, axis)
        size = words[axis]
        if axis == len(words) - 1:
            along, size = along + _word(first // 8), -(-everything // 8)
        elif axis == len(words) - 2 and tokens is not None:
            along, size = tokens.astype(jnp.uint32).reshape(-1, *[1] * axis, size, 1), length
        index = index + along * np.uint32(stride)
        stride *= size
    k0, k1 = (k.reshape(-1, *[1] * len(words)) for k in jax.random.key_data(keys).T)
    pair = threefry(k0, k1, _word(place), index)
    rows = keys.shape[0]
    octets = jax.lax.bitcast_convert_type(jnp.stack([jnp.broadcast_to(x, (rows, *words)) for x in pair], -1), jnp.uint8)
    return octets.reshape(rows, *lead, -1)[..., :last]


def threefry(k0: Any, k1: Any, x0: Any, x1: Any) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32-20 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011). All uint32, broadcast.

    JAX's own is a loop on CPUs, which does not fuse with what uses the numbers.
    """
    keys = (k0, k1, k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    x0, x1 = x0 + k0, x1 + k1
    for group in range(5):
        for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x0 = x0 + x1
            x1 = ((x1 << rotation) | (x1 >> (32 - rotation))) ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1
