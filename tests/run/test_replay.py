"""A step that was not finite is found again, with the record, the module and the layer that made it so."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from lepjax.cli import debug
from lepjax.core import loss_scale
from lepjax.core.errors import UserError
from lepjax.experiment import Steps, build
from lepjax.run import replay as replaying
from lepjax.run.backward import first_in_backward, order_of_use
from lepjax.run.blame import blame
from lepjax.run.checkpoint import Checkpoints
from lepjax.run.directory import RunDirectory
from lepjax.run.replay import replay, skipped_after
from lepjax.run.train import train
from tests.processes.experiments import SIZE as POISONED_SIZE
from tests.run.marked import RECORD, marked
from tests.tiny import TinyText, tiny

BAD = 20  # a record of `poisoned`


def step_of(built, record):
    """The step of the first epoch that sees a record."""
    return next(step for step in range(1, 99) if record in built.plan.batch(step - 1)[0])


def poisoned(run, **changes):
    data = TinyText(size=POISONED_SIZE, bad_record=BAD)
    return tiny(run_dir=str(run), data=data, mesh="data=1", length=Steps(9), **changes)


def listing(folder):
    return sorted((str(p), p.stat().st_mtime_ns) for p in folder.rglob("*"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a bad record; its loss is not finite, and every module's output is."""
    folder = tmp_path_factory.mktemp("poisoned") / "run"
    outcome = train(poisoned(folder, checkpoint_every=2), console=Console(quiet=True))
    assert outcome.code == 0 and outcome.result["skipped"] >= 1
    return folder


def asked(capsys, *arguments):
    capsys.readouterr()
    assert debug.run(["nan", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_record_the_step_and_the_place_are_named_and_nothing_is_changed(run, capsys):
    built, before = build(poisoned(run), jax.devices()[:1]), listing(run)
    step = step_of(built, BAD)
    out = asked(capsys, run)
    assert f"step {step} of {run} was skipped (batch {step - 1} of the plan)" in out
    assert "replaying from initialisation: there is no checkpoint from before that step" in out
    assert "every module's output is finite, the loss is not: nll = inf; batch['factor'] of the record" in out
    text = built.splits.vocabulary.decode(built.source.rows(np.array([BAD]), np.array([0]))["tokens"][0])
    row = built.plan.batch(step - 1)[0].tolist().index(BAD)
    assert f"  record {BAD} (row {row} of the batch, epoch 0): {text!r}" in out
    assert out.count("record ") == 2 and "1 of the 8 records" in out  # no other record
    assert listing(run) == before


def test_sabotage_another_batch_has_another_record(run, monkeypatch, capsys):
    monkeypatch.setattr(replaying, "cursor_after", lambda jumps, step: step + 1)
    step = step_of(build(poisoned(run), jax.devices()[:1]), BAD)
    assert f"step {step} of" not in asked(capsys, run)


def test_a_given_step_is_replayed_from_the_newest_good_checkpoint(run, capsys):
    damaged = Checkpoints(run / "checkpoints")
    try:
        newest, older = sorted(damaged.steps())[::-1][:2]
        assert (newest, older) == (9, 8)
    finally:
        damaged.close()
    out = asked(capsys, run, "--step", 9)
    assert "replaying from checkpoint 8" in out and "step 9 was finite: loss" in out
    logged = {line["step"]: line["train_loss"] for line in RunDirectory(run).read_metrics() if "train_loss" in line}
    assert f"loss {logged[9]:.6g}, " in out


def test_a_damaged_checkpoint_is_left_where_it_is(run, tmp_path, capsys):

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "checkpoints" / "8" / "meta.json").write_text("{}")
    before = listing(copy)
    assert "replaying from initialisation" in asked(capsys, copy, "--step", 9)
    assert listing(copy) == before


def test_mistakes_cost_a_line(run, capsys):
    for arguments, found in (
        (["nam"], "nam"),
        (["nan"], "no run is named"),
        (["nan", str(run), "--step", "x"], "no step"),
    ):
        with pytest.raises(UserError, match=found):
            debug.run(arguments)


# ---- modules and gradients ----


def told(experiment, tmp_path, change=lambda state: state):
    """(the experiment as built, the step that is found, what is said of it)."""
    built = build(experiment, jax.devices()[:1])
    first = dataclasses.replace(built, init=lambda: change(built.init()))
    step = replay(RunDirectory(tmp_path), first, 0, 6, say=lambda line: None)
    return built, step, "\n".join(blame(built, step))


def test_a_logarithm_in_the_second_layer_is_named(tmp_path):
    built, step, said = told(marked(), tmp_path)
    assert step.step == step_of(built, RECORD)
    assert "the first module in the forward pass: ChainModule.Layer[1].trap, 16 of 512 outputs are not finite" in said
    assert f"1 of the 8 records of the batch alone are not finite:\n  record {RECORD} (" in said


@pytest.mark.parametrize(("scan", "layer"), [(True, "h.1.dense.bias"), (False, "h.1.dense.bias")])
def test_a_gradient_that_is_not_finite_is_named_where_the_backward_pass_meets_it(tmp_path, scan, layer):
    built, step, said = told(marked(trap="root", scan=scan), tmp_path)
    assert step.step == step_of(built, RECORD)
    assert f"the forward pass is finite, the gradient is not: first, going backward, that of {layer}" in said
    assert f"  record {RECORD} (" in said


def test_parameters_and_hyperparameters_that_are_not_finite_are_named(tmp_path):
    def spoiled(state):
        kernel = state.params["h"]["dense"]["kernel"]
        state.params["h"]["dense"]["kernel"] = kernel.at[2, 0, 3].set(jnp.inf)
        return dataclasses.replace(state, hparams={**state.hparams, "weight_decay": jnp.float32(jnp.nan)})

    _, step, said = told(marked(), tmp_path, spoiled)
    assert step.step == 1
    assert "params.h.dense.kernel was not finite before the step: 1 of 768 values" in said
    assert "hparams.weight_decay was not finite before the step: 1 of 1 values" in said
    assert "ChainModule.Layer[2].dense" in said and "all 8 records of the batch alone are not finite" in said


def test_an_overflow_of_float16_is_told_from_a_defect(tmp_path):
    def high(state):
        return dataclasses.replace(state, loss_scale=loss_scale.dynamic(2.0**24))

    _, step, said = told(dataclasses.replace(marked(), precision="float16"), tmp_path, high)
    assert step.step == 1 and step.scale == 2.0**24
    assert "float16 overflows at the loss scale 1.67772e+07; at " in said and "first module" not in said


# ---- parts ----


def test_the_first_bad_step_lies_between_two_logged_ones():
    lines = [{"step": 10, "train_skipped": 0.0}, {"step": 10, "dev_loss": 1.0}]
    assert skipped_after(lines) is None
    assert skipped_after([*lines, {"step": 20, "train_skipped": 3.0}]) == (10, 20)
    spiky = {"step": 20, "train_skipped": 3.0, "train_spikes": 3.0}
    assert skipped_after([*lines, spiky]) is None
    assert skipped_after([*lines, spiky, {"step": 30, "train_skipped": 5.0, "train_spikes": 4.0}]) == (20, 30)


def test_a_run_that_only_skipped_holds_the_parameters_of_its_first_bad_step(tmp_path):
    """A row of bad steps at the end, and one checkpoint, after all of them."""
    experiment = poisoned(tmp_path / "run", checkpoint_every=0)
    built = build(experiment, jax.devices()[:1])
    step = step_of(built, BAD)
    train(dataclasses.replace(experiment, length=Steps(step)), console=Console(quiet=True))
    said = []
    found = replay(RunDirectory(tmp_path / "run"), built, step - 1, step, said.append)
    assert f"replaying from checkpoint {step}: from step {step} on all were skipped" in said[0]
    assert found.step == step and int(found.state.skipped) == 1


def test_the_order_of_use_looks_into_loops_and_calls():
    def model(params, x):
        x = jax.jit(lambda a, x: x @ a)(params["late"].astype(jnp.float32), x)
        x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["early"])
        return x * params["middle"]

    params = {"early": jnp.ones((2, 3, 3)), "late": jnp.ones((3, 3)), "middle": jnp.ones(3)}
    jaxpr = jax.make_jaxpr(model)(params, jnp.ones((1, 3)))
    assert order_of_use(jaxpr, {0: "early", 1: "late", 2: "middle"}) == ["late", "early", "middle"]


def test_the_last_layer_of_a_stack_comes_first_going_backward():
    built = build(marked(), jax.devices()[:1])
    leaves = built.model.leaves
    fine = jax.tree.map(lambda leaf: np.zeros(leaf.shape[:1] if "h" in leaf.name[:1] else (), bool), leaves)
    bad = jax.tree.map(np.copy, fine)
    bad["h"]["dense"]["kernel"][:2] = True
    bad["embed"]["embedding"] = np.bool_(True)
    used = ["embed.embedding", "h.*.dense.kernel", "h.*.dense.bias", "out.kernel"]
    assert first_in_backward(used, leaves, bad) == "h.1.dense.kernel"
    bad["h"]["dense"]["bias"][:1] = True
    assert first_in_backward(used, leaves, bad) == "h.1.dense.kernel"
