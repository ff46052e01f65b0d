"""A run without a sign of life tells where it is stuck; one that moves is left alone."""

import threading
import time

from lepjax.run.clock import Clock, read_life
from lepjax.run.watchdog import Watchdog


def watched(folder, seconds, work):
    left = threading.Event()
    told = []

    def leave(why):
        told.append(why)
        left.set()

    clock = Clock()
    clock.beat("step", 7)
    with Watchdog(clock, seconds, folder, 1, leave):
        work(clock, left)
    return told


def stuck_in_a_collective(clock, left):
    assert left.wait(3.0)


def test_it_tells_the_phase_the_step_and_the_stacks(tmp_path):
    begun = time.monotonic()
    told = watched(tmp_path, 0.4, stuck_in_a_collective)
    assert 0.4 < time.monotonic() - begun < 2.4
    assert told[0].startswith(
        "rank 1: no sign of life for 0 s in phase 'step' after step 7; stacks of all threads are in"
    )
    stacks = (tmp_path / "stacks-1.txt").read_text()
    assert "stuck_in_a_collective" in stacks and "_bark" in stacks


def moving(clock, left):
    for step in range(8):
        time.sleep(0.1)
        clock.beat(step=step)


def test_what_moves_is_left_alone(tmp_path):
    assert watched(tmp_path, 0.4, moving) == []


def compiling(clock, left):
    with clock.phase("compile"):
        time.sleep(0.8)


def test_compiling_may_take_longer_and_zero_never_looks(tmp_path):
    assert watched(tmp_path, 0.2, compiling) == []
    assert watched(tmp_path, 0.0, lambda clock, left: time.sleep(0.3)) == []


def test_others_can_read_the_sign_of_life_at_any_time(tmp_path):
    clock = Clock()
    clock.show_life(tmp_path / "life")
    seen = set()

    def read():
        for _ in range(2000):
            life = read_life(tmp_path / "life")
            assert life is not None
            seen.add((life["phase"], life["step"]))

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(1000):
        clock.beat("evaluation" if step % 2 else "step", step)
    reader.join()
    clock.close()
    assert seen and all((phase == "evaluation") == (step % 2 == 1) or step == 0 for phase, step in seen)
    assert read_life(tmp_path / "none") is None
