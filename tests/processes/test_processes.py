"""Several real processes are one run: the losses of one, each its own rows, the same checkpoints."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from lepjax.run import files
from lepjax.testing import Job, hex_losses, in_fresh_processes
from tests.processes.experiments import watched
from tests.run.spiky import STEPS as SPIKY_STEPS
from tests.run.spiky import spiky

TOLERANCE = 1e-5
DEVICES = 4


def train(processes, *jobs):
    in_fresh_processes(jobs, processes, DEVICES // processes)


def losses(run):
    return {step: float.fromhex(loss) for step, loss in hex_losses(run).items()}


def close(run, other, steps):
    ours, theirs = losses(run), losses(other)
    assert ours.keys() == theirs.keys() == set(range(1, steps + 1))
    return all(ours[step] == pytest.approx(theirs[step], rel=TOLERANCE) for step in ours)


def asked(folder, processes, rank):
    """Record ids per batch that a process asked for; the first is that of the shapes, which all ask for whole."""
    return [json.loads(line) for line in (folder / f"asked-{processes}-{rank}.jsonl").read_text().splitlines()][1:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process, without a break."""
    folder = tmp_path_factory.mktemp("alone")
    train(1, Job(watched(folder, "gpt")))
    return folder


@pytest.fixture(scope="module")
def alone_of(alone):
    """The same for any family."""

    def run(family):
        if not (alone / family).exists():
            train(1, Job(watched(alone, family, family)))
        return alone / family

    return run


def check_rows(folder, alone, processes, steps):
    """In every batch the processes' records are disjoint and together those of one process."""
    mine = [asked(folder, processes, rank)[-steps:] for rank in range(processes)]
    whole = asked(alone, 1, 0)
    for step in range(steps):
        parts = [mine[rank][step] for rank in range(processes)]
        together = [record for part in parts for record in part]
        assert len(set(together)) == len(together) == 8
        assert any(sorted(together) == sorted(batch) for batch in whole)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two processes: a run with a tampered rank, the first half of one that a single process ends, and a whole one."""
    folder = tmp_path_factory.mktemp("two")
    tampered = watched(folder, "tampered", corrupted=1, steps=3)
    train(2, Job(tampered), Job(watched(folder, "handed on"), 4), Job(watched(folder, "gpt")))
    return folder


def test_two_processes_give_the_losses_of_one(two, alone):
    assert close(two / "gpt", alone / "gpt", 8)
    ours, theirs = (files.read_json(folder / "gpt" / "result.json") for folder in (two, alone))
    assert ours["tokens"] == theirs["tokens"] == 8 * 8 * 32
    assert ours["dev_loss"] == pytest.approx(theirs["dev_loss"], rel=TOLERANCE)


def test_each_process_reads_its_own_rows(two, alone):
    check_rows(two, alone, 2, 8)


def test_one_process_goes_on_from_two(two, alone):
    train(1, Job(watched(two, "handed on")))
    assert close(two / "handed on", alone / "gpt", 8)


def test_sabotage_the_rows_of_one_rank_change_every_loss(two):
    ours, theirs = losses(two / "tampered"), losses(two / "gpt")
    assert all(abs(ours[step] - theirs[step]) > 100 * TOLERANCE for step in ours)


@pytest.mark.full
@pytest.mark.parametrize("family", ["gpt", "llama"])
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("mesh", ["data=2,fsdp=2", "fsdp=4", "data=2,tensor=2", "fsdp=2,sequence=2", "tensor=4"])
def test_any_number_of_processes_on_any_mesh(family, processes, mesh, alone_of, tmp_path):
    train(processes, Job(watched(tmp_path, family, family, mesh=mesh)))
    assert close(tmp_path / family, alone_of(family), 8)


@pytest.mark.full
@pytest.mark.parametrize("family", ["gpt", "llama"])
def test_checkpoints_go_from_one_to_two_to_four_and_back(family, alone_of, tmp_path):
    for stop, processes in ((2, 1), (3, 2), (4, 4), (6, 2), (7, 1), (None, 4)):
        train(processes, Job(watched(tmp_path, family, family), stop))
    assert close(tmp_path / family, alone_of(family), 8)


@pytest.mark.full
def test_two_processes_go_back_from_a_spike_together(tmp_path):
    """To the same step, past the same batches, with the losses of one process; also when they are stopped between."""
    train(1, Job(spiky(tmp_path / "one", mesh="data=4")))
    train(2, Job(spiky(tmp_path / "two", mesh="data=4")))
    train(2, Job(spiky(tmp_path / "stopped", mesh="data=4"), 44))
    train(2, Job(spiky(tmp_path / "stopped", mesh="data=4")))
    for name in ("two", "stopped"):
        assert files.read_json(tmp_path / name / "skipped_ranges.json") == [[40, 50]]
        assert close(tmp_path / name, tmp_path / "one", SPIKY_STEPS)


# ---- the command line ----

RECIPE = """
from tests.processes.experiments import watched
import pathlib
def experiment(folder: str = "", steps: int = 8, broken: int = -1):
    return watched(pathlib.Path(folder), "run", steps=steps, broken=broken)
"""


def launch(*arguments, processes=2, **environment):
    command = [sys.executable, "-m", "lepjax", "launch", "--processes", str(processes), "--devices-per-process", "2"]
    return subprocess.Popen(
        [*command, *arguments],
        env={**os.environ, "PYTHONPATH": str(pathlib.Path.cwd()), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.py").write_text(RECIPE)
    return str(tmp_path / "recipe.py")


def test_a_signal_to_any_process_stops_all_after_the_same_step(recipe, tmp_path, request):
    job = launch("train", recipe, "--folder", str(tmp_path), "--steps", "100000")
    request.addfinalizer(job.terminate)
    metrics = tmp_path / "run" / "metrics.jsonl"
    end = time.monotonic() + 120
    while time.monotonic() < end and not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
        assert job.poll() is None, job.communicate()
        time.sleep(0.1)
    os.kill(last_child(job.pid), signal.SIGTERM)  # not rank 0, which prints and writes
    out, err = job.communicate(timeout=120)
    assert job.returncode == 75, (out, err)
    saved = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert f"SIGTERM at step {saved}; saved at step {saved}" in out, out
    assert files.read_json(tmp_path / "run" / "result.json")["status"] == "interrupted"


def last_child(parent):
    children = pathlib.Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    assert len(children) == 2
    return int(children[-1])


def test_an_error_of_one_rank_ends_all_with_its_code(recipe, tmp_path):
    job = launch("train", recipe, "--folder", str(tmp_path), "--broken", "1")
    out, err = job.communicate(timeout=120)
    assert job.returncode == 78, (out, err)
    assert "[1] lepjax: data.path: no such file" in err
    assert not (tmp_path / "run").exists()


def test_an_error_comes_from_every_rank_in_one_line(recipe, tmp_path):
    job = launch("train", recipe, "--folder", str(tmp_path), "--mesh", "data=3")
    out, err = job.communicate(timeout=120)
    assert job.returncode == 78
    assert "mesh data=3: 3 does not divide 4 devices" in err
    assert "Traceback" not in err + out
