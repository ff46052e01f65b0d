"""A run as a person meets it: finished, resumed, changed, refused."""

import dataclasses
import json

import numpy as np
import pytest
from rich.console import Console

from lepjax.core.errors import UserError
from lepjax.core.optimizers import AdamW
from lepjax.core.serialise import from_json, to_json
from lepjax.experiment import EarlyStopping, Steps, identity
from lepjax.report.html import Report
from lepjax.run import manifest
from lepjax.run.train import train
from tests.tiny import TinyText, tiny

QUIET = Console(quiet=True)


def go(tmp_path, **changes):
    settings = {"length": Steps(6), "mesh": "data=4", **changes}
    return train(tiny(run_dir=str(tmp_path / "run"), **settings), callbacks=[Report()], console=QUIET)


def rates(outcome):
    return {x["step"]: x["train_learning_rate"] for x in outcome.directory.read_metrics() if "train_loss" in x}


def test_what_a_run_leaves_behind(tmp_path):
    outcome = go(tmp_path, evaluate_every=Steps(3), best="dev_loss")
    run = outcome.directory.path
    for name in ("experiment.json", "manifest.json", "metrics.jsonl", "result.json", "report.html"):
        assert (run / name).stat().st_size > 0
    assert list((run / "tensorboard").glob("events.*"))
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "done" and result["steps"] == 6 and outcome.code == 0
    assert result["best"]["metric"] == "dev_loss"
    assert {"import", "compile", "step", "data wait", "evaluation", "checkpoint"} <= result["seconds"].keys()
    lines = outcome.directory.read_metrics()
    assert [x["step"] for x in lines if "train_loss" in x] == [1, 2, 3, 4, 5, 6]
    assert [x["step"] for x in lines if "dev_loss" in x] == [3, 6]
    page = (run / "report.html").read_text()
    assert page.count("<svg") >= 5 and "dev_bits_per_byte" in page


def test_tensorboard_reads_the_same_numbers(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    outcome = go(tmp_path)
    events = accumulator.EventAccumulator(str(outcome.directory.path / "tensorboard")).Reload()
    ours = [x["train_loss"] for x in outcome.directory.read_metrics() if "train_loss" in x]
    np.testing.assert_allclose([event.value for event in events.Scalars("train/loss")], ours, rtol=1e-6)


def test_a_finished_run_tells_its_result_and_trains_no_more(tmp_path):
    first = go(tmp_path)
    before = (first.directory.metrics.read_text(), sorted(first.directory.checkpoints.iterdir()))
    again = go(tmp_path)
    assert again.result == first.result and again.code == 0
    assert before == (first.directory.metrics.read_text(), sorted(first.directory.checkpoints.iterdir()))


def test_a_run_that_stopped_early_is_finished(tmp_path):
    rule = EarlyStopping(monitor="dev_loss", mode="max", patience=0)
    kwargs = {"early_stopping": rule, "evaluate_every": Steps(1), "length": Steps(6)}
    first = go(tmp_path, **kwargs)
    assert first.result["steps"] == 2 and first.result["status"] == "done"
    assert go(tmp_path, **kwargs).result == first.result


def test_a_longer_length_goes_on(tmp_path):
    go(tmp_path)
    outcome = go(tmp_path, length=Steps(9))
    assert outcome.result["steps"] == 9
    assert [x["step"] for x in outcome.directory.read_metrics() if "train_loss" in x] == list(range(1, 10))


def test_a_changed_learning_rate_is_applied_printed_and_logged(tmp_path):
    base = {"optimizer": AdamW(learning_rate=1e-3)}
    go(tmp_path, **base)
    console = Console(record=True, width=200, quiet=False, file=open("/dev/null", "w"))
    changed = {"optimizer": AdamW(learning_rate=5e-4), "mesh": "data=4", "length": Steps(8)}
    experiment = tiny(run_dir=str(tmp_path / "run"), **changed)
    outcome = train(experiment, console=console)
    said = console.export_text()
    assert "resuming at step 6 of 8" in said
    assert "changed on resume: optimizer.learning_rate 0.001 -> 0.0005" in said
    assert rates(outcome)[6] == pytest.approx(1e-3) and rates(outcome)[7] == pytest.approx(5e-4)
    line = json.loads((outcome.directory.path / "changes.jsonl").read_text())
    assert ["optimizer.learning_rate", 0.001, 0.0005] in line["changes"]


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"data": TinyText(batch_size=16)}, {"precision": "bfloat16"}, {"accumulate": 2}, {"ema": 0.9}],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_identity_is_another_run(tmp_path, change):
    assert identity(tiny()) != identity(tiny(**change))
    go(tmp_path)
    before = sorted(p for p in (tmp_path / "run").rglob("*"))
    with pytest.raises(UserError, match="belongs to another experiment"):
        go(tmp_path, **change)
    assert before == sorted(p for p in (tmp_path / "run").rglob("*"))


def test_runtime_fields_and_numbers_do_not_change_the_identity():
    other = tiny(
        mesh="data=2", log_every=5, length=Steps(99), optimizer=dataclasses.replace(tiny().optimizer, learning_rate=1.0)
    )
    assert identity(tiny()) == identity(other)


def test_experiment_json_rebuilds_the_experiment():
    experiment = tiny(early_stopping=EarlyStopping(), ema=0.99, optimizer=AdamW(lr_multipliers=(("bias", 0.5),)))
    assert from_json(json.loads(json.dumps(to_json(experiment)))) == experiment


def test_what_is_allowed_to_stay_whole_is_announced(tmp_path, capsys):
    model = dataclasses.replace(tiny().model, vocab_size=257, heads=4)
    experiment = tiny(model=model, mesh="tensor=8", allow_replication=("vocab", "heads"), length=Steps(2))
    outcome = train(dataclasses.replace(experiment, run_dir=str(tmp_path / "run")))
    out = capsys.readouterr().out
    assert "whole    wte.embedding: vocab of size 257 is not cut over tensor (8 devices)" in out
    assert "whole    model: heads of size 4 is not cut over tensor (8 devices)" in out
    whole = tiny(model=model, mesh="data=1", length=Steps(2), run_dir=str(tmp_path / "one"))
    assert outcome.result["dev_loss"] == pytest.approx(train(whole, console=QUIET).result["dev_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"early_stopping": EarlyStopping(monitor="dev_los")}, "Did you mean dev_loss"),
        ({"best": "loss"}, "no metric 'loss'"),
        ({"best": "dev_loss", "best_mode": "smallest"}, "Use min or max"),
        ({"mesh": "data=3"}, "does not divide 8 devices"),
        ({"mesh": "data=8", "data": TinyText(batch_size=12)}, "does not divide over 8 devices"),
        ({"accumulate": 3}, "microbatches"),
        ({"precision": "float8"}, "not a precision"),
        ({"mesh": "tensor=8", "model": dataclasses.replace(tiny().model, vocab_size=257)}, "vocab of size 257"),
        (
            {"mesh": "tensor=8", "model": dataclasses.replace(tiny().model, heads=4)},
            "model: dimension heads of size 4 .*tensor=8",
        ),
        ({"model": dataclasses.replace(tiny().model, vocab_size=100)}, "the data has 256 tokens"),
        ({"optimizer": AdamW(freeze="h.9")}, "matches no parameter"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        go(tmp_path, **change)
    assert not (tmp_path / "run").exists()


def test_changed_data_is_refused_on_resume(tmp_path, monkeypatch):
    go(tmp_path)
    monkeypatch.setattr("tests.tiny.text", lambda size: np.arange(size, dtype=np.uint8))
    with pytest.raises(UserError, match="the data or its order changed"):
        go(tmp_path, length=Steps(8))


def test_a_second_writer_is_refused(tmp_path):
    import fcntl

    first = go(tmp_path)
    with open(first.directory.path / ".lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process trains here"):
            go(tmp_path, length=Steps(8))


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="no run directory"):
        go(tmp_path)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_best_and_last_are_both_kept(tmp_path):
    outcome = go(
        tmp_path, best="dev_loss", best_mode="max", evaluate_every=Steps(1), checkpoint_every=1, length=Steps(8)
    )
    steps = manifest.steps(outcome.directory.checkpoints)
    assert outcome.result["best"]["step"] == 1  # the loss falls, so the first is the highest
    assert steps == [1, 7, 8]
