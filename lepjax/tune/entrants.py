"""Which models start: those that fit the data, each with its recipe and its measured costs, and the race between them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console

from lepjax.core.cost import matmul_rate
from lepjax.experiment import Epochs
from lepjax.tune import budget, candidates
from lepjax.tune.budget import Cost, Work
from lepjax.tune.candidates import Candidate, Refused
from lepjax.tune.inspect import Inspection
from lepjax.tune.ledger import Ledger, Reason
from lepjax.tune.measure import SCORED, measure
from lepjax.tune.recipe import Recipe, recipe
from lepjax.tune.samplers.random import Random
from lepjax.tune.searching import sweep
from lepjax.tune.space import choice

RACING = 3
"""Pretrained models that are tried, at most."""
RACE_SHARE = 0.15
"""Share of what is left of the budget in which they are compared."""
MEASURE_SHARE = 0.25
"""Share in which they are measured. That is not lost: the program of the one that is taken is in the cache."""

EFFICIENCY = 0.5
"""Share of the machine's measured rate that an encoder reaches at best."""


@dataclasses.dataclass(frozen=True)
class Entrant:
    """A candidate with its recipe and what that costs."""

    candidate: Candidate
    recipe: Recipe
    cost: Cost
    work: Work


def entrants(
    found: Inspection, models: Sequence[pathlib.Path], folder: pathlib.Path, seed: int, ledger: Ledger
) -> list[Entrant]:
    """The candidates that fit, measured, the smallest first; or one from scratch.

    What the smallest takes tells which of the larger ones have a chance: those that have none are not measured, and a
    budget that is too short for any of them still has the smallest.
    """
    texts, pairs, labels = found.train.columns["text"], found.pairs, len(found.labels)
    looked = [candidates.look(path, texts, pairs, labels) for path in models]
    for one in looked:
        if isinstance(one, Refused):
            ledger.enter(Reason("model", f"not {one.name}", one.why))
    fitting = [one for one in looked if isinstance(one, Candidate)]
    if not fitting:
        why_scratch = "no pretrained model that was given fits the data" if models else "no pretrained model was given"
        made = candidates.from_scratch(texts, pairs, labels, folder / "vocabulary")
        ledger.enter(Reason("model", f"a small BERT from scratch ({made})", why_scratch))
        fitting = [made]
    held = sum(len(data) for data in found.held.values())
    ways, mesh = (1, "data=1") if jax.default_backend() == "cpu" else (len(jax.devices()), "auto")
    until = ledger.spent + MEASURE_SHARE * ledger.left

    def measured(one: Candidate, own: Recipe) -> Entrant:
        experiment = dataclasses.replace(own.experiment, seed=seed)
        cost, work = measure(experiment, held, max(until - ledger.spent, 0.0))
        told = f"measured here: {cost.step:.2f} s a step, {cost.compile:.0f} s to compile, {one}"
        ledger.enter(Reason("model", f"{one.name} is a candidate", told))
        own = dataclasses.replace(own, experiment=experiment)
        return Entrant(one, own, cost, dataclasses.replace(work, epochs=own.epochs))

    waiting = sorted(((one, recipe(found, one, ways, mesh)) for one in fitting), key=lambda pair: computed(*pair))
    starting = [measured(*waiting.pop(0))]
    for room in range(RACING, 0, -1):
        hopeful = []
        for one, own in waiting:
            if because := hopeless(starting[-1], one, own, until, ledger):
                ledger.enter(Reason("model", f"not {one.name}", because))
            else:
                hopeful.append((one, own))
        for one, _ in hopeful[:-room]:
            ledger.enter(Reason("model", f"not {one.name}", f"{RACING} larger ones are tried"))
        waiting = hopeful[-room:]
        if not waiting:
            break
        starting.append(measured(*waiting.pop(0)))
    return starting


def computed(one: Candidate, own: Recipe) -> float:
    """Floating-point operations of training on all training records once."""
    data: Any = own.experiment.data
    return one.model.flops_per_token(data.max_length) * float(np.minimum(one.lengths, data.max_length).sum())


def estimated(known: Entrant, one: Candidate, own: Recipe) -> Cost:
    """What a candidate may cost, by what a smaller one did: in proportion to the operations, or less where the machine's
    rate allows, because large products run nearer to it (a tiny model reaches a hundredth). Rather too little than too much:
    what it lets pass is measured.
    """
    operations = computed(one, own)
    factor = operations / computed(known.candidate, known.recipe)
    devices = 1 if jax.default_backend() == "cpu" else len(jax.devices())
    rate = EFFICIENCY * devices * matmul_rate()
    step = min(factor * known.cost.step, operations / known.work.steps_per_epoch / rate)
    score = min(factor * known.cost.score, operations / len(one.lengths) / 3 / rate)  # a third of them are forward
    return dataclasses.replace(known.cost, step=max(step, known.cost.step), score=max(score, known.cost.score))


def hopeless(known: Entrant, one: Candidate, own: Recipe, until: float, ledger: Ledger) -> str:
    """Why a candidate is not worth measuring, by what a smaller one took; empty: it may be."""
    cost = estimated(known, one, own)
    if budget.epochs_within(cost, known.work, budget.MOST_SHARE * ledger.left) < 1.0:
        slow = budget.final_seconds(cost, known.work, 1.0)
        return f"one epoch would take some {slow:.0f} s, by what {known.candidate.name} took"
    needed = budget.SAFETY * (cost.build + cost.compile + 2 * cost.step + SCORED * cost.score)
    if ledger.spent + needed > until:
        return f"to measure it too would take some {needed:.0f} s, which the budget has no room for"
    return ""


def race(starting: list[Entrant], folder: pathlib.Path, ledger: Ledger, console: Console) -> Entrant:
    """The entrant that is best after equal seconds. `starting` are ascending in size; those of which one epoch does not fit
    do not start, and of the others the largest.
    """
    able = [e for e in starting if budget.epochs_within(e.cost, e.work, budget.MOST_SHARE * ledger.left) >= 1.0]
    for entrant in starting:
        if entrant not in able and len(starting) > 1:
            slow = "one epoch of it does not fit into the budget"
            ledger.enter(Reason("model", f"not {entrant.candidate.name}", slow))
    for entrant in able[:-RACING]:
        ledger.enter(Reason("model", f"not {entrant.candidate.name}", f"{RACING} larger ones are tried"))
    able = able[-RACING:] or [min(starting, key=lambda e: e.work.steps_per_epoch * e.cost.step)]
    if len(able) == 1:
        chosen_one, because = able[0], "it is the only one that fits data and budget"
    else:
        each = RACE_SHARE * ledger.left / len(able)
        scores = [_lap(entrant, each, folder / "race" / str(i), console) for i, entrant in enumerate(able)]
        best = max(range(len(able)), key=lambda i: (scores[i], i))  # of equals the larger, which has more to learn
        chosen_one = able[best]
        told = ", ".join(f"{e.candidate.name} {score:.4f}" for e, score in zip(able, scores, strict=True))
        because = f"of equally long trials ({each:.0f} s) it has the best {chosen_one.recipe.metric}: {told}"
    ledger.enter(Reason("model", chosen_one.candidate.name, because), *chosen_one.recipe.reasons)
    return chosen_one


def _lap(entrant: Entrant, seconds: float, folder: pathlib.Path, console: Console) -> float:
    """The score of the recipe after so many seconds of training."""
    training = seconds - budget.SAFETY * entrant.cost.build  # every lap reads the data for itself
    epochs = min(budget.epochs_of_trial(entrant.cost, entrant.work, training), entrant.recipe.epochs)
    epochs = max(epochs, 1.0 / entrant.work.search_steps_per_epoch)
    experiment = dataclasses.replace(entrant.recipe.experiment, length=Epochs(epochs))
    rate = experiment.optimizer.learning_rate
    space = {"optimizer.learning_rate": choice((rate,))}
    result = sweep(experiment, space, trials=1, sampler=Random(), together=1, run_dir=str(folder), console=console)
    return -1.0 if result.best is None or result.best.score is None else result.best.score
