"""Whole sweeps: killed, resumed, shared, and shown."""

import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import optuna
import pytest

from lepjax import tune
from lepjax.core.errors import UserError
from lepjax.data.batching import Buckets
from lepjax.data.digits import Digits
from lepjax.experiment import Steps
from lepjax.run import files
from lepjax.tune.objective import objective
from lepjax.tune.searching import FRESH
from lepjax.tune.study import Study
from lepjax.tune.trial import COMPLETE, FAILED
from tests.labelled import Labelled, labelled
from tests.tune.digits import experiment

SPACE = {
    "learning_rate": tune.loguniform(1e-4, 3e-2),
    "dropout": tune.uniform(0.0, 0.5),
    "model.activation": tune.choice(["relu", "gelu"]),
}
SETTINGS = {"trials": 12, "sampler": "tpe", "pruner": "halving", "together": 4, "metric": "dev_accuracy"}


def table(result):
    """What must not depend on kills: everything but seconds and numbers in the study."""
    return [dataclasses.replace(trial, number=0, seconds=0.0) for trial in result.trials]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return tune.sweep(experiment(), SPACE, **SETTINGS, rescore=3, run_dir=str(tmp_path_factory.mktemp("whole")))


def test_a_sweep_leaves_result_report_and_study(whole):
    told = files.read_json(whole.directory / "result.json")
    assert told["trials_completed"] + told["trials_pruned"] + told["trials_failed"] == told["trials"] == 12
    assert told["trials_pruned"] > 0 and told["compiles"] > 0 and told["trials_per_minute"] > 0
    assert told["best"]["score"] == whole.best.score == max(t.score for t in whole.trials if t.state == COMPLETE)
    assert told["rescored"]["mean"] == pytest.approx(np.mean(told["rescored"]["scores"]))
    text = (whole.directory / "report.html").read_text()
    assert text.count("<svg") == 5 and "<script" not in text and "<link" not in text and ' href="http' not in text
    assert whole.command.split()[:3] == ["lepjax", "train", "EXPERIMENT"] and whole.command in text.replace(
        "&#x27;", "'"
    )
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{whole.directory / 'study.db'}")
    assert len(study.trials) == 12 and study.best_value == whole.best.score


def test_the_same_call_tells_what_is_done(whole):
    again = tune.sweep(experiment(), SPACE, **SETTINGS, run_dir=str(whole.directory))
    assert table(again) == table(whole) and again.compiles == 0


def test_a_sweep_goes_on_with_more_trials(whole, tmp_path):
    first = tune.sweep(experiment(), SPACE, **{**SETTINGS, "trials": 8}, run_dir=str(tmp_path))
    assert table(first) == table(whole)[:8]
    second = tune.sweep(experiment(), SPACE, **SETTINGS, run_dir=str(tmp_path))
    assert table(second) == table(whole)


def killed_in_the_second_cohort(folder):
    """The same sweep in a process of its own, which is killed when a trial of its second cohort reports."""
    code = f"""
import os, signal
from lepjax import tune
from lepjax.tune.study import Study
from tests.tune.digits import experiment
from tests.tune.test_sweep import SETTINGS, SPACE
honest = Study.report
def deadly(self, trial, step, score):
    honest(self, trial, step, score)
    if trial.ordinal == 5:
        os.kill(os.getpid(), signal.SIGKILL)
Study.report = deadly
tune.sweep(experiment(), SPACE, **SETTINGS, run_dir={str(folder)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == -signal.SIGKILL


def test_a_killed_sweep_ends_as_if_it_had_not_been(whole, tmp_path):
    killed_in_the_second_cohort(tmp_path)
    assert table(tune.sweep(experiment(), SPACE, **SETTINGS, run_dir=str(tmp_path))) == table(whole)
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert not [t for t in study.trials if t.state.name in ("RUNNING", "WAITING")]
    assert [t for t in study.trials if t.user_attrs.get("lost")]  # what had not ended by then


def test_an_interrupted_sweep_goes_on_in_the_same_process(whole, tmp_path, monkeypatch):
    """As in a notebook, where the process lives on and nobody takes its trials for those of a dead worker."""
    honest = Study.report

    def interrupted(self, trial, step, score):
        honest(self, trial, step, score)
        if trial.ordinal == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Study, "report", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tune.sweep(experiment(), SPACE, **SETTINGS, run_dir=str(tmp_path))
    assert table(tune.sweep(experiment(), SPACE, **SETTINGS, run_dir=str(tmp_path))) == table(whole)


def test_sabotage_a_sampler_that_keeps_its_stream_in_memory_is_noticed(whole, tmp_path, monkeypatch):
    """As Optuna's own samplers do: after a restart it draws other points."""
    from lepjax.tune.samplers.tpe import Tpe

    honest = Tpe.suggest
    count = iter(range(1000))
    monkeypatch.setattr(
        Tpe, "suggest", lambda self, space, seen, ordinal, seed: honest(self, space, seen, next(count), seed)
    )
    first = tune.sweep(experiment(), SPACE, **{**SETTINGS, "trials": 4}, run_dir=str(tmp_path))
    assert table(first) == table(whole)[:4]
    count = iter(range(1000))
    second = tune.sweep(experiment(), SPACE, **SETTINGS, run_dir=str(tmp_path))
    assert table(second) != table(whole)


@pytest.mark.parametrize("changed", [experiment(50), experiment(data=Digits(batch_size=16))])
def test_a_study_of_another_length_or_batch_is_refused(whole, changed):
    """Its results would be told as if they were this one's."""
    with pytest.raises(UserError, match="another experiment"):
        tune.sweep(changed, SPACE, **SETTINGS, run_dir=str(whole.directory))


def test_a_study_of_another_sampler_is_refused(whole):
    with pytest.raises(UserError, match=r"another sampler: Tpe.*Random"):
        tune.sweep(experiment(), SPACE, **{**SETTINGS, "sampler": "random"}, run_dir=str(whole.directory))


@pytest.mark.parametrize("best", ["", "dev_accuracy"])
def test_a_winner_is_scored_again_as_it_was_scored(best, tmp_path):
    """By its best evaluation where that is what counts, else by its last: a trial of that seed comes to the same."""
    base = experiment(40, best=best, best_mode="max", evaluate_every=Steps(2))
    space = {"learning_rate": tune.uniform(0.3, 0.4)}  # the accuracy goes up and down
    settings = {"trials": 1, "sampler": "random", "metric": "dev_accuracy"}
    found = tune.sweep(base, space, **settings, rescore=1, run_dir=str(tmp_path / "winner"))
    fresh = tune.sweep(dataclasses.replace(base, seed=FRESH), space, **settings, run_dir=str(tmp_path / "fresh"))
    assert found.rescored.scores == (fresh.best.score,)


def test_several_seeds_are_averaged(tmp_path):
    space = {"learning_rate": SPACE["learning_rate"]}
    result = tune.sweep(experiment(20), space, trials=2, sampler="random", seeds=3, together=2, run_dir=str(tmp_path))
    for trial in result.trials:
        assert len(set(trial.by_seed)) == 3
        assert trial.score == pytest.approx(np.mean(trial.by_seed))
    assert result.compiles == 1


def test_seeds_that_take_turns_are_runs_of_their_own(tmp_path):
    """With one compile, and bit for bit; what a pruner sees at its rungs is their mean."""
    space = {"learning_rate": SPACE["learning_rate"]}
    settings = {"trials": 2, "sampler": "random", "pruner": "median", "together": 1}
    base = experiment(20)
    turns = tune.sweep(base, space, **settings, seeds=2, run_dir=str(tmp_path / "turns"))
    assert turns.compiles == turns.groups == 1
    each = [
        tune.sweep(dataclasses.replace(base, seed=seed), space, **settings, run_dir=str(tmp_path / f"seed {seed}"))
        for seed in (0, 1)
    ]
    for trial, first, second in zip(turns.trials, *(one.trials for one in each), strict=True):
        assert trial.by_seed == (first.score, second.score) and first.score != second.score
        assert trial.reports == {s: (first.reports[s] + second.reports[s]) / 2 for s in (5, 10, 15, 20)}


def test_seeds_that_take_turns_may_have_batches_of_other_shapes(tmp_path):
    """Which side by side they may not; and where all read in one order, they still are runs of their own."""
    base = labelled(data=Labelled(batching=Buckets(lengths=(8, 16)), batch_size=8), length=Steps(6))
    settings = {"trials": 1, "sampler": "random", "seeds": 2}
    space = {"learning_rate": tune.loguniform(1e-3, 1e-2)}
    with pytest.raises(UserError, match="read batches of different shapes. Use order shared, together 1"):
        tune.sweep(base, space, **settings, run_dir=str(tmp_path / "beside"))
    scores = [
        tune.sweep(base, space, **settings, together=1, order=order, run_dir=str(tmp_path / order)).best.by_seed
        for order in ("seed", "shared")
    ]
    assert scores[0][0] == scores[1][0] and len({score for both in scores for score in both}) == 3


def test_values_that_do_not_go_together_fail_alone(tmp_path):
    from tests.tiny import tiny

    base = dataclasses.replace(tiny(), mesh="data=1", best="", length=experiment(4).length)
    space = {"model.heads": tune.choice([4, 3]), "model.width": tune.choice([16])}
    result = tune.sweep(base, space, trials=4, sampler="grid", together=1, run_dir=str(tmp_path))
    failed = [trial for trial in result.trials if trial.state == FAILED]
    assert [t.values for t in failed] == [{"model.heads": 3, "model.width": 16}]
    assert "multiple" in failed[0].note and result.groups == 1 and len(result.trials) == 2


BAD = {
    "metric": ({"metric": "dev_acuracy"}, "dev_accuracy"),
    "sampler": ({"sampler": "tpee"}, "Did you mean tpe"),
    "pruner": ({"pruner": "ahsa"}, "asha"),
    "together": ({"together": 0}, "whole number"),
    "trials": ({"trials": 0}, "Use 1 or more"),
    "order": ({"order": "none"}, "seed or shared"),
    "a sampler's seed": ({"sampler_seed": -1}, "Use 0 or more"),
    "no time": ({"seconds": float("nan")}, "Use more than 0"),
    "nothing to compare": ({"pruner": "halving", "together": 2}, "Use pruner asha"),
    "a sampler that cannot": ({"sampler": "cmaes"}, "no order"),
    "storage": ({"storage": "sqlite:////nowhere/x.db"}, "cannot be reached"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_line_before_anything_compiles(case, tmp_path):
    changes, told = BAD[case]
    with pytest.raises(UserError, match=told):
        tune.sweep(experiment(), SPACE, **{**SETTINGS, **changes}, run_dir=str(tmp_path / "run"))


def test_a_metric_whose_better_end_is_not_known_is_asked_for(monkeypatch):
    base = experiment()
    task = dataclasses.replace(base.task)
    metrics = {**base.task.metrics(), "coverage": base.task.metrics()["loss"]}
    monkeypatch.setattr(type(task), "metrics", lambda self: metrics)
    with pytest.raises(UserError, match="Pass mode min or max"):
        objective(base, ("dev",), "dev_coverage")
    assert objective(base, ("dev",), "dev_coverage", "max").mode == "max"
    for name in metrics.keys() - {"coverage"}:
        assert objective(base, ("dev",), f"dev_{name}").mode == (
            "min" if name in ("loss", "calibration_error") else "max"
        )


def test_an_experiment_that_cannot_be_built_is_refused_once(tmp_path):
    """Not as a study whose trials have all failed."""
    base = experiment(mesh="data=3")
    with pytest.raises(UserError):
        tune.sweep(base, SPACE, **{**SETTINGS, "pruner": "none", "together": 1}, run_dir=str(tmp_path))
    assert not (tmp_path / "study.db").exists()


def test_the_command(tmp_path, capsys, monkeypatch):
    """As typed; the command that it prints trains the winner to the same score."""
    from lepjax.cli.tune import run

    monkeypatch.chdir(os.environ.get("PWD", "."))
    file = "tests/tune/digits.py"
    flags = "--space learning_rate=loguniform(1e-3,1e-2) --trials 2 --sampler random --together 2 --log-every 10"
    assert run([file, *flags.split(), "--run-dir", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    best = json.loads((tmp_path / "result.json").read_text())
    line = next(line for line in told.splitlines() if line.startswith("train it"))
    assert best["command"] in line and "--log-every 10" in line

    from lepjax.cli.train import run as train

    assert train([*best["command"].split()[2:], "--run-dir", str(tmp_path / "run")]) == 0
    alone = json.loads((tmp_path / "run" / "result.json").read_text())
    assert alone["dev_loss"] == pytest.approx(best["best"]["score"], rel=1e-3)
