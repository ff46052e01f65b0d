"""Signals are heard in every phase, and what they break off is made up for."""

import hashlib
import json
import os
import signal
import threading
import time

import pytest
from rich.console import Console

from lepjax.experiment import EarlyStopping, Steps
from lepjax.run import signals
from lepjax.run.callbacks import Callback
from lepjax.run.clock import Clock
from lepjax.run.evaluation import Evaluator
from lepjax.run.fit import Interrupted, Loop
from lepjax.run.signals import StopOnSignal
from lepjax.run.train import train
from lepjax.testing import hex_losses
from tests.tiny import tiny

QUIET = Console(quiet=True)


class Leaving:
    """Notes when the process would have ended, and why."""

    def __init__(self):
        self.told, self.at = [], []

    def __call__(self, why):
        self.told.append(why)
        self.at.append(time.monotonic())


def send(name=signal.SIGTERM, after=0.0):
    timer = threading.Timer(after, os.kill, (os.getpid(), name))
    timer.start()
    return timer


def compile_something(seconds):
    """The main thread is in C++ and Python gets no turn there. Returns when it came back."""
    begun, rounds = time.monotonic(), 400_000
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", rounds)
    rounds = int(rounds * seconds / (time.monotonic() - begun))
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", rounds)
    return time.monotonic()


@pytest.mark.parametrize("name", signals.NAMES)
def test_a_process_that_compiles_leaves_at_once(name):
    leaving = Leaving()
    clock = Clock()
    with StopOnSignal(clock, leaving), clock.phase("compile"):
        send(name, after=0.7)
        back = compile_something(2.0)
    assert leaving.told == [f"{name.name} in phase 'compile': nothing to save"]
    assert leaving.at[0] < back - 0.5


def test_sabotage_without_a_listening_thread_it_would_wait(monkeypatch):
    import contextlib

    monkeypatch.setattr(signals, "_hearing", lambda heard: contextlib.nullcontext())
    leaving = Leaving()
    clock = Clock()
    with StopOnSignal(clock, leaving) as stop, clock.phase("compile"):
        send(after=0.7)
        compile_something(2.0)
    assert stop.received is signal.SIGTERM and leaving.told == []


def test_the_second_signal_leaves_even_when_something_is_unsaved():
    leaving = Leaving()
    with StopOnSignal(Clock(), leaving) as stop:
        loop = Loop(None, step=3, total_steps=9)
        stop.started(loop)
        for _ in range(2):
            send().join()
            time.sleep(0.2)
        assert loop.stop.reason == "SIGTERM at step 3" and loop.stop.code == 75
    assert leaving.told == ["SIGTERM again: left at once"]


@pytest.mark.parametrize(("phase", "broken"), [("data wait", True), ("evaluation", True), ("checkpoint", False)])
def test_waiting_is_broken_off_and_saving_is_not(phase, broken):
    with StopOnSignal(clock := Clock()) as stop:
        loop = Loop(None, step=3, total_steps=9)
        stop.started(loop)
        try:
            with clock.phase(phase):
                send(after=0.1)
                time.sleep(0.5)
            was = False
        except Interrupted:
            was = True
    assert was == broken and loop.last


def test_handlers_are_given_back():
    before = [signal.getsignal(name) for name in signals.NAMES]
    with StopOnSignal(Clock(), Leaving()):
        pass
    assert [signal.getsignal(name) for name in signals.NAMES] == before
    assert signal.set_wakeup_fd(-1) == -1


# ---- an evaluation that was broken off happens after all ----


RULE = EarlyStopping(monitor="dev_loss", mode="max", patience=2)  # ends after the fourth evaluation, if it sees all


def experiment(run, **changes):
    every = {"evaluate_every": Steps(2), "checkpoint_every": 100, "log_every": 1, "length": Steps(20)}
    return tiny(run_dir=str(run), mesh="data=1", best="dev_loss", early_stopping=RULE, **every, **changes)


class Signalling(Evaluator):
    """The second evaluation is met by a signal."""

    count = 0

    def __call__(self, state, alive):
        Signalling.count += 1
        if Signalling.count == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        return super().__call__(state, alive)


def outcome(run):
    result = json.loads((run / "result.json").read_text())
    evaluations = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines() if "dev_loss" in x]
    told = {name: result[name] for name in ("status", "steps", "best", "dev_loss", "skipped")}
    return told, [{k: v for k, v in x.items() if k != "time"} for x in evaluations], hex_losses(run)


def interrupted_in_an_evaluation(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Signalling.count = 0
        patch.setattr("lepjax.run.train.Evaluator", Signalling)
        first = train(experiment(tmp_path / "run"), console=QUIET)
    assert first.code == 75 and first.result["steps"] == 4
    assert train(experiment(tmp_path / "run"), console=QUIET).code == 0
    return outcome(tmp_path / "run")


def test_a_broken_off_evaluation_is_made_up_for(tmp_path, monkeypatch):
    train(experiment(tmp_path / "oracle"), console=QUIET)
    assert outcome(tmp_path / "oracle")[0]["steps"] == 8
    assert interrupted_in_an_evaluation(tmp_path, monkeypatch) == outcome(tmp_path / "oracle")


def test_sabotage_otherwise_the_run_would_stop_later(tmp_path, monkeypatch):
    monkeypatch.setattr("lepjax.run.evaluation.Evaluate.started", Callback.started)
    train(experiment(tmp_path / "oracle"), console=QUIET)
    assert interrupted_in_an_evaluation(tmp_path, monkeypatch) != outcome(tmp_path / "oracle")
