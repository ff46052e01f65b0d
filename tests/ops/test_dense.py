"""The narrowing product is the product: value, gradients, batched and in half precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lepjax.ops.dense import narrowing

DIMENSIONS = (((1,), (0,)), ((), ()))
NOISE = np.random.default_rng(0)
X, KERNEL = (NOISE.normal(size=shape).astype(np.float32) for shape in ((24, 16), (16, 4)))


def gradients(product, *arrays):
    return jax.jit(jax.grad(lambda x, kernel: (product(x, kernel, DIMENSIONS) ** 2).sum(), argnums=(0, 1)))(*arrays)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_equals_dot_general(dtype):
    arrays = jnp.asarray(X, dtype), jnp.asarray(KERNEL, dtype)
    bound = {"rtol": 1e-6, "atol": 1e-5} if dtype == jnp.float32 else {"rtol": 0.05, "atol": 0.3}
    np.testing.assert_allclose(
        np.float32(narrowing(*arrays, DIMENSIONS)), np.float32(jax.lax.dot_general(*arrays, DIMENSIONS)), **bound
    )
    for ours, theirs in zip(gradients(narrowing, *arrays), gradients(jax.lax.dot_general, *arrays), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(np.float32(ours), np.float32(theirs), **bound)
        with pytest.raises(AssertionError):
            np.testing.assert_allclose(1.5 * np.float32(ours) + 1, np.float32(theirs), **bound)


def test_many_kernels_at_once():
    """As a sweep trains them: one program, mapped."""
    kernels = np.stack([KERNEL, 2 * KERNEL, -KERNEL])
    ours = jax.vmap(lambda kernel: gradients(narrowing, X, kernel))(kernels)
    for i, kernel in enumerate(kernels):
        for mapped, alone in zip(ours, gradients(jax.lax.dot_general, X, kernel), strict=True):
            np.testing.assert_allclose(mapped[i], alone, rtol=1e-5, atol=1e-5)


def test_other_ranks_and_backends_are_left_alone(monkeypatch):
    rows = X.reshape(4, 6, 16)
    dimensions = (((2,), (0,)), ((), ()))
    np.testing.assert_allclose(narrowing(rows, KERNEL, dimensions).reshape(24, 4), X @ KERNEL, rtol=1e-5, atol=1e-5)
    assert "custom_vjp" in str(jax.make_jaxpr(lambda x: narrowing(x, KERNEL, DIMENSIONS))(X))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "custom_vjp" not in str(jax.make_jaxpr(lambda x: narrowing(x, KERNEL, DIMENSIONS))(X))
