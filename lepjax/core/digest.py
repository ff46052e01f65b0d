"""A digest of an array that does not depend on how it is sharded: a modular sum over mixed bits and places.

Sums modulo 2**32 come out the same in whatever order, and by whichever device, their parts are added; mixing every element
with its place in the whole array first makes a swap of two elements visible. Two sums with unlike mixers give 64 bits.
Not cryptographic: it finds what memory, disks and bugs do, not what an attacker does.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

GOLDEN = 0x9E3779B9
WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit
def leaf_digest(array: jax.Array) -> jax.Array:
    """uint32[3] of an array of up to 32-bit elements: two sums over its bits, and how many elements are not finite."""
    bits = _bits(array)
    place = _places(array.shape) + jnp.uint32(GOLDEN)  # zero is the mixer's fixed point
    mixed = _mix(bits ^ _mix(place))
    infinite = jnp.zeros(array.shape, jnp.uint32)
    if jnp.issubdtype(array.dtype, jnp.floating):
        infinite = (~jnp.isfinite(array)).astype(jnp.uint32)
    # One reduction of all three: three of them would read, and on a CPU mix, everything three times (5 times as slow).
    zeros = (jnp.uint32(0),) * 3
    parts = (mixed, _mix(mixed + place), infinite)
    return jnp.stack(jax.lax.reduce(parts, zeros, lambda a, b: jax.tree.map(jnp.add, a, b), range(array.ndim)))


def digests(flat: dict[str, Any]) -> dict[str, jax.Array]:
    """`leaf_digest` of each, still on the device. One small program per shape, dtype and sharding."""
    taken = {}
    for name, array in flat.items():
        taken[name] = leaf_digest(array)
        if len(array.sharding.device_set) > 1 and jax.default_backend() == "cpu":
            taken[name].block_until_ready()  # simulated devices share few threads: many collectives at once starve
    return taken


def told(digest: Any) -> str:
    """The two sums as 16 hex digits."""
    first, second, _ = (int(word) for word in digest)
    return f"{first:08x}{second:08x}"


def _bits(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(array, WORDS[array.dtype.itemsize]).astype(jnp.uint32)


def _places(shape: tuple[int, ...]) -> jax.Array:
    """uint32[shape]: each element's row-major index, modulo 2**32."""
    place = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = jnp.uint32(math.prod(shape[axis + 1 :]) % 2**32)
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    return place


def _mix(x: jax.Array) -> jax.Array:
    """The finalizer of MurmurHash3 (Appleby, 2011): every bit of a word reaches every other."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
