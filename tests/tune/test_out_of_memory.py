"""What does not fit side by side is trained in parts; what does not fit at all fails, and the sweep goes on."""

import jax
import pytest

from lepjax import tune
from lepjax.tune.groups import Groups, OutOfMemory
from lepjax.tune.trial import COMPLETE, FAILED
from tests.tune.digits import experiment

SPACE = {"learning_rate": tune.loguniform(1e-4, 3e-2)}
SETTINGS = {"trials": 12, "sampler": "random", "together": 6, "devices": jax.devices()[:1]}


def room_for(most, monkeypatch, refused=lambda built: False):
    """A device on which so many trials fit. Returns the sizes of the programs that were made."""
    honest, made = Groups._stacked, []

    def limited(self, built, shared, size):
        if size > most or refused(built):
            raise OutOfMemory(f"{size} trials need more")
        made.append(size)
        return honest(self, built, shared, size)

    monkeypatch.setattr(Groups, "_stacked", limited)
    return made


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return tune.sweep(experiment(20), SPACE, **SETTINGS, run_dir=str(tmp_path_factory.mktemp("fits")))


@pytest.mark.parametrize("most", [4, 1])
def test_halves_are_trained_until_they_fit(most, expected, tmp_path, monkeypatch):
    """In the first cohort and in the next, which is as large as the first was."""
    made = room_for(most, monkeypatch)
    result = tune.sweep(experiment(20), SPACE, **SETTINGS, run_dir=str(tmp_path))
    assert max(made) == {4: 3, 1: 1}[most]
    assert [t.values for t in result.trials] == [t.values for t in expected.trials]
    assert [t.score for t in result.trials] == pytest.approx([t.score for t in expected.trials], rel=1e-4)


def test_states_of_seeds_that_take_turns_must_fit(tmp_path, monkeypatch):
    """What a sweep with one seed does not ask, because a job alone is tried whatever the compiler says."""
    monkeypatch.setattr("lepjax.tune.groups.device_memory", lambda device, count: 10.0)
    settings = {**SETTINGS, "trials": 2, "together": 1}
    one = tune.sweep(experiment(20), SPACE, **settings, run_dir=str(tmp_path / "one"))
    two = tune.sweep(experiment(20), SPACE, **settings, seeds=2, run_dir=str(tmp_path / "two"))
    assert {trial.state for trial in one.trials} == {COMPLETE} and {trial.state for trial in two.trials} == {FAILED}
    assert "out of memory: the states of 2 seeds need 0.0 GB on each device" in two.trials[0].note


def test_what_does_not_fit_by_itself_fails_alone(tmp_path, monkeypatch):
    room_for(6, monkeypatch, refused=lambda built: built.experiment.model.activation == "gelu")
    space = {**SPACE, "model.activation": tune.choice(["relu", "gelu"])}
    result = tune.sweep(experiment(20), space, **SETTINGS, run_dir=str(tmp_path))
    states = {trial.values["model.activation"]: trial.state for trial in result.trials}
    assert states == {"relu": COMPLETE, "gelu": FAILED}
    assert all("out of memory" in trial.note for trial in result.trials if trial.state == FAILED)
