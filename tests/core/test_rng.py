"""Noise belongs to (seed, step, row): not to the cut of the batch, not to the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from lepjax.core import rng
from lepjax.core.sharding import make_mesh, parse_mesh

KEY = rng.seed_key(0, rng.TRAIN)


def bits(keys):
    return np.asarray(jax.random.key_data(keys))


def test_row_keys_do_not_depend_on_how_many_rows_there_are():
    np.testing.assert_array_equal(bits(rng.row_keys(KEY, 8))[:4], bits(rng.row_keys(KEY, 4)))


def test_noise_of_a_row_does_not_depend_on_the_cut():
    def noise(keys):
        return jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)

    keys = rng.row_keys(KEY, 8)
    strided = keys.reshape(4, 2).swapaxes(0, 1)
    pieces = jnp.stack([noise(part) for part in strided])
    np.testing.assert_array_equal(pieces.swapaxes(0, 1).reshape(8, 3), noise(keys))


def test_one_key_per_microbatch_would_depend_on_the_cut():
    whole = jax.random.normal(KEY, (8, 3))
    pieces = [jax.random.normal(jax.random.fold_in(KEY, i), (4, 3)) for i in range(2)]
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(jnp.concatenate(pieces), whole)


def test_row_keys_are_the_same_bits_on_a_mesh():
    mesh = make_mesh(parse_mesh("auto", 8))
    sharding = jax.sharding.NamedSharding(mesh, PartitionSpec("data"))
    sharded = jax.jit(lambda: rng.row_keys(KEY, 16), out_shardings=sharding)()
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_array_equal(bits(sharded), bits(rng.row_keys(KEY, 16)))


def test_steps_rows_places_seeds_and_purposes_all_differ():
    seeds = [rng.seed_key(seed, purpose) for seed in (0, 1) for purpose in (rng.INIT, rng.TRAIN)]
    keys = [rng.row_keys(jax.random.fold_in(key, step), 4) for key in seeds for step in range(3)]
    keys += [rng.fold_rows(row_keys, place) for row_keys in keys for place in (0, 1)]
    seen = {tuple(row) for row_keys in keys for row in bits(row_keys)}
    assert len(seen) == 4 * 3 * 4 * 3


def test_keys_are_typed_threefry():
    assert jax.random.key_impl(KEY) == jax.random.key_impl(jax.random.key(0, impl="threefry2x32"))
    assert jnp.issubdtype(KEY.dtype, jax.dtypes.prng_key)
