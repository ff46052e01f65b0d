"""Automatic fine-tuning: look at the data, choose a model, search under a budget, train the winner, and say why.

What a folder OUT holds afterwards: `model` (transformers loads it), `run` (a run as any other), `search` (the study and its
report), `why.json` and `why.html`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Sequence

from rich.console import Console

from lepjax.core.errors import UserError
from lepjax.experiment import Epochs, Experiment
from lepjax.run import encoders
from lepjax.run.callbacks import Callback
from lepjax.run.classified import ClassReport
from lepjax.run.train import Outcome, train
from lepjax.tune import budget, candidates, output, why
from lepjax.tune.assign import assigned, resolve
from lepjax.tune.beginning import Beginning
from lepjax.tune.budget import Plan, Work
from lepjax.tune.deadline import KeepDeadline
from lepjax.tune.entrants import Entrant, entrants, race
from lepjax.tune.inspect import Inspection, inspect
from lepjax.tune.ledger import Ledger, Reason
from lepjax.tune.pruners.asha import Asha
from lepjax.tune.recipe import Searched, chosen, search, winner
from lepjax.tune.result import Result
from lepjax.tune.samplers.tpe import Tpe
from lepjax.tune.searching import sweep
from lepjax.tune.words import told

REPORT_SHARE = 0.05
"""Share of the budget that the report by class may take: it predicts the held-out records a second time."""


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What came of it. `result`: of the search; None: there was no time for one."""

    outcome: Outcome
    result: Result | None
    inspection: Inspection
    reasons: tuple[Reason, ...]
    seconds: float
    folder: pathlib.Path


def autotune(
    data: str,
    models: Sequence[str] = (),
    seconds: float = 1200.0,
    out: str = "",
    task: str = "classification",
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    console: Console | None = None,
) -> Tuned:
    """Fine-tunes on the folder `data` within `seconds`, and leaves what the module's docstring lists in `out`.

    `models` are folders of pretrained encoders, or hold such folders; without one that fits, a small one is trained from
    scratch. Raises `UserError` before anything is compiled for data or models that cannot be used. What an autotune that was
    killed or failed left in `out` is begun anew.
    """
    console = console or Console(quiet=True)
    ledger = Ledger(seconds, lambda line: console.print(line, highlight=False, soft_wrap=True, markup=False))
    folder = output.free(out or output.default(data))
    inspection = inspect(data, task)
    for finding in inspection.findings:
        ledger.say(str(finding))
    found = candidates.find(models)
    with output.claimed(folder):
        return _tuned(inspection, found, folder, seed, ledger, callbacks, console)


def _tuned(
    inspection: Inspection,
    models: Sequence[pathlib.Path],
    folder: pathlib.Path,
    seed: int,
    ledger: Ledger,
    callbacks: Sequence[Callback],
    console: Console,
) -> Tuned:
    starting = entrants(inspection, models, folder, seed, ledger)
    entrant = race(starting, folder, ledger, console)
    report = entrant.cost.score * entrant.work.held_records <= REPORT_SHARE * ledger.seconds
    work = dataclasses.replace(entrant.work, held_records=entrant.work.held_records * (2 if report else 1))
    plan = budget.plan(ledger.left, entrant.cost, work)
    ledger.enter(*_planned(ledger, entrant, plan))
    experiment, result = entrant.recipe.experiment, None
    epochs = plan.epochs
    if plan.trials:
        searched = search(inspection, entrant.recipe, plan)
        ledger.enter(*searched.reasons)
        result = _searched(entrant, work, plan, searched, folder, ledger, console)
        experiment, epochs = _best(entrant, work, plan, searched, result, ledger)
    final = ("test" if "test" in inspection.held else "dev",) if report else ()
    experiment = dataclasses.replace(
        winner(experiment, epochs), run_dir=str(folder / "run"), final=tuple(map(ClassReport, final))
    )
    outcome = _final(experiment, entrant, work, folder, ledger, callbacks, console)
    tuned = Tuned(outcome, result, inspection, tuple(ledger.reasons), ledger.spent, folder)
    why.write(tuned.folder, inspection.findings, tuned.reasons, outcome.result, result, tuned.seconds, ledger.seconds)
    return tuned


def _planned(ledger: Ledger, entrant: Entrant, plan: Plan) -> list[Reason]:
    spent = f"{ledger.spent:.0f} s of {ledger.seconds:.0f} s are spent on looking and measuring"
    full, steps = plan.epochs >= entrant.recipe.epochs, entrant.work.search_steps_per_epoch
    final = f"{plan.epochs:.3g} epochs, compiling and scoring take that" + ("" if full else "; more do not fit")
    reasons = [Reason("budget", f"{plan.final:.0f} s for the final training", f"{spent}, and {final}")]
    if plan.trials:
        early = "a ninth and a third" if budget.rungs(plan.trial_epochs * steps) > 1 else "a third"
        chances = f"{plan.search:.0f} s are left, and the worse two thirds end after {early} of their steps"
        told = f"up to {plan.trials} trials of {plan.trial_epochs:.3g} epochs, in {plan.groups} shapes at most"
        return [*reasons, Reason("search", told, chances)]
    because = f"{budget.FEW} trials of half its length do not fit beside {budget.ENOUGH:.0%} of the recipe's epochs"
    return [*reasons, Reason("search", "none", because)]


def _searched(
    entrant: Entrant,
    work: Work,
    plan: Plan,
    searched: Searched,
    folder: pathlib.Path,
    ledger: Ledger,
    console: Console,
) -> Result:
    """Trials one after another, on the program that the final training uses; none begins that could not end in time."""
    length = budget.trial_seconds(entrant.cost, work, plan.trial_epochs)
    experiment = dataclasses.replace(entrant.recipe.experiment, length=Epochs(plan.trial_epochs))
    return sweep(
        experiment,
        searched.space,
        trials=plan.trials,
        sampler=Beginning(searched.first, Tpe(startup=max(plan.trials // 3, 4))),
        pruner=Asha(budget.REDUCTION, budget.rungs(plan.trial_epochs * work.search_steps_per_epoch)),
        together=1,
        seconds=max(ledger.left - plan.final - length, 0.0),
        run_dir=str(folder / "search"),
        name="search",
        console=console,
    )


def _best(
    entrant: Entrant, work: Work, plan: Plan, searched: Searched, result: Result, ledger: Ledger
) -> tuple[Experiment, float]:
    """(the experiment that won, epochs)"""
    base = entrant.recipe.experiment
    scores = {t.ordinal: t.score for t in result.trials if t.state == "complete" and t.score is not None}
    if result.best is None:
        ledger.enter(Reason("winner", "the recipe", "no trial came to its end"))
        return base, plan.epochs
    tried, metric = sum(t.steps > 0 for t in result.trials), entrant.recipe.metric.partition("_")[2]
    taken, because = chosen(scores, result.best.ordinal, tried, work.tune_records, metric)
    trial = result.best if taken else next(t for t in result.trials if t.ordinal == 0)
    name = "the recipe" if trial.ordinal == 0 else f"trial {trial.ordinal}"
    ledger.enter(Reason("winner", f"{name} ({told(trial.values)})", because))
    experiment = assigned(base, trial.values, resolve(base, searched.space))
    return experiment, float(trial.values.get("length.epochs", plan.epochs))


def _final(
    experiment: Experiment,
    entrant: Entrant,
    work: Work,
    folder: pathlib.Path,
    ledger: Ledger,
    callbacks: Sequence[Callback],
    console: Console,
) -> Outcome:
    after = budget.final_seconds(dataclasses.replace(entrant.cost, compile=0.0, build=0.0), work, 0.0)
    keeper = KeepDeadline(time.perf_counter() + ledger.left - after)
    outcome = train(experiment, "autotune", callbacks=[keeper, *callbacks], console=console)
    if outcome.trained is None:
        raise UserError(outcome.result["reason"], where=str(outcome.directory.path), fix="Look at its metrics.jsonl.")
    if keeper.goal:
        ledger.enter(Reason("steps", f"{keeper.goal}", "the machine was slower than while it was measured"))
    encoders.save(outcome.trained, folder / "model", str(outcome.directory.path))
    if entrant.candidate.scratch:
        vocabulary = pathlib.Path(entrant.candidate.tokenizer) / "vocab.txt"
        (folder / "model" / "vocab.txt").write_bytes(vocabulary.read_bytes())
    return outcome
