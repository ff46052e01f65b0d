"""`lepjax find`: what it prints and draws, and what it refuses before anything is computed."""

import re

import pytest

from lepjax.cli import main as command
from lepjax.core.errors import CONFIGURATION, DONE, guarded
from lepjax.tune import batch_finder

TARGET = "experiments/digits_mlp.py"
SMALL = ["--mesh", "data=1", "--model.hidden", "16", "--model.dropout", "None"]


def find(*arguments):
    return guarded(lambda: command.run(["find", *map(str, arguments)]))


def test_a_learning_rate(tmp_path, capsys):
    path = tmp_path / "pictures" / "lr.svg"
    assert find("lr", TARGET, "--low", "1e-5", "--steps", 60, "--out", path, *SMALL) == DONE
    out = capsys.readouterr().out
    told = {line.split()[0]: line.split()[1] for line in out.splitlines()}
    assert 1e-3 < float(told["steepest"]) < 0.5 and 1e-3 < float(told["lowest/10"]) < 0.1
    assert float(told["given"]) == 3e-3 and "without warmup and decay" in out
    assert path.read_text().startswith("<?xml") and f"picture    {path}" in out
    assert not (tmp_path / "runs").exists()


def test_a_batch(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(batch_finder, "SECONDS", 1e-9)
    path = tmp_path / "batch.png"
    assert find("batch", TARGET, "--most", 100, "--sizes", 3, "--out", path, *SMALL) == DONE
    out = capsys.readouterr().out
    assert re.findall(r"^ +(\d+) rows .* examples/s$", out, re.MULTILINE) == ["32", "64", "96"]
    assert "largest    96 rows (no more were allowed or are there)" in out and "another learning rate" in out
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["momentum", TARGET], "lepjax find: cannot find 'momentum'. Known: batch, lr."),
        (["lr"], "lepjax find lr: no experiment. Name an experiment file."),
        (["batch", "--most", "8"], "lepjax find batch: no experiment."),
        (["lr", "experiments/digit_mlp.py"], "no such experiment file. Did you mean experiments/digits_mlp.py?"),
        (["lr", TARGET, "--low", "tiny"], "--low: 'tiny' is no number"),
        (["lr", TARGET, "--steps", "ten"], "--steps: 'ten' is no number"),
        (["lr", TARGET, "--low", "1", "--high", "0.1"], "learning rates: from 1 to 0.1. Use positive finite numbers"),
        (["lr", TARGET, "--out", "lr.doc"], "--out: 'lr.doc' is no picture. Use a name that ends in .svg, .png."),
        (["lr", TARGET, "--optimizer.leaning-rate", "1"], "no field --optimizer.leaning-rate"),
        (["batch", TARGET, "--most", "-3"], "batch finder: -3 rows. Allow 1 or more"),
    ],
)
def test_what_is_refused(arguments, message, capsys):
    assert find(*arguments, *(["--mesh", "data=1"] if arguments[-1] == "-3" else [])) == CONFIGURATION
    assert message in capsys.readouterr().err


def test_help(capsys):
    assert find("--help") == DONE
    assert "lepjax find batch EXPERIMENT" in capsys.readouterr().out
