"""Every schedule equals optax's over the whole run and beyond, and its lengths are data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepjax.core.errors import UserError
from lepjax.core.schedules import Constant, Cosine, Exponential, InverseSqrt, Linear, WarmupStableDecay, in_steps
from lepjax.core.state import as_leaves

PEAK, TOTAL, BEYOND = 3e-3, 60, 90


def ramp(warmup):
    return optax.linear_schedule(0.0, PEAK, warmup)


def constant(warmup, final):
    return Constant(warmup), optax.join_schedules([ramp(warmup), optax.constant_schedule(PEAK)], [warmup])


def linear(warmup, final):
    line = optax.linear_schedule(PEAK, final * PEAK, TOTAL - warmup)
    return Linear(warmup, final), optax.join_schedules([ramp(warmup), line], [warmup])


def cosine(warmup, final):
    return Cosine(warmup, final), optax.warmup_cosine_decay_schedule(0.0, PEAK, warmup, TOTAL, final * PEAK)


def warmup_stable_decay(warmup, final):
    parts = [ramp(warmup), optax.constant_schedule(PEAK), optax.linear_schedule(PEAK, final * PEAK, 20)]
    return WarmupStableDecay(warmup, final, cooldown=20), optax.join_schedules(parts, [warmup, TOTAL - 20])


def exponential(warmup, final):
    theirs = optax.warmup_exponential_decay_schedule(0.0, PEAK, warmup, 9, 0.7, end_value=final * PEAK)
    return Exponential(warmup, final, rate=0.7, every=9), theirs


def leaves(schedule, peak=PEAK, total=TOTAL):
    return as_leaves({"learning_rate": peak, **schedule.hparams(total)})


def rates(schedule, hparams=None):
    return jax.vmap(schedule, in_axes=(0, None))(jnp.arange(BEYOND), hparams or leaves(schedule))


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours, jax.vmap(theirs)(jnp.arange(BEYOND)), rtol=2e-6, atol=1e-6 * PEAK)


@pytest.mark.parametrize("final", [0.0, 0.1])
@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("pair", [constant, linear, cosine, warmup_stable_decay, exponential])
def test_equals_optax_over_the_run_and_beyond(pair, warmup, final):
    ours, theirs = pair(warmup, final)
    assert_same(rates(ours), theirs)


def test_a_warmup_one_step_longer_is_not_equal():
    _, theirs = cosine(7, 0.1)
    with pytest.raises(AssertionError):
        assert_same(rates(Cosine(8, 0.1)), theirs)


@pytest.mark.parametrize("warmup", [0, 8])
def test_inverse_sqrt_is_the_transformers_formula(warmup):
    steps, length = np.arange(BEYOND), max(warmup, 1)
    ramp = np.minimum(steps / warmup, 1.0) if warmup else 1.0
    expected = PEAK * ramp * np.sqrt(length / np.maximum(steps, length))
    np.testing.assert_allclose(rates(InverseSqrt(warmup)), expected, rtol=2e-6)


SCHEDULES = [Constant(7), Linear(7), Cosine(7), WarmupStableDecay(7), Exponential(7), InverseSqrt(7)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_one_program_serves_every_peak_and_length(schedule):
    traces = []

    @jax.jit
    def rate(step, hparams):
        traces.append(step)
        return schedule(step, hparams)

    settings = [
        {**leaves(schedule, peak, total), "warmup_steps": jnp.float32(warmup)}
        for peak, warmup, total in [(1e-3, 0, 30), (2e-3, 7, 60), (5e-4, 20, 45)]
    ]
    step = jnp.int32(25)
    alone = [rate(step, hparams) for hparams in settings]
    assert len(traces) == 1
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *settings)
    together = jax.vmap(schedule, in_axes=(None, 0))(step, stacked)
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    assert len(set(together.tolist())) == 3


def test_lr_scale_multiplies_the_peak_everywhere():
    hparams = leaves(Cosine(7, 0.1))
    scaled = rates(Cosine(7, 0.1), {**hparams, "lr_scale": jnp.float32(0.5)})
    np.testing.assert_array_equal(scaled, rates(Cosine(7, 0.1), hparams) * 0.5)


def test_a_fraction_is_a_share_of_the_run_and_a_whole_number_counts_steps():
    assert [in_steps(length, 200, "warmup") for length in (0, 1, 30, 0.0, 0.1, 1.0)] == [0, 1, 30, 0, 20, 200]
    assert WarmupStableDecay(0.05, cooldown=0.2).hparams(200) == {
        "warmup_steps": 10, "decay_steps": 200, "final_lr_fraction": 0.0, "cooldown_steps": 40
    }  # fmt: skip


@given(st.floats(0, 1), st.integers(1, 10**6))
def test_a_fraction_never_exceeds_the_run(share, total):
    steps = in_steps(share, total, "warmup")
    assert 0 <= steps <= total
    assert steps.is_integer() and abs(steps - share * total) <= 0.5


@pytest.mark.parametrize("length", [-1, -0.1, 1.5, 100.0])
def test_a_length_outside_the_run_is_a_user_error(length):
    with pytest.raises(UserError, match=f"^cooldown: {length} "):
        in_steps(length, 200, "cooldown")


@pytest.mark.parametrize("length", [float("nan"), float("inf")])
def test_a_length_that_is_not_finite_is_a_user_error(length):
    with pytest.raises(UserError):
        in_steps(length, 200, "warmup")
