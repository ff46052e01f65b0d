"""Attention equals jax.nn.dot_product_attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lepjax.core import rng
from lepjax.ops.attention import attention, fits_cudnn, fused
from lepjax.ops.dropout import Dropout
from lepjax.ops.sight import ALL, Sight

ROWS, LENGTH, HEADS, SIZE = 2, 6, 3, 8
SEEN = jnp.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]], bool)
SEGMENTS = jnp.array([[0, 0, 0, 1, 1, 2], [0, 0, 0, 0, 0, 0]])

CAUSAL = Sight(causal=True)

ours = jax.jit(attention)


def inputs(dtype=jnp.float32, queries=LENGTH):
    noise = np.random.default_rng(0)
    shapes = [(ROWS, length, HEADS, SIZE) for length in (queries, LENGTH, LENGTH)]
    return [jnp.asarray(noise.normal(size=shape), dtype) for shape in shapes]


def segment_mask():
    ids = np.asarray(SEGMENTS)
    return jnp.asarray(ids[:, None, :, None] == ids[:, None, None, :])


CASES = {
    "full": (ALL, {}),
    "causal": (CAUSAL, {"is_causal": True}),
    "window": (Sight(causal=True, window=2), {"is_causal": True, "local_window_size": (1, 0)}),
    "segments": (Sight(segments=(SEGMENTS, SEGMENTS)), {"mask": segment_mask()}),
    "causal segments": (
        Sight(causal=True, segments=(SEGMENTS, SEGMENTS)),
        {"is_causal": True, "mask": segment_mask()},
    ),
    "padding": (Sight(keys=SEEN), {"mask": SEEN[:, None, None, :]}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_jax(case):
    sight, options = CASES[case]
    theirs = jax.jit(lambda *x: jax.nn.dot_product_attention(*x, **options))(*inputs())
    np.testing.assert_allclose(ours(*inputs(), sight=sight), theirs, rtol=1e-5, atol=1e-6)
    for other in CASES.keys() - {case}:
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(ours(*inputs(), sight=CASES[other][0]), theirs, rtol=1e-5, atol=1e-6)


def test_gradients_equal_jax():
    def squared(attend):
        return jax.jit(jax.grad(lambda x: (attend(*x) ** 2).sum()))(inputs())

    gradients = squared(lambda *x: attention(*x, sight=CAUSAL))
    theirs = squared(lambda *x: jax.nn.dot_product_attention(*x, is_causal=True))
    for a, b in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 2e-2), (jnp.float16, 2e-3)])
def test_half_precision_under_jit_stays_close_to_float32(dtype, tolerance):
    half = ours(*inputs(dtype), sight=CAUSAL)
    assert half.dtype == dtype
    exact = jax.nn.dot_product_attention(*(x.astype(jnp.float32) for x in inputs(dtype)), is_causal=True)
    np.testing.assert_allclose(half.astype(jnp.float32), exact, rtol=tolerance, atol=tolerance)


def test_logits_beyond_float16_do_not_overflow():
    query, key, value = inputs(jnp.float16)
    query = query * 500
    assert np.isfinite(ours(query, query, value)).all()
    assert np.isinf(jnp.einsum("bqhd,bkhd->bhqk", query, query)).any(), "float16 logits would"


def test_masked_values_do_not_reach_the_output():
    query, key, value = inputs()
    seen = ours(query, key, value, sight=CAUSAL)
    changed = ours(query, key.at[:, -1].set(9.0), value.at[:, -1].set(9.0), sight=CAUSAL)
    np.testing.assert_array_equal(seen[:, :-1], changed[:, :-1])
    assert not np.allclose(seen[:, -1], changed[:, -1])


def test_one_query_at_an_offset_sees_what_it_would_see_in_the_whole():
    query, key, value = inputs()
    whole = ours(query, key, value, sight=CAUSAL)
    single = jax.jit(lambda q, offset: attention(q, key, value, sight=Sight(causal=True, offset=offset)))
    for i in range(LENGTH):
        np.testing.assert_allclose(single(query[:, i : i + 1], i)[:, 0], whole[:, i], rtol=1e-5, atol=1e-6)
    assert not np.allclose(single(query[:, 3:4], 4)[:, 0], whole[:, 3])


def test_dropout_acts_on_probabilities():
    keys = rng.row_keys(rng.seed_key(0, rng.TRAIN), ROWS)
    query, key, value = inputs()
    ones = jnp.ones_like(value)
    np.testing.assert_allclose(ours(query, key, ones), ones, rtol=1e-6)
    dropped = ours(query, key, ones, drop=Dropout(jnp.float32(0.5), keys))
    assert np.std(dropped) > 0.1, "rows of dropped probabilities no longer sum to 1"
    np.testing.assert_array_equal(ours(query, key, value, drop=Dropout(jnp.float32(1.0), keys)), 0.0)


# ---- cuDNN, as far as it can be checked without a GPU: what it is given, and that this means the same ----


@pytest.mark.parametrize("case", ["full", "causal", "window"])
def test_what_cudnn_is_asked_for_is_the_same_attention(case, monkeypatch):
    asked = []

    def elsewhere(query, key, value, sight, implementation):
        asked.append(implementation)
        return fused(query, key, value, sight, "xla")

    monkeypatch.setattr("lepjax.ops.attention.fused", elsewhere)
    sight, arrays = CASES[case][0], inputs(jnp.bfloat16)
    expected = attention(*arrays, sight=sight)
    assert asked == [], "there is no GPU here"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(np.float32(attention(*arrays, sight=sight)), np.float32(expected), rtol=0.02, atol=0.02)
    assert asked == ["cudnn"]
    attention(*inputs(jnp.float32), sight=sight)
    assert asked == ["cudnn"], "it computes in half precision alone"


def test_what_cudnn_cannot_do_stays_ours():
    query, key, _ = inputs(jnp.bfloat16)
    keys = rng.row_keys(jax.random.key(0), ROWS)
    assert fits_cudnn(query, key, CAUSAL, Dropout())
    assert not fits_cudnn(query, key, CAUSAL, Dropout(jnp.float32(0.1), keys))
    assert not fits_cudnn(query[:, :1], key, CAUSAL, Dropout()), "a cache"
    assert not fits_cudnn(query[..., :6], key[..., :6], CAUSAL, Dropout())
    for sight in (Sight(causal=True, offset=2), CASES["segments"][0], CASES["padding"][0]):
        assert not fits_cudnn(query, key, sight, Dropout())
