"""What the finders see is what a run begins with, and a run that goes on keeps it."""

import dataclasses
import io
import os
import pathlib
import re
import signal

import pytest
from rich.console import Console

from lepjax import tune
from lepjax.core.errors import UserError
from lepjax.run.train import train
from lepjax.testing.worker import StopAt
from lepjax.tune import batch_finder, lr_finder
from lepjax.tune.batch_finder import find_batch
from lepjax.tune.lr_finder import find_lr
from tests.tune.squares import Points, squares

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "tuning.md"
QUIET = Console(quiet=True)
LR = {"low": 1e-4, "high": 100.0, "steps": 80}


def losses(outcome):
    return [line["train_loss"] for line in outcome.directory.read_metrics() if "train_loss" in line]


@pytest.fixture(autouse=True)
def a_step_of_each_size_is_enough(monkeypatch):
    monkeypatch.setattr(batch_finder, "SECONDS", 0.0)


@pytest.fixture
def experiment(tmp_path):
    return squares(run_dir=str(tmp_path / "run"), log_every=1)


def test_a_run_takes_the_batch_that_was_found(experiment):
    finder = tune.FindBatch(most=200)
    ran = train(experiment, callbacks=[finder], console=QUIET).directory.experiment()
    assert ran.data.batch_size == finder.found.largest == find_batch(experiment, most=200).largest == 200
    assert experiment.data.batch_size != 200 and len(finder.found.points) == 1


def test_a_run_takes_the_knee(experiment, monkeypatch):
    monkeypatch.setattr(batch_finder.BatchSizes, "knee", property(lambda found: found.points[1].rows))
    finder = tune.FindBatch(most=64, knee=True)
    ran = train(experiment, callbacks=[finder], console=QUIET).directory.experiment()
    assert [point.rows for point in finder.found.points] == [1, 2, 4, 8, 16, 32, 64]
    assert ran.data.batch_size == 2


def test_what_was_found_is_said(experiment):
    console = Console(record=True, width=200, quiet=False, file=io.StringIO())
    train(experiment, callbacks=[tune.FindBatch(most=64)], console=console)
    said = console.export_text()
    assert "lepjax: batch: 64 rows fit (no more were allowed or are there); with 64 an epoch has 8.0 steps\n" in said
    assert "lepjax: data.batch_size 128 -> 64\n" in said and batch_finder.CAVEATS in said
    train(experiment, callbacks=[tune.FindBatch(most=32), tune.FindLr(**LR)], console=console)
    said = console.export_text()
    assert "lepjax: batch: 64 rows, with which this run was begun; another run directory looks anew\n" in said
    assert "lepjax: learning rate: 1.00e-03, with which this run was begun" in said


def test_a_run_takes_the_rate_that_was_found(experiment):
    finder = tune.FindLr(**LR)
    ran = train(experiment, callbacks=[finder], console=QUIET).directory.experiment()
    expected = find_lr(experiment, **LR)
    assert ran.optimizer.learning_rate == expected.steepest != experiment.optimizer.learning_rate
    assert finder.curve.losses.tolist() == expected.losses.tolist()


def test_the_rate_is_looked_for_with_the_batch_that_was_found(experiment):
    finder = tune.FindLr(**LR, pick=lambda curve: curve.tenth)
    ran = train(experiment, callbacks=[tune.FindBatch(most=64), finder], console=QUIET).directory.experiment()
    smaller = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, batch_size=64))
    assert ran.optimizer.learning_rate == finder.curve.tenth
    assert finder.curve.losses.tolist() == find_lr(smaller, **LR).losses.tolist()
    assert finder.curve.losses.tolist() != find_lr(experiment, **LR).losses.tolist()


def test_a_run_that_goes_on_keeps_what_it_was_begun_with(experiment, tmp_path):
    def finders(most):
        return tune.FindBatch(most=most), tune.FindLr(**LR)

    whole = train(
        dataclasses.replace(experiment, run_dir=str(tmp_path / "whole")), callbacks=finders(64), console=QUIET
    )
    train(experiment, callbacks=[*finders(64), StopAt(4)], console=QUIET)
    batch, rate = finders(512)  # as if there were more memory now
    resumed = train(experiment, callbacks=[batch, rate], console=QUIET)
    assert losses(resumed) == losses(whole) and len(losses(whole)) == 10
    assert batch.found is None and rate.curve is None


def test_sabotage_finders_that_look_again_are_noticed(experiment, monkeypatch):
    train(experiment, callbacks=[tune.FindBatch(most=64), StopAt(4)], console=QUIET)
    honest = tune.FindBatch.planned
    monkeypatch.setattr(
        tune.FindBatch, "planned", lambda self, start: honest(self, dataclasses.replace(start, before=None))
    )
    with pytest.raises(UserError, match="data.batch_size"):
        train(experiment, callbacks=[tune.FindBatch(most=512)], console=QUIET)


def test_a_batch_needs_a_directory_of_its_own():
    with pytest.raises(UserError, match="FindBatch: no run_dir. Give one"):
        train(squares(), callbacks=[tune.FindBatch()], console=QUIET)


def test_where_no_rate_does_anything_nothing_is_written(experiment, tmp_path):
    dead = dataclasses.replace(experiment, optimizer=dataclasses.replace(experiment.optimizer, freeze="."))
    with pytest.raises(UserError, match="learning-rate finder"):
        train(dead, callbacks=[tune.FindLr(**LR)], console=QUIET)
    assert not (tmp_path / "run").exists()


def test_what_was_seen_is_drawn(experiment):
    directory = train(
        experiment, callbacks=[tune.FindBatch(most=64, knee=True), tune.FindLr(**LR)], console=QUIET
    ).directory
    for name, title in (("find_batch", "throughput by batch size"), ("find_lr", "learning-rate range test")):
        assert title in (directory.path / f"{name}.svg").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"best": "dev_los"}, "Did you mean dev_loss"),
        ({"run_dir": __file__}, "is a file"),
        ({"mesh": "data=3"}, "divide"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_looked_for(experiment, change, message, monkeypatch):
    def look(*arguments):
        raise AssertionError

    monkeypatch.setattr("lepjax.tune.finders.find_lr", look)
    with pytest.raises(UserError, match=message):
        train(dataclasses.replace(experiment, **change), callbacks=[tune.FindLr(**LR)], console=QUIET)


class Signalled(lr_finder.LrFinder):
    """A finder that gets Ctrl-C in its range test."""

    def stepped(self, loop):
        super().stepped(loop)
        if loop.step == 20:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_ends_the_search_and_the_run(experiment, tmp_path, monkeypatch):
    """As in every phase that leaves nothing to save; with half of its curve nothing is trained."""
    monkeypatch.setattr(lr_finder, "LrFinder", Signalled)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, callbacks=[tune.FindLr(**LR)], console=QUIET)
    assert not (tmp_path / "run").exists()


def test_the_line_of_the_docs_runs(experiment):
    (line,) = re.findall(r"^train\(experiment, .*$", DOCS.read_text(), re.MULTILINE)
    exec(compile(line, str(DOCS), "exec"), {"train": train, "tune": tune, "experiment": experiment})
    assert {path.name for path in pathlib.Path(experiment.run_dir).iterdir()} >= {"find_lr.svg", "find_batch.svg"}


def test_the_data_are_read_once(experiment, monkeypatch):
    reads, load = [], Points.load
    monkeypatch.setattr(Points, "load", lambda self: reads.append(self) or load(self))
    train(experiment, callbacks=[tune.FindBatch(most=64), tune.FindLr(**LR)], console=QUIET)
    assert len(reads) == 1
