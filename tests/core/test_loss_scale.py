"""The dynamic scale halves, doubles and stays within its limits, and loses nothing on the way through jit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepjax.core import loss_scale

FLAGS = 24


@jax.jit
def follow(scale, flags):
    def adjust(scale, finite):
        scale = scale.adjust(finite)
        return scale, (scale.scale, scale.good_steps)

    return jax.lax.scan(adjust, scale, flags)[1]


def published_rule(flags, scale, period, factor, smallest, largest):
    """Micikevicius et al. (2018), section 3.2, with limits."""
    good, trail = 0, []
    for finite in flags:
        good = good + 1 if finite else 0
        if not finite:
            scale = max(scale / factor, smallest)
        elif good == period:
            scale, good = min(scale * factor, largest), 0
        trail.append((scale, good))
    return [list(column) for column in zip(*trail, strict=True)]


@given(st.lists(st.booleans(), min_size=FLAGS, max_size=FLAGS), st.integers(1, 5), st.sampled_from([2.0, 4.0]))
def test_dynamic_follows_the_published_rule(flags, period, factor):
    settings = {"scale": 8.0, "period": period, "factor": factor, "smallest": 1.0, "largest": 64.0}
    scales, good = follow(loss_scale.dynamic(**settings), jnp.array(flags))
    assert [scales.tolist(), good.tolist()] == published_rule(flags, **settings)


def test_dynamic_halves_at_once_and_doubles_after_a_period():
    scale = loss_scale.dynamic(scale=8.0, period=2, largest=16.0, smallest=4.0)
    seen = follow(scale, jnp.array([False, False, True, True, True, True, True, True]))[0]
    assert seen.tolist() == [4, 4, 4, 8, 8, 16, 16, 16]


def test_every_field_survives_flatten_and_jit():
    scale = loss_scale.dynamic(8.0, 3, 4.0, 2.0, 128.0)
    leaves, treedef = jax.tree.flatten(scale)
    assert len(leaves) == len(dataclasses.fields(scale)) == 6
    for back in (jax.tree.unflatten(treedef, leaves), jax.jit(lambda s: s)(scale)):
        assert dataclasses.asdict(back) == dataclasses.asdict(scale)
    assert [x.dtype for x in leaves] == [jnp.float32, jnp.int32, jnp.int32] + [jnp.float32] * 3


@pytest.mark.parametrize("scale", [loss_scale.none(), loss_scale.static(8.0), loss_scale.dynamic(8.0)])
def test_adjusting_keeps_the_type_so_that_nothing_retraces(scale):
    before = jax.tree.map(jax.typeof, scale)
    for finite in (True, False):
        assert jax.tree.map(jax.typeof, jax.jit(lambda s, f: s.adjust(f))(scale, finite)) == before


def test_static_and_none_do_not_move():
    for scale, expected in [(loss_scale.static(2.0**15), 2.0**15), (loss_scale.none(), 1.0)]:
        assert scale.adjust(jnp.bool_(False)).scale == scale.adjust(jnp.bool_(True)).scale == expected
    assert jax.tree.leaves(loss_scale.none()) == []


def test_the_default_largest_scale_fits_float32_and_not_float16():
    largest = loss_scale.dynamic().largest
    assert np.finfo(np.float16).max < largest < np.finfo(np.float32).max
