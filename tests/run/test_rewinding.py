"""Going back from a loss spike: once, past the data that led to it, and the same whatever interrupts the run."""

import dataclasses
import itertools
import json
import math

import jax.numpy as jnp
import pytest
from rich.console import Console

from lepjax.core.spikes import RewindSpikes, Spikes
from lepjax.run.callbacks import Callback, give_memory
from lepjax.run.cursor import cursor_after, read_jumps
from lepjax.run.directory import RunDirectory
from lepjax.run.fit import Loop, fit, interrupted
from lepjax.run.rewinding import History, Rewind
from lepjax.run.saving import Save
from lepjax.run.stopping import StopDiverged
from lepjax.run.train import train
from tests.run.spiky import FIRST, LAST, STEPS, spiky

QUIET = Console(quiet=True)

# ---- a real run ----


def curve(outcome):
    return {x["step"]: x["train_loss"] for x in outcome.directory.read_metrics() if "train_loss" in x}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return train(spiky(tmp_path_factory.mktemp("clean"), first=-1, spikes=Spikes()), console=QUIET)


def test_scrambled_batches_are_passed_over_and_leave_no_trace(tmp_path, clean):
    console = Console(record=True, width=300, file=open("/dev/null", "w"))
    outcome = train(spiky(tmp_path), console=console)
    said = console.export_text()
    assert (
        said.count("went back") == 1 and "went back to step 40 and passed over batches 40 to 49 (1 of 2 times)" in said
    )
    assert "was compiled after" not in said
    assert outcome.code == 0 and outcome.result["dev_loss"] == pytest.approx(clean.result["dev_loss"], rel=0.02)
    assert json.loads((tmp_path / "skipped_ranges.json").read_text()) == [[40, 50]]
    losses, expected = curve(outcome), curve(clean)
    assert list(losses) == list(range(1, STEPS + 1))
    assert {s: x for s, x in losses.items() if s <= FIRST} == {s: x for s, x in expected.items() if s <= FIRST}
    assert max(x for s, x in losses.items() if s > FIRST) < losses[1]


def test_sabotage_without_the_guard_they_leave_one(tmp_path, clean):
    outcome = train(spiky(tmp_path, spikes=Spikes()), console=QUIET)
    assert outcome.result["dev_loss"] > 1.1 * clean.result["dev_loss"]
    assert max(x for s, x in curve(outcome).items() if s > FIRST) > curve(outcome)[1] and LAST > FIRST


# ---- scripted losses: every place where a run can be interrupted ----

EVERY, LENGTH = 4, 36
RULE = RewindSpikes(sigma=4.0, window=8, warmup=4, patience=2, skip=1, most=8)


def losses_of(spikes):
    """The loss of every batch: a gentle wave, and 50 in the batches `spikes`."""
    return {cursor: 50.0 if cursor in spikes else 3.0 + 0.1 * math.sin(cursor) for cursor in range(200)}


TWO_SPIKES = losses_of({*range(14, 19), *range(30, 37)})  # longer than what is passed over at once


@dataclasses.dataclass
class Position:
    """As much of a state as the loop and going back ask for."""

    step: object
    cursor: object
    skipped: int = 0


class Crash(Exception):
    pass


class Disk:
    """Checkpoints without files, as `Checkpoints` keeps them, and the log; `crash` names where the process dies."""

    def __init__(self, path, crash=None):
        self.saved, self.log, self.crash, self.keep = {}, [], crash, 2
        self.directory = RunDirectory(path)
        self.directory.forget_after = self.forget_after

    def die(self, where):
        if self.crash == where:
            self.crash = None
            raise Crash(where)

    def steps(self):
        return sorted(self.saved)

    def save(self, step, state, meta, also):
        self.saved.setdefault(step, (state, json.dumps(meta)))
        self.saved = {s: x for s, x in self.saved.items() if s in {*self.steps()[-self.keep :], *also}}

    def restore(self, step):
        state, meta = self.saved[step]
        return state, json.loads(meta)

    def damage(self, step):
        return None

    def wait(self):
        pass

    check = wait

    def remove_after(self, step):
        for later in reversed(self.steps()):
            if later > step:
                del self.saved[later]
                self.die("removing")

    def forget_after(self, step):
        self.die("before forgetting")
        self.log = [line for line in self.log if line[0] <= step]
        self.die("after forgetting")


class Watch(Callback):
    """Logs (step, cursor), and interrupts or kills the process after a step."""

    def __init__(self, disk, stop, kill):
        self.disk, self.stop, self.kill = disk, stop, kill

    def stepped(self, loop):
        if self.disk.log and loop.step <= self.disk.log[-1][0]:
            return  # went back
        self.disk.log.append((loop.step, int(loop.state.cursor)))
        if loop.step == self.kill:
            raise Crash(loop.step)
        if loop.step == self.stop and loop.stop is None:
            loop.stop = interrupted("SIGTERM")


def go(disk, losses, stop=None, kill=None, kind=Rewind, log_every=1, rule=RULE):
    """One process of a run."""
    start = max(disk.saved, default=None)
    zero = jnp.int32(0)
    state, meta = (Position(zero, zero), None) if start is None else disk.restore(start)
    disk.directory.forget_after(start or 0)

    def step(state, batch):
        assert batch == state.cursor, "the stream is not where the state is"
        return Position(state.step + 1, state.cursor + 1), {"loss": losses[batch], "skipped": 0.0}

    def stream(step, cursor):
        return ((None, cursor) for cursor in itertools.count(cursor))

    rewind = kind(rule, History(disk.directory, disk, EVERY, disk.restore, stream), lambda line: None)
    callbacks = (StopDiverged(9), rewind, Watch(disk, stop, kill), Save(disk, EVERY, {}))
    loop = Loop(state, start or 0, LENGTH, callbacks, log_every)
    if meta is not None:
        loop.results, loop.evaluated = meta["results"], meta["evaluated"]
        give_memory(callbacks, meta["memory"])
    return fit(step, loop, stream(loop.step, int(state.cursor)))


def outcome(path, losses, crash=None, again=True, **options):
    """(log, exit code, step, jumps) of a run that is taken up again if it was interrupted or killed."""
    path.mkdir()
    disk = Disk(path, crash)
    try:
        loop = go(disk, losses, **options)
    except Crash:
        loop = None
    if loop is None or (loop.stop is not None and loop.stop.code == 75):
        options.pop("stop", None), options.pop("kill", None)
        loop = go(disk, losses, **options)
    return disk.log, loop.stop and loop.stop.code, loop.step, read_jumps(path)


@pytest.mark.parametrize("log_every", [1, 3])
def test_a_run_interrupted_or_killed_anywhere_makes_the_same_decisions(tmp_path, log_every):
    expected = outcome(tmp_path / "whole", TWO_SPIKES, log_every=log_every)
    log, code, step, jumps = expected
    assert (code, step) == (None, LENGTH) and len(jumps) >= 2
    assert log == [(t, cursor_after(jumps, t - 1) + 1) for t in range(1, LENGTH + 1)]
    for at in range(1, LENGTH):
        assert outcome(tmp_path / f"stop{at}", TWO_SPIKES, stop=at, log_every=log_every) == expected, at
        assert outcome(tmp_path / f"kill{at}", TWO_SPIKES, kill=at, log_every=log_every) == expected, at


@pytest.mark.parametrize("crash", ["removing", "before forgetting", "after forgetting"])
def test_a_run_killed_while_it_goes_back_makes_the_same_decisions(tmp_path, crash):
    losses = losses_of(range(14, 24))
    options = {"rule": dataclasses.replace(RULE, patience=6)}  # so that there are checkpoints in the spike
    assert outcome(tmp_path / "killed", losses, crash, **options) == outcome(tmp_path / "whole", losses, **options)


def test_sabotage_going_back_to_whatever_was_saved_last_is_noticed(tmp_path):
    class Newest(Rewind):
        target = property(
            lambda self: max((s for s in self.history.checkpoints.steps() if s <= self.seen.good), default=0)
        )

    expected = outcome(tmp_path / "whole", TWO_SPIKES, kind=Newest)
    stops = range(1, LENGTH)
    assert any(outcome(tmp_path / f"{at}", TWO_SPIKES, kind=Newest, stop=at) != expected for at in stops)


def test_sabotage_a_guard_that_forgets_is_noticed(tmp_path):
    class Forgetful(Rewind):
        def remember(self, memory):
            pass

    expected = outcome(tmp_path / "whole", TWO_SPIKES)
    assert any(outcome(tmp_path / f"{at}", TWO_SPIKES, kind=Forgetful, stop=at) != expected for at in range(1, LENGTH))


def test_a_spike_that_always_comes_again_ends_the_run(tmp_path):
    losses = losses_of(range(14, 200))
    (tmp_path / "run").mkdir()
    disk = Disk(tmp_path / "run")
    loop = go(disk, losses)
    assert loop.stop.code == 78 and "and the run went back 8 times before" in loop.stop.reason
    assert loop.stop.reason.startswith("diverged: loss spike: above 3.")
    again = go(disk, losses)
    assert again.stop.code == 78 and again.step > loop.step  # it has as much patience as before
    assert outcome(tmp_path / "none", losses, rule=dataclasses.replace(RULE, most=0))[1] == 78


def test_where_no_good_checkpoint_is_left_the_run_ends(tmp_path):
    disk = Disk(tmp_path)
    disk.damage = lambda step: "digest"
    loop = go(disk, TWO_SPIKES)
    assert loop.stop.code == 78 and "no good checkpoint from before it is left" in loop.stop.reason


def test_a_damaged_checkpoint_is_passed_by_for_an_older_one(tmp_path):
    disk = Disk(tmp_path)
    disk.damage = lambda step: "digest" if step == 12 else None
    disk.keep = 3
    go(disk, losses_of(range(14, 17)))
    assert read_jumps(tmp_path)[0][0] == 8


def test_what_is_not_finite_is_part_of_a_spike(tmp_path):
    losses = {**losses_of({}), 20: math.nan, 21: math.inf}
    log, code, _, jumps = outcome(tmp_path / "run", losses)
    assert code is None and jumps == [(20, 22)]


def test_jumps_add_up():
    jumps = [(10, 15), (20, 40)]
    assert [cursor_after(jumps, step) for step in (0, 9, 10, 19, 20, 21)] == [0, 9, 15, 24, 40, 41]
