"""How a budget of seconds is spent: what the final training needs, what is left to search, and for how long trials run.

Pure arithmetic on measured times. Nothing here looks at a clock.
"""

from __future__ import annotations

import dataclasses
import math
import re

from lepjax.core.errors import UserError

SAFETY = 1.1
"""Measured seconds are multiplied by this: a machine is never as quiet as while it was measured."""
FINAL_SHARE = 0.6
"""Share of the budget that the final training may take, before its epochs are cut."""
MOST_SHARE = 0.9
"""Share that it may take to reach one epoch, before even that is cut."""
ENOUGH = 0.5
"""Share of the recipe's epochs below which to train on is worth more than to search."""
FEW, MANY = 6, 48
"""Trials: with fewer a search is no better than the recipe, more are not needed."""
SHORTEST = 0.5
"""Share of the final training that a trial has at least: shorter ones prefer learning rates that are too large for it."""
TRIALS_PER_SHAPE = 4
"""Trials for each shape that is searched: with fewer, no shape is known well."""
COMPILE_SHARE = 0.25
"""Share of the search that may go into programs for other shapes."""
REDUCTION, RUNG_STEPS = 3, 15
"""The worse two thirds of the trials end after a third of their steps, and before that after a ninth, where that is so many
steps at least."""
LATER = {1: 0.6, 2: 0.3}
"""What a trial that is judged so often takes of its steps in the mean; the first one, which meets nobody, takes all."""
UNIT = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
SLOW = 20.0
"""Seconds of the shortest budget."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds, measured on this machine."""

    step: float
    """One training step."""
    compile: float
    """Making the program for one shape, where no cache has it."""
    score: float
    """Scoring one record."""
    build: float = 0.0
    """Reading and tokenising the data."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What there is to do. `search_*`: with a slice set aside to choose by."""

    steps_per_epoch: float
    search_steps_per_epoch: float
    tune_records: int
    held_records: int
    epochs: float
    """Of the recipe."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the seconds that are left are spent."""

    epochs: float
    """Of the final training."""
    final: float
    """Seconds that are kept for it: compiling, training, scoring, saving."""
    search: float
    """Seconds for the search."""
    trials: int
    """0: there is no time to search, the recipe is taken as it is."""
    trial_epochs: float
    groups: int
    """Shapes that may be compiled for trials."""


def seconds(text: str) -> float:
    """`20m`, `90s`, `1.5h`, or seconds. Raises `UserError`."""
    match = re.fullmatch(r"(\d+\.?\d*)([smh]?)", text.strip())
    if match is None:
        raise UserError(f"{text!r} is no time", where="--budget", fix="Such as 20m, 90s or 1.5h.")
    found = float(match[1]) * UNIT[match[2]]
    if not SLOW <= found < math.inf:
        fix = f"Give {SLOW:g} s at least: a program has to be compiled."
        raise UserError(f"{found:g} s is too short", where="--budget", fix=fix)
    return found


def final_seconds(cost: Cost, work: Work, epochs: float) -> float:
    """Reading the data, loading or compiling the program, training and scoring, with a margin."""
    training = epochs * work.steps_per_epoch * cost.step
    return SAFETY * (cost.build + cost.compile + training + work.held_records * cost.score)


def trial_seconds(cost: Cost, work: Work, epochs: float) -> float:
    """A trial that is trained to its end and scored three times on the way."""
    return SAFETY * (epochs * work.search_steps_per_epoch * cost.step + 3 * work.tune_records * cost.score)


def program_seconds(cost: Cost) -> float:
    """A program for another shape. Where that is another batch, the data are read again."""
    return SAFETY * (cost.build + cost.compile)


def epochs_within(cost: Cost, work: Work, available: float) -> float:
    """The epochs whose final training takes `available` seconds; 0 where not even compiling fits."""
    fixed = final_seconds(cost, work, 0.0)
    return max(available - fixed, 0.0) / (final_seconds(cost, work, 1.0) - fixed)


def plan(left: float, cost: Cost, work: Work) -> Plan:
    """Splits `left` seconds. Raises `UserError` where not a tenth of an epoch fits."""
    epochs = min(work.epochs, max(epochs_within(cost, work, FINAL_SHARE * left), 1.0))
    if final_seconds(cost, work, epochs) > MOST_SHARE * left:
        epochs = epochs_within(cost, work, MOST_SHARE * left)
    if epochs < 0.1:
        needed = final_seconds(cost, work, 1.0) / MOST_SHARE
        found = f"{left:.0f} s are left after looking at the data, and one epoch takes {needed:.0f} s"
        raise UserError(found, where="--budget", fix="Give more time, a smaller model, or less data.")
    final = final_seconds(cost, work, epochs)
    search = left - final
    room, program = search - SAFETY * cost.build, program_seconds(cost)
    groups = 1 + int(COMPILE_SHARE * max(room, 0.0) / program)  # the recipe's own was made when it was measured
    trials, _ = trials_within(cost, work, epochs, room - (groups - 1) * program)
    groups = min(groups, max(trials // TRIALS_PER_SHAPE, 1))
    trials, length = trials_within(cost, work, epochs, room - (groups - 1) * program)
    if trials and epochs >= ENOUGH * work.epochs:
        return Plan(epochs, final, search, trials, length, groups)
    epochs = min(work.epochs, epochs_within(cost, work, MOST_SHARE * left))  # what no search takes, training may
    final = final_seconds(cost, work, epochs)
    return Plan(epochs, final, left - final, 0, 0.0, 0)


def trials_within(cost: Cost, work: Work, epochs: float, room: float) -> tuple[int, float]:
    """(trials, their epochs) for `room` seconds, where the final training has `epochs`; (0, 0.0): too few fit."""
    for often in (2, 1):  # trials that are judged twice cost less and so may be longer, but must be long for that
        length = min(epochs_of_trial(cost, work, room / kept(FEW, often)), epochs)
        if rungs(length * work.search_steps_per_epoch) == often:
            break
    if length < SHORTEST * epochs:
        return 0, 0.0
    count = int(1 + (room / trial_seconds(cost, work, length) - 1) / LATER[often])
    return min(max(count, FEW), MANY), length


def rungs(steps: float) -> int:
    """How often a trial of so many steps is judged before its end."""
    return 2 if steps >= REDUCTION**2 * RUNG_STEPS else 1


def kept(trials: int, often: int) -> float:
    """How many whole trials cost what so many trials do, each of which is judged so often before its end."""
    return 1.0 + (trials - 1) * LATER[often]


def epochs_of_trial(cost: Cost, work: Work, available: float) -> float:
    fixed = trial_seconds(cost, work, 0.0)
    return max(available - fixed, 0.0) / max(trial_seconds(cost, work, 1.0) - fixed, 1e-9)
