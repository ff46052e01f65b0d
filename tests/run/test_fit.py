"""The loop: nothing compiles after step 0, nothing waits for the device, hyperparameters are data."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
from rich.console import Console

from lepjax.core.errors import UserError
from lepjax.core.optimizers import AdamW
from lepjax.core.plateau import Plateau
from lepjax.core.schedules import Cosine
from lepjax.experiment import EarlyStopping, Steps, build
from lepjax.run.callbacks import Callback
from lepjax.run.compiled import batch_shapes
from lepjax.run.fit import Loop, fit
from lepjax.run.train import train
from lepjax.testing import assert_compiles_once, stepper
from tests.tiny import tiny

QUIET = Console(quiet=True)


class FromStep(Callback):
    """Calls `act(loop)` once, after a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def stepped(self, loop):
        if loop.step == self.step:
            self.act(loop)


def test_nothing_compiles_after_the_first_step():
    """Every hyperparameter changes on the way, and the run evaluates and saves."""
    assert_compiles_once(tiny())


def test_sabotage_a_program_in_the_middle_of_a_run_is_named():
    def scaled(x):
        return x * 3.14159

    with pytest.raises(AssertionError, match=r"compiled after the first step: jit\(scaled\)"):
        assert_compiles_once(tiny(), callbacks=(FromStep(3, lambda loop: jax.jit(scaled)(np.ones(7))),))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda x: x[:16], r"leaf state.params.ln_f.scale is float32\[16\], compiled for float32\[64\]"),
        (lambda x: x.astype("bfloat16"), r"leaf state.params.ln_f.scale is bfloat16\[64\], compiled for float32"),
        (lambda x: jax.device_put(x, jax.devices()[3]), r"leaf state.params.ln_f.scale lies on .*compiled for Named"),
    ],
)
def test_a_step_names_the_leaf_that_would_recompile_it(change, found):
    run = stepper(tiny(), jax.devices()[:1])

    def spoiled(loop):
        params = {**loop.state.params, "ln_f": {**loop.state.params["ln_f"]}}
        params["ln_f"]["scale"] = change(params["ln_f"]["scale"])
        loop.state = dataclasses.replace(loop.state, params=params)

    run.run(1)
    spoiled(run)
    with pytest.raises(UserError, match=found):
        run.run(1)


def test_hyperparameters_are_not_constants_of_the_program():
    """Two experiments that differ in numbers alone lower to the same text, so the compile cache serves both."""

    def text(**changes):
        built = build(tiny(**changes), jax.devices()[:1])
        shapes = batch_shapes(built.batches(1)[0], built.placement)
        return jax.jit(built.step).lower(built.abstract, shapes).as_text()

    base = tiny()
    other = AdamW(learning_rate=3e-2, weight_decay=0.5, clip_norm=2.0, beta1=0.8, schedule=Cosine(warmup=17, final=0.3))
    model = dataclasses.replace(base.model, dropout=0.4)
    assert text() == text(optimizer=other, model=model, length=Steps(77), seed=3)
    assert text() != text(model=dataclasses.replace(base.model, dropout=None))


@contextlib.contextmanager
def no_device_reads():
    """Makes every conversion of a device array to the host raise."""
    kind = type(jax.numpy.zeros(()))
    original = kind._value

    def forbidden(self):
        raise AssertionError("the loop waited for the device")

    kind._value = property(forbidden)
    try:
        yield
    finally:
        kind._value = original


class NoReads(Callback):
    """Forbids device reads from step 2 to step 20."""

    def __init__(self):
        self.guard = contextlib.ExitStack()

    def stepped(self, loop):
        if loop.step == 2:
            self.guard.enter_context(no_device_reads())
        if loop.step == 20:
            self.guard.close()

    def finished(self, loop):
        self.guard.close()


def test_the_loop_never_waits_for_the_device(tmp_path):
    train(tiny(run_dir=str(tmp_path / "run"), length=Steps(24), log_every=22), callbacks=[NoReads()], console=QUIET)


@pytest.mark.parametrize("peek", [lambda loop: float(loop.state.skipped), lambda loop: print(loop.state.step)])
def test_sabotage_reading_a_device_value_is_noticed(tmp_path, peek):
    class Peek(Callback):
        def stepped(self, loop):
            if loop.step == 9:
                peek(loop)

    with pytest.raises(AssertionError, match="waited for the device"):
        experiment = tiny(run_dir=str(tmp_path / "run"), length=Steps(24), log_every=22)
        train(experiment, callbacks=[NoReads(), Peek()], console=QUIET)


class Feed(Callback):
    """Publishes a scripted dev_loss after every step."""

    def __init__(self, values):
        self.values = values

    def stepped(self, loop):
        loop.publish(loop.step, {"dev_loss": self.values[loop.step - 1]})


def scripted(callbacks, steps):
    """The loop on a step that does nothing: what callbacks decide is all that happens."""
    state = dataclasses.make_dataclass("S", ["skipped", "hparams"])(0, {"lr_scale": jax.numpy.float32(1.0)})
    loop = Loop(state, 0, steps, tuple(callbacks))
    return fit(lambda state, batch: (state, {"skipped": np.float32(0)}), loop, ((None, None) for _ in range(steps)))


def test_early_stopping_counts_evaluations_without_improvement():
    from lepjax.run.stopping import StopEarly

    losses = [3.0, 2.0, 2.5, 1.9, 2.0, 2.1, 2.2, 1.0]
    loop = scripted([StopEarly(EarlyStopping(patience=2)), Feed(losses)], 8)
    assert loop.step == 7 and "early stopping at step 7" in loop.stop.reason
    loop = scripted([StopEarly(EarlyStopping(patience=2, mode="max")), Feed([-x for x in losses])], 8)
    assert loop.step == 7
    assert scripted([StopEarly(EarlyStopping(patience=3)), Feed(losses)], 8).step == 8
    assert scripted([StopEarly(EarlyStopping(patience=2, min_delta=0.5)), Feed(losses)], 8).step == 5
    nan = float("nan")
    assert scripted([StopEarly(EarlyStopping(patience=1)), Feed([1.0, nan, nan, 0.5])], 4).step == 3


def test_plateau_lowers_the_learning_rate_leaf():
    from lepjax.run.stopping import ReduceOnPlateau

    rule = Plateau(factor=0.5, patience=1)
    loop = scripted([ReduceOnPlateau(rule), Feed([2.0, 2.0, 2.0, 1.0, 1.0, 1.0])], 6)
    assert float(loop.state.hparams["lr_scale"]) == 0.25


def test_a_plateau_in_a_real_run_scales_the_rate_and_survives_resume(tmp_path):
    rule = Plateau(monitor="dev_loss", mode="max", factor=0.5, patience=0)  # the wrong way round: always a plateau
    kwargs = {
        "run_dir": str(tmp_path / "run"),
        "evaluate_every": Steps(2),
        "plateau": rule,
        "optimizer": AdamW(learning_rate=1e-3),
    }
    train(tiny(length=Steps(5), **kwargs), console=QUIET)
    outcome = train(tiny(length=Steps(6), **kwargs), console=QUIET)
    rates = {x["step"]: x["train_learning_rate"] for x in outcome.directory.read_metrics() if "train_loss" in x}
    np.testing.assert_allclose([rates[s] for s in (2, 3, 4, 5, 6)], [1e-3, 1e-3, 1e-3, 5e-4, 2.5e-4], rtol=1e-6)


def test_divergence_stops_the_run_and_keeps_the_last_good_parameters(tmp_path):
    experiment = tiny(
        run_dir=str(tmp_path / "run"), length=Steps(60), max_skipped=10, optimizer=AdamW(learning_rate=float("inf"))
    )
    outcome = train(experiment, console=QUIET)
    assert outcome.code == 78
    assert outcome.result["status"] == "diverged"
    assert 10 <= outcome.result["skipped"] == outcome.result["steps"] <= 12
