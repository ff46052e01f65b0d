"""Which of several models is taken: arithmetic and a race whose laps are made up."""

import dataclasses
import pathlib

import numpy as np
import pytest

from lepjax.models.bert import Bert
from lepjax.tune import entrants
from lepjax.tune.budget import Cost, Work
from lepjax.tune.candidates import Candidate, Coverage
from lepjax.tune.entrants import Entrant, race
from lepjax.tune.ledger import Ledger
from lepjax.tune.recipe import Recipe

WORK = Work(steps_per_epoch=100, search_steps_per_epoch=80, tune_records=500, held_records=800, epochs=3.0)


@dataclasses.dataclass(frozen=True)
class Named:
    """All that a race wants to know of an experiment."""

    best: str = "tune_accuracy"


def entrant(name, step=0.01):
    candidate = Candidate(name, Bert(), "", Coverage(0.0, 1.0), np.array([1]), 1)
    return Entrant(candidate, Recipe(Named(), 3.0, ()), Cost(step, 1.0, 0.001), WORK)


def won(starting, monkeypatch, laps=None):
    """(the name of the winner, the reasons)"""
    if laps is not None:
        monkeypatch.setattr(entrants, "_lap", lambda one, *rest: laps[one.candidate.name])
    ledger = Ledger(600.0, lambda line: None)
    return race(starting, pathlib.Path(), ledger, None).candidate.name, [str(reason) for reason in ledger.reasons]


def test_one_needs_no_race(monkeypatch):
    name, reasons = won([entrant("only")], monkeypatch)
    assert name == "only" and "the only one that fits" in reasons[-1]


def test_the_best_lap_wins_and_all_laps_are_told(monkeypatch):
    name, reasons = won([entrant("large"), entrant("small")], monkeypatch, {"large": 0.8, "small": 0.9})
    assert name == "small" and "large 0.8000, small 0.9000" in reasons[-1]


def test_what_cannot_do_an_epoch_in_time_does_not_start(monkeypatch):
    name, reasons = won([entrant("huge", step=30.0), entrant("small")], monkeypatch, {"small": 0.5, "huge": 1.0})
    assert name == "small" and reasons[0].startswith("model: not huge, because one epoch")


def test_sabotage_a_race_without_that_rule_would_be_won_by_what_cannot_finish(monkeypatch):
    monkeypatch.setattr(entrants.budget, "epochs_within", lambda cost, work, available: 1.0)
    assert won([entrant("huge", 30.0), entrant("small")], monkeypatch, {"small": 0.5, "huge": 1.0})[0] == "huge"


def test_where_none_can_the_fastest_tries(monkeypatch):
    assert won([entrant("huge", 90.0), entrant("big", 30.0)], monkeypatch)[0] == "big"


@pytest.mark.parametrize("spent", [0.0, 5.0])
def test_the_ledger_tells_what_is_left(spent, monkeypatch):
    ledger = Ledger(10.0, lambda line: None)
    monkeypatch.setattr(ledger, "begun", ledger.begun - spent)
    assert ledger.left == pytest.approx(10.0 - spent, abs=0.5)
