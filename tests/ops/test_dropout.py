"""Dropout's rate is data, and its noise belongs to the row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lepjax.core import rng
from lepjax.ops.dropout import OFF, Dropout

KEYS = rng.row_keys(rng.seed_key(0, rng.TRAIN), 4)
X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 50)), jnp.float32)


@jax.jit
def drop(rate, x, keys=KEYS):
    return Dropout(rate, keys)(x)


def test_no_rate_and_evaluation_are_the_identity():
    assert Dropout(None, KEYS)(X) is X
    assert Dropout(jnp.float32(0.5), None)(X) is X
    assert OFF.at(3)(X) is X
    assert "threefry" not in str(jax.make_jaxpr(Dropout(None, KEYS))(X))


def test_a_rate_of_zero_keeps_everything():
    np.testing.assert_array_equal(drop(0.0, X), X)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_kept_values_are_scaled_so_that_the_expectation_stays(rate):
    size = 20_000
    out = np.asarray(drop(rate, jnp.ones((4, size))))
    assert set(np.unique(out)) == {0.0, np.float32(256 / round(256 * (1 - rate)))}
    five_sigma = 5 * (rate / (1 - rate) / size) ** 0.5
    np.testing.assert_allclose(out.mean(1), 1.0, atol=five_sigma)
    assert abs((out > 0).mean() - 1.0) > five_sigma, "unscaled, the mean would not be 1"


def test_noise_of_a_row_does_not_depend_on_the_other_rows():
    together = drop(0.5, X)
    np.testing.assert_array_equal(together[2:], drop(0.5, X[2:], KEYS[2:]))
    np.testing.assert_array_equal(together[1], drop(0.5, X.at[0].set(jnp.nan))[1])


def test_one_key_for_all_rows_would_depend_on_the_batch():
    masks = [jax.random.bernoulli(KEYS[0], 0.5, (rows, 50)) for rows in (4, 2)]
    assert not np.array_equal(masks[0][2:], masks[1])


def test_rows_and_places_have_their_own_noise():
    masks = {tuple(np.ravel(row != 0)) for place in (0, 1) for row in Dropout(0.5, KEYS).at(place)(jnp.ones((4, 50)))}
    assert len(masks) == 8


def test_the_rate_is_traced():
    traces = []

    @jax.jit
    def dropped(drop):
        traces.append(drop)
        return (drop(X) == 0).mean()

    shares = [float(dropped(Dropout(jnp.float32(rate), KEYS))) for rate in (0.0, 0.2, 0.8, 1.0)]
    assert len(traces) == 1
    np.testing.assert_allclose(shares, [0.0, 0.2, 0.8, 1.0], atol=0.15)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_a_rate_of_one_gives_zeros_and_zero_gradients(dtype):
    x = X.astype(dtype)
    value, gradient = jax.jit(lambda x: (drop(1.0, x), jax.grad(lambda x: drop(1.0, x).astype(jnp.float32).sum())(x)))(
        x
    )
    assert value.dtype == gradient.dtype == dtype
    assert not value.any() and not gradient.any()


def test_unguarded_division_at_a_rate_of_one_has_nan_gradients():
    def unguarded(x):
        return jnp.where(jnp.zeros(x.shape, bool), x / (1.0 - jnp.float32(1.0)), 0.0).sum()

    assert np.isnan(jax.grad(unguarded)(X)).all()
