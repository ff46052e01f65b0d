"""What ends a run decides the same whether the run was interrupted or not."""

import dataclasses

import pytest

from lepjax.run.callbacks import Callback, collect_memory, give_memory
from lepjax.run.fit import Loop, fit, interrupted
from lepjax.run.stopping import StopDiverged

MOST = 6
STEPS = 40
# one bad step, a row that is too short, a row that is long enough
BAD = {3, *range(6, 11), *range(14, 30)}


@dataclasses.dataclass
class Counts:
    step: int = 0
    skipped: int = 0


def step(state, batch):
    state = Counts(state.step + 1, state.skipped + (state.step + 1 in BAD))
    return state, {"skipped": float(state.skipped)}


class Interrupt(Callback):
    """Ends the run after a step, as a signal does, and reads what is late, as saving does."""

    def __init__(self, at, saves=()):
        self.at, self.saves, self.saved = at, saves, None

    def stepped(self, loop):
        if loop.step == self.at and loop.stop is None:
            loop.stop = interrupted("SIGTERM")
        if loop.last or loop.step in self.saves:
            loop.flush()
            self.saved = (loop.state, collect_memory(loop.callbacks))


def go(log_every, saved=None, at=None, saves=(), kind=StopDiverged, total=STEPS):
    """A part of a run: (the loop at its end, what was saved)."""
    state, memory = saved or (Counts(), {})
    interrupt = Interrupt(at, saves)
    loop = Loop(state, state.step, total, (kind(MOST), interrupt), log_every)
    give_memory(loop.callbacks, memory)
    fit(step, loop, ((None, None) for _ in range(total)))
    return loop, interrupt.saved


def resumed(log_every, at, kind=StopDiverged):
    loop, saved = go(log_every, at=at, kind=kind)
    if loop.stop is None or loop.stop.code != 75:
        return loop  # it was over before
    return go(log_every, saved, kind=kind)[0]


@pytest.mark.parametrize("log_every", [1, 2, 3, 5])
def test_a_resumed_run_ends_with_the_step_of_the_uninterrupted_one(log_every):
    expected, _ = go(log_every)
    assert expected.stop.code == 78 and expected.step < STEPS
    for at in range(1, STEPS):
        loop = resumed(log_every, at)
        assert (loop.step, loop.stop) == (expected.step, expected.stop), at


@pytest.mark.parametrize("log_every", [1, 3, 5])
def test_a_checkpoint_on_the_way_changes_nothing(log_every):
    assert go(log_every, saves=range(STEPS))[0].stop == go(log_every)[0].stop


def test_sabotage_without_memory_the_row_would_begin_anew():
    class Forgetful(StopDiverged):
        memory_name = ""

    assert resumed(1, at=17, kind=Forgetful).step > go(1)[0].step


def test_sabotage_deciding_at_once_would_depend_on_who_reads():
    class Hasty(StopDiverged):
        def _decide(self, loop):
            loop.step, step = STEPS, loop.step
            super()._decide(loop)
            loop.step = step

    assert go(1, saves=range(STEPS), kind=Hasty)[0].step != go(1, kind=Hasty)[0].step


def test_run_again_it_has_as_many_steps_more():
    loop, saved = go(1)
    again, _ = go(1, saved)
    assert again.stop.code == 78 and MOST <= again.step - loop.step <= MOST + 1


def test_a_run_whose_last_steps_were_bad_is_not_done():
    assert go(5, total=25)[0].stop.code == 78
