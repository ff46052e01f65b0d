"""Stopping anywhere and going on in a fresh process gives the losses of the uninterrupted run, bit for bit."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from lepjax.experiment import build
from lepjax.run import files
from lepjax.run.checkpoint import Checkpoints
from lepjax.testing import Job, hex_losses, in_fresh_processes
from tests.processes.experiments import STEPS, experiment

# before anything, after one step, inside an epoch, the epoch's edge (6), after the skipped step, the last step
STOPS = (0, 1, 4, 6, 9, STEPS)


def job(folder, name, stop=None, mesh="auto"):
    return Job(experiment(folder / name, mesh), stop)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One process is the oracle, one stops at every step of STOPS, a third goes on; a fourth does so on 8 devices."""
    folder = tmp_path_factory.mktemp("runs")
    in_fresh_processes([job(folder, "oracle")])
    in_fresh_processes([job(folder, f"stop{stop}", stop) for stop in STOPS])
    shutil.copytree(folder / "stop4", folder / "mesh4")
    shutil.copytree(folder / "stop9", folder / "saved9")
    in_fresh_processes([job(folder, f"stop{stop}") for stop in STOPS])
    in_fresh_processes([job(folder, "mesh4", mesh="data=2,fsdp=2,tensor=2")], devices=8)
    return folder


def results(run):
    values = files.read_json(run / "result.json")
    return {name: value for name, value in values.items() if name not in ("seconds", "reason", "tokens", "checkpoints")}


@pytest.mark.parametrize("stop", STOPS)
def test_resumed_losses_are_bitwise_those_of_the_oracle(runs, stop):
    assert hex_losses(runs / f"stop{stop}") == hex_losses(runs / "oracle")
    assert len(hex_losses(runs / "oracle")) == STEPS
    assert results(runs / f"stop{stop}") == results(runs / "oracle")


def test_the_run_skipped_its_bad_steps(runs):
    losses = hex_losses(runs / "oracle")
    skipped = [step for step, loss in losses.items() if loss == "not finite"]
    assert len(skipped) == results(runs / "oracle")["skipped"] >= 2  # so that stop 9 lies after one
    assert min(skipped) <= 9
    assert np.isfinite(float(results(runs / "oracle")["dev_loss"]))


def test_resumed_on_another_mesh_within_tolerance(runs):
    ours, oracle = hex_losses(runs / "mesh4"), hex_losses(runs / "oracle")
    assert ours.keys() == oracle.keys()
    for step, loss in oracle.items():
        if loss != "not finite":
            assert float.fromhex(ours[step]) == pytest.approx(float.fromhex(loss), rel=1e-5)
    assert {s: v for s, v in ours.items() if s <= 4} == {s: v for s, v in oracle.items() if s <= 4}


def lose_nothing(state, fresh):
    return state


def lose_the_cursor(state, fresh):
    return dataclasses.replace(state, cursor=state.cursor + 1)


def lose_the_optimizer(state, fresh):
    """Its moments: other counts than the steps that were taken would be refused."""
    lost = jax.tree.map(lambda old, new: old if old.dtype == "int32" else new, state.opt_state, fresh.opt_state)
    return dataclasses.replace(state, opt_state=lost)


def lose_the_key(state, fresh):
    return dataclasses.replace(state, key=jax.random.fold_in(state.key, 1))


LOSSES = (lose_nothing, lose_the_cursor, lose_the_optimizer, lose_the_key)


@pytest.fixture(scope="module")
def robbed(runs):
    """A checkpoint that lost something, per run; a fresh process with the oracle's one device goes on from each."""
    for lose in LOSSES:
        run = runs / lose.__name__
        shutil.copytree(runs / "saved9", run)
        built = build(dataclasses.replace(experiment(run), mesh="data=1"))
        checkpoints = Checkpoints(run / "checkpoints")
        state, meta = checkpoints.restore(9, built.abstract)
        checkpoints.close()
        shutil.rmtree(run / "checkpoints")
        checkpoints = Checkpoints(run / "checkpoints")
        checkpoints.save(9, lose(state, built.init()), meta)
        checkpoints.close()
    in_fresh_processes([job(runs, lose.__name__) for lose in LOSSES])
    return runs


@pytest.mark.parametrize("lose", LOSSES)
def test_sabotage_a_checkpoint_that_lost_something_is_noticed(robbed, lose):
    same = hex_losses(robbed / lose.__name__) == hex_losses(robbed / "oracle")
    assert same == (lose is lose_nothing)
