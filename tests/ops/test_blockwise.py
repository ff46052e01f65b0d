"""Blockwise attention is attention: outputs and gradients, and memory that grows with the length and not its square."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lepjax.core import rng
from lepjax.ops import attention as ops
from lepjax.ops.attention import attention, plain
from lepjax.ops.blockwise import blockwise
from lepjax.ops.dropout import OFF, Dropout
from lepjax.ops.sight import ALL, Sight

ROWS, SIZE, BLOCK = 2, 8, 16
RANDOM = np.random.default_rng(0)
KEYS = rng.row_keys(rng.seed_key(0, rng.TRAIN), ROWS)
SEGMENTS = jnp.asarray(np.sort(RANDOM.integers(1, 4, (ROWS, 45))))
# queries, keys, heads, kv heads, sight
CASES = {
    "everything": (40, 40, 4, 4, ALL),
    "other keys": (24, 57, 2, 2, ALL),
    "causal": (57, 57, 4, 4, Sight(causal=True)),
    "grouped": (41, 41, 4, 2, Sight(causal=True)),
    "one key head": (41, 41, 4, 1, Sight(causal=True)),
    "window": (90, 90, 2, 1, Sight(causal=True, window=19)),
    "narrow window": (90, 90, 2, 1, Sight(causal=True, window=1)),
    "segments": (45, 45, 2, 2, Sight(segments=(SEGMENTS, SEGMENTS))),
    "causal segments": (45, 45, 2, 2, Sight(causal=True, segments=(SEGMENTS, SEGMENTS))),
    "padding": (40, 40, 2, 2, Sight(keys=jnp.arange(40) < jnp.array([[11], [40]]))),
    "at an offset": (9, 64, 4, 2, Sight(causal=True, offset=jnp.int32(37))),
}


def arrays(case):
    queries, keys, heads, shared, sight = CASES[case]
    shapes = [(ROWS, queries, heads, SIZE), *[(ROWS, keys, shared, SIZE)] * 2, (ROWS, queries, heads, SIZE)]
    noise = np.random.default_rng(1)
    return sight, [jnp.asarray(noise.normal(size=shape), jnp.float32) for shape in shapes]


def results(attend, case, drop=OFF):
    """(output, gradients) under a random cotangent."""
    sight, (*inputs, cotangent) = arrays(case)

    @jax.jit
    def both(inputs, cotangent, sight, drop):
        out, pull = jax.vjp(lambda *x: attend(*x, sight, drop), *inputs)
        return out, *pull(cotangent)

    return both(inputs, cotangent, sight, drop)


def in_blocks(*arguments):
    return blockwise(*arguments, BLOCK)


def error(ours, theirs):
    return max(float(jnp.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("drop", [OFF, Dropout(jnp.float32(0.3), KEYS, 7)], ids=["", "dropout"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_plain_form(case, drop):
    assert error(results(in_blocks, case, drop), results(plain, case, drop)) < 1e-5


def test_sabotage_hidden_keys_and_other_noise_are_noticed():
    def forgetful(query, key, value, sight, drop):
        return in_blocks(query, key, value, dataclasses.replace(sight, window=0), drop)

    assert error(results(forgetful, "window"), results(plain, "window")) > 0.1
    first, second = (results(in_blocks, "causal", Dropout(jnp.float32(0.3), KEYS, place)) for place in (7, 8))
    assert error(first, second) > 0.1


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 3e-2), (jnp.float16, 4e-3)])
def test_half_precision_stays_close_to_float32(dtype, tolerance):
    sight, (*inputs, _) = arrays("grouped")
    half = in_blocks(*(x.astype(dtype) for x in inputs), sight, OFF)
    assert half.dtype == dtype
    np.testing.assert_allclose(half.astype(jnp.float32), plain(*inputs, sight), rtol=tolerance, atol=tolerance)


def scratch(attend, length):
    """Bytes that the compiler sets aside for a forward and a backward pass."""
    shape = jax.ShapeDtypeStruct((1, length, 2, SIZE), jnp.float32)
    sight = Sight(causal=True)
    step = jax.jit(jax.grad(lambda q, k, v: attend(q, k, v, sight, OFF).sum(), argnums=(0, 1, 2)))
    return step.lower(shape, shape, shape).compile().memory_analysis().temp_size_in_bytes


def test_memory_is_linear_in_the_length():
    small, large = (scratch(blockwise, length) for length in (2048, 8192))
    assert large < 5 * small
    assert scratch(plain, 8192) > 10 * scratch(plain, 2048), "the plain form's is not"
    assert large < scratch(plain, 8192) / 10


def test_long_sequences_go_block_by_block(monkeypatch):
    sight, (*inputs, _) = arrays("causal")
    monkeypatch.setattr(ops, "plain", None)
    monkeypatch.setattr(ops, "BLOCKWISE_FROM", 57)
    np.testing.assert_allclose(attention(*inputs, sight=sight), plain(*inputs, sight), atol=1e-5)
    monkeypatch.setattr(ops, "BLOCKWISE_FROM", 58)
    with pytest.raises(TypeError):
        attention(*inputs, sight=sight)
