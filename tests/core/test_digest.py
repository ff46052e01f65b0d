"""A leaf digest sees every bit and every place, and no mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepjax.core.digest import leaf_digest, told
from lepjax.core.sharding import make_mesh, parse_mesh

SHAPE = (8, 6)


def of(array):
    return told(np.asarray(leaf_digest(jnp.asarray(array))))


def numbers(dtype):
    return np.random.default_rng(0).integers(0, 2**16, SHAPE).astype(dtype)


@pytest.mark.parametrize("spec", [("data",), (None, "tensor"), ("data", "tensor"), ()])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8", "bool"])
def test_it_does_not_depend_on_the_sharding(dtype, spec):
    whole = jnp.asarray(numbers("int32")).astype(dtype)
    mesh = make_mesh(parse_mesh("data=4,tensor=2", 8), jax.devices())
    placed = jax.device_put(whole, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)))
    np.testing.assert_array_equal(leaf_digest(placed), leaf_digest(whole))


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, 47), bit=st.integers(0, 31))
def test_it_sees_any_flipped_bit(at, bit):
    words = numbers("uint32")
    flipped = words.copy()
    flipped.reshape(-1)[at] ^= np.uint32(1 << bit)
    assert of(words) != of(flipped)


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(48)))
def test_it_sees_any_change_of_order(order):
    words = np.arange(48, dtype=np.uint32)
    assert (of(words) == of(words[order])) == (list(order) == list(range(48)))


def test_sabotage_a_sum_of_words_alone_sees_no_order():
    words = numbers("uint32")
    assert words.sum(dtype=np.uint32) == words[::-1].sum(dtype=np.uint32) and of(words) != of(words[::-1])


def test_it_tells_zeros_from_a_scalar_zero_and_negative_zero():
    assert len({of(np.zeros(n, np.float32)) for n in range(1, 9)}) == 8
    assert of(np.float32(0.0)) != of(np.float32(-0.0))


def test_it_counts_what_is_not_finite():
    array = np.array([1.0, np.nan, np.inf, -np.inf], np.float32)
    assert int(leaf_digest(jnp.asarray(array))[2]) == 3
    assert int(leaf_digest(jnp.arange(4))[2]) == 0
