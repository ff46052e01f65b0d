"""Noise belongs to (seed, step, row): not to the cut of the batch, not to the mesh."""

import functools

import jax
import jax.extend
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
    seen = {bytes(row) for k in keys for place in (0, 1, 2) for row in np.asarray(rng.row_bytes(k, place, (9,)))}
    assert len(seen) == 4 * 3 * 4 * 3


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_the_known_answers(key, counter, words):
    """The vectors of Random123's kat_vectors, threefry2x32 20."""
    assert tuple(int(x) for x in rng.threefry(*(jnp.uint32(x) for x in (*key, *counter)))) == words


def test_threefry_equals_jax():
    key, counts = jax.random.key_data(KEY), jnp.arange(64, dtype=jnp.uint32)
    theirs = jax.extend.random.threefry_2x32(key, counts)
    np.testing.assert_array_equal(jnp.concatenate(rng.threefry(*key, counts[:32], counts[32:])), theirs)


def test_row_bytes_are_uniform_and_belong_to_their_row():
    keys = rng.row_keys(KEY, 4)
    drawn = np.asarray(rng.row_bytes(keys, 5, (3, 4001)))
    assert drawn.shape == (4, 3, 4001) and drawn.dtype == np.uint8
    counts = np.bincount(drawn.ravel(), minlength=256)
    expected = drawn.size / 256
    assert ((counts - expected) ** 2 / expected).sum() < 256 + 5 * (2 * 256) ** 0.5  # chi squared, five sigma
    np.testing.assert_array_equal(drawn[2:], rng.row_bytes(keys[2:], 5, (3, 4001)))
    assert abs(np.corrcoef(drawn.reshape(12, -1)) - np.eye(12)).max() < 5 / 4001**0.5


@pytest.mark.parametrize("lead", [(), (3,)])
def test_some_tokens_have_the_bytes_they_have_among_all(lead):
    keys, length, width = rng.row_keys(KEY, 2), 7, 13
    everything = rng.row_bytes(keys, 5, (*lead, length, width))
    tokens = jnp.array([[6, 0, 3], [1, 1, 5]])
    some = rng.row_bytes(keys, 5, (*lead, 3, width), tokens, length)
    index = tokens.reshape(2, *[1] * len(lead), 3, 1)
    np.testing.assert_array_equal(some, jnp.take_along_axis(everything, index, axis=-2))
    with pytest.raises(AssertionError):  # counted among themselves they would have others
        np.testing.assert_array_equal(some, rng.row_bytes(keys, 5, (*lead, 3, width)))


def test_a_place_is_the_same_number_traced_or_not():
    path = (0, 3, 12, 1)
    traced = jax.jit(lambda steps: functools.reduce(rng.place, steps, 0))([jnp.int32(i) for i in path])
    assert int(traced) == functools.reduce(rng.place, path, 0)
    places = {functools.reduce(rng.place, (a, b, c), 0) for a in range(20) for b in range(40) for c in range(5)}
    assert len(places) == 20 * 40 * 5


def test_keys_are_typed_threefry():
    assert jax.random.key_impl(KEY) == jax.random.key_impl(jax.random.key(0, impl="threefry2x32"))
    assert jnp.issubdtype(KEY.dtype, jax.dtypes.prng_key)
