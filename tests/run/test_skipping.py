"""SkipSpikes in a run: scrambled batches change nothing, and a resumed run goes on with the same statistics."""

import dataclasses

import pytest
from rich.console import Console

from lepjax.core.spikes import SkipSpikes
from lepjax.experiment import Steps
from lepjax.run.checkpoint import Checkpoints
from lepjax.run.train import train
from tests.run.spiky import spiky

GUARD = SkipSpikes(sigma=6.0, window=16, warmup=10)
FIRST, LAST, STEPS = 20, 23, 26  # the scrambled batches
STOP = 22


def go(folder, steps=STEPS):
    experiment = spiky(folder, FIRST, LAST, spikes=GUARD, length=Steps(steps), checkpoint_every=0)
    return train(experiment, console=Console(quiet=True))


def logged(outcome):
    names = ("step", "train_loss", "train_grad_norm", "train_skipped", "train_spikes")
    return [{name: line[name] for name in names} for line in outcome.directory.read_metrics() if "train_loss" in line]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return logged(go(tmp_path_factory.mktemp("whole")))


def test_a_run_stopped_in_the_middle_of_a_spike_makes_the_same_decisions(tmp_path, whole):
    assert [line["train_spikes"] for line in whole[FIRST - 1 :]] == [0, 1, 2, 3, 4, 4, 4]
    assert [line["train_spikes"] for line in whole] == [line["train_skipped"] for line in whole]
    go(tmp_path, STOP)
    assert logged(go(tmp_path)) == whole


def test_sabotage_statistics_that_are_not_in_the_checkpoint_are_missed(tmp_path, whole, monkeypatch):
    def robbed(self, step, abstract):
        state, meta = restore(self, step, abstract)
        fresh = dataclasses.replace(state.guard, accepted=state.guard.accepted * 0)
        return dataclasses.replace(state, guard=fresh), meta

    restore = Checkpoints.restore
    go(tmp_path, STOP)
    monkeypatch.setattr(Checkpoints, "restore", robbed)
    assert logged(go(tmp_path)) != whole
