"""The finder sees where gradient descent breaks, which theory says, and refuses where there is nothing to see."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments import digits_mlp
from lepjax import tune
from lepjax.core.errors import UserError
from lepjax.core.optimizers import SGD
from lepjax.core.schedules import Cosine
from lepjax.core.spikes import SkipSpikes
from lepjax.experiment import build
from lepjax.run.fit import Loop
from lepjax.run.train import train
from lepjax.testing import assert_compiles_once
from lepjax.tune.lr_finder import LrCurve, LrFinder, explored, find_lr, has_diverged, smoothed, spaced
from tests.tune.squares import RECORDS, Points, Y, sharpness, squares, with_bias

LOW, HIGH, STEPS = 1e-4, 100.0, 80


def check_threshold(momentum, scale, told):
    """Gradient descent on a quadratic breaks at 2 / sharpness, with momentum at 2 (1 + momentum) / sharpness."""
    curve = find_lr(squares(optimizer=SGD(momentum=momentum), data=Points(scale=scale)), LOW, HIGH, STEPS)
    threshold = 2 * (1 + momentum) / told
    assert curve.diverged and threshold / 2 < curve.breaks < 2 * threshold
    assert curve.steepest < curve.lowest < threshold
    assert len(curve.rates) == len(curve.losses) < STEPS


@pytest.mark.parametrize(("momentum", "scale"), [(0.0, 1.0), (0.5, 1.0), (0.0, 4.0)])
def test_the_rate_at_which_descent_on_a_quadratic_breaks(momentum, scale):
    check_threshold(momentum, scale, sharpness(scale))


def test_sabotage_another_sharpness_is_another_threshold():
    with pytest.raises(AssertionError):
        check_threshold(0.0, 4.0, sharpness(1.0))


def test_sabotage_a_rate_that_stays_is_refused(monkeypatch):
    monkeypatch.setattr(Loop, "set_hparam", lambda self, name, value: None)
    with pytest.raises(UserError, match="learning-rate finder: from learning rate 0.0001 to 100 the loss fell by"):
        find_lr(squares(optimizer=SGD(learning_rate=0.0, momentum=0.0)), LOW, HIGH, STEPS)


def test_a_model_that_does_not_learn_is_refused():
    with pytest.raises(UserError, match="look whether anything is trained"):
        find_lr(squares(optimizer=SGD(freeze=".*")), LOW, HIGH, STEPS)


def test_a_range_that_begins_too_high_is_refused():
    with pytest.raises(UserError, match=r"It diverged: begin lower \(--low\)"):
        find_lr(squares(), 2.0, HIGH, STEPS)


def test_rates_too_small_to_tell_from_noise_are_refused():
    with pytest.raises(UserError, match="its noise is"):
        find_lr(squares(), 1e-12, 1e-10, 40)


def test_on_real_data_it_finds_what_trains():
    """The experiment's own rate, 3e-3, was chosen by hand."""
    curve = tune.find_lr(dataclasses.replace(digits_mlp.experiment(), mesh="data=1"))
    assert curve.diverged and 3e-4 < curve.tenth < 1e-2 and 1e-3 < curve.steepest < 1e-2 < curve.rates[-1]


def descended(rates, shift):
    """Losses of plain gradient descent on the whole data, in numpy: after each step, or `shift` steps later."""
    experiment = squares(data=Points(batch_size=RECORDS))
    layer = jax.device_get(build(explored(experiment)).init().params)["classifier"]
    point, features = np.append(layer["kernel"][:, 0], layer["bias"]).astype(np.float64), with_bias()
    losses = []
    for rate in rates:
        point = point - rate * 2 / RECORDS * features.T @ (features @ point - Y)
        losses.append(np.mean((features @ point - Y) ** 2))
    return experiment, np.roll(losses, -shift)[: len(losses) - shift]


def check_pairs(shift):
    rates = spaced(1e-3, 0.5 / sharpness(), 20)
    experiment, expected = descended(rates, shift)
    curve = find_lr(experiment, rates[0], rates[-1], len(rates))
    assert not curve.diverged and curve.lowest == rates[-1]
    np.testing.assert_allclose(curve.losses[: len(expected)], expected, rtol=1e-4)


def test_a_loss_belongs_to_the_rate_of_the_step_before():
    check_pairs(shift=0)


def test_sabotage_a_loss_of_another_step_is_noticed():
    with pytest.raises(AssertionError):
        check_pairs(shift=1)


# ---- as a callback ----


def test_nothing_compiles_after_the_first_step():
    finder = LrFinder(LOW, 0.1, 12)
    assert_compiles_once(explored(squares()), steps=13, callbacks=(finder,))
    assert len(finder.curve.losses) == 12


def test_sabotage_a_rate_of_another_type_is_refused(monkeypatch):
    def careless(loop, name, value):
        loop.state = dataclasses.replace(loop.state, hparams={**loop.state.hparams, name: jnp.bfloat16(value)})

    monkeypatch.setattr(Loop, "set_hparam", careless)
    with pytest.raises(UserError, match="learning_rate is bfloat16"):
        find_lr(squares(), LOW, HIGH, STEPS)


def test_in_a_run_it_stops_the_run(tmp_path):
    finder = LrFinder(LOW, HIGH, STEPS)
    experiment = explored(squares(run_dir=str(tmp_path / "run")), STEPS)
    outcome = train(experiment, callbacks=[finder], console=Console(quiet=True))
    assert outcome.result["reason"] == "the loss diverged" and outcome.result["steps"] < STEPS
    same = find_lr(squares(), LOW, HIGH, STEPS)
    np.testing.assert_array_equal(finder.curve.rates, same.rates)
    np.testing.assert_allclose(finder.curve.losses, same.losses, rtol=1e-6)


def test_nothing_else_changes_the_rate():
    scheduled = squares(optimizer=SGD(momentum=0.0, schedule=Cosine(warmup=50)), spikes=SkipSpikes())
    curve = find_lr(scheduled, LOW, HIGH, STEPS)
    plain = find_lr(squares(), LOW, HIGH, STEPS)
    np.testing.assert_array_equal(curve.losses, plain.losses)


# ---- the pure parts ----


def test_rates_are_a_geometric_series():
    rates = spaced(1e-4, 1.0, 41)
    np.testing.assert_allclose(rates[1:] / rates[:-1], 10**0.1)
    assert (rates[0], rates[-1]) == (1e-4, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1.0, 100), "learning rates: from 0 to 1. Use positive"),
        ((1.0, 0.1, 100), "from 1 to 0.1"),
        ((1e-3, float("inf"), 100), "from 0.001 to inf"),
        ((1e-3, float("nan"), 100), "from 0.001 to nan"),
        ((1e-3, 1.0, 9), "9 steps. Use 10 or more"),
    ],
)
def test_rates_that_make_no_sense(arguments, message):
    with pytest.raises(UserError, match=message):
        spaced(*arguments)


def test_smoothing_does_not_lag():
    """A step in the middle stays in the middle; a constant stays as it is."""
    step = np.repeat([1.0, 0.0], 50)
    smooth = smoothed(step)
    assert abs(smooth[49] + smooth[50] - 1.0) < 1e-12 and smooth[49] > 0.5 > smooth[50]
    np.testing.assert_allclose(smoothed(np.full(30, 3.0)), 3.0)
    lagging = [0.0]
    for loss in step:
        lagging.append(0.9 * lagging[-1] + 0.1 * loss)
    assert lagging[56] > 0.5, "an exponential mean is late"


def test_divergence():
    assert has_diverged(np.array([1.0, np.inf])) and has_diverged(np.array([np.nan]))
    falling = np.linspace(2.0, 1.0, 20)
    assert not has_diverged(falling)
    assert not has_diverged(np.append(falling, 4.0)), "one outlier is smoothed away"
    assert has_diverged(np.append(falling, [8.0] * 6))
    assert not has_diverged(-falling) and not has_diverged(np.zeros(5))


def test_what_is_not_finite_ends_the_curve():
    finder = LrFinder(1e-3, 1.0, 10)
    finder.losses = [3.0, 2.0, 1.5, np.inf, 2.0]
    curve = finder.curve
    assert curve.diverged
    np.testing.assert_array_equal(curve.losses, [2.0, 1.5])
    np.testing.assert_array_equal(curve.rates, finder.rates[:2])
    with pytest.raises(UserError, match="the loss diverged after 3 steps. Begin lower"):
        curve.check()


def test_the_steepest_point_is_before_the_lowest():
    rates = np.geomspace(1e-5, 1.0, 101)
    x = np.log10(rates)
    losses = 2.0 - np.tanh(2 * (x + 3)) + 50.0 * (x > -1) * (x + 1) ** 2
    curve = LrCurve(rates, losses, True)
    curve.check()
    assert 0.5e-3 < curve.steepest < 2e-3 and 3e-2 < curve.lowest < 2e-1
    assert curve.tenth == curve.lowest / 10
    assert curve.breaks > curve.lowest and dataclasses.replace(curve, diverged=False).breaks is None


def test_a_single_bad_loss_breaks_nothing():
    losses = np.array([3.0, 2.0, 1.0, 9.0, 1.0, 1.0, 1.0, 9.0, 9.0, 9.0])
    assert LrCurve(np.arange(1.0, 11.0), losses, True).breaks == 8.0
