"""What a program multiplies, counted: by the formula, by tracing, and by XLA where it has no loops."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from lepjax.core.cost import Utilisation, traced_flops
from lepjax.testing import stepper
from tests.tiny import tiny


def count(function, *shapes):
    return traced_flops(jax.jit(function).trace(*(jnp.zeros(shape) for shape in shapes)).jaxpr)


def test_products_and_loops():
    def product(a, b):
        return a @ b

    one = 2 * 3 * 4 * 5
    assert count(product, (3, 4), (4, 5)) == one
    assert count(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (7, 3, 4), (7, 4, 5)) == 7 * one

    def repeated(a, b):
        return jax.lax.scan(lambda x, _: (product(a, b) + x, None), jnp.zeros((3, 5)), None, length=6)[0]

    def either(a, b):
        return jax.lax.cond(a.sum() > 0, product, lambda a, b: jnp.zeros((3, 5)), a, b)

    assert count(repeated, (3, 4), (4, 5)) == 6 * one
    assert count(either, (3, 4), (4, 5)) == one
    gradients = jax.value_and_grad(lambda a, b: product(a, b).sum(), argnums=(0, 1))
    assert count(gradients, (3, 4), (4, 5)) == 3 * one


def test_convolutions_equal_xla():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    shapes = (2, 9, 9, 3), (3, 3, 3, 8)
    compiled = jax.jit(convolve).lower(*(jnp.zeros(shape) for shape in shapes)).compile()
    assert count(convolve, *shapes) == compiled.cost_analysis()["flops"]


@pytest.mark.parametrize("scan", [True, False])
def test_a_step_of_gpt_equals_the_formula(scan):
    model = dataclasses.replace(tiny().model, scan=scan, dropout=None)
    run = stepper(tiny(model=model), jax.devices()[:1])
    formula = model.flops_per_token(32) * 8 * 32
    assert run.compiled.flops == formula
    assert stepper(tiny(model=dataclasses.replace(model, remat="full")), jax.devices()[:1]).compiled.flops > formula
    if not scan:  # XLA adds what is no product
        assert formula < run.compiled.cost_analysis()["flops"] < 1.1 * formula


def test_utilisation_is_told():
    used = Utilisation(flops_per_token=50.0, devices=1, rate=1000.0)
    assert used.told(10.0) == "MFU 50.0%"
    assert dataclasses.replace(used, overhead=1.2).told(10.0) == "MFU 50.0%, HFU 60.0%"
