"""Checkpoints of every format that was ever written go on today: `make_format_fixture.py` wrote them."""

import json
import pathlib
import shutil

import pytest
from rich.console import Console

from lepjax.core.serialise import from_json
from lepjax.run import files, manifest
from lepjax.run.train import train
from lepjax.testing import hex_losses
from tests.run.make_format_fixture import experiment

FIXTURES = sorted((pathlib.Path(__file__).parent / "fixtures").glob("format-*"))


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
def test_a_run_of_an_older_format_goes_on(tmp_path, fixture):
    run = tmp_path / "run"
    shutil.copytree(fixture, run)
    assert manifest.damage(run / "checkpoints" / "4") is None
    outcome = train(experiment(run), console=Console(quiet=True))
    assert outcome.code == 0 and outcome.result["steps"] == 6
    expected = json.loads((fixture / "losses.json").read_text())
    found = hex_losses(run)
    assert [found[int(step)] for step in expected][:4] == list(expected.values())[:4]  # as they were logged
    for step in (5, 6):  # another processor may round otherwise
        assert float.fromhex(found[step]) == pytest.approx(float.fromhex(expected[str(step)]), rel=1e-5)


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
def test_its_experiment_is_rebuilt(fixture):
    assert from_json(files.read_json(fixture / "experiment.json")) == experiment("")


def test_there_is_a_fixture_of_todays_format():
    assert f"format-{manifest.FORMAT}" in [path.name for path in FIXTURES]
