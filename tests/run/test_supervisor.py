"""A command is started again as long as that helps."""

import os
import signal
import sys
import threading
import time

import pytest

from lepjax.run.supervisor import supervise

SCRIPT = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
ends = json.loads(sys.argv[2])
n = len(list(folder.glob("start*")))
(folder / f"start{n}").touch()
code, step = ends[min(n, len(ends) - 1)]
pathlib.Path(os.environ["LEPJAX_LIFE"]).write_text(json.dumps({"phase": "step", "step": step}))
if code == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (folder / "waiting").touch()
    time.sleep(30)
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def supervised(folder, ends, restarts=5):
    """(exit code, starts, what was said) of a command that ends with each (code, step) in turn."""
    said = []
    command = [sys.executable, "-c", SCRIPT, str(folder), str(ends).replace("'", '"')]
    code = supervise(command, restarts, said.append, back_off=0.01)
    return code, len(list(folder.glob("start*"))), said


CASES = {
    "done": ([[0, 9]], 0, 1),
    "a mistake": ([[78, 0]], 78, 1),
    "restart me": ([[75, 4], [0, 9]], 0, 2),
    "killed": ([[-9, 4], [-6, 5], [0, 9]], 0, 3),
    "a bug of the moment": ([[70, 4], [0, 9]], 0, 2),
    "always at one step": ([[70, 17]], 70, 3),
    "killed at one step": ([[-9, 17]], 137, 3),
    "stuck at one step": ([[75, 17]], 70, 3),
    "too often": ([[75, n] for n in range(9)], 75, 6),
}


@pytest.mark.parametrize("name", CASES)
def test_a_command_is_started_again(tmp_path, name):
    ends, code, starts = CASES[name]
    assert supervised(tmp_path, ends)[:2] == (code, starts)


def test_a_crash_loop_is_named(tmp_path):
    *_, said = supervised(tmp_path, [[-9, 17]])
    assert said[-1].startswith("killed by SIGKILL in phase 'step' at step 17, 3 times in a row: not started again")


def test_a_signal_is_passed_on_and_ends_it(tmp_path):
    def stop():
        while not (tmp_path / "waiting").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    assert supervised(tmp_path, [["wait", 3]])[:2] == (75, 1)
