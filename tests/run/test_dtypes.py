"""What stores parameters and moments: asked for, and then really so."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lepjax.core.errors import UserError
from lepjax.core.optimizers import AdamW
from lepjax.testing import stepper
from tests.tiny import tiny


def dtypes(tree):
    return {str(x.dtype) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)}


def test_parameters_in_bfloat16_and_moments_in_float32():
    run = stepper(tiny(precision="bfloat16_stored"), jax.devices()[:1])
    losses = run.run(20)
    assert dtypes(run.state.params) == {"bfloat16"}
    assert dtypes(run.state.opt_state) == {"float32"}
    assert losses[-1] < losses[0] and np.isfinite(losses).all()


def test_the_first_moment_in_bfloat16():
    base = tiny()
    run = stepper(dataclasses.replace(base, optimizer=dataclasses.replace(base.optimizer, momentum="bfloat16")))
    losses = run.run(20)
    assert dtypes(run.state.opt_state) == {"float32", "bfloat16"}
    whole = stepper(base).run(20)
    assert losses != whole
    np.testing.assert_allclose(losses, whole, rtol=2e-2)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(UserError, match="optimizer.momentum: 'int8'. Use float32 or bfloat16"):
        AdamW(momentum="int8")
