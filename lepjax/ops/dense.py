"""The product of a dense layer, whose gradient XLA's CPU backend computes faster in another order."""

from __future__ import annotations

from typing import Any

import jax


def narrowing(x: jax.Array, kernel: jax.Array, dimensions: Any, **options: Any) -> jax.Array:
    """As `jax.lax.dot_general`, for x [tokens, inputs] and kernel [inputs, outputs] with fewer outputs than inputs.

    The kernel's gradient contracts the tokens. On CPUs it is up to 1.8 times as fast with the longer axis last (512 x 128,
    768 tokens: 1.09 instead of 1.97 ms; 1536 x 384, 2048 tokens: 23.5 instead of 29.7 ms on two cores).
    """
    asked = any(value is not None for value in options.values())
    if asked or x.ndim != 2 or jax.default_backend() != "cpu":
        return jax.lax.dot_general(x, kernel, dimensions, **options)
    return _narrowing(x, kernel)


@jax.custom_vjp
def _narrowing(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    turned = jax.lax.optimization_barrier(grad.T @ x)  # without it the compiler turns the product round again
    return grad @ kernel.T, turned.T


_narrowing.defvjp(_forward, _backward)
