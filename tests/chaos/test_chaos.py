"""`lepjax chaos` on a tiny run: nothing breaks, and what is broken on purpose is seen. More by hand: README.md."""

import collections
import dataclasses
import json
import os
import pathlib
import random
import subprocess
import sys
import time
from itertools import islice

import pytest

from lepjax.chaos.chain import Fault, Struck, chain
from lepjax.chaos.damage import Damage, damages, interrupted, suffered
from lepjax.chaos.disk import disks
from lepjax.chaos.kills import kills
from lepjax.chaos.oracle import undisturbed
from lepjax.chaos.points import calls_of_a_save, points, unavailable
from lepjax.chaos.races import loading, races
from lepjax.chaos.signals import signals
from lepjax.chaos.trial import Subject, children, committed, members
from lepjax.cli import main as command
from lepjax.core.errors import RESTART
from lepjax.experiment import Steps
from tests.chaos.experiment import experiment
from tests.chaos.sabotage import VARIABLE

FILE = "tests/chaos/experiment.py"
STEPS = 120  # here; 400 by hand
SUBJECT = Subject(FILE, ("--steps", str(STEPS)))
EXPERIMENT = dataclasses.replace(experiment(), length=Steps(STEPS))


def sabotaged(name):
    return dataclasses.replace(SUBJECT, environment={VARIABLE: name})


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    return undisturbed(SUBJECT, tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.fixture(scope="module")
def base(oracle, tmp_path_factory):
    return interrupted(SUBJECT, oracle, tmp_path_factory.mktemp("interrupted") / "run")


def bad(outcomes):
    return [f"{outcome.kind}, {outcome.what}: {outcome.bad}" for outcome in outcomes if outcome.bad]


def test_kills_in_a_row(oracle, tmp_path):
    outcomes = list(chain("kill", SUBJECT, oracle, tmp_path, islice(kills(oracle, random.Random(0)), 20)))
    hit = collections.Counter(outcome.what for outcome in outcomes)
    print(*(f"{count:>3} {what}" for what, count in hit.most_common()), sep="\n")
    assert hit.total() == 20
    assert bad(outcomes) == []
    assert sum(count for what, count in hit.items() if what.startswith("in a save")) >= 6, hit


def test_signals(oracle, tmp_path):
    outcomes = list(chain("signal", SUBJECT, oracle, tmp_path, islice(signals(oracle, tmp_path, random.Random(0)), 2)))
    assert len(outcomes) == 2
    assert bad(outcomes) == []


def test_damaged_files(oracle, base, tmp_path):
    hurt = list(damages(base, 6, 2, 4, random.Random(0)))
    outcomes = suffered(EXPERIMENT, SUBJECT, oracle, base, tmp_path / "copies", hurt)
    assert len(outcomes) == 12
    assert bad(outcomes) == []
    assert {outcome.came for outcome in outcomes} >= {"went on from the newer step", "went on from the older step"}


def test_sabotage_nobody_looks_at_digests(oracle, base, tmp_path):
    """Flipped bits in the bulk of the newest parameters give wrong losses, and nothing is said."""
    files = (base.run / "checkpoints" / str(base.newer) / "params" / "ocdbt.process_0" / "d").iterdir()
    size, bulk = max((path.stat().st_size, str(path.relative_to(base.run))) for path in files)
    hurt = [Damage("flip", bulk, 8 * (size * part // 5) + 6) for part in range(1, 5)]
    outcomes = suffered(EXPERIMENT, sabotaged("blind"), oracle, base, tmp_path / "copies", hurt)
    assert any("wrong loss" in problem and "nothing said so" in problem for problem in bad(outcomes)), outcomes


def when_committed(trial):
    """kill -9 as soon as one more step says that it is committed."""
    before = len(committed(trial.run))
    if not trial.until(lambda: trial.stepped() and len(committed(trial.run)) > before):
        return None
    trial.kill()
    return Struck("committed")


def test_sabotage_a_cursor_that_is_shifted_on_restore(oracle, tmp_path):
    (outcome,) = chain("kill", sabotaged("cursor"), oracle, tmp_path, [Fault(when_committed)])
    assert "wrong loss" in outcome.bad


def test_sabotage_a_manifest_that_comes_first(oracle, tmp_path):
    (outcome,) = chain("kill", sabotaged("manifest_first"), oracle, tmp_path, [Fault(when_committed)])
    assert "was committed, but the restart began at" in outcome.bad


def test_the_command_leaves_no_process_behind(tmp_path):
    """SIGTERM while it waits for the undisturbed run."""
    words = [sys.executable, "-m", "lepjax", "chaos", FILE, "--folder", str(tmp_path / "chaos")]
    chaos = subprocess.Popen(
        words, env={**os.environ, "PYTHONPATH": str(pathlib.Path.cwd())}, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 120
    while not (begun := children(chaos.pid)) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    chaos.terminate()
    assert chaos.wait(60) == RESTART
    assert begun
    assert members(begun[0]) == []


# ---- more of each: pytest -m full ----


@pytest.mark.full
def test_the_command(tmp_path, capsys):
    """20 kills, 30 flips, 5 truncations, each file deleted once, 5 signals, 3 races."""
    numbers = {"kills": 20, "flips": 30, "truncations": 5, "signals": 5, "races": 3}
    options = [word for name, count in numbers.items() for word in (f"--{name}", str(count))]
    assert command.run(["chaos", FILE, *options, "--folder", str(tmp_path / "chaos")]) == 0, capsys.readouterr().out
    told = json.loads((tmp_path / "chaos" / "chaos.json").read_text())
    assert told["bad"] == 0
    assert told["kinds"]["kill"]["done"] == 20
    assert sum(count for hit, count in told["kinds"]["kill"]["hit"].items() if hit.startswith("in a save")) >= 6


@pytest.mark.full
def test_crash_points(oracle, tmp_path):
    if reason := unavailable():
        pytest.skip(reason)
    calls = calls_of_a_save(SUBJECT, tmp_path)
    chosen = calls[:: len(calls) // 12]
    outcomes = list(chain("crash point", SUBJECT, oracle, tmp_path, points(chosen, tmp_path)))
    assert len(outcomes) == len(chosen)
    assert bad(outcomes) == []


@pytest.mark.full
def test_signals_to_two_processes(tmp_path):
    subject = dataclasses.replace(SUBJECT, processes=2)
    oracle = undisturbed(subject, tmp_path / "undisturbed")
    assert bad(chain("signal", subject, oracle, tmp_path, islice(signals(oracle, tmp_path, random.Random(0)), 4))) == []


@pytest.mark.full
def test_races(oracle, tmp_path):
    loaded = loading(SUBJECT, tmp_path / "help")
    assert (
        bad(chain("race", SUBJECT, oracle, tmp_path, islice(races(SUBJECT, oracle, loaded, random.Random(0)), 3))) == []
    )


@pytest.mark.full
def test_disks(oracle, base, tmp_path):
    assert bad(disks(SUBJECT, oracle, base, tmp_path)) == []
