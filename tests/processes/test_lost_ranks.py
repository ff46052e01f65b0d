"""A rank that is killed or hangs: the others leave to be restarted, and `lepjax run` finishes the job."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from lepjax.testing import hex_losses

pytestmark = pytest.mark.full
WATCHDOG = 10.0
STEPS = 60
RECIPE = """
from lepjax.experiment import Experiment, Steps
from tests.tiny import tiny
def experiment() -> Experiment:
    return tiny(length=Steps(%d), checkpoint_every=10, mesh="data=-1")
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipe") / "recipe.py"
    file.write_text(RECIPE % STEPS)
    return str(file)


def start(recipe, run, supervised=True):
    command = ["launch", "--processes", "2", "train", recipe, "--run-dir", str(run), "--watchdog", str(WATCHDOG)]
    return subprocess.Popen(
        [sys.executable, "-m", "lepjax", *(["run", "--max-restarts", "3"] if supervised else []), *command],
        env={**os.environ, "PYTHONPATH": str(pathlib.Path.cwd())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def life(run, rank):
    try:
        return json.loads((run / f"heartbeat-{rank}.json").read_text())
    except (OSError, ValueError):
        return {"step": -1, "pid": 0}


def reach(job, run, step, seconds=180.0):
    end = time.monotonic() + seconds
    while min(life(run, rank)["step"] for rank in (0, 1)) < step:
        assert time.monotonic() < end and job.poll() is None, job.communicate()[0][-3000:]
        time.sleep(0.02)


def gone(pid):
    """Seconds until a process has ended."""
    begun = time.monotonic()
    while time.monotonic() - begun < 120:
        try:
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2]
        except OSError:
            return time.monotonic() - begun
        if state == "Z":
            return time.monotonic() - begun
        time.sleep(0.02)
    raise AssertionError("still there")


@pytest.fixture(scope="module")
def oracle(recipe, tmp_path_factory):
    run = tmp_path_factory.mktemp("oracle") / "run"
    out = start(recipe, run).communicate(timeout=300)[0]
    losses = hex_losses(run)
    assert len(losses) == STEPS, out
    return losses


@pytest.mark.parametrize(("victim", "name"), [(1, "SIGKILL"), (0, "SIGKILL"), (1, "SIGSTOP"), (0, "SIGSTOP")])
def test_the_survivor_leaves_and_the_job_is_finished(recipe, oracle, tmp_path, victim, name):
    run = tmp_path / "run"
    job = start(recipe, run)
    reach(job, run, 25)
    survivor = life(run, 1 - victim)["pid"]
    os.kill(life(run, victim)["pid"], signal.Signals[name])
    seconds = gone(survivor)
    out = job.communicate(timeout=300)[0]
    assert seconds <= WATCHDOG + 2.0, out
    assert job.returncode == 0, out[-3000:]
    assert "restart 1 of 3" in out and hex_losses(run) == oracle
    if name == "SIGSTOP":
        assert f"no sign of life for {WATCHDOG:.0f} s in phase 'step'" in out
        assert (run / f"stacks-{1 - victim}.txt").stat().st_size > 500


def test_the_survivor_of_a_killed_rank_asks_to_be_restarted(recipe, tmp_path):
    job = start(recipe, tmp_path / "run", supervised=False)
    reach(job, tmp_path / "run", 5)
    os.kill(life(tmp_path / "run", 1)["pid"], signal.SIGKILL)
    out = job.communicate(timeout=120)[0]
    assert "lepjax: another process is gone" in out and "Traceback" not in out, out[-3000:]
