"""From a folder to a model, a run and reasons."""

import json

import jax
import numpy as np
import optuna
import pytest

from lepjax.cli import main as command
from lepjax.core.errors import UserError
from lepjax.models import BertForSequenceClassification
from lepjax.run.directory import RunDirectory
from lepjax.tune import autotune as module
from lepjax.tune import entrants, output
from lepjax.tune.autotune import autotune
from lepjax.tune.budget import Cost, Plan, Work
from lepjax.tune.candidates import look
from lepjax.tune.inspect import inspect
from lepjax.tune.recipe import recipe
from tests.tune.folders import rows, write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"), train=rows(120), dev=rows(40, start=200), test=rows(20, start=300))


@pytest.fixture(scope="module")
def out(data, tiny_bert, tmp_path_factory):
    """What the command leaves, with a plan of a few short trials, so that the test does not spend a budget."""
    folder = tmp_path_factory.mktemp("autotune") / "out"
    small = Plan(epochs=2.0, final=10.0, search=10.0, trials=4, trial_epochs=1.0, groups=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.budget, "plan", lambda left, cost, work: small)
        patch.setattr(module.budget, "trial_seconds", lambda cost, work, epochs: 0.0)
        asked = ["autotune", "--data", str(data), "--models", str(tiny_bert), "--budget", "10m", "--out", str(folder)]
        assert command.run(asked) == 0
    return folder


def test_the_model_is_what_the_run_trained_and_loads(out):
    model = BertForSequenceClassification.from_pretrained(out / "model")
    assert model.labels == ("no", "yes") and not model.new and not model.unused
    assert (out / "model" / "tokenizer.json").is_file() and np.isfinite(model([[101, 2023, 102]]).logits).all()


def test_the_run_is_a_run(out):
    experiment = RunDirectory(out / "run").experiment()
    assert experiment is not None and experiment.data.tune == 0.0
    result = json.loads((out / "run" / "result.json").read_text())
    assert {"dev_accuracy", "test_accuracy"} <= result.keys() and result["status"] == "done"
    assert "test by class" in (out / "run" / "report.html").read_text()


def test_why_tells_findings_choices_and_trials(out):
    told = json.loads((out / "why.json").read_text())
    chosen = {reason["what"] for reason in told["reasons"]}
    assert {"model", "length", "batches", "metric", "budget", "search", "learning rate", "winner"} <= chosen
    assert told["scores"]["test_accuracy"] == json.loads((out / "run" / "result.json").read_text())["test_accuracy"]
    page = (out / "why.html").read_text()
    for reason in told["reasons"]:
        assert reason["what"] in page
    assert "<svg" in page and told["seconds"] < told["budget"] == 600.0


def test_the_search_is_scored_on_what_is_set_aside(out):
    told = json.loads((out / "why.json").read_text())
    assert (
        told["search"]["metric"] == "tune_accuracy" and told["search"]["trials"] == 4 and told["search"]["groups"] == 1
    )


def test_the_search_begins_at_the_recipe(out, data, tiny_bert):
    """Trial 0 has the recipe's values, and the others have not."""
    found = inspect(str(data))
    made = recipe(found, look(tiny_bert, found.train.columns["text"], None, 2), 1, "data=1").experiment
    expected = {
        "optimizer.learning_rate": made.optimizer.learning_rate,
        "model.dropout": 0.1,
        "task.label_smoothing": made.task.label_smoothing,
    }
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{out / 'search' / 'study.db'}")
    trials = {trial.number: trial.params for trial in study.trials}
    assert trials[0] == pytest.approx(expected)
    assert all(trials[n] != pytest.approx(expected) for n in range(1, 4))


def test_an_autotune_that_failed_can_be_repeated(data, tmp_path, monkeypatch):
    """Without a model one is made, whose vocabulary is written before anything is known of seconds."""
    cost, work = Cost(step=1e6, compile=1.0, score=1.0), Work(10.0, 8.0, 20, 20, 3.0)
    monkeypatch.setattr(entrants, "measure", lambda experiment, held, most: (cost, work))
    for _ in range(2):
        with pytest.raises(UserError, match="Give more time"):
            autotune(str(data), seconds=600.0, out=str(tmp_path / "out"))
    assert (tmp_path / "out" / "vocabulary" / "vocab.txt").is_file()


def test_what_has_ended_is_not_begun_anew(out, data):
    before = (out / "why.json").read_text()
    with pytest.raises(UserError, match="not an empty folder"):
        autotune(str(data), seconds=600.0, out=str(out))
    assert (out / "why.json").read_text() == before and not (out / output.MARK).exists()


@pytest.mark.full
def test_without_a_model_that_fits_one_is_made(data, tmp_path, monkeypatch):
    monkeypatch.setattr(module.budget, "plan", lambda left, cost, work: Plan(1.0, 9.0, 9.0, 0, 0.0, 1))
    tuned = autotune(str(data), seconds=600.0, out=str(tmp_path / "out"))
    assert tuned.result is None and any("no pretrained model was given" in str(reason) for reason in tuned.reasons)
    model = BertForSequenceClassification.from_pretrained(tmp_path / "out" / "model")
    words = (tmp_path / "out" / "model" / "vocab.txt").read_text().splitlines()
    assert model.recipe.arch.vocab_size == len(words)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model.params))
