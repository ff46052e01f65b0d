"""Studies: each ordinal is done once, whoever dies."""

import math
import os
import subprocess
import sys
import time

import optuna
import pytest

from lepjax import tune
from lepjax.core.errors import UserError
from lepjax.tune import workers
from lepjax.tune.distributions import distributions
from lepjax.tune.storage import open_storage, shown
from lepjax.tune.study import Study
from lepjax.tune.trial import COMPLETE, FAILED, LOST, PRUNED, RUNNING, WAITING
from lepjax.tune.workers import Beating, Watched, machine, own_id

SPACE = {"a": tune.loguniform(1e-5, 1), "b": tune.integer(0, 9), "c": tune.choice(["x", "y"])}
VALUES = {"a": 0.01, "b": 3, "c": "y"}
FACTS = {"experiment": "abc", "metric": "dev_loss"}


@pytest.fixture(params=["sqlite", "journal"])
def url(request, tmp_path):
    return f"sqlite:///{tmp_path / 'study.db'}" if request.param == "sqlite" else str(tmp_path / "study.journal")


@pytest.fixture
def opened(url):
    studies = []

    def make(trials=6, mode="min", space=SPACE, grace=0.0, **facts):
        studies.append(Study.open(url, "s", space, trials, mode, {**FACTS, **facts}, grace))
        return studies[-1]

    yield make
    for study in studies:
        study.close()


def test_values_that_are_half_written_are_not_seen(opened):
    """Another worker writes them one by one."""
    study, other = opened(), opened()
    (trial,) = study.claim(1)
    name, distribution = next(iter(distributions(SPACE).items()))
    study.storage.set_trial_param(
        study._ids[trial.number], name, distribution.to_internal_repr(VALUES[name]), distribution
    )
    assert other.seen() == []
    study.assign(trial, VALUES)
    assert [one.values for one in other.seen()] == [VALUES]


def test_what_is_closed_gives_its_trials_back(opened):
    study, other = opened(trials=1), opened(trials=1)
    (trial,) = study.claim(1)
    study.assign(trial, VALUES)
    study.close()
    (again,) = other.claim(1)
    assert (again.ordinal, again.values) == (0, VALUES) and [one.ordinal for one in other.lost()] == [0]


def test_trials_are_claimed_in_aligned_blocks_and_kept(opened, url):
    study = opened(trials=5)
    first = study.claim(2)
    assert [t.ordinal for t in first] == [0, 1]
    for trial in first:
        study.assign(trial, VALUES)
    study.report(first[0], 10, 0.7)
    study.finish(first[0], COMPLETE, 0.5, (0.4, 0.6), 20, 1.5)
    study.finish(first[1], FAILED, None, (math.nan,), 3, note="the score is nan")
    second = study.claim(2)
    study.finish(study.assign(second[0], VALUES), PRUNED, 0.9, (0.9,), 5)
    assert [t.ordinal for t in study.claim(2)] == [4]  # the block of 2 and 3 is half done by this worker itself
    states = [t.state for t in study.trials()]
    assert states == [COMPLETE, FAILED, PRUNED, RUNNING, RUNNING]
    one = study.trials()[0]
    assert (one.score, one.by_seed, one.steps, one.reports, one.values) == (0.5, (0.4, 0.6), 20, {10: 0.7}, VALUES)
    assert [s.score for s in study.seen()[:3]] == [0.5, math.inf, 0.9]
    theirs = optuna.load_study(study_name="s", storage=open_storage(url))  # as the dashboard opens it
    assert theirs.best_trial.params == VALUES and theirs.best_value == 0.5
    assert theirs.direction == optuna.study.StudyDirection.MINIMIZE


def test_a_metric_that_grows_is_turned_round_for_samplers_and_pruners_alone(opened, url):
    study = opened(mode="max")
    trial = study.assign(study.claim(1)[0], VALUES)
    study.report(trial, 1, 0.8)
    study.finish(trial, COMPLETE, 0.9, (0.9,), 2)
    assert study.trials()[0].score == 0.9
    assert study.seen()[0].score == -0.9 and study.reports()[0] == {1: -0.8}
    assert optuna.load_study(study_name="s", storage=open_storage(url)).best_value == 0.9


def dying(url, code, trials=6):
    """A process that opens the study, runs `code` and is killed."""
    text = f"""
import os, signal
from tests.tune.test_study import FACTS, SPACE, VALUES
from lepjax.tune.study import Study
study = Study.open({url!r}, "s", SPACE, {trials}, "min", FACTS)
{code}
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    assert done.returncode == -9, done.stderr


def test_what_a_killed_worker_had_is_done_again_by_its_ordinal(opened, url):
    dying(url, "for t in study.claim(3)[:2]: study.assign(t, VALUES)")
    study = opened()
    again = study.claim(3)
    assert [(t.ordinal, t.values) for t in again] == [(0, VALUES), (1, VALUES), (2, {})]
    assert [t.ordinal for t in study.lost()] == [0, 1, 2]
    assert [t.state for t in study.trials()] == [RUNNING] * 3 + [WAITING] * 3


def test_what_a_killed_worker_had_finished_stays(opened, url):
    dying(url, "for t in study.claim(3): study.finish(study.assign(t, VALUES), 'complete', 1.0)")
    assert [t.ordinal for t in opened().claim(3)] == [3, 4, 5]


def test_a_queue_that_its_maker_left_half_full_is_filled_up(opened, url, monkeypatch):
    dying(url, "", trials=2)
    study = opened(trials=6)  # as if it had wanted six
    assert [t.ordinal for t in study.claim(6)] == [0, 1, 2, 3, 4, 5]


def test_a_living_worker_keeps_its_trials(opened):
    first, second = opened(grace=60.0), opened(grace=60.0)
    mine = first.claim(3)
    assert second.rescue() == 0
    assert [t.ordinal for t in second.claim(3)] == [3, 4, 5]
    assert {t.ordinal for t in mine} == {0, 1, 2}


def test_a_worker_elsewhere_is_dead_when_its_counter_stands_still(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watched = Watched(grace=60.0)
    for at, beat, dead in ((0, 1, False), (50, 2, False), (100, 2, False), (111, 2, True), (112, 3, False)):
        now[0] = at
        assert watched.dead("elsewhere 7 1", {"elsewhere 7 1": beat}) is dead
    assert not watched.dead(own_id(), {})
    assert watched.dead(f"{machine()} {os.getpid()} 1", {})  # the number lives, the process was another


def test_a_worker_that_cannot_tell_for_a_while_tells_again(monkeypatch):
    monkeypatch.setattr(workers, "BEAT", 0.01)
    told = []

    def beat(count):
        told.append(count)
        if 0 < count < 3:
            raise OSError("the database is away")

    beating = Beating(beat)
    while told[-1] < 5:
        time.sleep(0.01)
    beating.close()
    assert told[:6] == [0, 1, 2, 3, 4, 5]


def test_its_word_stands_who_was_first(opened):
    study = opened()
    trial = study.claim(1)[0]
    study.finish(trial, COMPLETE, 1.0)
    study.finish(trial, COMPLETE, 2.0)
    assert study.trials()[0].score == 1.0


def test_two_that_filled_the_same_gap_do_it_once(opened):
    study = opened(trials=2)
    study._enqueue(1, {})
    assert [t.ordinal for t in study.claim(2)] == [0, 1]
    assert [t.state for t in study.lost()] in ([], [LOST])
    for trial in study.trials():
        study.finish(trial, COMPLETE, 1.0)
    assert study.claim(2) == [] and len(study.trials()) == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"space": {**SPACE, "a": tune.loguniform(1e-4, 1)}}, "another space: a was LogUniform"),
        ({"space": {"a": SPACE["a"]}}, "another space: b was"),
        ({"metric": "dev_f1"}, "another metric: dev_loss then, dev_f1 now"),
        ({"mode": "max"}, "another mode"),
        ({"experiment": "xyz"}, "another experiment"),
    ],
)
def test_a_study_of_something_else_is_refused(opened, changes, told):
    opened()
    with pytest.raises(UserError, match=told):
        opened(**changes)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nowhere/at/all/study.db",
        "/nowhere/study.journal",
        "nonsense://x",
        "postgresql://u:secret@127.0.0.1:1/x",
        "postgresql://127.0.0.1:1/x?user=u&password=secret",
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_line(url):
    with pytest.raises(UserError) as error:
        open_storage(url)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)
    assert "secret" not in shown(url)
