"""Cross entropy equals optax's, in float32 whatever the logits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lepjax.ops.losses import cross_entropy

OPTAX = optax.losses.softmax_cross_entropy_with_integer_labels
LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 7)) * 5, jnp.float32)
LABELS = jnp.asarray(np.random.default_rng(1).integers(0, 7, (3, 4)))


def test_value_and_gradient_equal_optax():
    def both(loss, labels):
        return jax.jit(lambda x: (loss(x, labels), jax.grad(lambda x: loss(x, labels).sum())(x)))(LOGITS)

    value, gradient = both(OPTAX, LABELS)
    np.testing.assert_allclose(both(cross_entropy, LABELS)[0], value, rtol=1e-6)
    np.testing.assert_allclose(both(cross_entropy, LABELS)[1], gradient, rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(both(cross_entropy, (LABELS + 1) % 7)[0], value, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_logits_lose_nothing_more(dtype):
    half = LOGITS.astype(dtype)
    ours = jax.jit(cross_entropy)(half, LABELS)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, jax.jit(OPTAX)(half.astype(jnp.float32), LABELS), rtol=1e-6)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(ours, jax.jit(OPTAX)(half, LABELS).astype(jnp.float32), rtol=1e-6)


def test_large_logits_do_not_overflow():
    logits = jnp.array([1e4, -1e4, 0.0])
    np.testing.assert_allclose(cross_entropy(logits, jnp.array(0)), 0.0)
    np.testing.assert_allclose(cross_entropy(logits, jnp.array(1)), 2e4)
