"""Lines of metrics are on the disk when they are told, and a full disk is noticed at once."""

import json

import pytest

from lepjax.core.errors import UserError
from lepjax.run.directory import RunDirectory
from lepjax.run.events import LogMetrics
from lepjax.run.fit import Loop


def logging(path, **settings):
    log = LogMetrics(RunDirectory(path), **settings)
    log.started(Loop(None, step=3, total_steps=9))
    return log


def test_a_line_is_there_as_soon_as_it_is_told(tmp_path):
    log = logging(tmp_path)
    log.published(None, 4, {"train_loss": 0.5, "train_grad_norm": float("nan")})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert (told["step"], told["train_loss"], told["train_grad_norm"]) == (4, 0.5, None)
    (events,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    assert b"train/grad_norm" in events.read_bytes()
    log.finished(None)
    log.published(None, 5, {"train_loss": 0.4})  # too late
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_full_disk_is_one_line(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = logging(tmp_path)
    with pytest.raises(UserError, match=r"cannot be written \(the disk is full\)"):
        log.published(None, 4, {"train_loss": 0.5})
    log.finished(None)


def test_a_run_that_need_not_save_goes_on_and_is_told_once(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    said = []
    log = logging(tmp_path, must=False, say=said.append)
    for step in (4, 5, 6):
        log.published(None, step, {"train_loss": 0.5})
    log.finished(None)
    assert len(said) == 1 and "Going on with gaps in the metrics" in said[0]
