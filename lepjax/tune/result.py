"""What came of a sweep: the best trial, the table, the plots."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy import stats

from lepjax.tune import plots
from lepjax.tune.space import Space, Values
from lepjax.tune.storage import shown
from lepjax.tune.trial import COMPLETE, FAILED, PRUNED, Trial, winner
from lepjax.tune.words import short, told

COLUMNS = ("trial", "state", "score", "steps", "seconds")


@dataclasses.dataclass(frozen=True)
class Rescored:
    """The winner on fresh seeds."""

    scores: tuple[float, ...]

    @property
    def diverged(self) -> int:
        """How many seeds have no finite score."""
        return sum(not math.isfinite(score) for score in self.scores)

    @property
    def mean(self) -> float:
        """NaN where a seed diverged: what is left would be the lucky ones."""
        return math.nan if self.diverged else float(np.mean(self.scores))

    @property
    def half(self) -> float:
        """Half the width of the mean's 95 % interval (Student's t); NaN for one score, and where a seed diverged."""
        n = len(self.scores)
        if n < 2 or self.diverged:
            return math.nan
        return float(stats.t.ppf(0.975, n - 1) * np.std(self.scores, ddof=1) / n**0.5)

    def to_json(self) -> dict[str, Any]:
        finite = [score if math.isfinite(score) else None for score in self.scores]
        mean, half = (None if math.isnan(value) else value for value in (self.mean, self.half))
        return {"scores": finite, "mean": mean, "half": half}


@dataclasses.dataclass(frozen=True)
class Result:
    """All trials of a sweep by ordinal, and what they cost."""

    trials: tuple[Trial, ...]
    space: Space
    metric: str
    mode: str
    compiles: int
    """Training steps that this process compiled."""
    groups: int
    """Shapes that needed a program of their own."""
    seconds: float
    """Of this process; a sweep that goes on has had more."""
    command: str
    """Retrains the best trial alone; empty: there is none."""
    rescored: Rescored | None
    study_url: str
    study_name: str
    directory: pathlib.Path

    @property
    def best(self) -> Trial | None:
        """The complete trial that scores best, the first of equals; None: no trial is complete."""
        return winner(self.trials, self.mode)

    @property
    def table(self) -> list[dict[str, Any]]:
        """One flat row per trial; a dimension that is called as one of our columns is `values.<name>`."""
        columns = {name: f"values.{name}" if name in COLUMNS else name for name in self.space}
        return [
            {
                "trial": trial.ordinal,
                "state": trial.state,
                "score": trial.score,
                **{column: trial.values.get(name) for name, column in columns.items()},
                "steps": trial.steps,
                "seconds": trial.seconds,
            }
            for trial in self.trials
        ]

    @property
    def ranked(self) -> list[Trial]:
        """The better first; those without a score last."""
        sign = 1.0 if self.mode == "min" else -1.0
        return sorted(self.trials, key=lambda t: (t.score is None, sign * (t.score or 0.0), t.ordinal))

    def count(self, state: str) -> int:
        return sum(trial.state == state for trial in self.trials)

    @property
    def trial_steps(self) -> int:
        """Optimizer steps of all trials together."""
        return sum(trial.steps * max(len(trial.by_seed), 1) for trial in self.trials)

    @property
    def trials_per_minute(self) -> float:
        """Of the time that trials took, compilation included."""
        ended = [trial for trial in self.trials if trial.seconds > 0]
        return 60.0 * len(ended) / max(sum(trial.seconds for trial in ended), 1e-9)

    def plot_history(self) -> Figure:
        """Scores in the order of the trials, and the best so far."""
        return plots.history(self.trials, self.metric, self.mode)

    def plot_importance(self) -> Figure:
        """How much each dimension mattered for scoring among the best; see `tune.importance`."""
        return plots.importance(self.trials, self.space, self.metric, self.mode)

    def plot_parallel(self) -> Figure:
        """One line per trial through an axis for each dimension."""
        return plots.parallel(self.trials, self.space, self.metric, self.mode)

    def plot_slice(self) -> Figure:
        """Scores against each dimension."""
        return plots.slices(self.trials, self.space, self.metric, self.mode)

    def plot_curves(self) -> Figure:
        """What each trial reported on its way, over its steps."""
        return plots.curves(self.trials, self.metric, self.mode)

    def to_json(self) -> dict[str, Any]:
        """For result.json, without the password of a storage; what is not finite is null, or a string among values."""
        best = self.best
        return {
            "metric": self.metric,
            "mode": self.mode,
            "trials": len(self.trials),
            "trials_completed": self.count(COMPLETE),
            "trials_pruned": self.count(PRUNED),
            "trials_failed": self.count(FAILED),
            "compiles": self.compiles,
            "groups": self.groups,
            "trial_steps": self.trial_steps,
            "trials_per_minute": round(self.trials_per_minute, 3),
            "seconds": round(self.seconds, 2),
            "best": None
            if best is None
            else {"trial": best.ordinal, "score": best.score, "values": strict(best.values)},
            "rescored": None if self.rescored is None else self.rescored.to_json(),
            "command": self.command,
            "study": {"name": self.study_name, "storage": shown(self.study_url)},
        }

    def show(self, console: Console, most: int = 10) -> None:
        """The best trials, how much of the winner's score is luck, and how to train it alone."""
        table = Table(box=None, header_style="bold")
        for column in ("trial", "state", self.metric, "steps"):
            table.add_column(Text(column), justify="right", no_wrap=True)
        table.add_column("values")
        for trial in [trial for trial in self.ranked if trial.score is not None][:most]:
            score, steps = short(trial.score), f"{trial.steps:,}"
            table.add_row(str(trial.ordinal), trial.state, score, steps, Text(told(trial.values)))
        console.print(table)

        def say(line: str) -> None:
            console.print(line, highlight=False, soft_wrap=True, markup=False)

        counts = ", ".join(f"{self.count(state)} {state}" for state in (COMPLETE, PRUNED, FAILED))
        say(f"trials   {counts}; {self.trials_per_minute:,.1f} a minute, {self.trial_steps:,} steps in all")
        say(f"programs {self.compiles} compiled for {self.groups} shape" + "s" * (self.groups != 1))
        if self.best is None:
            say("best     none: no trial came to its end")
            return
        say(f"best     {self.metric} {short(self.best.score)} (trial {self.best.ordinal})")
        if self.rescored is not None:
            say(f"again    {self.told_again()}")
        say(f"study    {self.study_name} in {shown(self.study_url)}")
        say(f"train it {self.command}")

    def told_again(self) -> str:
        """The winner's score on fresh seeds against the one it was chosen for, in words; empty where none was taken."""
        again, best = self.rescored, self.best
        if again is None or best is None:
            return ""
        seeds = f"{len(again.scores)} fresh seed" + "s" * (len(again.scores) != 1)
        if again.diverged:
            return f"{again.diverged} of {seeds} diverged: the winner was lucky to come to its end"
        interval = "" if math.isnan(again.half) else f" +- {again.half:.2g} (95 %)"
        return (
            f"{short(again.mean)}{interval} on {seeds}, {short(best.score)} when it was chosen: "
            f"the best of {self.count(COMPLETE)} is partly the luckiest, so expect the former"
        )


def strict(values: Values) -> dict[str, Any]:
    """Values that strict JSON can hold: it knows no infinity, which a choice may be (`clip_norm`)."""
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
