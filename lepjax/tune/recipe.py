"""From what was found to an experiment and to what is searched around it, each choice with its reason."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np

from lepjax.core.optimizers import AdamW
from lepjax.core.schedules import Linear
from lepjax.data.batching import Packed
from lepjax.data.heldout import FolderText
from lepjax.experiment import Epochs, Experiment
from lepjax.models.bert import Bert
from lepjax.models.shallow import ShallowBert
from lepjax.tasks.classification import Classification
from lepjax.tune.budget import Plan
from lepjax.tune.candidates import Candidate
from lepjax.tune.inspect import IMBALANCED, Inspection
from lepjax.tune.ledger import Reason
from lepjax.tune.space import Dimension, Space, choice, loguniform, uniform

TEXTS = 32
"""Texts of a batch."""
LONGEST = 256
"""Tokens after which a text is cut, whatever the model could read: what a text says it mostly says before."""
SHORTEST_ROW = 64
"""Tokens of a packed row."""
TUNE_SHARE, TUNE_RECORDS = 0.2, 1000
"""What is set aside to choose by: a fifth of the training records, a thousand at most."""
WIDE = 512
"""Width above which a pretrained encoder gets the smaller learning rate."""
MANY_TRIALS = 24
"""From so many on, weight decay is searched too."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An experiment that trains without any search, and its reasons."""

    experiment: Experiment
    epochs: float
    """Passes over the data, where the budget has room for them."""
    reasons: tuple[Reason, ...]

    @property
    def metric(self) -> str:
        return self.experiment.best


@dataclasses.dataclass(frozen=True)
class Searched:
    """What is searched, where it begins, and why."""

    space: Space
    first: tuple[tuple[str, Any], ...]
    reasons: tuple[Reason, ...]


def recipe(found: Inspection, candidate: Candidate, ways: int, mesh: str) -> Recipe:
    """The experiment with a slice of the training data set aside; `ways` devices share a batch. A pure function."""
    length, row, rows, slots, reasons = _batches(candidate, ways)
    share = min(TUNE_SHARE, TUNE_RECORDS / len(found.train))
    metric, why = _metric(found)
    rate, epochs, told = _rate(candidate)
    held = ", ".join(f"{name} ({len(data):,} records)" for name, data in found.held.items())
    reasons += [
        Reason(
            "choosing on", f"{share:.1%} of the training records (tune)", f"{held} is to be scored once, by the winner"
        ),
        Reason("metric", metric, why),
        *told,
    ]
    experiment = Experiment(
        model=_model(candidate),
        task=Classification(labels=found.labels),
        data=FolderText(
            dataset=found.path,
            held_out=found.held_out,
            tune=share,
            tokenizer=candidate.tokenizer,
            max_length=length,
            batching=Packed(length=row, slots=slots),
            batch_size=rows,
        ),
        optimizer=AdamW(learning_rate=rate, weight_decay=0.01, clip_norm=1.0, schedule=Linear(warmup=0.06)),
        length=Epochs(epochs),
        best=f"tune_{metric}",
        best_mode="max",
        mesh=mesh,
    )
    return Recipe(experiment, epochs, tuple(reasons))


def search(found: Inspection, base: Recipe, plan: Plan) -> Searched:
    """The space around a recipe. Leaves of the state cost nothing; what changes shapes costs a program for each value,
    so such dimensions are taken in, the most promising first, as long as their product is within the plan's groups.
    """
    experiment, scratch = base.experiment, not isinstance(base.experiment.model, ShallowBert)
    rate = experiment.optimizer.learning_rate
    reach = 6.0 if scratch else 3.0
    space: dict[str, Dimension] = {"optimizer.learning_rate": loguniform(rate / reach, rate * reach)}
    first: dict[str, Any] = {"optimizer.learning_rate": rate}
    reasons = [
        Reason("learning rate", f"{rate / reach:.1e} to {rate * reach:.1e}", "of all settings it matters most, also for "
               "which of the others are good"),
    ]  # fmt: skip
    space["model.dropout"], first["model.dropout"] = uniform(0.0, 0.3 if scratch else 0.2), 0.1
    space["task.label_smoothing"], first["task.label_smoothing"] = uniform(0.0, 0.1), 0.0
    free = "they are leaves of the state: to search them compiles nothing"
    reasons.append(Reason("dropout, label smoothing", f"0 to {space['model.dropout'].value(1.0)}, 0 to 0.1", free))
    if plan.trials >= MANY_TRIALS:
        space["optimizer.weight_decay"], first["optimizer.weight_decay"] = loguniform(1e-3, 0.1), 0.01
        reasons.append(
            Reason("weight decay", "0.001 to 0.1", f"{plan.trials} trials are enough for one dimension more")
        )
    reasons.append(_epochs(plan, space, first))
    room = plan.groups
    for name, values, because in _shapes(found, experiment):
        if len(values) <= room:
            space[name], first[name] = choice(values), values[0]
            room //= len(values)
            reasons.append(Reason(name, f"one of {', '.join(map(_told, values))}", because))
        else:
            fixed = f"each value needs a program of its own, and the budget has room for {plan.groups}"
            reasons.append(Reason(name, f"{_told(values[0])}, not searched", fixed))
    return Searched(space, tuple(first.items()), tuple(reasons))


def chosen(scores: Mapping[int, float], best: int, tried: int, records: int, metric: str) -> tuple[bool, str]:
    """Whether trial `best` is taken rather than trial 0, the recipe; and why. {ordinal: score} of complete trials.

    The best of `tried` trials that are all equally good leads by some standard errors all the same (by Blom, 1958, the
    expected largest of n normal numbers is the quantile at (n - 0.375) / (n + 0.25)). A smaller lead is luck. Matthews'
    coefficient of two balanced classes is 2 * accuracy - 1, and so has twice the error.
    """
    if best == 0 or 0 not in scores:
        return True, "no trial scores better" if best == 0 else "the recipe itself came to no end"
    right = scores[0] if metric == "accuracy" else (1.0 + scores[0]) / 2
    error = math.sqrt(right * (1.0 - right) / records) * (1 if metric == "accuracy" else 2)
    luck = error * NormalDist().inv_cdf((tried - 0.375) / (tried + 0.25))
    lead = scores[best] - scores[0]
    told = f"{scores[best]:.4f} (trial {best}) against {scores[0]:.4f} of the recipe on {records:,} records"
    if lead > luck:
        return True, f"{told}: a lead above the {luck:.4f} that the best of {tried} equal trials has by luck"
    return False, f"{told}: a lead within the {luck:.4f} that the best of {tried} equal trials has by luck"


def winner(experiment: Experiment, epochs: float) -> Experiment:
    """What is trained at last: on all training records, kept as it is after the last step."""
    data = dataclasses.replace(experiment.data, tune=0.0)  # type: ignore[call-arg]
    return dataclasses.replace(experiment, data=data, length=Epochs(epochs), best="", checkpoint_every=0)


def _model(candidate: Candidate) -> Bert:
    model = candidate.model
    if candidate.scratch:
        return model
    return ShallowBert(pretrained=model.pretrained, head=model.head, keep=model.arch.layers)


def _batches(candidate: Candidate, ways: int) -> tuple[int, int, int, int, list[Reason]]:
    """(max_length, tokens of a packed row, rows, slots, reasons)"""
    readable = candidate.model.arch.longest
    wanted = math.ceil(candidate.percentile(0.99) / 8) * 8
    length = min(wanted, readable, LONGEST)
    whole = float((candidate.lengths <= length).mean())
    row = min(max(length, SHORTEST_ROW), readable)
    mean = float(np.minimum(candidate.lengths, length).mean())
    rows = max(round(TEXTS * mean / (0.95 * row)), 1)
    rows = math.ceil(rows / ways) * ways
    slots = min(max(math.ceil(2.5 * row / mean), 2), 32)
    limit = {readable: "the model reads no more", LONGEST: f"time grows with every token, and {LONGEST} say most of it"}
    because = f"{whole:.1%} of the texts are whole in it" + (f"; {limit[length]}" if length < wanted else "")
    reasons = [
        Reason("length", f"{length} tokens", because),
        Reason(
            "batches",
            f"{rows} rows of {row} tokens, with several texts in each",
            f"a text has {mean:.0f} tokens in the mean, so that is some {rows * row * 0.95 / mean:.0f} texts, without "
            "padding and in one shape: one program",
        ),
    ]
    return length, row, rows, slots, reasons


def _metric(found: Inspection) -> tuple[str, str]:
    if found.imbalance >= IMBALANCED:
        return "matthews", (
            f"the largest class is {found.imbalance:.1f} times the smallest: accuracy would reward ignoring the small ones"
        )
    return "accuracy", f"the classes are balanced (the largest is {found.imbalance:.1f} times the smallest)"


def _rate(candidate: Candidate) -> tuple[float, float, list[Reason]]:
    width = candidate.model.arch.width
    if candidate.scratch:
        rate, epochs, size = 5e-4, 8.0, "random weights have far to go"
    elif width <= WIDE:
        rate, epochs, size = 1e-4, 3.0, f"a pretrained encoder of width {width} is small, and takes large steps well"
    else:
        rate, epochs, size = 3e-5, 3.0, f"a pretrained encoder of width {width} forgets at larger rates"
    told = [
        Reason("recipe", f"AdamW at {rate:g}, 6 % warmup, linear decay", size),
        Reason("epochs", f"{epochs:g} where the budget allows", "that many are usual for " + (
            "a small model without pretraining" if candidate.scratch else "fine-tuning (Devlin et al., 2018: 2 to 4)")),
    ]  # fmt: skip
    return rate, epochs, told


def _epochs(plan: Plan, space: dict[str, Dimension], first: dict[str, Any]) -> Reason:
    if plan.trial_epochs >= plan.epochs:
        space["length.epochs"], first["length.epochs"] = choice((plan.epochs, plan.epochs / 2)), plan.epochs
        return Reason("epochs", f"{plan.epochs:.3g} or half of it", "trials are as long as the final training")
    cut = f"trials of {plan.trial_epochs:.3g} epochs cannot tell; more would not fit into the budget"
    return Reason("epochs", f"{plan.epochs:.3g}, not searched", cut)


def _shapes(found: Inspection, experiment: Experiment) -> list[tuple[str, tuple[Any, ...], str]]:
    """(field, values with the recipe's first, why it may pay), the most promising first."""
    options: list[tuple[str, tuple[Any, ...], str]] = []
    if found.imbalance >= IMBALANCED:
        because = "classes are unbalanced, and weights make up for that"
        options.append(("task.class_weights", (None, "auto"), because))
    model = experiment.model
    if isinstance(model, ShallowBert):
        depth, lower = model.keep, _lower_half(model)
        options += [
            ("optimizer.freeze", ("", *lower), "what a pretrained encoder knows of words may be kept from forgetting"),
            ("model.keep", (depth, max(depth * 2 // 3, 1)), "the head may stand on a lower layer, which costs less"),
        ]
    else:
        layers = model.architecture.layers  # type: ignore[attr-defined]
        options.append(("model.architecture.layers", (layers, 1), "little data may not feed a deep network"))
    rows = experiment.data.batch_size
    options.append(("data.batch_size", (rows, 2 * rows), "larger batches are less noisy and take fewer steps"))
    return [option for option in options if len(set(map(repr, option[1]))) > 1]


def _lower_half(model: ShallowBert) -> tuple[str, ...]:
    """Patterns that freeze the embeddings, and these with the lower half of the layers."""
    if model.arch.shares_layers:
        return (r"^embeddings\.",)
    lower = "|".join(map(str, range(model.keep // 2)))
    deep = (rf"^(embeddings|encoder\.layer\.({lower}))\.",) if lower else ()
    return (r"^embeddings\.", *deep)


def _told(value: Any) -> str:
    return {"": "nothing", None: "none"}.get(value, str(value)) if not isinstance(value, bool) else str(value)
