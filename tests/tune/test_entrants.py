"""Which of several models is taken: arithmetic and a race whose laps are made up."""

import dataclasses
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

from lepjax.core.optimizers import AdamW
from lepjax.models.bert import Bert
from lepjax.models.bert_family import BertArchitecture
from lepjax.models.bert_heads import SequenceClassification
from lepjax.tune import budget, entrants
from lepjax.tune.budget import Cost, Work
from lepjax.tune.candidates import Candidate, Coverage
from lepjax.tune.entrants import Entrant, race
from lepjax.tune.inspect import inspect
from lepjax.tune.ledger import Ledger
from lepjax.tune.recipe import Recipe
from tests.tune.folders import rows, write

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


def test_of_equals_the_larger_wins(monkeypatch):
    assert won([entrant("small"), entrant("large")], monkeypatch, {"large": 0.7, "small": 0.7})[0] == "large"


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


def sized(name, layers):
    arch = BertArchitecture(vocab_size=76, width=16, layers=layers, heads=2, mlp_width=32, positions=64)
    model = Bert(architecture=arch, head=SequenceClassification(2))
    return Candidate(name, model, "", Coverage(0.0, 1.0), np.full(100, 20), layers * 1000)


@pytest.fixture
def started(tmp_path, monkeypatch):
    """`started(layers, step)`: (names in the order in which they were measured, the entrants, the ledger), where a step
    takes `step` seconds for each layer, and nothing else takes long. `rate`: of the machine, operations a second.
    """
    found = inspect(str(write(tmp_path, train=rows(100), dev=rows(10, start=200))))

    def start(layers, step, seconds=600.0, rate=1.0):
        candidates = {f"{n} layers": sized(f"{n} layers", n) for n in layers}
        order = []

        def measure(experiment, held, most):
            own = experiment.model.arch.layers
            order.append(own)
            return Cost(step * own, 1.0, 1e-6), dataclasses.replace(WORK, tune_records=20)

        monkeypatch.setattr(entrants.candidates, "look", lambda path, *rest: candidates[str(path)])
        monkeypatch.setattr(entrants, "measure", measure)
        monkeypatch.setattr(entrants, "matmul_rate", lambda: rate)
        ledger = Ledger(seconds, lambda line: None)
        return order, entrants.entrants(found, list(map(pathlib.Path, candidates)), tmp_path, 0, ledger), ledger

    return start


def names(starting):
    return [one.candidate.name for one in starting]


def test_the_smallest_is_measured_first_and_larger_ones_while_they_can_do_an_epoch(started):
    order, starting, ledger = started([24, 12, 2, 6], step=0.5)  # an epoch of 6 layers: 300 s, of 12: 600 s
    assert order == [2, 6] and names(starting) == ["2 layers", "6 layers"]
    told = [str(reason) for reason in ledger.reasons]
    assert any("not 24 layers" in line and "one epoch would take some" in line for line in told)


def test_of_four_the_smallest_stays_where_none_else_can_do_an_epoch(started, monkeypatch):
    order, starting, ledger = started([24, 12, 6, 2], step=2.5)
    assert order == [2] and race(starting, pathlib.Path(), ledger, None).candidate.name == "2 layers"


def test_sabotage_with_the_estimate_off_all_are_measured(started, monkeypatch):
    monkeypatch.setattr(entrants, "hopeless", lambda *given: "")
    assert started([24, 12, 2, 6], step=2.5)[0] == [2, 6, 12, 24]


def test_a_small_one_that_wastes_the_machine_says_little_of_large_ones(started):
    """At this rate steps could be far faster than in proportion: so the next one is measured, and tells how it is."""
    assert started([24, 12, 2, 6], step=1.5, rate=1e12)[0] == [2, 6]
    assert started([24, 12, 2, 6], step=1.5, rate=1e3)[0] == [2]


def test_of_many_that_can_the_largest_race(started, monkeypatch):
    order, starting, ledger = started([1, 2, 3, 4, 5, 6], step=0.01)
    assert order == [1, 4, 5, 6]
    monkeypatch.setattr(
        entrants, "_lap", lambda one, *rest: {"1 layers": 1.0, "5 layers": 0.9}.get(one.candidate.name, 0.5)
    )
    assert race(starting, pathlib.Path(), ledger, None).candidate.name == "5 layers"
    told = [str(reason) for reason in ledger.reasons]
    assert all(any(f"not {n} layers, because 3 larger ones" in line for line in told) for n in (1, 2, 3))


def test_what_there_is_no_time_to_measure_is_told(started):
    order, _, ledger = started([2, 3], step=0.001, seconds=4.0)  # a quarter of that is 1 s, compiling takes 1.1 s
    assert order == [2] and any("to measure it too would take some 1 s" in str(reason) for reason in ledger.reasons)


def test_a_lap_leaves_time_for_reading(monkeypatch):
    lengths = []

    @dataclasses.dataclass(frozen=True)
    class Long:
        best: str = ""
        length: object = None
        optimizer: AdamW = AdamW(learning_rate=1e-3)

    def sweep(experiment, *rest, **more):
        lengths.append(experiment.length.epochs)
        return SimpleNamespace(best=None)

    monkeypatch.setattr(entrants, "sweep", sweep)
    for build in (0.0, 10.0):
        one = dataclasses.replace(entrant("one", step=0.1), recipe=Recipe(Long(), 3.0, ()))
        one = dataclasses.replace(one, cost=dataclasses.replace(one.cost, build=build))
        entrants._lap(one, 20.0, pathlib.Path(), None)
    assert lengths[0] - lengths[1] == pytest.approx(budget.SAFETY * 10.0 / (budget.SAFETY * 80 * 0.1))
