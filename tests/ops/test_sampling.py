"""Sampling keeps the tokens that temperature, top-k and top-p say, with the right frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lepjax.ops.sampling import sample

PROBABILITIES = np.array([0.30, 0.24, 0.15, 0.12, 0.08, 0.06, 0.03, 0.02])
DRAWS = 4096
many = jax.jit(sample)


def draws(logits, temperature=1.0, top_k=0, top_p=1.0, seed=0):
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (DRAWS, len(logits)))
    return np.asarray(many(jax.random.key(seed), rows, jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p)))


def nucleus(logits, temperature, top_k, top_p):
    """Token by token: at the temperature, the top k, and of those the fewest whose share reaches p."""
    order = np.argsort(-logits)[: top_k or None]
    shares = np.exp(logits[order] / temperature)
    shares /= shares.sum()
    kept, total = [], 0.0
    for token, share in zip(order, shares, strict=True):
        if kept and total >= top_p:
            break
        kept.append(int(token))
        total += share
        if abs(total - top_p) < 1e-3:
            return None  # at the edge rounding decides
    return set(kept)


orders = st.permutations(range(len(PROBABILITIES)))


@given(orders, st.sampled_from([0.8, 1.0, 1.5]), st.integers(0, 9), st.floats(0.05, 1.0))
@example(list(range(8)), 1.0, 3, 0.6)  # shares are of the top k: two tokens reach 0.6, of all tokens it takes three
def test_support_equals_an_independent_nucleus(order, temperature, top_k, top_p):
    logits = np.log(PROBABILITIES)[order]
    expected = nucleus(logits, temperature, top_k, top_p)
    assume(expected is not None)
    assert set(draws(logits, temperature, top_k, top_p)) == expected


@pytest.mark.parametrize("top_k", range(1, 9))
def test_top_k_keeps_k_tokens(top_k):
    assert set(draws(np.log(PROBABILITIES), top_k=top_k)) == set(range(top_k))


def test_the_nucleus_comparison_notices_a_token_too_many():
    logits = np.log(PROBABILITIES)
    assert set(draws(logits, top_p=0.6)) == nucleus(logits, 1.0, 0, 0.6) == {0, 1, 2}
    assert set(draws(logits, top_p=0.8)) != nucleus(logits, 1.0, 0, 0.6)


def test_temperature_zero_is_greedy_per_row():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(DRAWS, 8)), jnp.float32)
    chosen = many(jax.random.key(0), logits, jnp.float32(0.0), jnp.int32(0), jnp.float32(1.0))
    np.testing.assert_array_equal(chosen, np.argmax(logits, -1))
    assert chosen.dtype == jnp.int32


@pytest.mark.parametrize(("temperature", "top_k"), [(0.5, 0), (1.0, 0), (2.0, 0), (1.0, 4)])
def test_frequencies_follow_the_tempered_softmax(temperature, top_k):
    expected = PROBABILITIES ** (1 / temperature) * (np.arange(8) < (top_k or 8))
    expected /= expected.sum()
    counts = np.bincount(draws(np.log(PROBABILITIES), temperature, top_k), minlength=8)
    five_sigma = 5 * np.sqrt(expected * (1 - expected) / DRAWS)
    assert (np.abs(counts / DRAWS - expected) <= five_sigma).all()
    wrong = PROBABILITIES ** (1 / (2 * temperature))
    assert (np.abs(counts / DRAWS - wrong / wrong.sum()) > five_sigma).any()


def test_settings_are_traced():
    traces = []

    @jax.jit
    def counted(logits, *settings):
        traces.append(settings)
        return sample(jax.random.key(0), logits, *settings)

    logits = jnp.log(jnp.asarray(PROBABILITIES, jnp.float32))[None]
    for settings in [(0.0, 0, 1.0), (1.0, 0, 1.0), (0.7, 3, 1.0), (1.0, 50, 0.5)]:
        counted(logits, *settings)
    assert len(traces) == 1


def test_impossible_tokens_are_never_drawn():
    assert set(draws([0.0, -np.inf, 0.0, -np.inf])) == {0, 2}


def test_top_p_zero_keeps_the_most_likely_token():
    assert set(draws(np.log(PROBABILITIES)[::-1], top_p=0.0)) == {7}
