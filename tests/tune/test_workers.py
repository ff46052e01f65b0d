"""Real workers on one study, some of them killed: every trial ends, none twice."""

import collections
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import optuna
import pytest

from lepjax.tune import study as module
from lepjax.tune.storage import open_storage
from lepjax.tune.study import Study
from tests.tune.test_study import FACTS, SPACE

WORKER = """
import sys, time
from lepjax.tune import samplers
from lepjax.tune.named import named
from lepjax.tune.samplers.sampler import Sampler
from lepjax.tune.study import Study
from tests.tune.test_study import FACTS, SPACE
{before}
url, trials, log = sys.argv[1], int(sys.argv[2]), sys.argv[3]
study = Study.open(url, "s", SPACE, trials, "min", FACTS)
sampler = named(samplers, Sampler, "random")
while claimed := study.claim(1):
    for trial in claimed:
        if not trial.values:
            trial = study.assign(trial, sampler.suggest(SPACE, study.seen(), trial.ordinal, 0))
        for step in (1, 2):
            time.sleep(0.05)
            study.report(trial, step, trial.values["a"])
        state = "failed" if trial.ordinal % 7 == 3 else "pruned" if trial.ordinal % 5 == 2 else "complete"
        study.finish(trial, state, trial.values["a"], (trial.values["a"],), 2)
        with open(log, "a") as file:
            file.write(f"{trial.ordinal}\\n")  # a line is written at once
study.close()
"""
NOT_ATOMIC = """
from optuna.storages import RDBStorage
import lepjax.tune.study as module
honest = module.Study.claim
def careless(self, count):
    states = self._states()
    waiting = [t for t in self._all() if t.state == "waiting"]
    time.sleep(0.05)
    for trial in waiting[:count]:
        try:
            self.storage.set_trial_state_values(self._ids[trial.number], states["running"])
        except Exception:
            return []
        return [trial]
    return []
module.Study.claim = careless
"""


def worked(url, folder, workers, trials, kills, before="", seed=0):
    """Workers until the study is done, one killed and replaced every second or so; how often each ordinal was done."""
    log = folder / "done.log"
    log.touch()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}

    def start():
        command = [sys.executable, "-c", WORKER.replace("{before}", before), url, str(trials), str(log)]
        return subprocess.Popen(command, env=environment)

    running, rng, end = [start() for _ in range(workers)], random.Random(seed), time.monotonic() + 300
    while kills and time.monotonic() < end:
        time.sleep(rng.uniform(0.5, 1.5))
        if len(log.read_text().splitlines()) < 1 or all(one.poll() is not None for one in running):
            if all(one.poll() is not None for one in running):
                break
            continue
        victim = rng.randrange(workers)
        if running[victim].poll() is None:
            running[victim].send_signal(signal.SIGKILL)
            running[victim].wait()
            running[victim] = start()
            kills -= 1
    for one in running:
        assert one.wait(timeout=max(end - time.monotonic(), 1)) in (0, -9)
    return collections.Counter(map(int, log.read_text().splitlines()))


def judged(url, done, trials):
    study = optuna.load_study(study_name="s", storage=open_storage(url))
    states = collections.Counter(t.state.name for t in study.trials)
    counted = collections.Counter(t.user_attrs["ordinal"] for t in study.trials if not t.user_attrs.get("lost"))
    assert not {"RUNNING", "WAITING"} & states.keys(), states
    assert counted == dict.fromkeys(range(trials), 1)
    # One may be killed between its last word in the study and its line in the log, never the other way round.
    assert max(done.values()) == 1, done
    names = {"COMPLETE", "PRUNED", "FAIL"}
    assert set(states) <= names
    return states


def place(kind, folder):
    return f"sqlite:///{folder / 'study.db'}" if kind == "sqlite" else str(folder / "study.journal")


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_every_trial_is_done_once_whoever_dies(kind, tmp_path):
    url = place(kind, tmp_path)
    judged(url, worked(url, tmp_path, workers=2, trials=16, kills=2), 16)


def test_sabotage_a_claim_in_two_parts_does_trials_twice(tmp_path):
    url = place("sqlite", tmp_path)
    with pytest.raises(AssertionError):
        judged(url, worked(url, tmp_path, workers=3, trials=16, kills=0, before=NOT_ATOMIC), 16)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_four_workers_and_forty_trials_each(kind, tmp_path):
    url = place(kind, tmp_path)
    print(judged(url, worked(url, tmp_path, workers=4, trials=160, kills=12), 160))


def postgres():
    """Where Debian's package has its programs, and a driver's name; skips where there is none."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("needs PostgreSQL (Debian: apt install postgresql)")
    for driver in ("psycopg", "psycopg2"):
        try:
            __import__(driver)
        except ImportError:
            continue
        return found[-1].parent, driver
    pytest.skip("needs a driver (pip install psycopg[binary])")


@pytest.mark.full
def test_four_workers_on_postgresql(tmp_path):
    """A server of its own, on a socket in a folder of its own; it refuses to run as root."""
    programs, driver = postgres()
    home = pathlib.Path(tempfile.mkdtemp())
    shutil.chown(home, "nobody") if os.getuid() == 0 else None
    demote = {"user": "nobody"} if os.getuid() == 0 else {}
    port = 20_000 + os.getpid() % 10_000

    def command(name, *arguments):
        subprocess.run([programs / name, *arguments], check=True, cwd=home, capture_output=True, **demote)

    command("initdb", "-D", str(home / "data"), "-U", "tune", "--auth=trust")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={home}"
    command("pg_ctl", "-D", str(home / "data"), "-o", options, "-l", str(home / "log"), "-w", "start")
    try:
        url = f"postgresql+{driver}://tune@127.0.0.1:{port}/postgres"
        print(judged(url, worked(url, tmp_path, workers=4, trials=160, kills=12), 160))
    finally:
        command("pg_ctl", "-D", str(home / "data"), "-m", "immediate", "stop")
        shutil.rmtree(home, ignore_errors=True)


def test_a_study_is_made_once_by_two_that_begin_together(tmp_path):
    url = place("sqlite", tmp_path)
    done = worked(url, tmp_path, workers=2, trials=4, kills=0)
    assert judged(url, done, 4) == {"COMPLETE": 2, "PRUNED": 1, "FAIL": 1}
    study = Study.open(url, "s", SPACE, 4, "min", FACTS)
    study.close()
    assert study.lost() == [] and module.POLL < 1
