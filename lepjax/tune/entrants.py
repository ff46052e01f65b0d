"""Which models start: those that fit the data, each with its recipe and its measured costs, and the race between them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
from rich.console import Console

from lepjax.experiment import Epochs
from lepjax.tune import budget, candidates
from lepjax.tune.budget import Cost, Work
from lepjax.tune.candidates import Candidate, Refused
from lepjax.tune.inspect import Inspection
from lepjax.tune.ledger import Ledger, Reason
from lepjax.tune.measure import measure
from lepjax.tune.recipe import Recipe, recipe
from lepjax.tune.samplers.random import Random
from lepjax.tune.searching import sweep
from lepjax.tune.space import choice

RACING = 3
"""Pretrained models that are tried, at most."""
RACE_SHARE = 0.15
"""Share of the budget in which they are compared."""


@dataclasses.dataclass(frozen=True)
class Entrant:
    """A candidate with its recipe and what that costs."""

    candidate: Candidate
    recipe: Recipe
    cost: Cost
    work: Work


def entrants(
    found: Inspection, models: Sequence[str], folder: pathlib.Path, seed: int, ledger: Ledger
) -> list[Entrant]:
    """The candidates that fit, measured; or one from scratch."""
    texts, pairs, labels = found.train.columns["text"], found.pairs, len(found.labels)
    looked = [candidates.look(path, texts, pairs, labels) for path in candidates.find(models)]
    for one in looked:
        if isinstance(one, Refused):
            ledger.enter(Reason("model", f"not {one.name}", one.why))
    fitting = sorted((one for one in looked if isinstance(one, Candidate)), key=lambda one: -one.size)
    if not fitting:
        why_scratch = "no pretrained model that was given fits the data" if models else "no pretrained model was given"
        made = candidates.from_scratch(texts, pairs, labels, folder / "vocabulary")
        ledger.enter(Reason("model", f"a small BERT from scratch ({made})", why_scratch))
        fitting = [made]
    for one in fitting[RACING:]:
        ledger.enter(Reason("model", f"not {one.name}", f"{RACING} larger ones are tried"))
    held = sum(len(data) for data in found.held.values())
    ways, mesh = (1, "data=1") if jax.default_backend() == "cpu" else (len(jax.devices()), "auto")
    starting: list[Entrant] = []
    for one in fitting[:RACING]:
        if starting and ledger.spent > RACE_SHARE * ledger.seconds:
            spent = f"{ledger.spent:.0f} s of the budget are spent on measuring"
            ledger.enter(Reason("model", f"not {one.name}", spent))
            continue
        made_recipe = recipe(found, one, ways, mesh)
        experiment = dataclasses.replace(made_recipe.experiment, seed=seed)
        cost, work = measure(experiment, held)
        work = dataclasses.replace(work, epochs=made_recipe.epochs)
        told = f"measured here: {cost.step:.2f} s a step, {cost.compile:.0f} s to compile, {one}"
        ledger.enter(Reason("model", f"{one.name} is a candidate", told))
        starting.append(Entrant(one, dataclasses.replace(made_recipe, experiment=experiment), cost, work))
    return starting


def race(starting: list[Entrant], folder: pathlib.Path, ledger: Ledger, console: Console) -> Entrant:
    """The entrant that is best after equal seconds. Those of which one epoch does not fit do not start."""
    able = [e for e in starting if budget.epochs_within(e.cost, e.work, budget.MOST_SHARE * ledger.left) >= 1.0]
    for entrant in starting:
        if entrant not in able and len(starting) > 1:
            slow = "one epoch of it does not fit into the budget"
            ledger.enter(Reason("model", f"not {entrant.candidate.name}", slow))
    able = able or [min(starting, key=lambda e: e.work.steps_per_epoch * e.cost.step)]
    if len(able) == 1:
        chosen_one, because = able[0], "it is the only one that fits data and budget"
    else:
        each = RACE_SHARE * ledger.left / len(able)
        scores = [_lap(entrant, each, folder / "race" / str(i), console) for i, entrant in enumerate(able)]
        chosen_one = able[max(range(len(able)), key=lambda i: scores[i])]
        told = ", ".join(f"{e.candidate.name} {score:.4f}" for e, score in zip(able, scores, strict=True))
        because = f"of equally long trials ({each:.0f} s) it has the best {chosen_one.recipe.metric}: {told}"
    ledger.enter(Reason("model", chosen_one.candidate.name, because), *chosen_one.recipe.reasons)
    return chosen_one


def _lap(entrant: Entrant, seconds: float, folder: pathlib.Path, console: Console) -> float:
    """The score of the recipe after so many seconds of training."""
    epochs = min(budget.epochs_of_trial(entrant.cost, entrant.work, seconds), entrant.recipe.epochs)
    epochs = max(epochs, 1.0 / entrant.work.search_steps_per_epoch)
    experiment = dataclasses.replace(entrant.recipe.experiment, length=Epochs(epochs))
    rate = experiment.optimizer.learning_rate
    space = {"optimizer.learning_rate": choice((rate,))}
    result = sweep(experiment, space, trials=1, sampler=Random(), together=1, run_dir=str(folder), console=console)
    return -1.0 if result.best is None or result.best.score is None else result.best.score
