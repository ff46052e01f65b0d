"""Randomness without state: one key per run, folded with what makes each use different.

The run's key never changes. Step t uses `fold_in(key, t)`; row r of the global batch folds in r. So a step's noise
depends on (seed, step, row) alone: not on the mesh, not on how the batch is cut into microbatches, not on whether the
run was stopped in between. Threefry only: its partitionable form gives the same bits on every sharding.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

INIT, TRAIN = 0, 1


def seed_key(seed: int | jax.Array, purpose: int) -> jax.Array:
    """The key of a run for one purpose (`INIT` or `TRAIN`). Typed threefry key, shape []."""
    return jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), purpose)


def row_keys(key: jax.Array, rows: int) -> jax.Array:
    """One key per row of the global batch. Shape [rows]."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(rows))


def fold_rows(keys: jax.Array, data: jax.Array | int) -> jax.Array:
    """Folds one number (a layer, a place in a layer) into every row's key. Shape [rows]."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)
