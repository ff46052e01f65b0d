"""The live table: lines where there is no terminal, a table where there is one, nothing where it should be quiet."""

import dataclasses
import io
import sys

import pytest
from rich.console import Console

from lepjax.tune import live
from lepjax.tune.live import Live
from lepjax.tune.trial import RUNNING, WAITING
from tests.tune.planted import planted

TRIALS = planted(20)[:20]


def at(done, running=0):
    """The sweep with so many trials done, and so many under way."""
    began = [dataclasses.replace(t, state=RUNNING, score=None, steps=0) for t in TRIALS[done : done + running]]
    waiting = [dataclasses.replace(t, state=WAITING, score=None, values={}) for t in TRIALS[done + running :]]
    return [*TRIALS[:done], *began, *waiting]


def lines(**settings):
    out = io.StringIO()
    with Live(Console(file=out, width=100, **settings), "dev_loss", "min") as shown:
        shown.started(at(0), 0, 2.0)
        shown.reported(at(0, 8), 1, 4.0)
        shown.ended(at(8), 1, 10.0)
        shown.reported(at(8, 8), 1, 12.0)
        shown.ended(at(16), 2, 18.0)
    return out.getvalue()


def test_one_line_for_each_cohort_where_there_is_no_terminal():
    best = min(TRIALS[:16], key=lambda trial: trial.score)
    told = lines().splitlines()
    assert len(told) == 2 and "\x1b" not in lines()
    assert told[0].startswith("8/20 trials") and told[0].endswith("60.0 trials/min  1 compile")  # 8 in 8 s
    assert told[1].startswith("16/20 trials") and told[1].endswith("60.0 trials/min  2 compiles")
    assert f"best dev_loss {best.score:.4g} (trial {best.ordinal})" in told[1]


def test_a_terminal_has_a_table_of_what_runs_and_the_best_values():
    shown = Live(Console(file=io.StringIO(), force_terminal=True, width=100), "dev_loss", "min")
    out = io.StringIO()
    Console(file=out, width=100).print(shown._drawn(at(8, 10), 1, 10.0))
    told = out.getvalue().splitlines()
    best = min(TRIALS[:8], key=lambda trial: trial.score)
    assert told[0].startswith("8/20 trials")
    assert told[1].startswith("best: rate ") and f"{best.values['rate']:.4g}" in told[1]
    rows = [line for line in told if " running " in line]
    assert len(rows) == live.SHOWN and told[-1] == "and 2 more"
    assert f"{TRIALS[17].reports[40]:.4g}" in rows[-1] and " 40 " in rows[-1]  # its last report
    assert lines(force_terminal=True).count("\x1b") > 0


def test_a_sweep_that_goes_on_counts_its_own_trials():
    """Those of before were not done in these seconds."""
    out = io.StringIO()
    with Live(Console(file=out, width=100), "dev_loss", "min") as shown:
        shown.started(at(10), 0, 1.0)
        shown.ended(at(12), 1, 61.0)
    first, second = out.getvalue().splitlines()
    assert first == "goes on  10/20 trials are done"
    assert second.startswith("12/20 trials") and " 2.0 trials/min " in second


def test_sabotage_without_its_beginning_the_rate_is_that_of_others():
    with Live(Console(file=io.StringIO()), "dev_loss", "min") as shown:
        assert " 2.0 trials/min " not in shown.told(at(12), 1, 61.0)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_quiet_console_is_quiet_and_takes_nothing_from_others(terminal, capsys):
    console = Console(quiet=True, force_terminal=terminal)
    with Live(console, "dev_loss", "min") as shown:
        before = sys.stdout
        shown.started(at(4), 0, 0.0)
        shown.ended(at(8), 1, 1.0)
        print("somebody else")
        assert sys.stdout is before and sys.stdout.__class__.__name__ != "FileProxy"
    assert capsys.readouterr().out == "somebody else\n"


def test_nothing_is_done_yet():
    shown = Live(Console(file=io.StringIO()), "dev_loss", "min")
    assert shown.told(at(0, 3), 0, 1.0) == "0/20 trials  0 compiles"
    Console(file=io.StringIO()).print(shown._drawn(at(0), 0, 1.0))
    Console(file=io.StringIO()).print(shown._drawn([], 0, 0.0))
