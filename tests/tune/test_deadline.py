"""A run that ends in time, with its learning rate down."""

import dataclasses

import numpy as np
import pytest

from lepjax.run.fit import Loop, fit
from lepjax.tune.deadline import KeepDeadline, fitting


@dataclasses.dataclass
class Ticking:
    """A clock that a step moves."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass(frozen=True)
class Counted:
    hparams: dict


def ran(pace, total=100, deadline=100.0):
    """(steps taken, the end of the decay, the callback) of a run whose step n takes `pace(n)` seconds."""
    clock = Ticking()
    keeper = KeepDeadline(deadline, clock)
    ends = []

    class Seen(Loop):
        def set_hparam(self, name, value):
            assert name == "decay_steps"
            ends.append(value)

    def step(state, batch):
        clock.now += pace(loop.step)
        return state, {"loss": np.float32(0.0)}

    loop = Seen(state=Counted({}), step=0, total_steps=total, callbacks=(keeper,), log_every=1000)
    fit(step, loop, iter([({}, {})] * total))
    return loop.step, ends[-1] if ends else None, clock.now, loop.stop


def test_a_run_that_is_as_fast_as_planned_is_left_alone():
    assert ran(lambda n: 0.9)[:2] == (100, None)


@pytest.mark.parametrize("pace", [lambda n: 2.0, lambda n: 0.5 if n < 40 else 4.0, lambda n: 30.0])
def test_a_slow_run_ends_in_time_and_decays_to_its_end(pace):
    steps, end, now, stop = ran(pace)
    assert steps == end < 100 and stop.code == 0
    assert now <= 100.0 + 11 * pace(99)  # it looks every ten steps


def test_sabotage_without_looking_it_takes_as_long_as_it_takes(monkeypatch):
    monkeypatch.setattr(KeepDeadline, "stepped", lambda self, loop: None)
    assert ran(lambda n: 2.0)[2] == 200.0


def test_fitting():
    assert (
        fitting(10, 100, 1.0, 50.0) == 60 and fitting(10, 100, 1.0, 500.0) == 100 and fitting(10, 100, 1.0, -5.0) == 11
    )


def test_what_was_brought_forward_is_remembered():
    keeper = KeepDeadline(0.0)
    keeper.remember({"goal": 7})
    assert keeper.memory() == {"goal": 7}
